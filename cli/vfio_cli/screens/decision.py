"""The screens of a placement: where a VM goes and the proof, or who refused it and what is nearest.

A refusal's stage counts add up to all nodes. Every gate of a placement is shown with its evidence
and that evidence's age.
"""

from __future__ import annotations

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
from vfio_contract.views import Decision, Nearest, NodeRefusal, PlacedUnit, Placement, Refusal

PLACED, CLAIMED, DRY_RUN, JUDGED_NOW = "PLACED", "CLAIMED", "WOULD FIT", "FITS"
"""Words for a placement: kept for us to start, kept for another, not kept, as explained."""


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
    for unit in placement.units:
        lines += [Line(""), *_unit(unit, wide=wide, width=width)]
    lines.append(Line(""))
    if word == DRY_RUN:
        lines += wrap("", "Nothing was reserved. To reserve, run it again without --dry-run.")
    elif word == CLAIMED:
        text = f"Start it with your orchestrator; give it back: vfioctl vm release {placement.vm}"
        lines += wrap("", text, width=width)
    elif word == PLACED:
        text = f"Reserved until: vfioctl vm release {placement.vm}"
        lines += wrap("", text, width=width)
    return lines


def _unit(unit: PlacedUnit, *, wide: bool, width: int) -> Lines:
    numa = "no NUMA node" if unit.numa_node < 0 else f"NUMA {unit.numa_node}"
    lines = wrap(f"{clean(unit.unit)}  ", f"{unit.model or unit.kind}  {numa}", width=width)
    lines += wrap("  assign  ", join_addresses(unit.assign), width=width)
    if unit.hold:
        lines += wrap(
            "  hold    ", f"{join_addresses(unit.hold)} (kept off host drivers)", width=width
        )
    rows = []
    for proof in unit.proof:
        shown = proof.evidence if wide else proof.evidence[:1]
        text = "; ".join(shown) or "-"
        if len(proof.evidence) > len(shown):
            text += f" (+{len(proof.evidence) - len(shown)})"
        rows.append([str(proof.verdict), proof.gate, age(proof.age_s), text])
    lines += table(
        ["", "GATE", "AGE", "EVIDENCE"],
        rows,
        indent=2,
        width=width,
        tones=[VERDICT_TONES[str(p.verdict)] for p in unit.proof],
    )
    return lines


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
