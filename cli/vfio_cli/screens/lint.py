"""The screen of `vfioctl vm lint`: what is wrong with VM configurations, worst first.

Only findings of the VM checks appear; a VM of which none is left out is named as fine. A check that
the host blocks is not discussed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_cli.screens.check import finding_block, group_alike, heading
from vfio_cli.screens.layout import UNLIMITED, WIDTH, Line, Lines, blank, wrap
from vfio_contract.findings import Report, Verdict


@dataclass(frozen=True, slots=True)
class LintView:
    """`vms` are (name, title, file) of those that were judged; `report` holds their findings."""

    report: Report
    vms: Sequence[tuple[str, str, str]]
    seen_by: str


def lint_screen(view: LintView, *, wide: bool = False) -> Lines:
    """The whole screen."""
    width = UNLIMITED if wide else WIDTH
    findings = view.report.findings
    lines: Lines = [heading(view.report, findings, view.seen_by, width=width)]
    for name, title, source in view.vms:
        named = f"{name} ({title})" if title and title != name else name
        lines += wrap("VM ", f"{named}: {source}", width=width)
    if not view.vms:
        lines.append(Line("No VM that was read names a host device."))
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN):
        for rows in group_alike(f for f in findings if f.verdict is verdict):
            lines += [Line(""), *finding_block(rows, wide=wide)]
    blank(lines)
    blocked = dict.fromkeys(f.blocked_by for f in findings if f.verdict is Verdict.BLOCKED)
    for cause in blocked:
        lines += wrap("", f"BLOCKED by {cause}: fix it first; vfioctl check", width=width)
    passed = dict.fromkeys(f.check for f in findings if f.verdict is Verdict.PASS)
    if passed:
        lines += wrap("PASS  ", ", ".join(passed), width=width)
    return lines
