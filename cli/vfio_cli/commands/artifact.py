"""`vfioctl collect` and `vfioctl diff`: evidence as one file, and two of them compared."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from vfio_agent.inspect import judge_snapshot
from vfio_cli import terminal
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.look import look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.diff import DiffView, diff_screen
from vfio_cli.screens.layout import plural
from vfio_cli.survey import name_of
from vfio_contract.artifact import (
    MAX_BYTES,
    ArtifactError,
    decode_artifact,
    digest_facts,
    encode_artifact,
)
from vfio_contract.drift import Change, compare, firmware_tuple
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.views import ChangeView


@click.command(
    "collect",
    cls=Taught,
    examples=(
        "sudo vfioctl collect -o host.json",
        "vfioctl collect --root host.tar.gz | jq .digest",
        "vfioctl diff before.json after.json",
    ),
    exits="0 written (also when parts could not be read: the file says which), 2 the file cannot "
    "be written, 64 wrong usage.",
)
@click.option("-o", "--output", "target", metavar="FILE", help="File to write; default stdout.")
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
def collect(target: str | None, root: str | None) -> int:
    """Write this host's evidence to one canonical file (JSON, sorted, with its digest).

    The same host twice gives the same digest: what moves by itself is kept apart from it.
    """
    snapshot = look(root).snapshot
    data = encode_artifact(snapshot)
    if target is None or target == "-":
        terminal.write(data.decode("ascii"))
    else:
        _write_atomically(Path(target), data)
    functions = snapshot.facts.functions
    devices = "functions not known" if functions is None else plural(len(functions), "function")
    gaps = len(snapshot.readings.gaps)
    text = f"{digest_facts(snapshot.facts)}  {devices}, {plural(gaps, 'gap')}"
    if gaps and not snapshot.readings.privileged and snapshot.readings.live:
        text += " (root reads more: sudo vfioctl collect)"
    terminal.note(text)
    return OK


def _write_atomically(path: Path, data: bytes) -> None:
    """All of it or what was there before; readable by its owner, as evidence names machines."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Stop(f"{path} cannot be written: {error.strerror}", status=FAILURE) from error


@click.command(
    "diff",
    cls=Taught,
    examples=(
        "vfioctl diff before.json after.json",
        "vfioctl diff before.json /          this host against its file",
        "vfioctl diff f10.tar.gz f11.tar.gz  two captured roots",
    ),
    exits="0 nothing that matters changed, 1 changed but nothing was lost, 2 isolation or "
    "function was lost, 3 not comparable, 64 wrong usage.",
)
@click.argument("before")
@click.argument("after")
@output_option(*WITHOUT_NAME)
def diff(before: str, after: str, form: str) -> int:
    """What changed between two hosts' evidence, and does it matter?

    Each side is a file of `collect`, a captured root (directory or tar), pasted output (lspci with
    groups, dmesg, ...), or / for this host.
    Devices are compared by identity: moved, widened (merged or with a foreign member), split,
    narrowed, renumbered, vanished, appeared; and the firmware tuple part by part.
    """
    old, now = _load("BEFORE", before), _load("AFTER", after)
    changes = compare(old, now)
    comparable = old.facts.functions is not None and now.facts.functions is not None
    view = DiffView(
        before=before,
        after=after,
        changes=changes,
        name_of=lambda change: _device_name(change, old, now),
        not_compared=_unknown_parts(old, now),
        comparable=comparable,
    )
    emit(
        form,
        screen=lambda wide: diff_screen(view, wide=wide),
        document=lambda: make_document(
            "diff",
            before=digest_facts(old.facts),
            after=digest_facts(now.facts),
            comparable=comparable,
            not_compared=view.not_compared,
            changes=changes,
        ),
    )
    return exit_code(view)


def exit_code(view: DiffView) -> int:
    """What the screen's second line says, as a number."""
    from vfio_cli.screens.diff import CODES

    if any(change.harms for change in view.changes):
        return FAILURE
    if not view.comparable:
        return UNKNOWN
    if any(CODES[c.code].verdict is not Verdict.PASS for c in view.changes):
        return WARNING
    return OK


def _load(side: str, text: str) -> Host:
    path = Path(text)
    try:
        if not path.is_file():
            return look(text).host
        if not _looks_like_json(path):
            return _load_pasted(side, text)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Mistake(f"{side} {text}: {error.strerror}") from error
    try:
        return judge_snapshot(decode_artifact(data)).host
    except ArtifactError as error:
        raise Mistake(
            f"{side} {text} is no usable artifact: {error}. Make one: vfioctl collect -o FILE"
        ) from None


def _load_pasted(side: str, text: str) -> Host:
    seen = look_at_evidence((text,))
    if not any(given.kinds for given in seen.given):
        raise Mistake(
            f"{side} {text}: {seen.given[0].text}. Make an artifact: vfioctl collect -o FILE"
        )
    return seen.host


def _looks_like_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith((b"{", b"[", b'"'))


def _device_name(change: Change | ChangeView, old: Host, now: Host) -> str:
    for host, address in ((now, change.address_after), (old, change.address_before)):
        for function in host.functions:
            if function.address == address:
                return name_of(host, function)
    return ""


def _unknown_parts(old: Host, now: Host) -> tuple[str, ...]:
    pairs = zip(firmware_tuple(old.facts), firmware_tuple(now.facts), strict=True)
    return tuple(name for (name, was), (_, is_now) in pairs if was is None or is_now is None)
