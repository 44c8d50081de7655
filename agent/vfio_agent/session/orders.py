"""Commands in one session: heard in their order, handed on, and answered.

What cannot be handed on now waits for the next time that anything happens, because the coordinator
says a command once in a session. Nothing here is kept longer than the session: what was not
answered is said again in the next. It must never hand on what is meant for another node, nor decide
anything else about a command: the host does.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from vfio_contract.command import Command, CommandAnswer, find_mistake, refuse
from vfio_contract.command_codes import COMMAND_MISDIRECTED, COMMAND_UNKNOWN

MAX_WAITING = 64
"""More than a coordinator has open on one node; what is beyond the next session says again."""


class TakerAway(Exception):
    """Who takes commands does not answer now; the text says why. One that will not is no such: its
    refusal is an answer, or all that comes after it would wait."""


class Taker(Protocol):
    """The host's own end."""

    def take(self, command: Command) -> CommandAnswer:
        """Take it or refuse it; TakerAway where it must be asked again."""


class Orders:
    """One session's. `hear` is for the thread that hears, `next_answer` for the one that speaks."""

    def __init__(self, taker: Taker | None, node: str) -> None:
        self._taker = taker
        self._node = node
        self._waiting: deque[Command] = deque()

    def hear(self, command: Command) -> None:
        """A command has come."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(command)

    def next_answer(self) -> CommandAnswer | None:
        """Hand on the next command; what became of it, None where there is none or it must wait."""
        if not self._waiting or self._taker is None:
            return None
        command = self._waiting[0]
        try:
            answer = self._refuse(command) or self._taker.take(command)
        except TakerAway:
            return None
        self._waiting.popleft()
        return answer

    def _refuse(self, command: Command) -> CommandAnswer | None:
        if command.node != self._node:
            return refuse(command, COMMAND_MISDIRECTED, f"it is for node {command.node!r:.80}")
        mistake = find_mistake(command)
        return refuse(command, COMMAND_UNKNOWN, mistake) if mistake else None
