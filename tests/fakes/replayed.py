"""Whether another root answers everything as the first one did: the same questions, asked twice.

A collection's questions are recorded with their answers, then put to a capture. What differs is
evidence that the capture lost or made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from vfio_agent.collect.root import LIMIT_BYTES, Many, ManyBytes, ManyNames, ManyTexts, Names, Root

T = TypeVar("T")

Question = tuple[str, str, int]
"""(operation, path, limit)."""


class QuestionedRoot:
    """A `Root` that passes everything on and remembers what was asked and answered."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.answers: dict[Question, object] = {}

    @property
    def live(self) -> bool:
        """See `Root`."""
        return self._root.live

    @property
    def privileged(self) -> bool | None:
        """See `Root`."""
        return self._root.privileged

    def read(self, path: str, *, limit: int = LIMIT_BYTES) -> bytes:
        """See `Root`."""
        return self._one("read", path, lambda: self._root.read(path, limit=limit), limit)

    def list(self, path: str) -> Names:
        """See `Root`."""
        return self._one("list", path, lambda: self._root.list(path))

    def link(self, path: str) -> str:
        """See `Root`."""
        return self._one("link", path, lambda: self._root.link(path))

    def real(self, path: str) -> str:
        """See `Root`."""
        return self._one("real", path, lambda: self._root.real(path))

    def modified(self, path: str) -> int:
        """See `Root`."""
        return self._one("modified", path, lambda: self._root.modified(path))

    def authoritative(self, path: str) -> bool:
        """See `Root`."""
        return self._one("authoritative", path, lambda: self._root.authoritative(path))

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        return self._keep("read", paths, self._root.read_many(paths))

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        return self._keep("read", paths, self._root.read_config_many(paths))

    def list_many(self, paths: Sequence[str]) -> ManyNames:
        """See `Root`."""
        return self._keep("list", paths, self._root.list_many(paths))

    def link_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        return self._keep("link", paths, self._root.link_many(paths))

    def real_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        return self._keep("real", paths, self._root.real_many(paths))

    def _one(self, operation: str, path: str, ask: Callable[[], T], limit: int = 0) -> T:
        try:
            found = ask()
        except OSError as error:
            self.answers[operation, path, limit] = error
            raise
        self.answers[operation, path, limit] = found
        return found

    def _keep(self, operation: str, paths: Sequence[str], results: Many[T]) -> Many[T]:
        limit = LIMIT_BYTES if operation == "read" else 0
        for path, result in zip(paths, results, strict=True):
            self.answers[operation, path, limit] = result
        return results


def differences(asked: QuestionedRoot, other: Root) -> Iterator[tuple[str, str, object, object]]:
    """(operation, path, first answer, other answer) where the two are not the same."""
    for (operation, path, limit), was in asked.answers.items():
        options = {"limit": limit} if operation == "read" else {}
        try:
            now = getattr(other, operation)(path, **options)
        except OSError as error:
            now = error
        if _plain(was) != _plain(now):
            yield operation, path, was, now


def _plain(answer: object) -> object:
    return ("error", answer.errno) if isinstance(answer, OSError) else answer
