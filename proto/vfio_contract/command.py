"""Commands: what a coordinator may have an agent do, typed, and what is answered at once.

A command says what, where and until when; it holds no path, no program and no text that acts
(facts: safety, Trust). It is for one agent's database in one boot of one machine, so that a copy, a
reinstalled agent or the next boot never carries out what was meant for another. How it ended is an
`action.ActionReport` in a durable event, for a look as well. Nothing here decides; the host refuses
what is not meant for it, whoever sent it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vfio_contract import codes
from vfio_contract.action import AskedUnit
from vfio_contract.address import is_address
from vfio_contract.artifact import encode
from vfio_contract.durable import ActionEnded

VERSION = 1
"""The form of `Command` below; Hello tells which one an agent takes."""

MAX_BYTES = 48 * 1024
"""Of a command as canonical JSON. One with a unit of 100 functions has about 12 KB."""

_ID = re.compile("[0-9a-z]{1,64}")

COUNT_BITS = 32
"""A command's number is `incarnation << COUNT_BITS | count`: above all of a lower incarnation."""

MAX_SEQUENCE = (1 << 63) - 1
"""The highest number that a host can keep."""

SENDING_S = 30.0
"""How long after it was asked for a command may be begun: who asks waits for it."""


class Order(StrEnum):
    """What can be asked for."""

    RESCAN = "rescan"
    CHECK = "check"
    COLLECT = "collect"
    BIND = "bind"
    UNBIND = "unbind"
    RESET_TEST = "reset-test"


LOOKS = frozenset({Order.RESCAN, Order.CHECK, Order.COLLECT})
"""They change nothing on the host."""

ACTS = frozenset(Order) - LOOKS
"""They concern one function's unit, and one at a time is under way on a node."""


class AnswerState(StrEnum):
    """TAKEN: its intent is durable on the host. REFUSED: nothing was or will be done. ENDED: it has
    an end, and the event that told of it was held by a cluster before."""

    TAKEN = "taken"
    REFUSED = "refused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`verb` is an `Order`; as text, because another version may know more of them.

    `deadline_boottime_ms` is CLOCK_BOOTTIME of the host's boot. The fence is (cluster id,
    incarnation, epoch). `address` is "" and `unit` None for a look.
    """

    id: str
    verb: str
    node: str
    product_uuid: str
    boot_id: str
    agent_state_id: str
    sequence: int
    deadline_boottime_ms: int
    cluster_id: str
    incarnation: int
    epoch: int
    address: str = ""
    unit: AskedUnit | None = None


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    """What became of a command that an agent received. `state` is an `AnswerState`.

    `code` and `text` say why it was refused. `ended` is how it ended.
    """

    id: str
    state: str
    code: str = ""
    text: str = ""
    ended: ActionEnded | None = None


def refuse(command: Command, code: codes.Code, text: str) -> CommandAnswer:
    """Nothing was done; `text` says what does not fit."""
    return CommandAnswer(command.id, AnswerState.REFUSED, code.name, text)


def find_mistake(command: Command) -> str:
    """What is wrong with its parts, whoever made it, in words; "" for nothing."""
    unit = command.unit
    addresses = (command.address, *((*unit.assign, *unit.hold) if unit is not None else ()))
    strange = [text for text in addresses if text and not is_address(text)]
    size = len(encode(command))
    if not _ID.fullmatch(command.id):
        return f"id: {command.id[:80]!r} is none"
    if not 0 <= command.sequence <= MAX_SEQUENCE:
        return f"sequence: {command.sequence} is not in 0 to {MAX_SEQUENCE}"
    if strange:
        return f"address: {strange[0][:40]!r} is none"
    return f"unit: the command has {size} bytes, at most {MAX_BYTES}" if size > MAX_BYTES else ""
