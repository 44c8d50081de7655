"""The screens of a placement: where a VM goes and the proof, or who refused it and what is nearest.

A refusal's stage counts add up to all nodes. Every gate of a placement is shown with its evidence
and that evidence's age.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    age,
    clean,
    clock,
    cut,
    join_addresses,
    plural,
    table,
    toned,
    wrap,
)
from vfio_cli.survey import shorten_name
from vfio_contract.findings import Verdict
from vfio_contract.views import (
    Decision,
    GateProof,
    Nearest,
    NodeRefusal,
    PlacedUnit,
    Placement,
    Refusal,
)

PLACED, CLAIMED, DRY_RUN, JUDGED_NOW = "PLACED", "CLAIMED", "WOULD FIT", "FITS"
"""Words for a placement: kept for us to start, kept for another, not kept, as explained."""

NOT_NOW = "WOULD BE REFUSED"
"""A claim of which some gate fails on the evidence of now; nothing is taken from the VM."""


def decision_screen(decision: Decision, *, word: str = PLACED, wide: bool = False) -> Lines:
    """Whichever of the two it is; `word` names what a placement means here."""
    if decision.placement is not None:
        return placed_screen(decision.placement, word=word, wide=wide)
    if decision.refusal is not None:
        return refused_screen(decision.refusal, explained=word == JUDGED_NOW, wide=wide)
    return wrap("", "The coordinator gave neither a placement nor a refusal: upgrade vfioctl.")


def placed_screen(placement: Placement, *, word: str, wide: bool = False) -> Lines:
    """Node, fence, units and each gate's proof."""
    width = UNLIMITED if wide else WIDTH
    fence = f"generation {placement.generation}, token {placement.token}"
    if word in (DRY_RUN, JUDGED_NOW):
        fence = "nothing reserved"
    head = f"  {placement.vm} on {placement.node}  (revision {placement.revision}, {fence})"
    lines: Lines = [toned(word, "good", head)]
    lines += unit_lines(placement, wide=wide)
    text = {
        DRY_RUN: "Nothing was reserved. To reserve, run it again without --dry-run.",
        CLAIMED: "Start it with your orchestrator; give it back: "
        f"vfioctl vm release {placement.vm}",
        PLACED: f"Reserved until: vfioctl vm release {placement.vm}",
    }.get(word)
    if text:
        lines += [Line(""), *wrap("", text, width=width)]
    return lines


def unit_lines(placement: Placement, *, wide: bool = False) -> Lines:
    """The units, each with its proof; what is proved of the node is said once."""
    width = UNLIMITED if wide else WIDTH
    lines: Lines = []
    common = _common_proofs(placement.units)
    if common:
        lines += [Line(""), *wrap("", f"{placement.node}, for every unit", width=width)]
        lines += _proofs(common, wide=wide)
    for unit in placement.units:
        lines += [Line(""), *_unit(unit, common, wide=wide)]
    return lines


def proof_word(placement: Placement) -> tuple[str, str]:
    """What its proofs amount to, and the tone: a unit that nothing proves is unknown."""
    units = placement.units
    verdicts = {proof.verdict for unit in units for proof in unit.proof}
    if Verdict.FAIL in verdicts:
        return NOT_NOW, "bad"
    passing = {Verdict.PASS, Verdict.WARN, Verdict.NOT_APPLICABLE}
    if not verdicts <= passing or not units or not all(unit.proof for unit in units):
        return str(Verdict.UNKNOWN), "unsure"
    return JUDGED_NOW, "good"


def _common_proofs(units: Sequence[PlacedUnit]) -> tuple[GateProof, ...]:
    """What is proved of the node and so of every unit alike; () for a single unit."""
    if len(units) < 2:
        return ()
    return tuple(p for p in units[0].proof if all(p in unit.proof for unit in units[1:]))


def _unit(unit: PlacedUnit, common: Sequence[GateProof], *, wide: bool) -> Lines:
    width = UNLIMITED if wide else WIDTH
    numa = "no NUMA node" if unit.numa_node < 0 else f"NUMA node {unit.numa_node}"
    name = shorten_name(unit.model) or unit.kind
    lines = wrap(f"{clean(unit.unit)}  ", f"{name}, {numa}", width=width)
    lines += wrap("  assign  ", join_addresses(unit.assign), width=width)
    if unit.hold:
        text = f"{join_addresses(unit.hold)} (kept off host drivers)"
        lines += wrap("  hold    ", text, width=width)
    return lines + _proofs([p for p in unit.proof if p not in common], wide=wide)


def _proofs(proofs: Sequence[GateProof], *, wide: bool) -> Lines:
    if not proofs:
        return []
    return table(
        ["", "GATE", "AGE", "EVIDENCE"],
        [[str(p.verdict), p.gate, age(p.age_s), _evidence(p, wide=wide)] for p in proofs],
        indent=2,
        width=UNLIMITED if wide else WIDTH,
        tones=[VERDICT_TONES[str(p.verdict)] for p in proofs],
    )


def _evidence(proof: GateProof, *, wide: bool) -> str:
    """All of it, or the line that tells most and how many there are besides."""
    if wide or not proof.evidence:
        return "; ".join(proof.evidence) or "-"
    shown = [shorten_evidence(text) for text in proof.evidence]
    telling = next((text for text in shown if not _DESCRIPTION.match(text)), shown[0])
    return telling + (f" (+{len(shown) - 1})" if len(shown) > 1 else "")


_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_DESCRIPTION = re.compile(rf"(\d+ )?{_ADDRESS} \[[0-9a-f]{{4}}\] ")
"""A line that only says which device it is about."""

_REPEATED = re.compile(rf"({_ADDRESS})(?: \1)?(/\S+)?: \1 ")
_DOUBLED = re.compile(rf"({_ADDRESS}) (?=\1)")


def shorten_evidence(text: str) -> str:
    """Without the folder of all devices, and with the same address said once."""
    text = text.replace("/sys/bus/pci/devices/", "")
    return _DOUBLED.sub("", _REPEATED.sub(r"\1 ", text))


def refused_screen(refusal: Refusal, *, explained: bool = False, wide: bool = False) -> Lines:
    """Stages with counts, what is nearest, and that nothing was reserved (unless only asked)."""
    width = UNLIMITED if wide else WIDTH
    total = refusal.nodes_total
    head = (
        f"  {refusal.vm}: 0 of {plural(total, 'node')} "
        f"{'qualifies' if total == 1 else 'qualify'} "
        f"(revision {refusal.revision}, {clock(refusal.at)})"
    )
    lines: Lines = [toned("REFUSED", "bad", head)]
    if total == 0:
        lines += [Line(""), *wrap("", "No node has joined yet: vfioctl agent run --help")]
    if refusal.stages:
        lines.append(Line(""))
        lines += table(
            ["STAGE", "NODES", "WHY"],
            [[s.stage, str(s.nodes), s.why] for s in refusal.stages],
            right=(1,),
            width=width,
        )
    lines += _nearest(refusal.nearest, width)
    if wide and refusal.nodes:
        lines += _every_node(refusal.nodes)
    parts = [] if explained else ["Nothing was reserved."]
    if not wide:
        parts.append(f"Every node: vfioctl vm explain {refusal.vm} -o wide")
    if parts:
        lines += [Line(""), *wrap("", " ".join(parts), width=width)]
    return lines


def _nearest(nearest: Sequence[Nearest], width: int) -> Lines:
    if not nearest:
        return []
    rows = [[cut(n.node, 16), n.change + (f": {n.command}" if n.command else "")] for n in nearest]
    return [Line(""), Line("NEAREST"), *table(["", ""], rows, indent=2, width=width)]


def _every_node(nodes: Sequence[NodeRefusal]) -> Lines:
    lines: Lines = [Line("")]
    for node in nodes:
        lines.append(Line(f"{clean(node.node)}  {clean(node.stage)}  {clean(node.reason)}"))
        lines += [Line(f"    {clean(text)}") for text in node.evidence]
    return lines
