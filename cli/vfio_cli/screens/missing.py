"""What a report lacks: the evidence that a finding misses, and the paths that could not be read.

Each line names the evidence and the exact command that shows it; the same of many functions is one
line, in words that a shell takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import UNLIMITED, WIDTH, Line, Lines, plural, wrap
from vfio_cli.survey import Unread, generalise_path
from vfio_contract.findings import Missing

MAX_MISSING = 6
"""Lines shown of each list; `-o wide` shows all."""

MAX_UNREAD = 3
MAX_PATTERNS = 4
MAX_REMEDIES = 2

LABEL = "  {:<10}"
INDENT = 12


def missing_lines(missing: Sequence[Missing], *, wide: bool) -> Lines:
    """What to get, and how."""
    alike: dict[tuple[str, str], list[Missing]] = {}
    for item in missing:
        key = (generalise_path(item.evidence), generalise_path(item.command))
        alike.setdefault((item.evidence, item.command) if wide else key, []).append(item)
    texts = []
    for (evidence, command), items in alike.items():
        if len(items) == 1:
            texts.append(f"{items[0].evidence}: {items[0].command}")
        else:
            texts.append(f"{evidence} ({len(items)}): {command.replace(' -s *', '')}")
    shown = texts if wide else texts[:MAX_MISSING]
    lines: Lines = []
    for number, text in enumerate(shown):
        label = LABEL.format("missing" if number == 0 else "")
        width = UNLIMITED if wide else WIDTH
        lines += wrap(label, text, width=width, hang=INDENT + 2)
    if len(texts) > len(shown):
        lines.append(Line(" " * INDENT + f"and {len(texts) - len(shown)} more: -o wide"))
    return lines


def unread_lines(unread: Sequence[Unread], *, wide: bool) -> Lines:
    """What could not be read, by reason, most first, and what reads it."""
    width = UNLIMITED if wide else WIDTH
    lines: Lines = []
    first = "NOT READ  "
    for row in unread if wide else unread[:MAX_UNREAD]:
        shown = row.patterns if wide else row.patterns[:MAX_PATTERNS]
        names = [p if n == 1 else f"{p} ({n})" for p, n in shown]
        rest = row.count - sum(n for _, n in shown)
        text = f"{row.reason}: {', '.join(names)}"
        if rest:
            text += f" and {rest} more"
        lines += wrap(first, text, width=width, hang=12)
        first = " " * len(first)
        remedies = row.remedies if wide else row.remedies[:MAX_REMEDIES]
        if remedies:
            lines += wrap(f"{first}-> ", "; ".join(remedies), width=width)
    if len(unread) > MAX_UNREAD and not wide:
        hidden = sum(row.count for row in unread[MAX_UNREAD:])
        lines.append(Line(f"{first}and {plural(hidden, 'more path')}: -o wide"))
    return lines
