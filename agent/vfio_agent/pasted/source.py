"""The bytes behind a PATH, read in pieces and never without an end.

A PATH comes from a person: it may be a picture, a device that never ends, or a FIFO that nobody
writes to. What cannot be evidence is refused with a reason, what is packed is unpacked, and nothing
is waited for longer than `SILENCE_S` but standard input, which is somebody's terminal or pipe.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

STDIN = "-"

LIMIT_BYTES = 128 << 20
"""How much of one text is read; the largest ring buffer that Linux allows is 32 MiB."""

PIECE_BYTES = 1 << 20

SILENCE_S = 60.0
"""How long a FIFO may say nothing (`vfioctl check --from <(ssh host dmesg)`)."""

_FOREIGN = (
    (b"\x7fELF", "a program"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    (b"SQLite format 3\0", "a database"),
)
_ADVICE = {
    "packed with zstd": "unpack it first: zstd -d FILE",
    "a ZIP archive": "unpack it and name what is in it",
    "a 7z archive": "unpack it and name what is in it",
}

_DAMAGE = (OSError, EOFError, zlib.error)


class EvidenceError(ValueError):
    """A PATH cannot be used at all; the text names it and says what to do."""


class Source:
    """One PATH's bytes: `head` can be looked at before the rest is read."""

    def __init__(self, path: str, stdin: BinaryIO | None = None, *, head_bytes: int) -> None:
        """OSError when it cannot be opened, EvidenceError for what is no evidence."""
        self.path = path
        self._file = _open(path, stdin)
        self._opened = [self._file]
        try:
            raw = self._read(4096)
            _refuse_foreign(path, raw)
            if raw.startswith((b"\x1f\x8b", b"BZh")):
                self._file = _unpack(raw, self._file)
                self._opened.insert(0, self._file)
                raw = b""
            self._left = LIMIT_BYTES - len(raw)
            self.head = raw + self._take(head_bytes - len(raw))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the descriptors; standard input stays open."""
        for file in self._opened:
            file.close()

    @property
    def cut(self) -> bool:
        """True when there is more than is read; to be asked after the last piece."""
        return self._left == 0 and bool(self._read(1))

    def rest(self) -> Iterator[bytes]:
        """What follows the head, as it is."""
        while piece := self._take(PIECE_BYTES):
            yield piece

    def text(self) -> Iterator[bytes]:
        """All of it as UTF-8, the head included."""
        return decode_pieces(self._all())

    def _all(self) -> Iterator[bytes]:
        for start in range(0, len(self.head), PIECE_BYTES):
            yield self.head[start : start + PIECE_BYTES]
        yield from self.rest()

    def _take(self, count: int) -> bytes:
        data = self._read(min(count, self._left))
        self._left -= len(data)
        return data

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count) if count > 0 else b""
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise EvidenceError(f"{self.path} is packed and damaged: {error}") from None


def decode_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same as UTF-8 where a byte order mark says that it is UTF-16."""
    first = next(pieces, b"")
    if not first.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield first.removeprefix(b"\xef\xbb\xbf")
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    yield decoder.decode(first).encode("utf-8", "replace")
    for piece in pieces:
        yield decoder.decode(piece).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def _refuse_foreign(path: str, head: bytes) -> None:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            advice = _ADVICE.get(what, "give text, a tar, or what vfioctl collect wrote")
            raise EvidenceError(f"{path} is {what}: {advice}")


def _open(path: str, stdin: BinaryIO | None) -> BinaryIO:
    if path == STDIN:
        file = stdin if stdin is not None else sys.stdin.buffer
        return cast(BinaryIO, _Kept(file))
    # not to wait for whoever might write to a FIFO one day
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        # it is called a regular file, but has no end, and what is read from it is gone
        if os.path.realpath(path) == "/proc/kmsg":
            os.close(descriptor)
            raise EvidenceError(f"{path} never ends: save the log and name that: sudo dmesg > FILE")
        return open(descriptor, "rb")
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        return cast(BinaryIO, io.BufferedReader(_Pipe(descriptor, path)))
    os.close(descriptor)
    raise EvidenceError(f"{path} is a device, not a file: save its output and name that")


def _unpack(raw: bytes, file: BinaryIO) -> BinaryIO:
    joined = cast(BinaryIO, _Joined(raw, file))
    if raw.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=joined))
    return cast(BinaryIO, bz2.BZ2File(joined))


class _Kept(io.RawIOBase):
    """A stream of somebody else's, which is not closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        parts = []
        while size > 0 and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class _Joined(io.RawIOBase):
    """A stream of which the first bytes were read before."""

    def __init__(self, raw: bytes, file: BinaryIO) -> None:
        self._raw = raw
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not self._raw:
            return self._file.read(size)
        data, self._raw = self._raw[:size], self._raw[size:]
        return data


class _Pipe(io.RawIOBase):
    """A FIFO or terminal, waited for while it is not silent for too long."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def readable(self) -> bool:
        return True

    # RawIOBase takes any writable buffer; BufferedReader, the only caller, gives a memoryview
    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while True:
            try:
                data = os.read(self._descriptor, len(buffer))
            except BlockingIOError:
                if not select.select([self._descriptor], [], [], SILENCE_S)[0]:
                    reason = f"{self._path}: nothing came for {SILENCE_S:.0f} s"
                    raise EvidenceError(reason) from None
                continue
            buffer[: len(data)] = data
            return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
