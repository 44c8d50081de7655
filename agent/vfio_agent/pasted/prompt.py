"""Shell prompts in a paste: where one command's output ends, and on which host it was typed."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WHO = r"\[?[\w.-]{1,32}@[\w.-]{1,64}[^#$]{0,80}"
PROMPT = re.compile(rf"(?:{_WHO})?[#$] ?\S|{_WHO}[#$]$")
"""A prompt with a command behind it, or the last one, which waits for a command."""

_HOST = re.compile(
    r"\[?[a-z_][\w-]{0,31}@([A-Za-z0-9][\w-]{0,62})(?:[.\w-]{0,190})?[: ][^#$]{0,80}[#$]"
)
_COMMAND = re.compile(r"(?:\[?[\w.-]{1,32}@[\w.-]{1,64}[^#$]{0,80})?[#$] ?(\S.{0,400})$")


def find_host(lines: Iterable[str]) -> str:
    """The host that all prompts name, "" when there is none or they name several."""
    names = {match[1] for line in lines if "@" in line and (match := _HOST.match(line)) is not None}
    return names.pop() if len(names) == 1 else ""


def command_of(line: str) -> str:
    """The command behind a prompt, "" for any other line."""
    match = _COMMAND.match(line)
    return "" if match is None else match[1].strip()
