"""Is a pasted kernel log the whole boot, or what somebody kept of it?

A banner and a started init are in `dmesg | grep -i linux` too, so they prove nothing about what
lies between. A log is an excerpt when its prompt shows a filter, when a mark stands where lines
were taken out, or when it lacks what every kernel prints on its way to init, by lines of which no
one search keeps all. This module must never call an excerpt whole: a missing line would then prove
that the kernel did not print it.
"""

from __future__ import annotations

import re

from vfio_agent.collect.log_line import parse_line
from vfio_agent.pasted.prompt import command_of
from vfio_agent.pasted.recognise import Text
from vfio_contract.model import KernelLog

LEAST_LINES = 100
"""Between the banner and init; the shortest captured boots (WSL, Arm) have 360 and more."""

COURSE_LINES = 50_000
"""How far init is looked for; the longest captured boot has 3400 lines before it."""

EVERY_BOOT = (
    "Memory: ",
    "Dentry cache hash table",
    "Calibrating delay",
    "clocksource:",
    "NET: Registered",
    "Freeing unused kernel",
)
"""Of mm, fs, the processor, timekeeping and the network, from the first second to the last step
before init, on every architecture; all 21 captured boots have them."""

_BANNER = re.compile(r"Linux version \S+ \(")
_LOG_COMMAND = re.compile(r"\b(?:dmesg|journalctl|kern\.log|syslog|messages|kmsg)\b")
_FILTER = re.compile(
    r"\|\s*(?:sudo\s+)?(?:[ef]?grep|rg|ack|awk|sed|head|tail|less|more|cut|sort|uniq)\b"
    r"|^(?:sudo\s+)?(?:[ef]?grep|zgrep|rg|head|tail|awk|sed)\s"
    r"|\s(?:-g|--grep|-l|--level|-f|--facility|-p|--priority|-n|--lines|-S|--since|-U|--until)\b"
)
_TAKEN_OUT = re.compile(
    r"[\s<\[({*=#~-]{0,12}"
    r"(?:(?:\.{3,}|…)[\s\w.…,-]{0,60}|(?:lots? of |many |some |\d{1,9} |more |other |the )*"
    r"(?:lines? |log |output |rest |stuff )?"
    r"(?:snip(?:ped)?|cut|skip(?:ped)?|truncated|omitted|removed|deleted|trimmed)(?: here)?)"
    r"[\s>\])}*=#~.…-]{0,12}$",
    re.IGNORECASE,
)
_MARK_CHARS = 80


def find_excerpt(log: KernelLog, text: Text) -> str:
    """Why the log may lack lines of its boot, "" for no sign of it. `text` is what it was read
    from, with the same line numbers."""
    if not log.complete:
        return ""
    banners = [line.number for line in log.lines if _BANNER.match(line.text)]
    start = banners[-1] - 1 if banners else len(text.lines)
    if start >= len(text.lines):
        return "its beginning is behind what is searched"
    command = next((c for c in map(command_of, reversed(text.lines[:start])) if c), "")
    if _LOG_COMMAND.search(command) and _FILTER.search(command):
        return f"it was filtered: {command[:60]}"
    return _find_mark(text, start) or _find_lack(text, start)


def _find_mark(text: Text, start: int) -> str:
    for number in range(start, len(text.lines)):
        line = text.lines[number]
        if len(line) < _MARK_CHARS and line.strip() and _TAKEN_OUT.match(line):
            return f"lines were taken out at line {number + 1}: {line.strip()}"
    return ""


def _find_lack(text: Text, start: int) -> str:
    left = set(EVERY_BOOT)
    count = 0
    for line in text.lines[start : start + COURSE_LINES]:
        parsed = parse_line(line.encode("utf-8", "replace"))
        if parsed.init_ran:
            break
        count += bool(parsed.text)
        left -= {word for word in left if word in parsed.text}
        if not left and count >= LEAST_LINES:
            return ""
    if left:
        missing = next(word for word in EVERY_BOOT if word in left)
        return f"it lacks what every boot prints: {missing.strip(' :')}"
    return f"only {count} lines lie between its first line and init"
