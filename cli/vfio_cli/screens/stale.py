"""Lines of VM configurations and mappings that mean another device now, with the edit to make."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import UNLIMITED, WIDTH, Line, Lines, plural, title, wrap
from vfio_contract.stale import StaleReference


def stale_lines(stale: Sequence[StaleReference], *, wide: bool = False) -> Lines:
    """A block, begun by an empty line; nothing without any."""
    if not stale:
        return []
    width = UNLIMITED if wide else WIDTH
    verb = "means" if len(stale) == 1 else "mean"
    head = f"EDIT {plural(len(stale), 'line')} that {verb} another device now"
    lines: Lines = [Line(""), title(head)]
    for row in stale:
        lines += wrap("  ", f"{row.file}:{row.line}", width=width)
        lines += wrap("    ", row.edit, width=width)
        lines += wrap("    ", f"({row.owner} names {row.names}: {row.means_now})", width=width)
        if row.newer:
            text = "not in the baseline: if it means what is there now, leave it and accept"
            lines += wrap("    ", f"{text} (vfioctl baseline accept --force)", width=width)
    return lines
