"""The screens of `vfioctl baseline show` and `baseline accept`: what a node was accepted as."""

from __future__ import annotations

from vfio_cli.screens.diff import change_blocks, verdict_words
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
    title,
    wrap,
)
from vfio_cli.survey import shorten_name
from vfio_contract.views import BaselineView


def baseline_screen(view: BaselineView, *, wide: bool = False) -> Lines:
    """The baseline, and what differs from it now."""
    width = UNLIMITED if wide else WIDTH
    node = clean(view.node)
    lines: Lines = [Line(f"{node}  baseline of {view.accepted_at} by {clean(view.accepted_by)}")]
    lines += wrap("  digest    ", cut(view.digest, width - 12), width=width)
    label = "firmware"
    for part in view.firmware:
        lines += wrap(f"  {label:<10}", part, width=width, hang=14)
        label = ""
    lines += [Line(""), title(f"UNITS {len(view.intended_units)} vouched for")]
    lines += table(
        ["", "", ""],
        [
            [u.id, cut(join_addresses(u.addresses), 32), shorten_name(u.model) or u.ids]
            for u in view.intended_units
        ],
        indent=2,
        width=width,
    )
    lines.append(Line(""))
    if not view.compared:
        why = f"{view.why or 'nothing vouches for it now'} (vfioctl node show {view.node})"
        made = wrap("NOW  UNKNOWN: ", why, width=width, hang=5)
        lines += [Line(made[0].text, "unsure", 5, 12), *made[1:]]
        if view.drift:
            lines += [Line(""), title("AS LAST HEARD")]
            lines += _drift(view, wide=wide)[1:]
        return lines
    if not view.drift:
        lines += wrap("NOW  ", "nothing that both know differs from it", width=width)
        return lines
    word, tone = verdict_words(view.drift, comparable=True)
    text = f"NOW  {word}: {plural(len(view.drift), 'difference')}"
    lines.append(Line(text, tone, 5, 5 + len(word)))
    lines += _drift(view, wide=wide)
    if not any(change.harms for change in view.drift):
        lines += [Line(""), *wrap("", f"If it is as you want it: vfioctl baseline accept {node}")]
    return lines


def _drift(view: BaselineView, *, wide: bool) -> Lines:
    models = {a: shorten_name(unit.model) for unit in view.intended_units for a in unit.addresses}
    return change_blocks(view.drift, lambda c: models.get(c.address_before, ""), wide=wide)


def accepted_screen(view: BaselineView) -> Lines:
    """What was accepted."""
    lines: Lines = [Line(f"ACCEPTED  {clean(view.node)}", "good", 0, 8)]
    lines += wrap("  digest  ", cut(view.digest, WIDTH - 10))
    lines += wrap("  units   ", f"{plural(len(view.intended_units), 'unit')} vouched for")
    return lines
