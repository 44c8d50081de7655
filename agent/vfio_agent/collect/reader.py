"""Reads for collectors: a value, or None and a gap that says what could not be read and why.

Every collector reads through one `Reader`, so that no failure is swallowed and none is fatal.
Nothing here may turn an unreadable file into an answer: only a path that provably does not exist
reads as `""` or `()`, and only where the caller asked for that (`optional...`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from vfio_agent.collect.root import LIMIT_BYTES, NotCaptured, Root
from vfio_contract.model import Gap

_ABSENT = (FileNotFoundError, NotADirectoryError)
_DENIED = (errno.EACCES, errno.EPERM)

REMEDY_ROOT = "sudo vfioctl check"


class Reader:
    """One collection's reads over one root, and the gaps they leave (first one per path)."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._gaps: dict[str, Gap] = {}
        self._texts: dict[str, str | None] = {}

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What could not be read so far, in the order of the attempts."""
        return tuple(self._gaps.values())

    def gap(self, path: str, cause: OSError | str, remedy: str = "") -> None:
        """Record that `path` could not be read. A reason of our own has errno 0.

        Without a `remedy` a permission error names the command with sudo, and a path that a
        capture lacks the command that would show it on the host.
        """
        if path in self._gaps:
            return
        if isinstance(cause, str):
            self._gaps[path] = Gap(path=path, errno=0, reason=cause, remedy=remedy)
            return
        number = cause.errno or 0
        reason = cause.strerror or str(cause)
        if not remedy and number in _DENIED and self.root.live:
            remedy = REMEDY_ROOT
        self._gaps[path] = Gap(path=path, errno=number, reason=reason, remedy=remedy)

    # --- one path ---------------------------------------------------------------------------

    def data(self, path: str, *, limit: int = LIMIT_BYTES, remedy: str = "") -> bytes | None:
        """The file's bytes cut at `limit`; None + gap when unreadable."""
        try:
            return self.root.read(path, limit=limit)
        except OSError as error:
            self.gap(path, error, remedy or self._show(error, "cat", path))
            return None

    def text(self, path: str, *, remedy: str = "") -> str | None:
        """Stripped text; None + gap when unreadable. Bytes that are not UTF-8 become `\\xNN`.

        Read once per collection: several collectors look into /proc/cpuinfo and /proc/meminfo.
        """
        if path not in self._texts:
            data = self.data(path, remedy=remedy)
            self._texts[path] = None if data is None else decode(data)
        return self._texts[path]

    def optional(self, path: str, *, remedy: str = "") -> str | None:
        """Like `text`, but `""` without a gap when the path provably does not exist."""
        try:
            return decode(self.root.read(path))
        except _ABSENT:
            return ""
        except OSError as error:
            self.gap(path, error, remedy or self._show(error, "cat", path))
            return None

    def names(self, path: str, *, remedy: str = "") -> tuple[str, ...] | None:
        """Sorted names in a directory; None + gap when unreadable."""
        try:
            return tuple(self.root.list(path))
        except OSError as error:
            self.gap(path, error, remedy or self._show(error, "ls", path))
            return None

    def optional_names(self, path: str, *, remedy: str = "") -> tuple[str, ...] | None:
        """Like `names`, but `()` without a gap when the directory provably does not exist."""
        try:
            return tuple(self.root.list(path))
        except _ABSENT:
            return ()
        except OSError as error:
            self.gap(path, error, remedy or self._show(error, "ls", path))
            return None

    def link_name(self, path: str) -> str | None:
        """Last component of the link's target; `""` when provably absent; None + gap else."""
        try:
            return os.path.basename(self.root.link(path))
        except _ABSENT:
            return ""
        except OSError as error:
            self.gap(path, error, self._show(error, "readlink", path))
            return None

    def real(self, path: str) -> str | None:
        """The path without links; `""` when provably absent; None + gap else."""
        try:
            return self.root.real(path)
        except _ABSENT:
            return ""
        except OSError as error:
            self.gap(path, error, self._show(error, "readlink -f", path))
            return None

    # --- many paths -------------------------------------------------------------------------

    def contents(self, paths: Sequence[str]) -> list[bytes | None]:
        """`data` for many paths in one hand-over."""
        found: list[bytes | None] = []
        for path, result in zip(paths, self.root.read_many(paths), strict=True):
            if isinstance(result, OSError):
                self.gap(path, result, self._show(result, "cat", path))
            found.append(None if isinstance(result, OSError) else result)
        return found

    def texts(self, paths: Sequence[str]) -> list[str | None]:
        """`text` for many paths in one hand-over."""
        return [
            self._text_of(path, result)
            for path, result in zip(paths, self.root.read_many(paths), strict=True)
        ]

    def optional_texts(self, paths: Sequence[str]) -> list[str | None]:
        """`optional` for many paths in one hand-over."""
        return [
            "" if isinstance(result, _ABSENT) else self._text_of(path, result)
            for path, result in zip(paths, self.root.read_many(paths), strict=True)
        ]

    def link_names(self, paths: Sequence[str]) -> list[str | None]:
        """`link_name` for many paths in one hand-over."""
        found: list[str | None] = []
        for path, result in zip(paths, self.root.link_many(paths), strict=True):
            if isinstance(result, str):
                found.append(os.path.basename(result))
            elif isinstance(result, _ABSENT):
                found.append("")
            else:
                self.gap(path, result, self._show(result, "readlink", path))
                found.append(None)
        return found

    def reals(self, paths: Sequence[str]) -> list[str | None]:
        """`real` for many paths in one hand-over."""
        found: list[str | None] = []
        for path, result in zip(paths, self.root.real_many(paths), strict=True):
            if isinstance(result, str):
                found.append(result)
            elif isinstance(result, _ABSENT):
                found.append("")
            else:
                self.gap(path, result, self._show(result, "readlink -f", path))
                found.append(None)
        return found

    def _text_of(self, path: str, result: bytes | OSError) -> str | None:
        if isinstance(result, OSError):
            self.gap(path, result, self._show(result, "cat", path))
            return None
        return decode(result)

    @staticmethod
    def _show(error: OSError, command: str, path: str) -> str:
        return f"{command} {path}" if isinstance(error, NotCaptured) else ""


def decode(data: bytes) -> str:
    """Text as evidence shows it: UTF-8, other bytes as `\\xNN`, surrounding white space removed."""
    return data.decode("utf-8", "backslashreplace").strip()
