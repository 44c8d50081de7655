"""The formats in which kernel logs arrive: one line without its prefix, and the ring's own records.

Prefixes nest (a mail quotes a journal that holds a stamped line), so they are taken off until none
is left. A process can write to the kernel's ring and to a daemon's log: such lines are told apart
and are no evidence about the kernel. This module must never change the text behind the prefixes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

LINE_BYTES = 4096
"""Where a longer line is cut; the kernel's own record is at most 1 KiB, a command line 2 KiB."""


_USERSPACE = re.compile(
    r"Run /\S* as init process"
    r"|(?:systemd|systemd-[\w-]+|[\w-]*udevd|init)\[\d+\]: "
    r"|init: "
    r"|random: \S+: uninitialized urandom read"
    r"|Adding \d+k swap on "
)
"""What is printed only when init is started or runs.

`Run ... as init process` since 4.20; before it only what userspace itself does can be seen.
`Freeing initrd memory` comes while drivers still start, `Freeing unused kernel` just before init:
neither proves that the log goes on.
"""

_INIT_TAG = re.compile(r"systemd[\w-]*|[\w-]*udevd|init")
"""Of the processes in a log daemon's file only init's own prove it: a daemon may write its own
lines in front of the kernel's."""

_DATE = r"[A-Z][a-z]{2}\s+\d{1,2}\s\d\d:\d\d:\d\d"
_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
_ZONE = r"(?:Z|[+-]\d\d:?\d\d)?"
_PREFIX = re.compile(
    rf"""\s*(?:
      (?P<quote>>+)
    | <(?P<level>\d{{1,4}})>
    | \[\s{{0,16}}(?P<seconds>\d{{1,10}}\.\d{{3,9}})(?:\s+<\s*\d+\.\d+>)?\](?:\s[\w.-]+\skernel:)?
    | \[\s*\+\d+\.\d+\] | \[[A-Z][a-z]{{2}}\s+\d{{1,2}}\s\d\d:\d\d\]
    | \[[A-Z][a-z]{{2}}\s{_DATE}\s\d{{4}}\]
    | {_ISO},\d+{_ZONE}\s
    | \[\s*[TC]\d+\]
    | (?P<facility>[a-z][a-z0-9]{{1,9}})\s*:(?:emerg|alert|crit|err|warn|notice|info|debug)\s*:
    | (?:{_DATE}(?:\.\d+)?|{_ISO}(?:\.\d+)?{_ZONE}|[A-Z][a-z]{{2}}\s{_ISO}(?:\.\d+)?\s[A-Z]{{1,5}}
        |\d{{9,11}}\.\d{{6}})
      \s+[^\s:]+\s+(?P<tag>[^\s:\[\]]{{1,64}})(?:\[\d+\])?:(?=\s|$)
    )""",
    re.VERBOSE | re.ASCII,
)
"""One prefix of `dmesg` (plain, -d, -e, -r, -T, -x, iso), printk callers, journal, syslog, mail."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """A line without its prefixes.

    `stamped`: it had one of the kernel's or a log daemon's. `foreign`: a process wrote it, which
    is no evidence. `init_ran`: it is a process that only a started init leaves behind.
    """

    text: str
    seconds: float | None
    stamped: bool
    foreign: bool
    init_ran: bool


def parse_line(row: bytes) -> ParsedLine:
    """One line of a log, cut at LINE_BYTES; bytes that are not UTF-8 become `\\xNN`."""
    text = row[:LINE_BYTES].replace(b"\0", b"").decode("utf-8", "backslashreplace")
    if "\x1b" in text:
        text = _COLOUR.sub("", text).replace("\x1b", "")
    seconds: float | None = None
    stamped = foreign = init_ran = False
    place = 0
    while (match := _PREFIX.match(text, place)) is not None:
        place = match.end()
        if match["quote"] is not None:
            continue
        stamped = True
        if match["seconds"] is not None:
            seconds = float(match["seconds"])
        elif match["level"] is not None and int(match["level"]) >= 8:
            # priority = facility * 8 + level, and facility 0 is the kernel (syslog(3))
            foreign = init_ran = True
        elif match["facility"] is not None and match["facility"] != "kern":
            foreign = init_ran = True
        elif match["tag"] is not None and match["tag"] != "kernel":
            foreign = True
            init_ran = _INIT_TAG.fullmatch(match["tag"]) is not None
    text = text[place:].strip()
    init_ran = init_ran or _USERSPACE.match(text) is not None
    return ParsedLine(text, seconds, stamped, foreign, init_ran)


def render_kmsg(data: bytes) -> bytes:
    r"""Records of /dev/kmsg as the lines of `dmesg -r`: `<30>[    5.123456] text`.

    A record is `priority,sequence,microseconds,flags;text\n KEY=value\n`
    (Documentation/ABI/testing/dev-kmsg). Records that were overwritten before they could be read
    show as a jump in the sequence, which is written as the console does. Data without any record
    (an ordinary log in that place) is returned as it is.
    """
    lines: list[bytes] = []
    expected: int | None = None
    for row in io.BytesIO(data):
        head, found, text = row.partition(b";")
        fields = head.split(b",", 3)
        if not found or len(fields) < 3 or not all(f.isdigit() for f in fields[:3]):
            continue  # a record's dictionary, ` KEY=value`
        sequence, micros = int(fields[1]), int(fields[2])
        if expected is not None and sequence > expected:
            lines.append(b"** %d printk messages dropped **" % (sequence - expected))
        expected = sequence + 1
        stamp = b"<%d>[%5d.%06d] " % (int(fields[0]), micros // 1_000_000, micros % 1_000_000)
        lines += [stamp + part for part in text.rstrip(b"\n").split(b"\\x0a")]
    return b"\n".join(lines) + b"\n" if lines else data
