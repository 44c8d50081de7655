"""`vfioctl diff`: two hosts' evidence compared, or one host's before and after."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import click

from vfio_agent.inspect import Inspection, judge_snapshot
from vfio_cli.comparison import compare_evidence
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.look import look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.diff import CODES, DiffView, diff_screen
from vfio_cli.survey import name_of
from vfio_cli.verdicts import VerdictChange, compare_verdicts
from vfio_contract.artifact import (
    MAX_BYTES,
    ArtifactError,
    decode,
    decode_artifact,
    decompress,
    digest_facts,
)
from vfio_contract.codes import BASELINE_FOREIGN
from vfio_contract.concern import NamedBy, units_at
from vfio_contract.drift import Change, has_groups
from vfio_contract.findings import Verdict
from vfio_contract.fingerprint import fingerprint
from vfio_contract.firmware import firmware_tuple
from vfio_contract.host import Host
from vfio_contract.machine import find_other_machine
from vfio_contract.model import NOTHING_READ, Facts, Snapshot
from vfio_contract.views import ChangeView


@click.command(
    "diff",
    cls=Taught,
    examples=(
        "vfioctl diff before.json after.json",
        "vfioctl diff before.json lspci.txt  what somebody pasted",
        "vfioctl diff before.json /          this host against its file",
        "vfioctl diff f10.tar.gz f11.tar.gz  two captured roots",
        "vfioctl diff --baseline             this host against its accepted baseline",
        "vfioctl diff --baseline --node pve07  that node as last heard",
    ),
    exits="0 nothing that matters changed, 1 changed but nothing was lost, 2 isolation or "
    "function was lost or a check fails now, 3 not comparable (a baseline of another machine) or "
    "the coordinator cannot be reached, 64 wrong usage.",
)
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option(
    "--baseline",
    is_flag=True,
    help="BEFORE is the accepted baseline that the coordinator has of the node.",
)
@click.option(
    "--node",
    metavar="NODE",
    shell_complete=complete_node,
    help="With --baseline: whose baseline, and what is compared unless AFTER is given "
    "[default: this host].",
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def diff(
    before: str | None,
    after: str | None,
    baseline: bool,
    node: str | None,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """What changed between two hosts' evidence, and does it matter?

    Each side is a file of `collect`, a captured root (directory or tar), pasted output (lspci with
    groups, dmesg, ...; - is stdin), or / for this host.
    Devices are compared by identity: moved, widened (merged or with a foreign member), split,
    narrowed, renumbered, vanished, appeared; how they are bound, reset, linked and isolated; and
    the firmware tuple part by part. Lines of VM configurations and mappings that name an old
    address or group number are listed with the edit to make. So are the
    verdicts on both sides: what passed and fails now is harm, wherever it came from. Where one side
    knows less (a paste, a redacted file), the screen says how devices were matched.
    """
    if baseline:
        if before is not None and after is not None:
            raise Mistake("--baseline is BEFORE: give AFTER alone, or leave it out")
        sides = _load_baseline(before, node, endpoint, tls)
    elif node is not None:
        raise Mistake(f"--node {node} needs --baseline: vfioctl diff --baseline --node {node}")
    elif before is None or after is None:
        raise Mistake("give BEFORE and AFTER, or --baseline: vfioctl diff --baseline [AFTER]")
    else:
        sides = _load_both(before, after)
    old, now = sides.old, sides.now
    found = compare_evidence(old, now)
    # Names of one machine are pseudonyms where the evidence is redacted.
    alike = old.readings.redacted is None and now.readings.redacted is None
    other = find_other_machine(old.facts, now.facts) if alike else ""
    notes = (*_notes(old, now, other), *found.notes)
    comparable = old.facts.functions is not None and now.facts.functions is not None
    changes = tuple(_concerning(found.changes, old, now, sides.claimed_by))
    view = DiffView(
        before=sides.before,
        after=sides.after,
        changes=changes,
        name_of=lambda change: _device_name(change, old, now),
        not_compared=_unknown_parts(old, now),
        comparable=comparable,
        unmatched=found.unmatched,
        notes=notes,
        verdicts=() if found.unmatched else sides.verdicts,
        stale=found.stale,
        doubt=sides.doubt,
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
            notes=notes,
            changes=changes,
            codes={code: _explain(code) for code in sorted({c.code for c in changes})},
            stale=found.stale,
            verdicts=view.verdicts,
            doubt=view.doubt,
        ),
    )
    return exit_code(view)


def _notes(old: Host, now: Host, other: str) -> Iterator[str]:
    if other:
        yield f"the two sides are different machines: {other}"
    for side, host in (("BEFORE", old), ("AFTER", now)):
        if host.functions and not has_groups(fingerprint(host)):
            none = all(function.group is not None for function in host.functions)
            shows = "has no IOMMU group at all" if none else "does not show any IOMMU group"
            yield f"{side} {shows}: groups and ACS bits are not compared"


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both hosts and what they are called; `doubt` is why the later one is not of now."""

    before: str
    after: str
    old: Host
    now: Host
    verdicts: tuple[VerdictChange, ...] = ()
    doubt: str = ""
    claimed_by: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


def _concerning(
    changes: Iterable[Change],
    old: Host,
    now: Host,
    claimed_by: Mapping[tuple[str, str], tuple[str, ...]],
) -> Iterator[ChangeView]:
    """The changes with the units intended for passthrough that they concern, and whose VMs."""
    named = NamedBy(old, now)
    for change in changes:
        sides = ((old, change.address_before), (now, change.address_after))
        units = {
            unit.id: None
            for host, address in sides
            for unit in units_at(host, address)
            if host.is_intended(unit.addresses)
        }
        vms = (*claimed_by.get((change.code, change.identity), ()), *named.of(units))
        same = {row.name: getattr(change, row.name) for row in fields(change)}
        yield ChangeView(**same, units=tuple(units), vms=tuple(dict.fromkeys(vms)))


def _explain(code: str) -> dict[str, str]:
    row = CODES[code]
    return {"verdict": str(row.verdict), "meaning": row.meaning, "decision": row.decision}


def _load_both(before: str, after: str) -> _Sides:
    first, second = _load("BEFORE", before), _load("AFTER", after)
    verdicts = compare_verdicts((first.host, first.report), (second.host, second.report))
    return _Sides(before, after, first.host, second.host, verdicts)


def _load_baseline(
    after: str | None, node: str | None, endpoint: str | None, tls: str | None
) -> _Sides:
    """The node's accepted facts, and what to hold against them; Stop where it is no such machine.

    A baseline is facts alone, without what was read beside them: verdicts are not compared.
    """
    # Here, not above: two files are compared where gRPC is not installed.
    from vfio_cli.client import connect

    name = node or socket.gethostname().partition(".")[0].lower()
    doubt = ""
    claimed_by: Mapping[tuple[str, str], tuple[str, ...]] = {}
    with connect(endpoint, tls) as coordinator:
        name, _, accepted = coordinator.baseline_facts(name)
        if after is None and node is not None:
            _, _, present, doubt = coordinator.node_facts(name)
            drift = coordinator.show_node(name).drift
            claimed_by = {(change.code, change.identity): change.vms for change in drift}
            label, now = f"{name} as last heard", _host_of(name, present)
        else:
            label = after or "/"
            now = _load("AFTER", label).host
    old = _host_of(name, accepted)
    other = find_other_machine(old.facts, now.facts)
    if other:
        raise Stop(
            f"the baseline of {name} is of another machine than {label}: {other}. Nothing is "
            f"compared; if that machine was replaced: vfioctl baseline accept {name}",
            status=UNKNOWN,
            code=BASELINE_FOREIGN.name,
        )
    return _Sides(f"baseline of {name}", label, old, now, doubt=doubt, claimed_by=claimed_by)


def _host_of(node: str, facts_zlib: bytes) -> Host:
    try:
        return Host(Snapshot(decode(Facts, decompress(facts_zlib)), NOTHING_READ))
    except ArtifactError as error:
        raise Stop(f"facts of {node}: {error}", status=UNKNOWN) from None


def exit_code(view: DiffView) -> int:
    """What the screen's second line says, as a number."""
    if any(c.harms for c in view.changes) or any(v.harms for v in view.verdicts):
        return FAILURE
    if not view.comparable or view.unmatched or view.doubt:
        return UNKNOWN
    if view.stale or any(CODES[c.code].verdict is not Verdict.PASS for c in view.changes):
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
        raise Mistake(f"{side} {text} is no usable artifact: {error}. {error.fix}") from None


def _looks_like_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith((b"{", b'"', b"[]", b"[{", b"[["))


def _device_name(change: ChangeView, old: Host, now: Host) -> str:
    for host, address in ((now, change.address_after), (old, change.address_before)):
        for function in host.functions:
            if function.address == address:
                return name_of(host, function)
    return ""


def _unknown_parts(old: Host, now: Host) -> tuple[str, ...]:
    pairs = zip(firmware_tuple(old.facts), firmware_tuple(now.facts), strict=True)
    return tuple(name for (name, was), (_, is_now) in pairs if was is None or is_now is None)
