"""Kernel lines as device events: which known message it is, about which function, and how it ended.

The knowledge is the diagnosis catalogue's and `reset_lines`': no wording stands here. Pure. A line
that a process wrote into the kernel's ring is told as such and is no evidence about the kernel; a
line without a known message is no event, which is not the same as good news. This module must never
guess which function a line means: an address without its domain is resolved only when one single
function of the host fits.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from vfio_agent.collect.log_line import ParsedLine
from vfio_agent.diagnosis import kernel_faults, kernel_reset, kernel_vfio
from vfio_agent.diagnosis.message import Kind, Message
from vfio_agent.reset_lines import ResetTrace, find_traces
from vfio_contract.address import Address, is_address
from vfio_contract.model import LogLine

MAX_TEXT = 1024
"""Characters kept of a line, and searched: the kernel's own lines are shorter (LOG_LINE_MAX)."""

MESSAGES: tuple[Message, ...] = (
    *kernel_vfio.MESSAGES,
    *kernel_reset.MESSAGES,
    *kernel_faults.MESSAGES,
)
"""What the kernel says about devices; its words about the platform are the checks' business."""

TOLD = frozenset({Kind.FAULT, Kind.RISK})
"""The others are known, and nothing to tell anybody of."""

_STEMS: tuple[tuple[str, tuple[Message, ...]], ...] = tuple(
    (stem, tuple(m for m in MESSAGES if stem in m.stems))
    for stem in dict.fromkeys(stem for m in MESSAGES for stem in m.stems)
)

WORDS: tuple[str, ...] = tuple(stem for stem, _ in _STEMS)
"""One of these is in every lower-case line that is an event."""

_RESETS = frozenset(message.id for message in kernel_reset.MESSAGES)

_NAMED = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7](?![\w.]*[0-9a-f]:|\d)"
)


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One kernel line, or several of one kind about one function (`count` > 1).

    `message` is an id of the diagnosis catalogue. `named` is the address as the line has it ("":
    none), `function` what it means on this host. `seq` to `last_seq` are the sequence numbers of
    /dev/kmsg of the first and last line, `seconds` to `last_seconds` their times since boot on the
    kernel's clock; `text` is the last one. `foreign`: a process wrote it, not the kernel. `trace`
    tells how a reset ended, None for all other lines.
    """

    message: str
    kind: Kind
    named: str
    function: Address | None
    text: str
    seq: int
    seconds: float | None
    foreign: bool
    trace: ResetTrace | None
    count: int
    last_seq: int
    last_seconds: float | None


def classify(line: ParsedLine, *, seq: int, known: Collection[Address]) -> DeviceEvent | None:
    """The event that a line is; None for a line that is nothing to tell of.

    `known` are the functions of this host, to complete an address without its domain.
    """
    text = line.text[:MAX_TEXT]
    lowered = text.lower()
    message = find_message(lowered)
    if message is None or message.kind not in TOLD:
        return None
    # where a port reports for a function below it, the function comes last
    named = next(reversed(_NAMED.findall(lowered)), "")
    row = LogLine(number=seq, seconds=line.seconds, text=text)
    traces = find_traces((row,)) if message.id in _RESETS else []
    return DeviceEvent(
        message=message.id,
        kind=message.kind,
        named=named,
        function=resolve(named, known),
        text=text,
        seq=seq,
        seconds=line.seconds,
        foreign=line.foreign,
        trace=traces[0] if traces else None,
        count=1,
        last_seq=seq,
        last_seconds=line.seconds,
    )


def find_message(lowered: str) -> Message | None:
    """The known message in a lower-case line; of several the longest wording, then the first."""
    possible = {m.id: m for stem, rows in _STEMS if stem in lowered for m in rows}
    best: Message | None = None
    length = 0
    for message in possible.values():
        match = message.pattern.search(lowered)
        if match is not None and match.end() - match.start() > length:
            best, length = message, match.end() - match.start()
    return best


def resolve(named: str, known: Collection[Address]) -> Address | None:
    """The function that an address in a line means.

    A full address is taken as it is: a function that has just vanished is still named.
    """
    if not named or is_address(named):
        return Address(named) if named else None
    fitting = [address for address in known if address.endswith(f":{named}")]
    return fitting[0] if len(fitting) == 1 else None
