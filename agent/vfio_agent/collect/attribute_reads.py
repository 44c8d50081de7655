"""How an attribute of a PCI function is read that the kernel may keep from its reader.

This module is also the whole program of the process that does those reads (`reader_process`), so it
must stand alone: it must never import anything but what the interpreter brings along.
"""

from __future__ import annotations

import errno
import marshal
import os
import sys
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG, TEXT = "config", "text"
"""What a batch may ask for: PCI config spaces, or files as they are."""

LIMIT_BYTES = 1 << 20
"""Size at which a read stops; what is read here has at most one page."""

ANSWER = Struct("<iI")
"""Before each answer: errno (0 for none), and the length of the bytes, or of the error's text."""

READY = b"+"
"""Written once by the process, before it takes its first batch."""

PLAIN_BYTES, FULL_BYTES = 0x100, 0x1000
HEADER_BYTES = 0x40

# ids of capabilities
PCIX, PCIE = 0x07, 0x10

# ids of extended capabilities
DSN, ACS, SRIOV, REBAR = 0x0003, 0x000D, 0x0010, 0x0015

MAX_BARS = 6
EXTENDED_BYTES = {DSN: 12, ACS: 12, SRIOV: 0x40, REBAR: 4 + 8 * MAX_BARS}
"""How much of each extended capability is looked at, its header included."""

Found = list[tuple[int, int]]
"""(id, offset) of each capability in the order of the list."""

_CHUNK = 1 << 14
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
_SYSFS_PAGE = 4096
"""Sysfs hands out at most one page per read, so a shorter answer is the end (fs/sysfs/file.c)."""

_U32 = Struct("<I").unpack_from


def load_text(path: str) -> bytes:
    """The bytes of a sysfs file, cut at LIMIT_BYTES; OSError as the kernel gives it."""
    descriptor = os.open(path, _FLAGS)
    try:
        data = os.read(descriptor, _CHUNK)
        while len(data) >= _SYSFS_PAGE and len(data) < LIMIT_BYTES:
            part = os.read(descriptor, min(_CHUNK, LIMIT_BYTES - len(data)))
            if not part:
                break
            data += part
        return data
    finally:
        os.close(descriptor)


def load_config(path: str) -> bytes:
    """A config space of full length in which all that `config_space` looks at is right."""
    descriptor = os.open(path, _FLAGS)
    try:
        size = os.fstat(descriptor).st_size
        if size in (PLAIN_BYTES, FULL_BYTES):
            head = os.pread(descriptor, PLAIN_BYTES, 0)
            data = gather_config(head, size, lambda at, n: os.pread(descriptor, n, at))
            if data is not None:
                return data
    finally:
        os.close(descriptor)
    return load_text(path)


def gather_config(head: bytes, size: int, fetch: Callable[[int, int], bytes]) -> bytes | None:
    """Config space of `size` bytes of which only what `config_space` looks at was read.

    `head` are its first 256 bytes, `fetch(offset, length)` reads more; unread bytes are zero. On a
    real host each dword is an access to the device: a whole extended space takes a millisecond,
    its capability list a dozen dwords. None where only the whole space tells (all ones).
    """
    if len(head) < PLAIN_BYTES or size <= PLAIN_BYTES:
        return head
    if not head.strip(b"\xff"):
        return None
    data = bytearray(size)
    data[:PLAIN_BYTES] = head
    plain = walk_plain(head, head[0x0E] & 0x7F, [])
    if plain is None or not any(number in (PCIE, PCIX) for number, _ in plain):
        return bytes(data)
    pointer, seen = PLAIN_BYTES, set[int]()
    while pointer >= PLAIN_BYTES and pointer not in seen and pointer + 4 <= size:
        header = fetch(pointer, 4)
        data[pointer : pointer + len(header)] = header
        if len(header) < 4:
            return None
        seen.add(pointer)
        value: int = _U32(header)[0]
        if value in (0, 0xFFFFFFFF):
            break
        length = EXTENDED_BYTES.get(value & 0xFFFF)
        if length is not None:
            body = fetch(pointer + 4, min(length - 4, size - pointer - 4))
            data[pointer + 4 : pointer + 4 + len(body)] = body
        pointer = value >> 20 & 0xFFC
    return bytes(data)


def walk_plain(data: bytes, header_type: int, faults: list[str]) -> Found | None:
    """The capability list; None where the bytes end before the list does."""
    length = len(data)
    if length < HEADER_BYTES:
        return None
    if not data[0x06] & 0x10:  # PCI_STATUS_CAP_LIST
        return []
    pointer = data[0x14 if header_type == 2 else 0x34] & 0xFC
    found: Found = []
    seen: set[int] = set()
    while pointer:
        if pointer < HEADER_BYTES:
            faults.append(f"capability pointer 0x{pointer:02x} leads into the header")
            break
        if pointer in seen:
            faults.append(f"capability list loops at 0x{pointer:02x}")
            break
        if pointer + 2 > length:
            return None
        number = data[pointer]
        if number == 0xFF:
            faults.append(f"capability at 0x{pointer:02x} reads as ff")
            break
        seen.add(pointer)
        found.append((number, pointer))
        pointer = data[pointer + 1] & 0xFC
    return found


def _answer(kind: str, path: str) -> bytes:
    try:
        data = load_config(path) if kind == CONFIG else load_text(path)
    except OSError as error:
        text = (error.strerror or str(error)).encode("utf-8", "backslashreplace")
        return ANSWER.pack(error.errno or errno.EIO, len(text)) + text
    except ValueError as error:
        # a NUL in a path is an answer about the path, not about us
        text = str(error).encode("utf-8", "backslashreplace")
        return ANSWER.pack(errno.EINVAL, len(text)) + text
    return ANSWER.pack(0, len(data)) + data


def serve() -> None:
    """Batches from stdin, each a marshalled (kind, paths); one answer a path, until stdin ends."""
    requests, out = sys.stdin.buffer, sys.stdout.fileno()
    os.write(out, READY)
    while True:
        try:
            kind, paths = marshal.load(requests)
        except EOFError:
            return
        for path in paths:
            # at once: what comes next may never come back
            rest = memoryview(_answer(kind, path))
            while rest:
                rest = rest[os.write(out, rest) :]


if __name__ == "__main__":
    serve()
