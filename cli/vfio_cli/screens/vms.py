"""The screens of `vfioctl vm list`, `vm explain` and `vm release`: claims and their nodes."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.decision import JUDGED_NOW, decision_screen, proof_word, unit_lines
from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    cut,
    join_addresses,
    plural,
    table,
    wrap,
)
from vfio_cli.screens.status import vm_word
from vfio_contract.views import Decision, Placement, VmView

_TONES = {"at risk": "bad", "unknown": "unsure", "running": "good"}


def list_screen(vms: Sequence[VmView], *, wide: bool = False) -> Lines:
    """A line a VM, those at risk first."""
    if not vms:
        return wrap("", "No VM holds a claim. Place one: vfioctl vm place NAME --device gpu")
    ranked = sorted(vms, key=lambda vm: (not vm.at_risk, vm_word(vm) != "unknown", vm.name))
    headers = ["VM", "NODE", "STATE", "KIND", "REQUESTED", "AT RISK"]
    if wide:
        headers = [*headers[:4], "GENERATION", "TOKEN", "OWNER", "SINCE", "ADDRESSES", *headers[4:]]
    return table(
        headers,
        [_cells(vm, wide=wide) for vm in ranked],
        width=UNLIMITED if wide else WIDTH,
        tones=[_TONES.get(vm_word(vm), "") for vm in ranked],
        tone_column=2,
    )


def _cells(vm: VmView, *, wide: bool) -> list[str]:
    front = [cut(vm.name, 18), cut(vm.node, 16), vm.state, vm.kind]
    middle = [str(vm.generation), str(vm.token), vm.owner, vm.at, join_addresses(vm.addresses)]
    requested = vm.requested if wide else cut(vm.requested, 16)
    return [*front, *(middle if wide else []), requested or "-", vm.at_risk or "-"]


def explain_screen(
    decision: Decision, vm: VmView | None, *, placed: Placement | None = None, wide: bool = False
) -> Lines:
    """The claim, if there is one, and the decision as it would be now.

    What was proved when the claim was made (`placed`) is shown where it is not so now, apart from
    the evidence of now and with its time.
    """
    if vm is None:
        return decision_screen(decision, word=JUDGED_NOW, wide=wide)
    lines = claim_lines(vm)
    if decision.placement is None:
        lines += [Line(""), Line("Judged now:")]
        return [*lines, *decision_screen(decision, word=JUDGED_NOW, wide=wide)]
    word, tone = proof_word(decision.placement)
    front = "Judged now: "
    lines += [Line(""), Line(front + word, tone, len(front), len(front) + len(word))]
    lines += unit_lines(decision.placement, wide=wide)
    if placed is not None and word != JUDGED_NOW:
        text = f"Proof of the placement ({vm.at}); its ages are those of then, not of now"
        lines += [Line(""), *wrap("", text), *unit_lines(placed, wide=wide)]
    return lines


def claim_lines(vm: VmView) -> Lines:
    """One claim in a few lines."""
    word = vm_word(vm)
    front = f"{clean(vm.name)}  "
    state = vm.state.upper()
    tone = _TONES.get(word, "")
    head = f"{front}{state}  on {clean(vm.node)}"
    lines: Lines = [Line(head, tone, len(front), len(front) + len(state))]
    fence = f"generation {vm.generation}, token {vm.token}"
    kind = "ours to start" if vm.kind == "placed" else "for another orchestrator"
    rows = [
        ("claim", f"{vm.kind} ({kind}), by {vm.owner} at {vm.at}; {fence}"),
        ("asked for", vm.requested or "-"),
        ("units", ", ".join(vm.units) or "-"),
        ("addresses", join_addresses(vm.addresses) or "-"),
    ]
    if vm.at_risk:
        rows.insert(0, ("at risk", vm.at_risk))
    for label, text in rows:
        lines += wrap(f"  {label:<11}", text)
    return lines


def released_screen(vm: VmView) -> Lines:
    """What was freed."""
    lines: Lines = [Line(f"RELEASED  {clean(vm.name)} on {clean(vm.node)}", "good", 0, 8)]
    units = f"{plural(len(vm.units), 'unit')}: {join_addresses(vm.addresses)}"
    return [*lines, *wrap("  freed  ", units)]
