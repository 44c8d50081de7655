"""A captured host in a tar file: read in memory, never extracted, every size capped.

A tar comes from anywhere, so names that climb out of the tree, files below files and sizes beyond
the caps refuse the whole file with a reason; hard links, device nodes and FIFOs are left out.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO

from vfio_agent.collect.gathered import GATHERED
from vfio_agent.collect.manifest import MANIFEST, BadCapture
from vfio_agent.collect.tree_root import DIRECTORY, FILE, LINK, TreeRoot

MAX_MEMBERS = 200_000
"""A 256-function host with 40 attributes each has about 12,000."""

MAX_MEMBER_BYTES = 64 * 1024 * 1024
"""Holds a kernel log of 50 MB."""

MAX_TOTAL_BYTES = 256 * 1024 * 1024
"""Of the tar itself, unpacked."""

_HOST_NAMES = frozenset(
    {"sys", "proc", "dev", "etc", "run", "usr", "lib", "dmesg", MANIFEST, GATHERED}
)

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


class TarRoot(TreeRoot):
    """The tree in a .tar, .tar.gz, .tar.bz2 or .tar.xz; one leading directory is taken off."""

    def __init__(self, path: str) -> None:
        """BadCapture when it is no such file, OSError when it cannot be read."""
        super().__init__(None)
        self._tree: dict[str, dict[str, str]] = {"": {}}
        self._files: dict[str, memoryview] = {}
        self._links: dict[str, str] = {}
        try:
            unpacked = _unpack(path)
            members = list(_members(unpacked))
        except BadCapture as error:
            raise BadCapture(error.strerror or "", path) from error
        except _DAMAGE as error:
            raise BadCapture(f"not a readable tar: {error}", path) from error
        try:
            self._build(members, memoryview(unpacked))
            self._load_manifest()
        except BadCapture as error:
            raise BadCapture(error.strerror or "", path) from error

    def _scan(self, directory: str) -> dict[str, str]:
        return dict(self._tree.get(directory, ()))

    def _read_link(self, path: str) -> str:
        return self._links[path]

    def _open(self, path: str, limit: int) -> bytes:
        return bytes(self._files[path][:limit])

    def _build(self, members: list[tuple[str, tarfile.TarInfo]], data: memoryview) -> None:
        leading = _leading_directory(members)
        for name, member in members:
            path = "/" + name[len(leading) :] if leading else "/" + name
            if leading and not name.startswith(leading):
                continue  # the leading directory itself
            if member.isdir():
                self._enter(path, DIRECTORY)
            elif member.issym():
                self._enter(path, LINK)
                self._links[path] = member.linkname
            elif member.isreg():
                self._enter(path, FILE)
                end = member.offset_data + member.size
                self._files[path] = data[member.offset_data : end]

    def _enter(self, path: str, kind: str) -> None:
        parent, _, name = path.rpartition("/")
        if parent not in self._tree:
            self._enter(parent, DIRECTORY)
        siblings = self._tree[parent]
        before = siblings.get(name)
        if before is not None and before != kind and DIRECTORY in (before, kind):
            raise BadCapture(f"member {path!r} is a directory and something else")
        siblings[name] = kind
        if kind == DIRECTORY:
            self._tree.setdefault(path, {})


def _unpack(path: str) -> bytes:
    # not to wait for whoever might write to a FIFO
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadCapture("neither a directory nor a regular file")
        packed = file.read(MAX_TOTAL_BYTES + 1)
    if len(packed) > MAX_TOTAL_BYTES:
        raise BadCapture(f"larger than {MAX_TOTAL_BYTES} bytes")
    try:
        data = _decompress(packed)
    except BadCapture:
        raise
    except OSError as error:
        # gzip and bz2 report damage as OSError
        raise BadCapture(f"not a readable tar: {error}") from error
    if len(data) > MAX_TOTAL_BYTES:
        raise BadCapture(f"larger than {MAX_TOTAL_BYTES} bytes when unpacked")
    return data


def _decompress(packed: bytes) -> bytes:
    """At most one byte more than the cap, whatever the compressed bytes promise."""
    if packed.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=BytesIO(packed)) as file:
            return file.read(MAX_TOTAL_BYTES + 1)
    if packed.startswith(b"BZh"):
        with bz2.BZ2File(BytesIO(packed)) as file:
            return file.read(MAX_TOTAL_BYTES + 1)
    if packed.startswith(b"\xfd7zXZ\x00"):
        unpacker = lzma.LZMADecompressor(memlimit=MAX_TOTAL_BYTES)
        data = unpacker.decompress(packed, MAX_TOTAL_BYTES + 1)
        if not unpacker.eof and len(data) <= MAX_TOTAL_BYTES:
            raise BadCapture("compressed data is cut short")
        return data
    return packed


def _members(data: bytes) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """(relative name, member) of each directory, link and regular file, in order."""
    with tarfile.open(fileobj=BytesIO(data), mode="r:", errors="surrogateescape") as tar:
        for count, member in enumerate(tar):
            if count >= MAX_MEMBERS:
                raise BadCapture(f"more than {MAX_MEMBERS} members")
            if member.size > MAX_MEMBER_BYTES:
                raise BadCapture(f"member {member.name!r} is larger than {MAX_MEMBER_BYTES} bytes")
            if member.isreg() and member.offset_data + member.size > len(data):
                raise BadCapture(f"cut short in member {member.name!r}")
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if ".." in parts:
                raise BadCapture(f"member {member.name!r} climbs out of the tree")
            if parts:
                yield "/".join(parts), member


def _leading_directory(members: list[tuple[str, tarfile.TarInfo]]) -> str:
    """`NAME/` when everything lies below one directory that is no part of a host, else ""."""
    tops = {name.partition("/")[0] for name, _ in members}
    if len(tops) != 1 or tops & _HOST_NAMES:
        return ""
    top = tops.pop() + "/"
    return top if all(name.startswith(top) or member.isdir() for name, member in members) else ""
