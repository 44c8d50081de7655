"""What may be asked of hostd: one handler for each kind of request.

A verb that is not in the registry does not exist: reading, and later acting, are given to a hostd
by adding their verbs, and a hostd that may not act never learns them. A handler runs on the
thread of the socket, so it answers at once or hands the work on and answers later, from any thread,
exactly once. It must never wait for a device.
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

    @property
    def kinds(self) -> Mapping[str, type]:
        """Request types by name: what is parsed at all."""
        return self._kinds

    def add(self, kind: str, request: type[Request], handler: Handler[Request]) -> None:
        """Let `kind` be asked for; ValueError if it can be already."""
        if kind in self._kinds or request in self._handlers:
            raise ValueError(f"{kind} has a handler already")
        self._kinds[kind] = request
        self._handlers[request] = handler

    def handle(self, request: object, answer: Answer) -> None:
        """Have it handled; a refusal is an answer, any other exception is raised."""
        try:
            self._handlers[type(request)](request, answer)
        except Refusal as refusal:
            answer(Refused(str(refusal)))
