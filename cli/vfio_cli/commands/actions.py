"""`vfioctl device bind`, `unbind` and `reset-test`: what changes a host, this one or a node.

The agent acts, and refuses with every reason at once; here it is only asked and shown, on a node
through the coordinator. `--dry-run` asks nobody: it looks, and shows what would be written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from vfio_cli.completion import complete_node, complete_place
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, UNKNOWN, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.look import open_named, source_words
from vfio_cli.output import WITHOUT_NAME, emit, output_option
from vfio_cli.screens.actions import action_screen
from vfio_cli.terminal import note, progress
from vfio_cli.tree import is_one_file
from vfio_contract.action import EXIT_CODES, ActionReport, report_document
from vfio_contract.address import Address, parse_address

_EXITS = (
    "0 done, or it could be (--dry-run); 2 refused, failed or taken back; 3 not known: evidence "
    "is missing, nobody saw how it went, or the kernel has not answered; 64 wrong usage."
)

_GOES_ON = (
    "interrupted: what was begun is not cut short. The agent ends it, or the next device command "
    "does where none runs; vfioctl events tells how"
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        output_option(*WITHOUT_NAME),
        click.option(
            "--hostd",
            metavar="SOCKET",
            help="Where this host's agent listens [default /run/vfioctl/hostd.sock].",
        ),
        click.option(
            "--root", metavar="PATH", help="With --dry-run: a captured host instead of this one."
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Show what would be done, on this host (no NODE); needs no permission.",
        ),
        coordinator_options,
        click.option(
            "--node",
            metavar="NODE",
            hidden=is_one_file(),
            shell_complete=complete_node,
            help="On this node of the cluster; the same as NODE before ADDRESS.",
        ),
        click.argument(
            "place",
            nargs=-1,
            required=True,
            metavar="[NODE] ADDRESS",
            shell_complete=complete_place,
        ),
    ):
        command = option(command)
    return command


@click.command(
    "bind",
    cls=Taught,
    examples=(
        "vfioctl device bind 41:00.0 --dry-run",
        "sudo vfioctl device bind 41:00.0",
        "sudo vfioctl device unbind 41:00.0       takes it back",
        "vfioctl device bind pve04 0000:81:00.0   on a node, through the coordinator",
    ),
    exits=_EXITS,
)
@_options
def bind(place: tuple[str, ...], form: str, **how: Any) -> int:
    """Give a unit to vfio-pci, now and after each reboot.

    Lasts through driverctl where that is installed, else modprobe.d or a udev rule. The owner of
    the host must have written verb and device into /etc/vfioctl/actuate.toml.
    """
    return _run("bind", place, form, **how)


@click.command(
    "unbind",
    cls=Taught,
    examples=("vfioctl device unbind 41:00.0 --dry-run", "sudo vfioctl device unbind 41:00.0"),
    exits=_EXITS,
)
@_options
def unbind(place: tuple[str, ...], form: str, **how: Any) -> int:
    """Give a unit back to the drivers of the host.

    Takes back what bind and driverctl wrote; lines that somebody else wrote are named.
    """
    return _run("unbind", place, form, **how)


@click.command(
    "reset-test",
    cls=Taught,
    examples=(
        "vfioctl device reset-test 41:00.0 --dry-run",
        "sudo vfioctl device reset-test 41:00.0 -o json",
    ),
    exits=_EXITS,
)
@_options
def reset_test(place: tuple[str, ...], form: str, **how: Any) -> int:
    """Reset a function, and prove that it came back.

    All that the reset takes along must be on vfio-pci and in nobody's hands. What was seen goes
    into the reset history. A function that does not answer can take three minutes.
    """
    return _run("reset-test", place, form, **how)


def _run(
    verb: str,
    place: tuple[str, ...],
    form: str,
    *,
    node: str | None,
    dry_run: bool,
    root: str | None,
    hostd: str | None,
    endpoint: str | None,
    tls: str | None,
) -> int:
    if len(place) + (node is not None) > 2:
        raise Mistake(f"{place[0]}: give one ADDRESS, and at most one NODE before it")
    node = place[0] if len(place) == 2 else node
    try:
        wanted = parse_address(place[-1])
    except ValueError as error:
        raise Mistake(f"ADDRESS {error}") from None
    if node is not None and (dry_run or root is not None or hostd is not None):
        raise Mistake(
            f"--dry-run, --root and --hostd are about this host. A dry run is made on {node} "
            f"itself; run there: vfioctl device {verb} {wanted} --dry-run"
        )
    if dry_run and hostd is not None:
        raise Mistake("--hostd: nobody is asked in a dry run, which looks itself: leave it out")
    if root is not None and not dry_run:
        raise Mistake("--root: a captured host can only be looked at: add --dry-run")
    if node is not None:
        report = _act_on(node, verb, wanted, endpoint, tls)
    else:
        report = _preview(verb, wanted, root) if dry_run else _act(verb, wanted, hostd)
    emit(
        form,
        screen=lambda wide: action_screen(report, wide=wide, captured=root is not None),
        document=lambda: report_document(report),
    )
    return EXIT_CODES[report.outcome]


def _act_on(
    node: str, verb: str, address: Address, endpoint: str | None, tls: str | None
) -> ActionReport:
    # Here, not above: gRPC takes 150 ms to import, which a local action need not pay.
    from vfio_cli.client import connect
    from vfio_cli.remote import act_on_node

    with connect(endpoint, tls) as coordinator:
        return act_on_node(coordinator, node, verb=verb, address=address)


def _preview(verb: str, address: Address, root: str | None) -> ActionReport:
    from vfio_agent.act import preview_action

    opened = open_named(root)
    with progress("reading this host" if root is None else f"reading {root}"):
        report = preview_action(verb, address, opened)
    return report if root is None else _about_capture(report, root)


def _about_capture(report: ActionReport, root: str) -> ActionReport:
    """With the commands that look at this host made to look at that one."""
    look = "vfioctl device list"
    there = look + source_words(root, ())
    reasons = (replace(row, decision=row.decision.replace(look, there)) for row in report.reasons)
    return replace(report, reasons=tuple(reasons))


def _act(verb: str, address: Address, hostd: str | None) -> ActionReport:
    if os.geteuid() != 0:
        raise Stop(
            f"only root may change this host: sudo vfioctl device {verb} {address} (what would be "
            "done: --dry-run)",
            status=FAILURE,
            code="NEEDS_ROOT",
        )
    from vfio_agent.act import ActError, act_here

    try:
        with progress(f"{verb} of {address}"):
            if hostd is None:
                return act_here(verb, address)
            return act_here(verb, address, hostd=Path(hostd), alone=False)
    except ActError as error:
        raise Stop(str(error), status=UNKNOWN) from None
    except KeyboardInterrupt:
        note(f"vfioctl: {_GOES_ON}")
        raise
