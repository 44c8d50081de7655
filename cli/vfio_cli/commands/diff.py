"""`vfioctl diff`: two hosts' evidence compared, or one host's before and after."""

from __future__ import annotations

from pathlib import Path

import click

from vfio_agent.inspect import Inspection, judge_snapshot
from vfio_cli.comparison import compare_evidence
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.look import look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.diff import DiffView, diff_screen
from vfio_cli.survey import name_of
from vfio_cli.verdicts import compare_verdicts
from vfio_contract.artifact import MAX_BYTES, ArtifactError, decode_artifact, digest_facts
from vfio_contract.drift import Change, firmware_tuple
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.views import ChangeView


@click.command(
    "diff",
    cls=Taught,
    examples=(
        "vfioctl diff before.json after.json",
        "vfioctl diff before.json lspci.txt  what somebody pasted",
        "vfioctl diff before.json /          this host against its file",
        "vfioctl diff f10.tar.gz f11.tar.gz  two captured roots",
    ),
    exits="0 nothing that matters changed, 1 changed but nothing was lost, 2 isolation or "
    "function was lost or a check fails now, 3 not comparable, 64 wrong usage.",
)
@click.argument("before")
@click.argument("after")
@output_option(*WITHOUT_NAME)
def diff(before: str, after: str, form: str) -> int:
    """What changed between two hosts' evidence, and does it matter?

    Each side is a file of `collect`, a captured root (directory or tar), pasted output (lspci with
    groups, dmesg, ...; - is stdin), or / for this host.
    Devices are compared by identity: moved, widened (merged or with a foreign member), split,
    narrowed, renumbered, vanished, appeared; and the firmware tuple part by part. So are the
    verdicts on both sides: what passed and fails now is harm, wherever it came from. Where one side
    knows less (a paste, a redacted file), the screen says how devices were matched.
    """
    first, second = _load("BEFORE", before), _load("AFTER", after)
    old, now = first.host, second.host
    found = compare_evidence(old, now)
    verdicts = compare_verdicts((old, first.report), (now, second.report))
    comparable = old.facts.functions is not None and now.facts.functions is not None
    view = DiffView(
        before=before,
        after=after,
        changes=found.changes,
        name_of=lambda change: _device_name(change, old, now),
        not_compared=_unknown_parts(old, now),
        comparable=comparable,
        unmatched=found.unmatched,
        notes=found.notes,
        verdicts=() if found.unmatched else verdicts,
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
            unmatched=found.unmatched,
            notes=found.notes,
            changes=found.changes,
            verdicts=view.verdicts,
        ),
    )
    return exit_code(view)


def exit_code(view: DiffView) -> int:
    """What the screen's second line says, as a number."""
    from vfio_cli.screens.diff import CODES

    if any(change.harms for change in (*view.changes, *view.verdicts)):
        return FAILURE
    if not view.comparable or view.unmatched:
        return UNKNOWN
    if any(CODES[c.code].verdict is not Verdict.PASS for c in view.changes):
        return WARNING
    if any(change.worse for change in view.verdicts):
        return WARNING
    return OK


def _load(side: str, text: str) -> Inspection:
    path = Path(text)
    try:
        if text == "-":
            return look_at_evidence((text,), named=side)
        if not text or not path.is_file():
            return look(text, named=side)
        if not _looks_like_json(path):
            return look_at_evidence((text,), named=side)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Mistake(f"{side} {text}: {error.strerror}") from error
    try:
        return judge_snapshot(decode_artifact(data))
    except ArtifactError as error:
        raise Mistake(
            f"{side} {text} is no usable artifact: {error}. Make one: vfioctl collect -o FILE"
        ) from None


def _looks_like_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith((b"{", b'"', b"[]", b"[{", b"[["))


def _device_name(change: Change | ChangeView, old: Host, now: Host) -> str:
    for host, address in ((now, change.address_after), (old, change.address_before)):
        for function in host.functions:
            if function.address == address:
                return name_of(host, function)
    return ""


def _unknown_parts(old: Host, now: Host) -> tuple[str, ...]:
    pairs = zip(firmware_tuple(old.facts), firmware_tuple(now.facts), strict=True)
    return tuple(name for (name, was), (_, is_now) in pairs if was is None or is_now is None)
