"""A captured host: a tree of files with its own resolution of links, and what its manifest adds.

Links are followed by us and not by the kernel, so that an absolute link (`/sys/...`) means the
capture's own file and nothing outside the capture can be reached. Directories are scanned once and
kept: a root shows one state of its capture; open it again after changing the files. This module
must never open what is not a regular file, and never call something absent that nobody asked for.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod

from vfio_agent.collect.deadline import DEADLINE_S
from vfio_agent.collect.gathered import GATHERED, read_gathered
from vfio_agent.collect.manifest import MANIFEST, Manifest, read_manifest
from vfio_agent.collect.root import LIMIT_BYTES, GuardedRoot, Names, NotCaptured

FILE, DIRECTORY, LINK, OTHER = "f", "d", "l", "o"
"""Kinds of a name; OTHER exists but has no content here (device node, FIFO, not captured)."""

MAX_LINKS = 40
"""Links on one path before ELOOP, as in the kernel (MAXSYMLINKS, include/linux/namei.h)."""

_MAX_TARGET = 4096
_CHUNK = 1 << 14
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class TreeRoot(GuardedRoot):
    """Resolution over `_scan`, `_read_link` and `_open`, which take canonical paths ("" is /)."""

    def __init__(self, deadline_s: float | None, *, scope: str = "") -> None:
        super().__init__(deadline_s, scope=scope)
        self._scanned: dict[str, dict[str, str]] = {}
        self._directories: dict[str, str] = {"": ""}
        self._manifest: Manifest | None = None

    @abstractmethod
    def _scan(self, directory: str) -> dict[str, str]: ...

    @abstractmethod
    def _read_link(self, path: str) -> str: ...

    @abstractmethod
    def _open(self, path: str, limit: int) -> bytes: ...

    def _load_manifest(self) -> None:
        for name, read in ((MANIFEST, read_manifest), (GATHERED, read_gathered)):
            if self._manifest is None and self._entries("").get(name) == FILE:
                self._manifest = read(self._open("/" + name, Manifest.LIMIT_BYTES + 1))
        self._scanned.clear()  # what was scanned so far lacks what the manifest adds

    @property
    def live(self) -> bool:
        """See `Root`."""
        return False

    @property
    def privileged(self) -> bool | None:
        """See `Root`."""
        return None if self._manifest is None else self._manifest.privileged

    def authoritative(self, path: str) -> bool:
        """See `Root`. True only where our own recorder saw that the path is missing."""
        if self._manifest is None:
            return False
        try:
            self._resolve(path, follow=False)
        except NotCaptured:
            return False
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        return True

    def _load(self, path: str, limit: int = LIMIT_BYTES) -> bytes:
        canonical, kind = self._resolve(path, follow=True)
        if kind == FILE:
            return self._open(canonical, limit)
        if kind == DIRECTORY:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if self._manifest is not None:
            raise self._missing(path, canonical)
        raise OSError(errno.EINVAL, "not a regular file", path)

    def _names(self, path: str) -> Names:
        canonical, kind = self._resolve(path, follow=True)
        manifest = self._manifest
        if manifest is None:
            if kind != DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return sorted(self._entries(canonical))
        listed = manifest.listings.get(canonical)
        if listed is not None:
            return list(listed)
        if canonical in manifest.complete:
            return sorted(self._entries(canonical))
        raise self._missing(path, canonical)

    def _target(self, path: str) -> str:
        canonical, kind = self._resolve(path, follow=False)
        if kind == LINK:
            return self._read_link(canonical)
        if kind == OTHER and self._manifest is not None:
            raise self._missing(path, canonical)
        raise OSError(errno.EINVAL, "not a symbolic link", path)

    def _canonical(self, path: str) -> str:
        return self._resolve(path, follow=True)[0] or "/"

    def _changed(self, path: str) -> int:
        """What our recorder saw; the times of copied files say nothing about the host."""
        if self._manifest is None:
            raise NotCaptured(path)
        found = self._manifest.modified.get(path)
        if found is None:
            raise self._missing(path, path)
        return found

    # --- resolution -------------------------------------------------------------------------

    def _entries(self, directory: str) -> dict[str, str]:
        """Kind by name of a canonical directory; the result is kept and must not be changed."""
        found = self._scanned.get(directory)
        if found is None:
            found = self._scan(directory)
            if self._manifest is not None:
                self._add_recorded(self._manifest, directory, found)
            self._scanned[directory] = found
        return found

    @staticmethod
    def _add_recorded(manifest: Manifest, directory: str, found: dict[str, str]) -> None:
        for name in manifest.below.get(directory, ()):
            found.setdefault(name, DIRECTORY)
        for name in manifest.listings.get(directory, ()):
            found.setdefault(name, OTHER)
        if not directory:
            found.pop(MANIFEST, None)
            found.pop(GATHERED, None)

    def _resolve(self, path: str, *, follow: bool) -> tuple[str, str]:
        """(canonical path, kind); `follow` says whether a link in the last place is followed."""
        parent, _, name = path.rpartition("/")
        directory = self._directories.get(parent)
        if directory is None:
            directory, kind = self._walk(parent, path, follow=True)
            if kind != DIRECTORY:
                raise self._missing(path, f"{directory}/{name}")
            self._directories[parent] = directory
        kind_here = self._entries(directory).get(name)
        if kind_here is not None and not (follow and kind_here == LINK):
            return f"{directory}/{name}", kind_here
        return self._walk(path, path, follow=follow)

    def _walk(self, path: str, asked: str, *, follow: bool) -> tuple[str, str]:
        todo = path.split("/")
        todo.reverse()
        here, kind, links = "", DIRECTORY, 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                kind = DIRECTORY
                continue
            found = self._entries(here).get(name) if kind == DIRECTORY else None
            if found is None:
                raise self._missing(asked, f"{here}/{name}")
            kind = found
            if kind == LINK and (follow or any(todo)):
                links += 1
                target = self._read_link(f"{here}/{name}")
                if links > MAX_LINKS or len(target) > _MAX_TARGET:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), asked)
                if target.startswith("/"):
                    here = ""
                todo.extend(reversed(target.split("/")))
                kind = DIRECTORY
                continue
            here = f"{here}/{name}"
        return here, kind

    def _missing(self, asked: str, canonical: str) -> OSError:
        """What to raise for a path whose component `canonical` holds no content here."""
        manifest = self._manifest
        if manifest is None:
            return NotCaptured(asked)
        number = manifest.errors.get(asked) or manifest.errors.get(canonical)
        if not number and manifest.lacks_above(asked):
            number = errno.ENOENT
        if not number:
            parent, _, name = canonical.rpartition("/")
            if not manifest.lists(parent) or name in self._entries(parent):
                return NotCaptured(asked)
            number = errno.ENOENT
        reason = "blocked when it was captured" if number == errno.ETIMEDOUT else ""
        return OSError(number, reason or os.strerror(number), asked)


class DirectoryRoot(TreeRoot):
    """A directory that mirrors a host's root."""

    def __init__(self, path: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._top = os.path.abspath(path)
        super().__init__(deadline_s, scope=self._top)
        self._load_manifest()

    def _scan(self, directory: str) -> dict[str, str]:
        try:
            with os.scandir(self._top + directory) as entries:
                return {
                    e.name: FILE if e.is_file(follow_symlinks=False) else _kind_of(e)
                    for e in entries
                }
        except FileNotFoundError:
            # only the manifest knows this directory: the tree cannot hold an empty one
            return {}

    def _read_link(self, path: str) -> str:
        return os.readlink(self._top + path)

    def _open(self, path: str, limit: int) -> bytes:
        try:
            descriptor = os.open(self._top + path, _FLAGS)
        except FileNotFoundError:
            # gone since the scan: says something about the capture, nothing about the host
            raise NotCaptured(path) from None
        try:
            # in one read, so that a log of 100 MB is not in memory twice
            wanted = min(limit, max(_CHUNK, os.fstat(descriptor).st_size + 1))
            data = os.read(descriptor, wanted)
            if len(data) < wanted:
                return data
            parts, left = [data], limit - len(data)
            while left > 0 and (part := os.read(descriptor, min(_CHUNK, left))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)


def _kind_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return LINK
    return DIRECTORY if entry.is_dir(follow_symlinks=False) else OTHER
