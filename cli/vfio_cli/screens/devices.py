"""The screens of `vfioctl device list` and `device show`: functions, and findings of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vfio_cli.screens.check import HEADINGS, finding_block
from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    blank,
    clean,
    cut,
    join_addresses,
    plural,
    table,
    wrap,
)
from vfio_cli.survey import DeviceRow
from vfio_contract.findings import Finding, Verdict, severity


def list_screen(host: str, rows: Sequence[DeviceRow], *, known: bool, wide: bool = False) -> Lines:
    """One line a function; bridges only in the wide form."""
    if not known:
        return wrap("", f"{host}: the PCI functions could not be listed; vfioctl check tells why")
    shown = [row for row in rows if wide or not row.bridge]
    hidden = len(rows) - len(shown)
    headers = ["ADDRESS", "DEVICE", "GROUP", "DRIVER", "RESET", "INTENDED", "VERDICT"]
    if wide:
        headers = [*headers[:2], "IDS", "KIND", "UNIT", *headers[2:]]
    cells = [_cells(row, wide=wide, name_width=_name_width(shown)) for row in shown]
    lines = table(
        headers,
        cells,
        right=(2,) if not wide else (5,),
        width=UNLIMITED if wide else WIDTH,
        tones=[VERDICT_TONES[str(row.verdict)] for row in shown],
        tone_column=len(headers) - 1,
    )
    if not shown:
        lines = [Line(f"{clean(host)}: no PCI function that could be passed")]
    blank(lines)
    intended = sum(row.intended for row in rows)
    text = f"{plural(len(shown), 'function')}, {intended} intended for passthrough"
    if hidden:
        text += f"; {plural(hidden, 'bridge')} not shown (-o wide)"
    lines += wrap("", text + ".")
    if any(severity(row.verdict) > severity(Verdict.PASS) for row in shown):
        lines += wrap("", "Why: vfioctl device show ADDRESS; how the host stands: vfioctl check")
    return lines


def _name_width(rows: Sequence[DeviceRow]) -> int:
    """What the other columns leave for the device's name in 80 columns."""
    address = max((len(r.address) for r in rows), default=12)
    group = max(5, *(len(r.group) for r in rows)) if rows else 5
    driver = min(max(6, *(len(r.driver) for r in rows)), 12) if rows else 6
    reset = max(5, *(len(r.reset) for r in rows)) if rows else 5
    verdict = max(7, *(len(_verdict_word(r)) for r in rows)) if rows else 7
    return WIDTH - (address + group + driver + reset + len("INTENDED") + verdict + 6 * 2)


def _cells(row: DeviceRow, *, wide: bool, name_width: int) -> list[str]:
    name = row.name if wide else cut(row.name, max(name_width, 10))
    middle = [row.ids, row.kind or "-", row.unit or "-"] if wide else []
    driver = row.driver if wide else cut(row.driver, 12)
    intended = "yes" if row.intended else "-"
    verdict = _verdict_word(row)
    return [row.address, name, *middle, row.group, driver, row.reset, intended, verdict]


def _verdict_word(row: DeviceRow) -> str:
    return "-" if row.verdict is Verdict.NOT_APPLICABLE else str(row.verdict)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One function with all that was found: facts are (label, text) pairs in the order shown."""

    row: DeviceRow
    facts: tuple[tuple[str, str], ...]
    members: tuple[DeviceRow, ...]
    assign: tuple[str, ...]
    hold: tuple[str, ...]
    findings: tuple[Finding, ...]
    node_findings: tuple[Finding, ...]


def show_screen(view: DeviceView, *, wide: bool = False) -> Lines:
    """One function: verdict, facts, group members, and every finding that concerns it."""
    row = view.row
    width = UNLIMITED if wide else WIDTH
    words, tone = HEADINGS[row.verdict]
    if row.verdict is Verdict.NOT_APPLICABLE:
        words, tone = "BRIDGE" if row.bridge else "NEVER PASSED", "faint"
    front = f"{row.address}  "
    lines: Lines = [
        Line(f"{front}{words}  {cut(row.name, WIDTH - 36)}", tone, len(front), len(front + words))
    ]
    for label, text in view.facts:
        lines += wrap(f"  {label:<14}", text, width=width, hang=16)
    others = [m for m in view.members if m.address != row.address]
    if others:
        lines.append(Line(""))
        lines.append(Line(f"GROUP {row.group}, shared with"))
        lines += table(
            ["", "", "", ""],
            [
                [m.address, cut(m.name, 34), m.driver, "bridge" if m.bridge else m.kind]
                for m in others
            ],
            indent=2,
            width=width,
        )
    if view.assign:
        what = f"{join_addresses(view.assign)} go to one VM together"
        if len(view.assign) == 1:
            what = f"{view.assign[0]} alone"
        if view.hold:
            what += f"; {join_addresses(view.hold)} kept off host drivers"
        lines += [Line(""), *wrap(f"UNIT {row.unit}: ", what, width=width, hang=2)]
    for finding in view.findings:
        lines += [Line(""), *_finding(finding, wide=wide)]
    if view.node_findings:
        lines.append(Line(""))
        text = ", ".join(f"{f.check} {f.code}" for f in view.node_findings)
        lines += wrap("HOST  ", f"{text}: vfioctl check", width=width)
    return lines


def _finding(finding: Finding, *, wide: bool) -> Lines:
    """As on the check's screen; of one that passes only the evidence."""
    if finding.verdict is Verdict.BLOCKED:
        return [Line(f"BLOCKED  {finding.check} by {finding.blocked_by}", "unsure", 0, 7)]
    if finding.verdict is Verdict.PASS and not wide:
        finding = replace(finding, meaning="", decision="")
    return finding_block([finding], wide=wide)
