"""What one known message means: the values that the catalogues of messages are made of.

A message is recognised by its wording, and the errno is part of the wording: "busy" and "no such
file" about the same path have different causes. Where one wording has several causes, all of them
stand here with the check that tells them apart. A pattern must never hold an unbounded repetition
within another one: any text, however long, is read in linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a message is worth. NO_PROOF reassures and proves nothing; HARMLESS only frightens."""

    FAULT = "FAULT"
    RISK = "RISK"
    NO_PROOF = "NO_PROOF"
    HARMLESS = "HARMLESS"
    PROOF = "PROOF"


ANY = ("*",)
"""`follows` of a message that only says that something else went wrong."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for a message, what to do about it, and the check that proves it ("": none)."""

    meaning: str
    decision: str
    check: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One known message.

    `stems` are lower-case words of which every text that `pattern` (lower-case too) matches holds
    one. `follows`
    names the messages that explain this one when they are there too, or is ANY. `examples` are
    real texts, one for each wording. `source` is where the wording was read.
    """

    id: str
    kind: Kind
    stems: tuple[str, ...]
    pattern: re.Pattern[str]
    causes: tuple[Cause, ...]
    examples: tuple[str, ...]
    follows: tuple[str, ...]
    source: str


_ESCAPE_OR_CAPITAL = re.compile(r"\\.|[A-Z]")


def _lower(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith("\\") else match[0].lower()


def message(
    kind: Kind,
    id: str,
    pattern: str,
    *causes: Cause,
    stems: str,
    examples: tuple[str, ...],
    source: str,
    follows: tuple[str, ...] = (),
) -> Message:
    """A message; `stems` are separated by `|`, the pattern stays within one line.

    It is matched against lower-case text and so made lower-case here: much faster than ignoring
    case.
    """
    return Message(
        id=id,
        kind=kind,
        stems=tuple(stems.split("|")),
        pattern=re.compile(_ESCAPE_OR_CAPITAL.sub(_lower, pattern)),
        causes=causes,
        examples=examples,
        follows=follows,
        source=source,
    )
