"""The screen of `vfioctl node revalidate`: whether the node takes VMs, and what ends each wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    age,
    clean,
    cut,
    plural,
    table,
    title,
    wrap,
)
from vfio_cli.screens.nodes import is_sound, state_word, tone_of, verdict_word
from vfio_contract.codes import BASELINE_FOREIGN, BASELINE_UNREADABLE, CLUSTER_CODES
from vfio_contract.drift import CONSEQUENCES
from vfio_contract.views import NodeView, Reason

_CODES = {code.name: code for code in CLUSTER_CODES}

_DRIFT = frozenset({*CONSEQUENCES, BASELINE_FOREIGN.name, BASELINE_UNREADABLE.name})
"""Reasons about what differs from the baseline."""

_DISQUALIFIED = frozenset({"unfit", "unknown"})
"""States of a unit that placement does not give away, whoever asks."""

_TONES = {"done": "good", "skipped": "faint", "unknown": "unsure", "waiting": "unsure"}


@dataclass(frozen=True, slots=True)
class ResetTest:
    """One unit's reset test. `outcome` is an `action.Outcome`, or `skipped` where it is in use."""

    unit: str
    address: str
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Revalidation:
    """The node after the look, and the reset tests that were made, if they were asked for."""

    node: NodeView
    tests: tuple[ResetTest, ...]
    asked: bool


def revalidate_screen(result: Revalidation, *, wide: bool = False) -> Lines:
    """The whole screen."""
    width = UNLIMITED if wide else WIDTH
    node = result.node
    state = state_word(node).upper()
    front = f"{clean(node.name)}  "
    free = f"{node.units_free} of {plural(node.units_total, 'unit')} free"
    head = f"{front}{state}   evidence {age(node.evidence_age_s)} old, {free}"
    lines: Lines = [Line(head, tone_of(node), len(front), len(front) + len(state))]
    for reason in node.reasons:
        lines += _reason(reason, node, width)
    if takes_vms(node):
        lines += wrap("  ", "Nothing speaks against it: it takes VMs.", width=width)
    elif node.state == "ready":
        lines += _unfit(node, width)
    if result.asked:
        lines += [Line(""), title(f"RESET TESTS {plural(len(result.tests), 'unit')}")]
        lines += _tests(result.tests, wide=wide)
    if not takes_vms(node):
        what = "baseline" if node.drift or any(r.code in _DRIFT for r in node.reasons) else "node"
        lines += [Line(""), *wrap("Next: ", f"vfioctl {what} show {node.name}", width=width)]
    return lines


def takes_vms(node: NodeView) -> bool:
    """True for a ready node whose findings are sound, of whose intended units one qualifies."""
    return node.state == "ready" and is_sound(node) and not _none_qualifies(node)


def _none_qualifies(node: NodeView) -> bool:
    wanted = [unit for unit in node.units if unit.intended]
    return bool(wanted) and all(unit.state in _DISQUALIFIED for unit in wanted)


def _unfit(node: NodeView, width: int) -> Lines:
    """What speaks against a node that nothing holds: its verdict, and the units it is about."""
    unfit = [unit for unit in node.units if unit.intended and unit.state in _DISQUALIFIED]
    wanted = sum(unit.intended for unit in node.units)
    front = f"Nothing holds the node; its verdict is {verdict_word(node)}"
    count = "no unit qualifies" if _none_qualifies(node) else f"{len(unfit)} of {wanted} unfit"
    lines = wrap("  ", f"{front}: {count}." if unfit else f"{front}.", width=width)
    for unit in unfit:
        why = f"{unit.id}: {unit.why or unit.state}"
        lines += wrap("  why       ", why, width=width)
    return lines


def _reason(reason: Reason, node: NodeView, width: int) -> Lines:
    """Why, and what ends it: the reason's own words, or the code's, or those of the finding."""
    lines = wrap("  why       ", f"{reason.owner or reason.code}: {reason.text}", width=width)
    code = _CODES.get(reason.code)
    said = (found.decision for found in node.findings if found.code == reason.code)
    ends = code.decision.replace("NODE", node.name) if code is not None else next(said, "")
    if ends and "waits for" not in reason.text:
        lines += wrap("  ends by   ", clean(ends), width=width)
    return lines


def _tests(tests: Sequence[ResetTest], *, wide: bool) -> Lines:
    if not tests:
        return [Line("  no unit of it is intended for a VM")]
    return table(
        ["", "", "", ""],
        [[test.unit, cut(test.address, 16), test.outcome, test.text] for test in tests],
        indent=2,
        width=UNLIMITED if wide else WIDTH,
        tones=[_TONES.get(test.outcome, "bad") for test in tests],
        tone_column=2,
    )
