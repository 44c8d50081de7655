"""`vfioctl collect`: a host's evidence as a file with a page, or a script that gathers it."""

from __future__ import annotations

import os
from collections import Counter
from hashlib import sha256
from pathlib import Path

import click

from vfio_agent.inspect import Inspection, judge_snapshot
from vfio_agent.redaction import redact_snapshot
from vfio_agent.script import load_script
from vfio_cli import terminal
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, Mistake, Stop
from vfio_cli.files import check_target, write_atomically
from vfio_cli.help import Taught
from vfio_cli.look import look
from vfio_cli.markdown import MARK, is_page, render_page
from vfio_cli.screens.layout import plural
from vfio_cli.tree import is_one_file
from vfio_contract.artifact import digest_facts, encode_artifact

_MIN_KEY_BYTES = 16
"""A shorter key could be guessed, and with it every name."""

_MAX_KEY_BYTES = 1 << 16


@click.command(
    "collect",
    cls=Taught,
    examples=(
        "sudo vfioctl collect -o host.json        also writes host.md, for people",
        "vfioctl collect --redact -o shared.json  to show it to others",
        "vfioctl collect --root host.tar.gz | jq .digest",
        "vfioctl collect --node pve07 -o pve07.json   has that node look now",
        "vfioctl collect --script > gather.sh     for a host without vfioctl:",
        "  sudo sh gather.sh                        there, then here:",
        "  vfioctl check --root vfioctl-HOST-DATE.tar.gz",
        "vfioctl diff before.json after.json",
    ),
    exits="0 written (also when parts could not be read: the file says which), 2 the file cannot "
    "be written or the node did not look, 3 the node or the coordinator does not answer, 64 wrong "
    "usage.",
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    help="File to write, and beside it the same for people as .md; default: stdout, without.",
)
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@click.option(
    "--node",
    metavar="NODE",
    hidden=is_one_file(),
    shell_complete=complete_node,
    help="Have this node of the cluster look at itself now instead.",
)
@click.option(
    "--script",
    is_flag=True,
    help="Print a POSIX shell script that gathers the evidence where nothing is installed.",
)
@click.option(
    "--redact",
    is_flag=True,
    help="Pseudonyms instead of serials, MAC and IP addresses, names of hosts, VMs, volumes and "
    "users. PCI addresses, ids and groups stay, and so does every verdict.",
)
@click.option(
    "--redact-key",
    "key_file",
    metavar="FILE",
    help="With the same secret FILE (16 bytes or more) two redacted files can be compared; without "
    "it each has pseudonyms of its own. Implies --redact.",
)
@coordinator_options
def collect(
    target: str | None,
    root: str | None,
    node: str | None,
    script: bool,
    redact: bool,
    key_file: str | None,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """Write this host's evidence to one canonical file (JSON, sorted, with its digest).

    The same host twice gives the same digest: what moves by itself is kept apart from it.
    """
    check_target(target)
    if script:
        if root is not None or node is not None or redact or key_file is not None:
            raise Mistake("--script prints a script: it goes with no other option but -o")
        return _write_script(target)
    if root is not None and node is not None:
        raise Mistake("--root and --node: give one of them; a captured host is no node")
    page = _page_of(target)
    key = _read_key(key_file) if key_file is not None else os.urandom(32) if redact else None
    seen = look(root) if node is None else _look_at(node, endpoint, tls)
    if key is not None:
        seen = _redact(seen, key)
    data = encode_artifact(seen.snapshot)
    written = ""
    if target is None or page is None:
        terminal.write(data.decode("ascii"))
    else:
        write_atomically(Path(target), data)
        text = render_page(seen.host, artifact=Path(target).name)
        write_atomically(page, text.encode("ascii"))
        written = f"\nwrote {target}, and for people {page}"
    terminal.note(_summary(seen) + written)
    return OK


def _look_at(node: str, endpoint: str | None, tls: str | None) -> Inspection:
    # Here, not above: gRPC takes 150 ms to import, which a local collect need not pay.
    from vfio_cli.client import connect
    from vfio_cli.remote import fetch_artifact

    with connect(endpoint, tls) as coordinator:
        return judge_snapshot(fetch_artifact(coordinator, node))


def _write_script(target: str | None) -> int:
    if target is None or target == "-":
        terminal.write(load_script())
    else:
        write_atomically(Path(target), load_script().encode("ascii"))
        terminal.note(f"wrote {target}; on the host: sudo sh {Path(target).name}")
    return OK


def _page_of(target: str | None) -> Path | None:
    """Where the human side goes; Stop when a file that is not ours is in its place."""
    if target is None or target == "-":
        return None
    path = Path(target)
    if not path.name:
        raise Mistake(f"-o {target}: give a file name")
    page = path.with_name(path.name + ".md") if path.suffix == ".md" else path.with_suffix(".md")
    try:
        with page.open("rb") as file:
            head = file.read(len(MARK))
    except FileNotFoundError:
        return page
    except OSError as error:
        raise Stop(f"{page} cannot be written: {error.strerror}", status=FAILURE) from error
    if not is_page(head):
        raise Stop(
            f"{page} is there and was not written by vfioctl collect: give -o another name",
            status=FAILURE,
        )
    return page


def _read_key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise Mistake(f"--redact-key {path}: {error.strerror}") from error
    if not _MIN_KEY_BYTES <= len(data) <= _MAX_KEY_BYTES:
        raise Mistake(
            f"--redact-key {path}: {len(data)} bytes; make one with: "
            f"head -c 32 /dev/urandom > {path}"
        )
    return sha256(data).digest()


def _redact(seen: Inspection, key: bytes) -> Inspection:
    """The same with pseudonyms; says so when that changes a verdict, which it should not."""
    shown = judge_snapshot(redact_snapshot(seen.snapshot, key))
    before, after = _verdicts(seen), _verdicts(shown)
    if before != after:
        lost = ", ".join(f"{check} {code}" for check, _, code in sorted(before - after))
        terminal.note(f"the redacted evidence is judged differently: {lost or 'more findings'}")
    return shown


def _verdicts(seen: Inspection) -> Counter[tuple[str, str, str]]:
    return Counter((f.check, str(f.verdict), f.code) for f in seen.report.findings)


def _summary(seen: Inspection) -> str:
    facts, readings = seen.snapshot.facts, seen.snapshot.readings
    functions = facts.functions
    devices = "functions not known" if functions is None else plural(len(functions), "function")
    text = f"{digest_facts(facts)}  {devices}, {plural(len(readings.gaps), 'gap')}"
    if readings.redacted is not None:
        text += f", redacted ({readings.redacted})"
    if readings.gaps and not readings.privileged and readings.live:
        text += " (root reads more: sudo vfioctl collect)"
    return text
