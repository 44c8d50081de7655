"""One try to hand a notification to one target: a program or a web server, within its time.

Nothing here retries, and nothing here raises for what a target does: it says in a few words why it
failed, without the url (which may hold a secret) and without anything that the target said. A
program gets no shell and no environment of ours, and is judged by its own status alone: what it
leaves running has delivered nothing. A web server's certificate is checked, a redirect is a
failure, and of its answer only the first line is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import ssl
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from typing import BinaryIO

from vfio_coordinator.notify_config import AnyTarget, ExecTarget, WebhookTarget

log = logging.getLogger("vfio-coordinator")

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}

_KEPT_BYTES = 2_000
"""Of what a program says on stderr, for the log; the rest is read and dropped."""

_MOMENT_S = 0.5
"""For the rest of what it said, once it has ended: what it left behind may hold its stderr open for
ever, and is killed then."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r\n]")
_LINE_BYTES = 4_096


async def deliver(target: AnyTarget, document: bytes) -> str:
    """Try once; "" when the target took it, else why not in a few words."""
    try:
        async with asyncio.timeout(target.timeout_s):
            if isinstance(target, ExecTarget):
                return await _run(target, document)
            return await _post(target, document)
    except TimeoutError:
        return f"no answer within {target.timeout_s:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message}"
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        return _describe(error)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:100]
    return type(error).__name__


async def _run(target: ExecTarget, document: bytes) -> str:
    loop = asyncio.get_running_loop()
    source, sink = os.pipe()
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    with _as_file(document) as stdin, os.fdopen(sink, "wb", 0) as stderr:
        # No pipe of the process itself: it would be waited for until whatever it left behind
        # closes that too.
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0)
        )
        listening = asyncio.create_task(_listen(reader))
        try:
            process = await asyncio.create_subprocess_exec(
                *target.argv,
                stdin=stdin,
                stdout=DEVNULL,
                stderr=stderr,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # so that its end takes its children along
            )
            stderr.close()
            status = await _end_of(process)
            await asyncio.wait({listening}, timeout=_MOMENT_S)
            if not listening.done():
                _kill_group(process)
            said = listening.result() if listening.done() else b""
        finally:
            listening.cancel()
            pipe.close()
    if status == 0:
        return ""
    log.warning("notify %s: status %d: %s", target.name, status, ascii(said))
    return f"it ended with status {status}" if status > 0 else f"it was killed by signal {-status}"


def _as_file(document: bytes) -> BinaryIO:
    """Unlike a pipe it never makes us wait for a program that does not read."""
    file = os.fdopen(os.memfd_create("notification"), "w+b")
    file.write(document)
    file.seek(0)
    return file


async def _end_of(process: Process) -> int:
    """Its status; it does not outlive the wait for that."""
    try:
        return await process.wait()
    except BaseException:
        _kill_group(process)
        await process.wait()
        raise


def _kill_group(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _listen(reader: asyncio.StreamReader) -> bytes:
    kept = b""
    while block := await reader.read(_LINE_BYTES):
        kept += block[: _KEPT_BYTES - len(kept)]
    return kept


async def _post(target: WebhookTarget, document: bytes) -> str:
    context = ssl.create_default_context() if target.tls else None
    reader, writer = await asyncio.open_connection(
        target.host, target.port, ssl=context, limit=_LINE_BYTES
    )
    try:
        host = f"[{target.host}]" if ":" in target.host else target.host
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\n"
            "Content-Type: application/json\r\nUser-Agent: vfioctl\r\nConnection: close\r\n"
            f"Content-Length: {len(document)}\r\n\r\n"
        )
        writer.write(head.encode("ascii") + document)
        await writer.drain()
        line = _STATUS_LINE.match(await reader.readline())
    finally:
        writer.transport.abort()
    if line is None:
        return "its answer is no HTTP"
    status = int(line[1])
    return "" if 200 <= status < 300 else f"it answered {status}"
