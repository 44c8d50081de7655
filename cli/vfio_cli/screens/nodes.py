"""The screens of `vfioctl node list` and `node show`: a node is ready only when it is heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vfio_cli.screens.check import CheckView, Kept, finding_block, group_alike
from vfio_cli.screens.diff import Naming, change_blocks
from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    age,
    clean,
    cut,
    join_addresses,
    moment,
    plural,
    table,
    title,
    wrap,
)
from vfio_cli.screens.risk import risk_words
from vfio_cli.screens.stale import stale_lines
from vfio_cli.survey import Intended, shorten_name
from vfio_contract.codes import HOSTD_AWAY, NODE_LOST, NODE_UNHEARD
from vfio_contract.findings import Evidence, Finding, Report, Verdict, severity, worst
from vfio_contract.ledger import WORST_FIRST, ResetState
from vfio_contract.views import FindingView, NodeView, UnitView

NODE_TONES = {
    "ready": "good",
    "cordoned": "warn",
    "draining": "warn",
    "drained": "warn",
    "revalidating": "unsure",
    "lost": "bad",
}

_SILENT = (NODE_UNHEARD.name, NODE_LOST.name, HOSTD_AWAY.name)

_NOTES = {
    "lost": "wait, or look at it by hand: its VMs may still run",
    "revalidating": "no new placements until this boot is read",
    "cordoned": "vfioctl node show {name}",
    "draining": "vfioctl node show {name}",
    "drained": "vfioctl node uncordon {name}",
}


_SOUND = (ResetState.PROVEN, ResetState.CAPABLE)


def state_word(node: NodeView) -> str:
    """The node's state; what this version does not know is unknown."""
    return node.state if node.state in NODE_TONES else "unknown"


def is_sound(node: NodeView) -> bool:
    """True when it was heard and nothing of it fails or is unknown."""
    return heard_verdict(node) in (Verdict.PASS, Verdict.WARN, Verdict.NOT_APPLICABLE)


def tone_of(node: NodeView) -> str:
    """The tone of its state; a ready node that is not sound has its verdict's."""
    if node.state == "ready" and not is_sound(node):
        return VERDICT_TONES[verdict_word(node)]
    return NODE_TONES.get(node.state, "bad")


def cause_of(node: NodeView) -> str:
    """Who or what made it so: `auto:GROUP_WIDENED`, a code, `-` for nothing."""
    if node.reasons:
        first = node.reasons[0]
        if node.state == "cordoned" and first.owner:
            return first.owner
        return first.code or first.owner or "-"
    if node.state == "lost":
        return "never heard" if node.heard_age_s < 0 else "no heartbeat"
    return "-" if is_sound(node) else f"verdict {verdict_word(node)}"


def note_of(node: NodeView) -> str:
    """In words why, else what to do."""
    if node.state == "lost" and node.heard_age_s >= 0:
        return f"heard {age(node.heard_age_s)} ago; its VMs may still run"
    if node.reasons and node.reasons[0].text:
        return node.reasons[0].text
    if node.state == "ready" and not is_sound(node):
        return f"vfioctl node show {node.name}"
    return _NOTES.get(node.state, "").format(name=node.name)


def list_screen(nodes: Sequence[NodeView], *, wide: bool = False) -> Lines:
    """All nodes, worst first as the coordinator gives them."""
    if not nodes:
        return wrap("", "No node has joined yet: vfioctl agent run --help")
    return list_table(nodes, wide=wide)


def list_table(nodes: Sequence[NodeView], *, indent: int = 0, wide: bool = False) -> Lines:
    """A line a node."""
    headers = ["NODE", "STATE", "VERDICT", "HEARD", "UNITS", "VMS", "WHY"]
    rows = [_cells(n, wide=wide) for n in nodes]
    if wide:
        headers = [*headers[:4], "EVIDENCE", "FIRMWARE", "KERNEL", "BASELINE", *headers[4:]]
    return table(
        headers,
        rows,
        indent=indent,
        width=UNLIMITED if wide else WIDTH,
        tones=[tone_of(n) for n in nodes],
        tone_column=1,
    )


def _cells(node: NodeView, *, wide: bool) -> list[str]:
    cause = cause_of(node)
    why = note_of(node) if cause == "-" else f"{cause}: {note_of(node)}".rstrip(": ")
    units = f"{node.units_free}/{node.units_total}"
    front = [cut(node.name, 16), state_word(node), verdict_word(node), age(node.heard_age_s)]
    middle = [
        age(node.evidence_age_s),
        node.firmware or "?",
        node.kernel or "?",
        node.baseline[:19] or "none",
    ]
    back = [units, str(len(node.vms)), why if cause != "-" or why else "-"]
    return [*front, *(middle if wide else []), *back]


def heard_verdict(node: NodeView) -> Verdict:
    """The verdict as last heard; UNKNOWN for a node that is not heard."""
    if node.state == "lost" or node.heard_age_s < 0:
        return Verdict.UNKNOWN
    return node.verdict


def verdict_word(node: NodeView) -> str:
    """As `heard_verdict`, in letters."""
    return str(heard_verdict(node))


def as_check(node: NodeView, *, note: str = "") -> CheckView:
    """A node as `vfioctl check --node` shows it; `note` says why it was not looked at now.

    Of a node whose evidence is not of now the verdict is UNKNOWN, whatever stood there before.
    """
    findings = tuple(as_finding(view) for view in node.findings)
    counted = (f.verdict for f in findings if f.intended is not False)
    silent = _why_silent(node, findings)
    verdict = Verdict.UNKNOWN if silent else worst((heard_verdict(node), *counted))
    old = node.evidence_age_s >= 0
    report = Report(node.name, verdict, findings, ())
    intended = [
        Intended(u.addresses, shorten_name(u.model) or u.ids, ()) for u in node.units if u.intended
    ]
    return CheckView(
        report=report,
        intended=tuple(intended),
        candidates=(),
        unread=(),
        seen_by=f"evidence {age(node.evidence_age_s)} old" if old else "heard never",
        kept=Kept(node.heard_age_s, node.evidence_age_s, note or silent),
        silent=silent,
    )


def _why_silent(node: NodeView, findings: Sequence[Finding]) -> str:
    """Why what is kept of the node is not of now, "" when it is."""
    if heard_verdict(node) is not Verdict.UNKNOWN:
        return ""
    why = node.reasons[0].text if node.reasons else ""
    if node.evidence_age_s < 0:
        return "no report of it is here" + (f" ({why})" if why else "")
    unheard = node.state == "lost" or node.heard_age_s < 0
    unheard = unheard or any(reason.code in _SILENT for reason in node.reasons)
    open_ = (Verdict.UNKNOWN, Verdict.BLOCKED)
    explained = any(f.verdict in open_ for f in findings if f.intended is not False)
    return (why or "it is not heard") if unheard or not explained else ""


def show_screen(node: NodeView, *, wide: bool = False) -> Lines:
    """One node with reasons, units, drift and findings."""
    width = UNLIMITED if wide else WIDTH
    state = state_word(node)
    front = f"{clean(node.name)}  "
    verdict = verdict_word(node)
    head = f"{front}{state.upper()}   verdict {verdict}, heard {_ago(node.heard_age_s)}"
    lines: Lines = [Line(head, tone_of(node), len(front), len(front) + len(state))]
    for reason in node.reasons:
        text = reason.text or _NOTES.get(node.state, "").format(name=node.name)
        since = f" (since {moment(reason.since, today='')})" if reason.since else ""
        lines += wrap("  why       ", f"{reason.owner or reason.code}: {text}{since}", width=width)
    for label, text in (
        ("evidence", f"{age(node.evidence_age_s)} old" if node.evidence_age_s >= 0 else "none"),
        ("firmware", node.firmware or "not known"),
        *(("", f"not read now, was {text}") for text in node.firmware_before),
        ("kernel", node.kernel or "not known"),
        ("boot", node.boot_id or "not known"),
        ("agent", node.agent or "not known"),
        (
            "baseline",
            cut(node.baseline, width - 12) or f"none: vfioctl baseline accept {node.name}",
        ),
        ("VMs", ", ".join(node.vms) or "none"),
    ):
        lines += wrap(f"  {label:<10}", text, width=width)
    for risk in node.risks:
        lines += wrap("  risk      ", f"{risk.code}: {risk_words(risk)}", width=width)
    lines += _units(node, width)
    lines += _resets(node, width)
    if node.commands:
        lines += [Line(""), title("COMMANDS newest first")]
        for command in node.commands:
            about = f"{command.verb} {command.address}".rstrip()
            end = f"{command.outcome or command.state}: {command.text}".rstrip(": ")
            text = f"{about}, by {command.by} ({command.id})  {end}"
            lines += wrap(f"  {command.at[5:16].replace('T', ' ')}  ", text, width=width)
    if node.drift:
        lines += [Line(""), title("DRIFT from the baseline")]
        lines += change_blocks(node.drift, name_by_address(node.units), wide=wide)[1:]
    lines += stale_lines(node.stale, wide=wide)
    lines += _findings(node.findings, wide=wide)
    return lines


def _ago(seconds: float) -> str:
    return "never" if seconds < 0 else f"{age(seconds)} ago"


def _units(node: NodeView, width: int) -> Lines:
    shown = [u for u in node.units if u.intended or u.vm]
    others = len(node.units) - len(shown)
    head = f"UNITS {len(shown)} intended, {node.units_free} free"
    if others:
        head += f"; {plural(others, 'candidate')} not shown (-o json)"
    lines: Lines = [Line(""), title(head)]
    rows = table(["", "", "", ""], [_unit_cells(u) for u in shown], indent=2, width=UNLIMITED)
    for number, (row, unit) in enumerate(zip(rows, shown, strict=True)):
        lines.append(row)
        note = _unit_note(unit)
        # What the next ones say too is said once, below the last of them.
        if note and (number + 1 == len(shown) or _unit_note(shown[number + 1]) != note):
            lines += wrap("      ", note, width=width)
    return lines


def _resets(node: NodeView, width: int) -> Lines:
    """The classes of the reset histories, and which of them to look at."""
    told = [unit for unit in node.units if unit.reset and (unit.intended or unit.vm)]
    counts = Counter(unit.reset for unit in told)
    text = ", ".join(f"{counts[state]} {state}" for state in WORST_FIRST if counts[state])
    lines = wrap("  resets    ", text, width=width) if text else []
    for unit in told:
        if unit.reset not in _SOUND:
            what = f"{unit.reset}: vfioctl device history {node.name} {unit.addresses[0]}"
            lines += wrap("            ", what, width=width)
    return lines


def _unit_cells(unit: UnitView) -> list[str]:
    name = cut(shorten_name(unit.model) or unit.ids, 18)
    state = f"{unit.state} {unit.vm}".rstrip()
    return [unit.id, cut(join_addresses(unit.addresses), 18), name, cut(state, 18)]


def _unit_note(unit: UnitView) -> str:
    if unit.state == "claimed":
        return ""  # the row names the VM, and that is why
    needs = "".join(f" --allow {word}" for word in unit.needs)
    return unit.why + (f" (needs{needs})" if needs and unit.why else "")


def name_by_address(units: Sequence[UnitView]) -> Naming:
    """Names for changes, of the device that has the address now."""
    models = device_names(units)
    return lambda change: models.get(change.address_after, "")


def device_names(units: Sequence[UnitView]) -> dict[str, str]:
    """Names by address: a unit's is that of its first function and of others in the same slot.

    What is only held beside it is another device.
    """
    names: dict[str, str] = {}
    for unit in units:
        slot = unit.addresses[0].rpartition(".")[0] if unit.addresses else ""
        for address in unit.addresses:
            if address.rpartition(".")[0] == slot:
                names.setdefault(address, shorten_name(unit.model))
    firsts = {unit.addresses[0]: shorten_name(unit.model) for unit in units if unit.addresses}
    return names | firsts


def _findings(findings: Sequence[FindingView], *, wide: bool) -> Lines:
    lines: Lines = []
    counted = sorted((f for f in findings if f.intended), key=lambda f: -severity(f.verdict))
    quiet = (Verdict.BLOCKED, Verdict.NOT_APPLICABLE)
    for rows in group_alike(as_finding(f) for f in counted if f.verdict not in quiet):
        lines += [Line(""), *finding_block(rows, wide=wide)]
    blocked = dict.fromkeys(f.check for f in counted if f.verdict is Verdict.BLOCKED)
    if blocked:
        lines += [Line(""), *wrap("BLOCKED  ", ", ".join(blocked))]
    others = len(findings) - len(counted)
    if others:
        text = f"{plural(others, 'finding')} about devices nobody means to pass: -o json"
        lines += [Line(""), *wrap("", text)]
    return lines


def as_finding(view: FindingView) -> Finding:
    """The finding as a host would report it; `source: text` taken apart again."""
    evidence = []
    for line in view.evidence:
        source, mark, text = line.partition(": ")
        evidence.append(Evidence(source, text) if mark else Evidence("evidence", line))
    return Finding(
        check=view.check,
        subject=view.subject,
        verdict=view.verdict,
        code=view.code,
        evidence=tuple(evidence),
        meaning=view.meaning,
        decision=view.decision,
        intended=None if view.subject == "node" else view.intended,
    )
