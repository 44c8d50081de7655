"""A pasted text as a list of functions and groups: which rows belong to which function and group.

Texts nest: lspci lines in a group loop, with rows below each, quoted in a mail. A function's rows
end with an empty line, the next function, the next group or the next command; where the text ends
before that, the function is not whole. A group's members end likewise, and where their indentation
changes. This module must never call a text whole that ends in the middle of something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vfio_agent.pasted.group_listing import Place, TableRow, parse_group_line, parse_table_row
from vfio_agent.pasted.lspci import Form, Header, Listed, describe, form_of, parse_header
from vfio_agent.pasted.prompt import PROMPT, command_of
from vfio_agent.pasted.pvesh import NOT_WHOLE, PveshTable
from vfio_agent.pasted.recognise import Text
from vfio_contract.model import NO_GROUP

_IN_GROUP = re.compile(r"\s*IOMMU group: \d+\s*$")
_ENDED = re.compile(r"[\])]$")
_GAP_MARK = re.compile(r"\s*(?:\[?(?:\.{3,}|…|snip|cut|truncated|skipped)\]?|<snip>)\s*$", re.I)

_FILTERED = re.compile(
    r".*(?:lspci|iommu_groups).*\|\s*(?:sudo\s+)?(?:[ef]?grep|rg|head|tail|sed\s+-n)\b"
)
"""A prompt whose command shows only a part of the list."""

_HALF = re.compile(r"\s*[0-9a-fA-F]{1,8}(?::[0-9a-fA-F:.]{0,12})?(?:\s+[A-Z\[].{0,80})?\s*$")
"""A line that may be the beginning of a header line."""

MAX_ROWS = 2000
"""Rows kept of one function; `lspci -vvxxxx` has about 350."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one text lists. `doubts` say why it may not be the whole list; () for no sign of it.

    `members` are (group, device name) of listings by group; `by_group` is True when there are any,
    `paths` those of them that were shown as links, not as lspci's lines. `places` come from link
    targets. `ended` is True when the text goes on after the list, so that it was not cut there.
    """

    functions: tuple[Listed, ...]
    members: tuple[tuple[int, str], ...]
    places: tuple[Place, ...]
    doubts: tuple[str, ...]
    paths: tuple[tuple[int, str], ...] = ()
    ended: bool = False

    @property
    def by_group(self) -> bool:
        """True for a listing of groups, beside or instead of lspci's own column."""
        return bool(self.members)


@dataclass(slots=True)
class _Block:
    header: Header
    rows: list[str]
    group: int
    whole: bool = True


class _Reader:
    """The state between two lines."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.members: list[tuple[int, str]] = []
        self.places: list[Place] = []
        self.table: list[TableRow] = []
        self.paths: list[tuple[int, str]] = []
        self.pvesh = PveshTable()
        self.doubts: list[str] = []
        self.ended = False
        self._open: _Block | None = None
        self._group = -1
        self._indent = -1
        self._unread = ""

    def take(self, line: str) -> None:
        if "\t" in line and line.isspace():
            return  # the indentation of a row that is lost, not the end of a function
        if not line or line.isspace():
            self._open = None
            if self._indent >= 0:
                self._group, self._indent = -1, -1
            return
        self._unread = ""
        if self._open is not None and _IN_GROUP.match(line) and line[0].isspace():
            self._open.rows.append(line)
            return
        row = parse_table_row(line) if line[0].isdigit() else None
        if row is not None:
            self.table.append(row)
            self.ended = False
            return
        if self.pvesh.take(line):
            return
        header = parse_header(line) if "." in line else None
        if header is not None:
            self._begin(header, line)
            return
        if self._take_group(line):
            return
        if _GAP_MARK.match(line):
            self.doubts.append(f"something was left out at {line.strip()!r}")
        if PROMPT.match(line):
            self._open, self._group, self._indent = None, -1, -1
            self.ended = True
            if _FILTERED.match(line):
                self.doubts.append(f"it was filtered: {command_of(line)[:60]}")
        elif self._open is not None and len(self._open.rows) < MAX_ROWS:
            self._open.rows.append(line)
        else:
            self._unread = line
            self.ended = self.ended or not _HALF.match(line)

    def _begin(self, header: Header, line: str, group: int = -1) -> None:
        indent = len(line) - len(line.lstrip())
        if group < 0 and self._group >= 0:
            if self._indent < 0:
                self._indent = indent
            if indent == self._indent:
                group = self._group
            else:
                self._group, self._indent = -1, -1
        self._open = _Block(header, [], group)
        self.ended = False
        self.blocks.append(self._open)
        if group >= 0:
            self.members.append((group, header.address))

    def _take_group(self, line: str) -> bool:
        found = parse_group_line(line, inside=self._group)
        if found is None:
            return False
        self.ended = False
        self.members += found.members
        self.paths += found.members
        self.places += found.places
        if found.members:
            self._open = None
        if found.opens >= 0:
            self._open, self._group, self._indent = None, found.opens, -1
            header = parse_header(found.rest) if found.rest else None
            if header is not None:
                self._begin(header, found.rest, found.opens)
                self._group = -1
        return True

    def finish(self, text: Text) -> None:
        if text.cut:
            self.doubts.append("the text is longer than what is searched for lists")
        if self.blocks and self._unread and (text.open_end or _HALF.match(self._unread)):
            self.doubts.append("the text ends inside a line")
        last = self._open
        if last is None:
            return
        form = form_of(last.rows)
        tail = last.rows[-1] if last.rows else text.lines[-1] if text.lines else ""
        half = text.open_end and not _ENDED.search(tail)
        if form >= Form.V or half or text.cut:
            last.whole = False
            self.doubts.append(f"the text ends inside {last.header.address}")
        elif form is Form.DRIVERS and text.open_end:
            last.whole = False
        if not last.whole:
            del last.rows[-1:]  # it may be half a word


def parse_listing(text: Text) -> Listing:
    """All functions and groups of a text; linear in it."""
    reader = _Reader()
    for line in text.lines:
        reader.take(line)
    reader.finish(text)
    forms = [form_of(block.rows) for block in reader.blocks]
    drivers = any(form is Form.DRIVERS for form in forms)
    functions = []
    for block, form in zip(reader.blocks, forms, strict=True):
        shown = Form.DRIVERS if drivers and form is Form.PLAIN and block.whole else form
        found = describe(block.header, block.rows, form=shown, whole=block.whole)
        if block.group >= 0 and found.group is None:
            found = replace(found, group=block.group)
        functions.append(found)
    functions = _settle_groups(functions)
    table = [*reader.table, *reader.pvesh.rows]
    functions += [_from_table(row) for row in table]
    members = [*reader.members]
    members += [(row.group, str(row.address)) for row in table if row.group != NO_GROUP]
    return Listing(
        functions=tuple(functions),
        members=tuple(dict.fromkeys(members)),
        places=tuple(dict.fromkeys(reader.places)),
        paths=tuple(dict.fromkeys(reader.paths)),
        ended=reader.ended and not text.cut,
        doubts=tuple(dict.fromkeys([*reader.doubts, *([NOT_WHOLE] if reader.pvesh.rows else [])])),
    )


def _settle_groups(functions: list[Listed]) -> list[Listed]:
    """A function without the line that its neighbours have is in no group (pciutils 3.7 on)."""
    verbose = [f for f in functions if f.form >= Form.V]
    if not any(f.group is not None for f in verbose):
        return functions
    return [
        replace(f, group=NO_GROUP) if f.form >= Form.V and f.whole and f.group is None else f
        for f in functions
    ]


def _from_table(row: TableRow) -> Listed:
    header = Header(
        address=row.address,
        above=(),
        class_code=row.class_code,
        vendor=row.vendor,
        device=row.device,
        revision=None,
        name=row.name,
    )
    found = describe(header, (), form=Form.PLAIN, whole=True)
    return replace(found, group=row.group)
