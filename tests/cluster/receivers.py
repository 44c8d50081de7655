"""Who is told: a web server on the loopback interface, and programs, both of them real."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DEADLINE_S = 30.0


@dataclass(slots=True)
class Web:
    """What was posted, and how the next posts are answered: by the next of `answers`, then 200.

    An answer is a status, or a function that gives one; None cuts the connection.
    """

    port: int = 0
    answers: list[int | Callable[[], int | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    async def next(self) -> dict[str, Any]:
        """The next body."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.bodies.get()


@contextmanager
def web_server(*, tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A server for as long as the block lasts."""
    web, loop = Web(), asyncio.get_running_loop()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.headers.append(dict(self.headers))
            web.paths.append(self.path)
            loop.call_soon_threadsafe(web.bodies.put_nowait, json.loads(body))
            answer = web.answers.pop(0) if web.answers else 200
            status = answer() if callable(answer) else answer
            if status is None:
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"http://127.0.0.1:{web.port}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # cut by the other side
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_program(path: Path, text: str) -> Path:
    """A shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def write_config(path: Path, text: str) -> Path:
    """A notify.toml that only its owner may write."""
    path.write_text(text)
    path.chmod(0o600)
    return path
