"""What may be asked of hostd: one handler for each kind of request.

A verb that is not in the registry does not exist, and some are for root alone. A handler runs on
the thread of the socket, so it answers at once or hands the work on and answers later, from any
thread, exactly once. It must never wait for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vfio_agent.hostd.messages import Refused

Request = TypeVar("Request")

Answer = Callable[[object], None]
"""Takes the one answer to a request, and drops it where the connection is gone."""

Handler = Callable[[Request, Answer], None]


class Refusal(Exception):
    """Raised by a handler: nothing was done, and the text says why. Anything else is our fault."""


class Verbs:
    """The registry. It is filled before the socket opens and not changed after."""

    def __init__(self) -> None:
        self._kinds: dict[str, type] = {}
        self._handlers: dict[type, Handler[Any]] = {}
        self._for_root: set[type] = set()

    @property
    def kinds(self) -> Mapping[str, type]:
        """Request types by name: what is parsed at all."""
        return self._kinds

    def add(
        self,
        kind: str,
        request: type[Request],
        handler: Handler[Request],
        *,
        for_root: bool = False,
    ) -> None:
        """Let `kind` be asked for, by whoever connected or by root alone; ValueError if it can be
        already."""
        if kind in self._kinds or request in self._handlers:
            raise ValueError(f"{kind} has a handler already")
        self._kinds[kind] = request
        self._handlers[request] = handler
        if for_root:
            self._for_root.add(request)

    def handle(self, request: object, answer: Answer, *, uid: int | None) -> None:
        """Have it handled; a refusal is an answer, any other exception is raised.

        `uid` is who asks as the kernel tells it, None for the network process that hostd started.
        """
        try:
            if type(request) in self._for_root and uid != 0:
                who = "the network process" if uid is None else f"uid {uid}"
                raise Refusal(f"only root may ask for that, not {who}")
            self._handlers[type(request)](request, answer)
        except Refusal as refusal:
            answer(Refused(str(refusal)))
