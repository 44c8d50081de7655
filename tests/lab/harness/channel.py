"""The line between the lab's host and a guest: numbered requests and answers as files they share.

It needs no driver, no interrupt and no network in the guest (AMD's emulated IOMMU loses those of a
second serial port), leaves the topology as it is, and survives whatever a scenario does to devices.
A file appears whole, by renaming; each number is used once. Both ends look again and again, as 9p
tells nobody of changes, and the more seldom the longer they have waited: a look costs an emulated
guest what it costs its neighbours. Monitor is QEMU's own line: a socket.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_S = 0.05
# Between looks for something that has been waited for this long already.
SELDOM_POLL_S, SELDOM_AFTER_S = 0.5, 10.0


class ChannelError(Exception):
    """A message did not come; the kinds below say why."""


class ChannelClosed(ChannelError):
    """The other end is gone: the guest ended or was ended."""


class ChannelTimeout(ChannelError):
    """No whole message came within the time given."""


class ChannelGarbled(ChannelError):
    """What came is no JSON object."""


def put(folder: Path, name: str, message: dict[str, Any]) -> None:
    """Leave one object under this name, whole or not at all."""
    part = folder / f"{name}.part"
    part.write_text(json.dumps(message))
    os.replace(part, folder / name)


def take(
    folder: Path, name: str, *, limit_s: float, is_alive: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """The object under this name as soon as it is there.

    ChannelTimeout after `limit_s` seconds, ChannelClosed when `is_alive` says that nobody will
    leave it any more, ChannelGarbled when it is no object.
    """
    began = time.monotonic()
    path = folder / name
    while not path.exists():
        # Asked first: whoever left the message and ended has left it by then.
        alive = is_alive()
        if path.exists():
            break
        if not alive:
            raise ChannelClosed(f"ended before {name}")
        waited = time.monotonic() - began
        if waited > limit_s:
            raise ChannelTimeout(f"no {name} within {limit_s:g} s")
        time.sleep(min(SELDOM_POLL_S, max(POLL_S, waited * SELDOM_POLL_S / SELDOM_AFTER_S)))
    return _object(path.read_bytes(), str(path))


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ChannelGarbled(f"{what}: no JSON: {data[:80]!r}") from error
    if not isinstance(found, dict):
        raise ChannelGarbled(f"{what}: no object: {data[:80]!r}")
    return found


class Lines:
    """JSON objects, one a line, over a Unix socket."""

    def __init__(self, path: Path, *, limit_s: float) -> None:
        self._socket = _connect(path, limit_s=limit_s)
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Write one object. ChannelClosed if nobody is there any more."""
        try:
            self._socket.sendall(json.dumps(message).encode("ascii") + b"\n")
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, limit_s: float) -> dict[str, Any]:
        """The next object; waits at most `limit_s` seconds for the whole of it."""
        end = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                raise ChannelTimeout(f"no answer within {limit_s:g} s")
            data = self._socket.recv(65536)
            if not data:
                raise ChannelClosed("the line was closed")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return _object(line, "line")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _connect(path: Path, *, limit_s: float) -> socket.socket:
    end = time.monotonic() + limit_s
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
        except OSError as error:
            made.close()
            if time.monotonic() > end:
                raise ChannelTimeout(f"{path}: {error.strerror} after {limit_s:g} s") from error
            # QEMU opens its sockets within the first tenths of a second and tells nobody.
            time.sleep(POLL_S)
        else:
            return made
