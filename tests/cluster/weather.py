"""Weather for real processes: a wire that loses, a full disk, a read without end, a set wall clock.

Each changes nothing but what it made itself (two network namespaces, one mount, the environment of
one process) and is gone at the end of its block. Nothing here knows what the processes make of it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.cluster.two_processes import IS_ROOT

NEEDS_ROOT = pytest.mark.skipif(not IS_ROOT, reason="network namespaces and mounts need root")

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
NEEDS_FAKETIME = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")

EAST, WEST = "192.0.2.1", "192.0.2.2"
"""Of RFC 5737; each in a namespace of its own."""

_LINK = "wire"

_ALWAYS = (1 << 32) - 1


# --- the wire ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wire:
    """Two network namespaces and the one wire between them; EAST and WEST are their addresses."""

    east: str
    west: str

    def prefix(self, end: str) -> tuple[str, ...]:
        """What starts a process at that end."""
        return ("ip", "netns", "exec", end)

    def lose(self, share: float) -> None:
        """From now on this part of all packets is lost, in both directions; 0 mends the wire.

        By a classic BPF filter, which every kernel with `tc` has, unlike netem: load a random word,
        drop the packet if it is below the share (linux/filter.h, SKF_AD_RANDOM).
        """
        below = min(int(share * (1 << 32)), _ALWAYS)
        program = f"4,32 0 0 {0xFFFFF000 + 56},53 1 0 {below},6 0 0 2,6 0 0 {_ALWAYS}"
        for end in (self.east, self.west):
            place = ("dev", _LINK, "egress", "protocol", "all", "pref", "1", "handle", "1", "bpf")
            _run("tc", "-n", end, "filter", "replace", *place, "da", "bytecode", program)

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.lose(1.0)

    def lost(self) -> int:
        """Packets that were lost so far."""
        return sum(self._lost_by(end) for end in (self.east, self.west))

    def _lost_by(self, end: str) -> int:
        rows = json.loads(_run("tc", "-n", end, "-s", "-j", "qdisc", "show", "dev", _LINK))
        return sum(int(row["drops"]) for row in rows if row["kind"] == "clsact")


@contextmanager
def wire() -> Iterator[Wire]:
    """A wire that loses nothing yet."""
    made = Wire(*(f"vfioctl-{os.getpid()}-{end}" for end in ("east", "west")))
    with ExitStack() as stack:
        for end in (made.east, made.west):
            _run("ip", "netns", "add", end)
            stack.callback(_run, "ip", "netns", "delete", end)
        peer = ("type", "veth", "peer", "name", _LINK, "netns", made.west)
        _run("ip", "-n", made.east, "link", "add", _LINK, *peer)
        for end, address in ((made.east, EAST), (made.west, WEST)):
            _run("ip", "-n", end, "address", "add", f"{address}/24", "dev", _LINK)
            _run("ip", "-n", end, "link", "set", "lo", "up")
            # each segment is a packet of its own, as on a real wire
            _run("ip", "-n", end, "link", "set", _LINK, "up", "gso_max_segs", "1")
            _run("tc", "-n", end, "qdisc", "add", "dev", _LINK, "clsact")
        yield made


# --- disks and files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disk:
    """A small file system of its own."""

    path: Path

    def fill(self) -> None:
        """Until not one byte more goes onto it."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            block = bytes(64 * 1024)
            while block:
                try:
                    file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]

    def free(self) -> None:
        (self.path / "ballast").unlink()


@contextmanager
def small_disk(at: Path, *, kilobytes: int) -> Iterator[Disk]:
    """An empty one, mounted at a directory that is made; private, as a state directory must be."""
    at.mkdir()
    options = f"size={kilobytes}k,mode=0700"
    _run("mount", "-t", "tmpfs", "-o", options, "vfioctl-small", str(at))
    try:
        yield Disk(at)
    finally:
        _run("umount", "--lazy", str(at))


@contextmanager
def never_answered(file: Path) -> Iterator[None]:
    """Whoever opens this file waits until the end of the block: a FUSE file that nobody serves."""
    libc = ctypes.CDLL(None, use_errno=True)
    serving = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={serving},rootmode=100444,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"vfioctl-never", os.fsencode(file), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "cannot mount", str(file))
        try:
            yield
        finally:
            _run("umount", "--lazy", str(file))
    finally:
        os.close(serving)  # frees whoever still waits


# --- the wall clock ------------------------------------------------------------------------------


_OTHER_WALL = ("env", f"LD_PRELOAD={FAKETIME}", "FAKETIME_DONT_FAKE_MONOTONIC=1")


def shifted(off: timedelta) -> Sequence[str]:
    """What starts a process whose wall clock is so far ahead of the machine's, for ever."""
    return (*_OTHER_WALL, f"FAKETIME={_offset(off)}")


class WallClock:
    """The wall clock of the processes that are started with its prefix; right, until it is set.

    It stands in a file, which they must be able to read.
    """

    def __init__(self, file: Path) -> None:
        self.prefix = (*_OTHER_WALL, f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_CACHE_DURATION=1")
        self._file = file
        self.set(timedelta())

    def set(self, off: timedelta) -> None:
        """So far ahead of the machine's, from now on."""
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(_offset(off))
        fresh.rename(self._file)


def _offset(off: timedelta) -> str:
    return f"{off.total_seconds():+.0f}"


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout
