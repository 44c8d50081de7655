"""What a prompt's own command says of its output: short answers that show no kind by themselves.

`ls /sys/class/iommu` that prints nothing is the standard proof that no IOMMU works, and `uname -r`
prints a bare number. Both count only behind a prompt with exactly that command; an empty answer
only where the next prompt follows, so that it was not cut off. This module must never take another
command's silence, or the end of a paste, for an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from vfio_agent.pasted.host_text import MACHINES
from vfio_agent.pasted.prompt import PROMPT, command_of
from vfio_agent.pasted.recognise import Kind, Text

_UNITS = re.compile(r"(?:sudo )?ls(?: -[1aAlh]+)* /sys/class/iommu/?$")
_GROUPS = re.compile(
    r"(?:sudo )?(?:ls(?: -[1aAlhv]+)* /sys/kernel/iommu_groups/?"
    r"|find /sys/kernel/iommu_groups/? -type l(?: \| sort(?: -V)?)?)$"
)
_RELEASE = re.compile(r"\d{1,2}\.\d{1,3}[\w.+~-]{0,60}$")
_NO_ENTRY = re.compile(r"total 0$|d[rwx-]{9}.{0,80} \.\.?/?$")
"""What `ls -la` prints of an empty directory."""


_SHELL = re.compile(r"\[?[\w.-]{1,32}@[\w.-]{1,64}[^#$]{0,80}[#$]")
_WAITING = ("$", "#")


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked and answered; `files` by path as on the host."""

    kinds: tuple[Kind, ...] = ()
    no_units: bool = False
    no_groups: bool = False
    files: tuple[tuple[str, bytes], ...] = ()


def read_answers(text: Text) -> Answers:
    """All prompts of a text with the output below each; linear in it."""
    prompts = [n for n, line in enumerate(text.lines) if PROMPT.match(line) or line in _WAITING]
    kinds: list[Kind] = []
    files: list[tuple[str, bytes]] = []
    no_units = no_groups = False
    for start, end in pairwise([*prompts, len(text.lines)]):
        command = command_of(text.lines[start])
        rows = [row.strip() for row in text.lines[start + 1 : end] if row.strip()]
        # behind the last prompt the output may be cut, so that its lack is no answer
        if end < len(text.lines) and not any(not _NO_ENTRY.match(row) for row in rows):
            typed = _is_shell(text.lines[start], text.lines[end])
            no_units = no_units or (typed and _UNITS.match(command) is not None)
            no_groups = no_groups or (typed and _GROUPS.match(command) is not None)
        if len(rows) != 1 or (end == len(text.lines) and text.open_end):
            continue
        if command == "uname -r" and _RELEASE.match(rows[0]):
            files.append(("/proc/sys/kernel/osrelease", f"{rows[0]}\n".encode()))
        elif command in ("uname -m", "arch") and rows[0] in MACHINES:
            files.append(("/proc/sys/kernel/arch", f"{rows[0]}\n".encode()))
    kinds += [Kind.UNAME] * bool(files)
    kinds += [Kind.IOMMU_UNITS] * no_units
    kinds += [Kind.GROUPS] * no_groups
    return Answers(tuple(kinds), no_units, no_groups, tuple(files))


def _is_shell(line: str, following: str) -> bool:
    """Typed at a shell: a list of commands to type has no host's name, and no prompt that waits."""
    named = _SHELL.match(line) is not None and _SHELL.match(following) is not None
    return named or (following in _WAITING and line.startswith(following))
