"""The real coordinator process, as an operator starts it, and what it says when it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.users import DEADLINE_S


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended; `errors` is its standard error."""

    status: int
    errors: str


class Process:
    """`python -m vfio_coordinator` on `directory`, serving."""

    def __init__(self, running: asyncio.subprocess.Process, endpoint: str) -> None:
        self._running = running
        self.endpoint = endpoint

    @property
    def pid(self) -> int:
        return self._running.pid

    def kill(self) -> None:
        """SIGKILL: as when the power fails, but for what the kernel still writes."""
        self._running.kill()

    def terminate(self) -> None:
        self._running.send_signal(signal.SIGTERM)

    async def ended(self) -> Ended:
        return await _ended(self._running)


async def launch(
    directory: Path, *options: str, prefix: Sequence[str] = ()
) -> asyncio.subprocess.Process:
    """`prefix` is a command that becomes the process, as `env` does."""
    return await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable),
        *("-m", "vfio_coordinator", "--state", str(directory), "--listen", "127.0.0.1:0"),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def start(directory: Path, *options: str, prefix: Sequence[str] = ()) -> Process:
    """A process that serves; AssertionError with what it said instead."""
    running = await launch(directory, *options, prefix=prefix)
    assert running.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        line = (await running.stdout.readline()).decode()
    if not line.startswith("listening "):
        raise AssertionError(f"said {line!r}, ended with {await _ended(running)}")
    return Process(running, line.removeprefix("listening ").strip())


@asynccontextmanager
async def serving(
    directory: Path, *options: str, prefix: Sequence[str] = ()
) -> AsyncIterator[Process]:
    """A process that is gone at the end, whatever happened."""
    process = await start(directory, *options, prefix=prefix)
    try:
        yield process
    finally:
        if process._running.returncode is None:
            process.kill()
            await process.ended()


async def run_to_end(directory: Path, *options: str) -> Ended:
    """A start that is expected to fail."""
    return await _ended(await launch(directory, *options))


async def _ended(running: asyncio.subprocess.Process) -> Ended:
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await running.communicate()
    assert running.returncode is not None
    return Ended(running.returncode, errors.decode())
