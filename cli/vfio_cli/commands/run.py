"""`vfioctl up`, `agent run/hostd` and `coordinator run`: the processes, in the foreground."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from vfio_cli import terminal
from vfio_cli.endpoint import SOCKET_FILE, coordinator_state, state_root
from vfio_cli.exits import FAILURE, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.screens.layout import Line, Lines, wrap
from vfio_cli.supervisor import child_environment, supervise
from vfio_contract.address import check_name

DEFAULT_LISTEN = "127.0.0.1:7443"

DEFAULT_SOCKET = "/run/vfioctl/hostd.sock"
"""Where root's hostd listens for the network process (docs/adr/012)."""

MODULE = ("-P", "-m")
"""-P: what lies in the folder in which root started us is never imported."""

_RUN_EXITS = (
    "0 stopped by SIGINT or SIGTERM, 2 it ended by itself (its log says why), 64 wrong usage."
)


def refuse_empty(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """An empty value is an unset variable of a script, never a wish for the default."""
    if value == "":
        raise Mistake(f"{option.opts[0]} '': it is empty: give a value, or leave the option out")
    return value


listen_option = click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="For agents and users, mutual TLS; port 0 picks a free one.",
)
names_option = click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="Another DNS name or address under which agents reach it. Repeatable.",
)
state_option = click.option(
    "--state",
    metavar="DIR",
    callback=refuse_empty,
    help="State directory of the coordinator [env: VFIOCTL_STATE; default /var/lib/vfioctl/"
    "coordinator, or ~/.local/state/vfioctl/coordinator].",
)
notify_option = click.option(
    "--notify",
    metavar="FILE",
    callback=refuse_empty,
    help="Whom to tell of incidents: a notify.toml of root, or of the user that runs this.",
)
agent_state_option = click.option(
    "--state",
    metavar="DIR",
    callback=refuse_empty,
    help="Where the journal is kept [default /var/lib/vfioctl/agent, or ~/.local/state/vfioctl/"
    "agent].",
)
root_option = click.option(
    "--root",
    metavar="PATH",
    callback=refuse_empty,
    help="Replay a captured host instead of looking at this one.",
)


def _state(named: str | None) -> Path:
    return Path(named) if named else coordinator_state(os.environ, uid=os.getuid())


def _agent_state(named: str | None, *, beside: Path | None) -> Path:
    if named:
        return Path(named)
    return beside / "agent" if beside else state_root(os.environ, uid=os.getuid()) / "agent"


def node_name(named: str | None) -> str:
    """The name given, else this host's, without its domain; Mistake where that is no valid name."""
    name = named or socket.gethostname().partition(".")[0].lower()
    try:
        return check_name(name, field="--node")
    except ValueError as error:
        raise Mistake(str(error)) from None


@click.command(
    "up",
    cls=Taught,
    examples=(
        "sudo vfioctl up",
        "vfioctl up --state /tmp/try --listen 127.0.0.1:0",
        "vfioctl status --cluster            in another terminal",
    ),
    exits=_RUN_EXITS,
)
@state_option
@listen_option
@names_option
@notify_option
@click.option(
    "--node",
    metavar="NAME",
    callback=refuse_empty,
    help="This host's name in the cluster; default hostname.",
)
@click.option(
    "--agent-state",
    metavar="DIR",
    callback=refuse_empty,
    help="Where the agent keeps its journal.",
)
@click.option(
    "--root",
    default="/",
    metavar="PATH",
    callback=refuse_empty,
    help="Let the agent replay a captured host.",
)
def up(
    state: str | None,
    listen: str,
    names: Sequence[str],
    notify: str | None,
    node: str | None,
    agent_state: str | None,
    root: str,
) -> int:
    """Run a coordinator and this host's agent together, in the foreground.

    Certificates are made on the first start. Ctrl-C stops both; if one ends, so does the other.
    """
    _check_listen(listen)
    directory, name = _state(state), node_name(node)
    own = directory if state or os.environ.get("VFIOCTL_STATE") else None
    journal = _agent_state(agent_state, beside=own)
    coordinator = _coordinator_argv(directory, listen, names, nodes=[name], notify=notify)

    def agent(endpoint: str) -> list[str]:
        return _agent_argv(
            name, _reachable_here(endpoint), directory / "nodes" / name, journal, root
        )

    def on_ready(endpoint: str) -> None:
        terminal.show(_up_screen(directory, endpoint, name, root, is_default=own is None))

    return supervise(coordinator, agent, on_ready=on_ready)


def _check_listen(listen: str) -> None:
    """HOST:PORT as it was given; Mistake says what is wrong with it before anything is started."""
    from vfio_contract.bundle import BundleError, parse_endpoint

    host, _, port = listen.rpartition(":")
    try:
        # Port 0 is good here and nowhere else.
        parse_endpoint(f"{host}:1" if port == "0" else listen)
    except BundleError:
        raise Mistake(
            f"--listen {listen[:80]!r} is not HOST:PORT with a port up to 65535, like "
            f"{DEFAULT_LISTEN} or [::1]:7443"
        ) from None


def _reachable_here(endpoint: str) -> str:
    """Where this host reaches a coordinator that may listen on every address."""
    host, _, port = endpoint.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else endpoint


def _up_screen(state: Path, endpoint: str, node: str, root: str, *, is_default: bool) -> Lines:
    where = "" if is_default else f" --endpoint unix:{state.absolute() / SOCKET_FILE}"
    lines: Lines = [Line("UP", "good", 0, 2)]
    lines += wrap("  coordinator  ", f"listens on {endpoint}, state in {state}")
    lines += wrap("  agent        ", f"node {node}, reads {root}")
    # Never wrapped: it is there to be copied.
    lines.append(Line(f"  look         vfioctl status --cluster{where}"))
    return [*lines, Line("  stop         Ctrl-C")]


@click.group("agent", no_args_is_help=True)
def agent() -> None:
    """The agent of a node: collects evidence, judges it, tells the coordinator."""


@agent.command(
    "run",
    cls=Taught,
    examples=(
        "vfioctl agent run --tls /etc/vfioctl/pve07",
        "vfioctl agent run --node pve07 --endpoint co1:7443 --tls DIR --state DIR",
        f"vfioctl agent run --tls DIR --hostd {DEFAULT_SOCKET}",
    ),
    exits=_RUN_EXITS,
)
@click.option(
    "--node",
    metavar="NAME",
    callback=refuse_empty,
    help="As in its certificate; default this host's name.",
)
@click.option(
    "--endpoint",
    metavar="HOST:PORT",
    callback=refuse_empty,
    help="Coordinator; default the bundle's own.",
)
@click.option(
    "--tls",
    required=True,
    metavar="DIR",
    callback=refuse_empty,
    help="The node's bundle (ca.pem cert.pem key.pem), from the coordinator's nodes/NAME.",
)
@agent_state_option
@root_option
@click.option(
    "--hostd",
    metavar="SOCKET",
    callback=refuse_empty,
    help="Run the network process alone, for the hostd that listens there.",
)
@click.option(
    "--user",
    metavar="NAME",
    callback=refuse_empty,
    help="As root: the network process's account; default vfioctl if it exists, else nobody.",
)
def agent_run(
    node: str | None,
    endpoint: str | None,
    tls: str,
    state: str | None,
    root: str | None,
    hostd: str | None,
    user: str | None,
) -> NoReturn:
    """Run this node's agent in the foreground.

    That is hostd, which looks at the host, and the network process, which is never root. With
    --hostd it is the second alone, for a hostd that a service manager runs.
    """
    name = node_name(node)
    account = [f"--user={user}"] if user else []
    if hostd is None:
        journal = _agent_state(state, beside=None)
        argv = _agent_argv(name, endpoint or "", Path(tls), journal, root or "/")
    elif state or root:
        given = "--state" if state else "--root"
        raise Mistake(f"{given} is hostd's: leave it out, or give it to vfioctl agent hostd")
    else:
        argv = [sys.executable, *MODULE, "vfio_agent.network", f"--node={name}", f"--tls={tls}"]
        argv += [f"--hostd={hostd}", *([f"--endpoint={endpoint}"] if endpoint else [])]
    _become([*argv, *account])


@agent.command(
    "hostd",
    cls=Taught,
    examples=(
        "vfioctl agent hostd --agent-user vfioctl",
        "vfioctl agent hostd --socket DIR/hostd.sock --state DIR",
    ),
    exits=_RUN_EXITS,
)
@click.option(
    "--socket",
    "listens",
    metavar="SOCKET",
    callback=refuse_empty,
    help=f"Where to listen [default {DEFAULT_SOCKET}, or STATE/hostd.sock for an ordinary user].",
)
@click.option(
    "--agent-user",
    metavar="NAME",
    callback=refuse_empty,
    help="Whose network process may ask; default the user that runs hostd.",
)
@agent_state_option
@root_option
def agent_hostd(
    listens: str | None, agent_user: str | None, state: str | None, root: str | None
) -> NoReturn:
    """Run the half of the agent that looks at this host.

    It has no network: it answers the network process, which is started by itself.
    """
    journal = _agent_state(state, beside=None)
    path = listens or (DEFAULT_SOCKET if os.getuid() == 0 else f"{journal}/hostd.sock")
    argv = [sys.executable, *MODULE, "vfio_agent.hostd", f"--socket={path}", f"--state={journal}"]
    argv += [f"--root={root or '/'}"]
    _become(argv + ([f"--agent-user={agent_user}"] if agent_user else []))


@click.group("coordinator", no_args_is_help=True)
def coordinator() -> None:
    """The coordinator of a cluster: keeps its state, places VMs, watches for drift."""


@coordinator.command(
    "run",
    cls=Taught,
    examples=(
        "vfioctl coordinator run --node pve01 --node pve02",
        "vfioctl coordinator run --listen 0.0.0.0:7443 --name co1.example.org",
        "vfioctl coordinator run --notify /etc/vfioctl/notify.toml",
    ),
    exits=_RUN_EXITS,
)
@state_option
@listen_option
@names_option
@notify_option
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME",
    help="Make a certificate bundle for this node in STATE/nodes/NAME. Repeatable.",
)
def coordinator_run(
    state: str | None,
    listen: str,
    names: Sequence[str],
    notify: str | None,
    nodes: Sequence[str],
) -> NoReturn:
    """Run the coordinator in the foreground."""
    _become(_coordinator_argv(_state(state), listen, names, nodes=nodes, notify=notify))


def _coordinator_argv(
    state: Path, listen: str, names: Sequence[str], *, nodes: Sequence[str], notify: str | None
) -> list[str]:
    argv = [sys.executable, *MODULE, "vfio_coordinator", f"--state={state}", f"--listen={listen}"]
    argv += [f"--notify={notify}"] if notify else []
    argv += [f"--name={name}" for name in names]
    return argv + [f"--node={name}" for name in nodes]


def _agent_argv(node: str, endpoint: str, tls: Path, state: Path, root: str) -> list[str]:
    argv = [sys.executable, *MODULE, "vfio_agent", f"--node={node}", f"--tls={tls}"]
    argv += [f"--state={state}", f"--root={root}"]
    return argv + ([f"--endpoint={endpoint}"] if endpoint else [])


def _become(argv: list[str]) -> NoReturn:
    """This process becomes that one: same pid, same signals, same exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(argv[0], argv, child_environment())
    except OSError as error:
        raise Stop(f"{argv[0]} cannot be run: {error.strerror}", status=FAILURE) from error
