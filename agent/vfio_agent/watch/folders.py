"""Directories that are watched although they may not be there yet, or be replaced.

For a directory that is missing the nearest one above it is watched until it appears; one that was
removed, renamed or covered by a mount is looked for again. inotify says nothing of a mount that
covers a directory: `arm` finds it, so it must be called from time to time. This module must never
take a lost watch for a quiet one.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import dirname

from vfio_agent.collect.deadline import Deadline
from vfio_agent.watch import inotify
from vfio_agent.watch.inotify import Inotify, Notice
from vfio_contract.model import Gap

CHANGES = (
    inotify.CREATE
    | inotify.DELETE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.CLOSE_WRITE
    | inotify.ATTRIB
)
"""A file that was written, made, removed, renamed into place, or may now be read."""

OPENS = inotify.OPEN | inotify.CLOSE_WRITE | inotify.CLOSE_NOWRITE

_ARRIVALS = inotify.CREATE | inotify.MOVED_TO | inotify.DELETE_SELF | inotify.MOVE_SELF
_AS_ROOT = "sudo vfioctl agent run"
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_TRIES = 8
"""A directory may appear between the look for it and the watch above it, again and again."""


def gap_of(path: str, error: OSError, what: str) -> Gap:
    """What a source cannot see, and whether root could."""
    remedy = _AS_ROOT if isinstance(error, PermissionError) else ""
    return Gap(path, error.errno or 0, f"{what}: {error.strerror or error}", remedy)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened in `folder`; `name` is "" for the folder itself and after an overflow."""

    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of that name was opened, or closed (`opened` False)."""

    folder: str
    name: str
    opened: bool


@dataclass(slots=True)
class _Arm:
    """Where one folder is watched now: its own path, or one above it."""

    watch: int
    path: str


class Folders:
    """Watches `paths` (absolute) for `mask`; the deadline is for file systems that hang (FUSE)."""

    def __init__(self, paths: Sequence[str], mask: int) -> None:
        self._paths = tuple(paths)
        self._mask = mask
        self._inotify = Inotify()
        self._deadline = Deadline(scope=f"inotify:{self._inotify.fileno()}")
        self._arms: dict[str, _Arm] = {}
        self._gaps: dict[str, Gap] = {}
        self._opens: Counter[Opened] = Counter()
        self.arm()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._inotify.fileno()

    def close(self) -> None:
        """Watch nothing any more."""
        self._deadline.close()
        self._inotify.close()

    def gaps(self) -> Sequence[Gap]:
        """Folders that cannot be watched."""
        return tuple(self._gaps.values())

    def arm(self) -> list[Change]:
        """Watch what is there now; the folders that are not where they were."""
        return [change for path in self._paths for change in self._arm(path)]

    def read(self) -> list[Change]:
        """What happened; all folders when the kernel dropped notices."""
        found: dict[Change, None] = {}
        for notice in self._inotify.read():
            if notice.mask & inotify.OVERFLOW:
                self.arm()
                found |= {Change(path, ""): None for path in self._paths}
                continue
            for path in self._watched_by(notice.watch):
                found |= dict.fromkeys(self._take(path, notice))
        return list(found)

    def take_opens(self) -> Counter[Opened]:
        """How often files were opened and closed, as far as `read` came since the last time.

        The kernel counts equal notices that nobody has read yet as one.
        """
        opens, self._opens = self._opens, Counter()
        return opens

    def _take(self, path: str, notice: Notice) -> Iterator[Change]:
        if notice.mask & inotify.DIRECTORY and not notice.mask & (CHANGES | inotify.ENDED):
            return  # somebody lists a directory, most often we ourselves because of a change
        if notice.mask & inotify.ENDED:
            del self._arms[path]
            self._release(notice.watch)
            self._arm(path)
            yield Change(path, "")
        elif self._arms[path].path == path:
            if notice.mask & inotify.OPEN:
                self._opens[Opened(path, notice.name, True)] += 1
            if notice.mask & (inotify.CLOSE_WRITE | inotify.CLOSE_NOWRITE):
                self._opens[Opened(path, notice.name, False)] += 1
            yield Change(path, notice.name)
        elif path == _join(self._arms[path].path, notice.name) or path.startswith(
            _join(self._arms[path].path, notice.name) + "/"
        ):
            yield from self._arm(path)

    def _watched_by(self, watch: int) -> list[str]:
        return [path for path, arm in self._arms.items() if arm.watch == watch]

    def _arm(self, path: str) -> list[Change]:
        """Nothing changed where the same directory is watched as before."""
        try:
            found = self._guarded(path)
        except OSError as error:
            self._gaps[path] = gap_of(path, error, "cannot be watched")
            old = self._arms.pop(path, None)
        else:
            self._gaps.pop(path, None)
            old = self._arms.get(path)
            self._arms[path] = found
            if old is not None and old.watch == found.watch:
                return []
        if old is not None:
            self._release(old.watch)
        # a folder that is still missing is no news
        present = path in self._arms and self._arms[path].path == path
        return [Change(path, "")] if present or (old is not None and old.path == path) else []

    def _guarded(self, path: str) -> _Arm:
        found = self._deadline.run(self._find, (path,))[0]
        if isinstance(found, OSError):
            raise found
        return found

    def _find(self, path: str) -> _Arm:
        """The watch on the folder, or on the nearest one above it that is there."""
        for _ in range(_TRIES):
            above, below = path, ""
            while (watch := self._add(above, own=not below)) is None:
                above, below = dirname(above), above
            if not below or not os.path.isdir(below):
                return _Arm(watch, above)
            self._release(watch)
        raise OSError(errno.EAGAIN, "it comes and goes", path)

    def _add(self, path: str, *, own: bool) -> int | None:
        """None when there is no such directory."""
        mask = inotify.ONLY_DIRECTORY | inotify.MASK_ADD | _ARRIVALS
        try:
            return self._inotify.add(path, mask | (self._mask if own else 0))
        except OSError as error:
            if error.errno in _ABSENT and path != "/":
                return None
            raise

    def _release(self, watch: int) -> None:
        if self._watched_by(watch):
            return
        try:
            self._inotify.remove(watch)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the directory is gone, and the watch with it
                raise


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
