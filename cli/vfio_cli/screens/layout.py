"""How lines are made: cleaned, cut, wrapped with a hanging indent, set in columns, given a tone.

Every text that comes from a host or from the wire is cleaned here before it is measured: control
characters and everything beyond ASCII are shown as escapes, so that no evidence can move the
cursor, hide text or fake a line. A tone is part of a line, never of its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 80
"""Columns of every screen but the wide ones."""

_MIN_ROOM = 20
"""Columns that a table's last cell needs to be read beside the others, not below them."""

UNLIMITED = 10_000
"""Width of `-o wide`: lines are as long as what they say."""

TONES = {"bad": "31;1", "unsure": "35", "warn": "33", "good": "32", "faint": "2", "title": "1"}
"""Tone -> SGR parameters (ECMA-48)."""

VERDICT_TONES = {
    "FAIL": "bad",
    "UNKNOWN": "unsure",
    "BLOCKED": "unsure",
    "WARN": "warn",
    "PASS": "good",
    "NOT_APPLICABLE": "faint",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a screen; its characters from `start` to `end` carry `tone`, if there is one."""

    text: str
    tone: str = ""
    start: int = 0
    end: int = 0


Lines = list[Line]


def clean(text: str) -> str:
    """Printable ASCII only; anything else as `\\n`, `\\x1b`, `\\u202e` and the like."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def plain(lines: Iterable[Line]) -> str:
    """The screen without colour, each line ended."""
    return "".join(f"{clean(line.text).rstrip()}\n" for line in lines)


def painted(lines: Iterable[Line]) -> str:
    """The screen in the colours of a terminal."""
    return "".join(f"{_paint(line)}\n" for line in lines)


def _paint(line: Line) -> str:
    text = clean(line.text).rstrip()
    if not line.tone or line.end <= line.start:
        return text
    marked = text[line.start : line.end]
    code = TONES[line.tone]
    return f"{text[: line.start]}\x1b[{code}m{marked}\x1b[0m{text[line.end :]}"


def blank(lines: Lines) -> None:
    """An empty line, unless the screen is empty or ends with one."""
    if lines and lines[-1].text:
        lines.append(Line(""))


def title(text: str) -> Line:
    """A heading line."""
    word = clean(text)
    return Line(word, "title", 0, len(word.partition(" ")[0]))


def toned(word: str, tone: str, rest: str = "", *, indent: int = 0) -> Line:
    """`word` in its tone, then the rest of the line."""
    word = clean(word)
    return Line(" " * indent + word + clean(rest), tone, indent, indent + len(word))


def cut(text: str, width: int) -> str:
    """The text within `width` columns; what is cut off is replaced by `..`."""
    text = clean(text)
    return text if len(text) <= width else text[: max(width - 2, 0)] + ".."


def wrap(first: str, text: str, *, width: int = WIDTH, hang: int | None = None) -> Lines:
    """`first` and then the words of `text`, later lines indented by `hang` (len of `first`).

    A word that is longer than a line is broken; runs of spaces within the text are kept as one.
    """
    indent = len(first) if hang is None else hang
    lines: Lines = []
    current = first
    fresh = True
    for word in _words(clean(text), max(width - indent, 8)):
        if not fresh and len(current) + 1 + len(word) > width:
            lines.append(Line(current))
            current, fresh = " " * indent, True
        elif fresh and len(current) + len(word) > width and current.strip():
            lines.append(Line(current))
            current = " " * indent
        current += word if fresh else f" {word}"
        fresh = False
    lines.append(Line(current))
    return lines


def _words(text: str, room: int) -> Iterable[str]:
    for word in text.split():
        while len(word) > room:
            yield word[:room]
            word = word[room:]
        yield word


def with_tone(lines: Lines, tone: str, *, start: int, end: int) -> Lines:
    """The same lines, the first one with a tone."""
    if not lines:
        return lines
    return [Line(lines[0].text, tone, start, end), *lines[1:]]


def two_ends(left: str, right: str, *, width: int = WIDTH) -> str:
    """Left and right on one line, the right end at the last column where there is room."""
    left, right = clean(left), clean(right)
    room = width - len(left) - len(right)
    return f"{left}{' ' * max(room, 2)}{right}" if width < UNLIMITED else f"{left}  {right}"


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    indent: int = 0,
    right: Iterable[int] = (),
    width: int = WIDTH,
    tones: Sequence[str] = (),
    tone_column: int = 0,
) -> Lines:
    """Aligned columns; the last one wraps under itself, the others must already be cut to fit.

    `right` are the columns set to the right. `tones` gives each row's tone, for `tone_column`.
    Without headers (all empty) only the rows are made.
    """
    from tabulate import tabulate  # 30 ms that `vfioctl check` need not pay

    if not rows and not any(headers):
        return []
    count = len(headers)
    cells = [[clean(c) for c in row[:-1]] for row in rows]
    heads = [clean(h) for h in headers[:-1]]
    numeric = set(right)
    body = [heads, *cells] if any(headers) else cells
    block = tabulate(
        body,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if i in numeric else "left" for i in range(count - 1)],
    ).split("\n")
    column = indent + max(len(row) for row in block) + 2
    starts = _column_starts(body, numeric, tone_column, indent)
    lines: Lines = []
    lasts = [headers[-1], *(r[-1] for r in rows)] if any(headers) else [r[-1] for r in rows]
    offset = len(lasts) - len(rows)
    for number, (front, last) in enumerate(zip(block, lasts, strict=True)):
        first = (" " * indent + front).ljust(column)
        if width - column < _MIN_ROOM and len(last) > width - column:
            made = [Line(first), *wrap(" " * (indent + 4), last, width=width)]
        else:
            made = wrap(first, last, width=width)
        tone = tones[number - offset] if tones and number >= offset else ""
        if tone:
            start, end = (
                (column, column + len(last)) if tone_column == count - 1 else starts[number]
            )
            made = with_tone(made, tone, start=start, end=end)
        lines.extend(made)
    return lines


def _column_starts(
    body: Sequence[Sequence[str]], right: set[int], column: int, indent: int
) -> list[tuple[int, int]]:
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))]
    if column >= len(widths):
        return [(0, 0)] * len(body)
    at = indent + sum(w + 2 for w in widths[:column])
    spans = []
    for row in body:
        start = at + (widths[column] - len(row[column]) if column in right else 0)
        spans.append((start, start + len(row[column])))
    return spans


def count_words(counts: Iterable[tuple[int, str]], *, gap: int = 2) -> str:
    """`2 fail  1 unknown`: numbers with their names, zeros left out, `gap` spaces between."""
    return (" " * gap).join(f"{number} {name}" for number, name in counts if number)


def plural(number: int, word: str, many: str = "") -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {word if number == 1 else many or word + 's'}"


def age(seconds: float) -> str:
    """`never`, `12s`, `6m04s`, `2h05m`, `3d04h`: the two largest parts."""
    if seconds < 0:
        return "never"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def clock(at: str) -> str:
    """`14:32:07Z` of an ISO 8601 UTC time; the text itself if it is none."""
    _, mark, time = at.partition("T")
    return time.partition(".")[0].rstrip("Z") + "Z" if mark and len(time) >= 8 else at


def moment(at: str, *, today: str) -> str:
    """`14:32` on the day of `today`, else `11-22 14:32`; both ISO 8601 UTC."""
    day, mark, time = at.partition("T")
    if not mark or len(time) < 5:
        return at
    return time[:5] if day == today.partition("T")[0] else f"{day[5:]} {time[:5]}"


def join_addresses(addresses: Sequence[str]) -> str:
    """`0000:41:00.0+.1 0000:42:00.0`: further functions of a slot shortened to `+.N`."""
    parts: list[str] = []
    slot = ""
    for address in addresses:
        head, _, number = address.rpartition(".")
        if parts and head == slot:
            parts[-1] += f"+.{number}"
        else:
            parts.append(address)
        slot = head
    return " ".join(parts)
