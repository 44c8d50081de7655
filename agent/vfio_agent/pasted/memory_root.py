"""A host of which only a few files are known, in memory: what pasted commands repeat of /proc.

Reads like a captured directory: a file that is not here was not captured, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from vfio_agent.collect.tree_root import DIRECTORY, FILE, TreeRoot


class MemoryRoot(TreeRoot):
    """Files by their absolute path."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(None)
        self._files = dict(files)
        self._tree: dict[str, dict[str, str]] = {"": {}}
        for path in self._files:
            here = ""
            *folders, name = path.split("/")[1:]
            for folder in folders:
                self._tree[here][folder] = DIRECTORY
                here = f"{here}/{folder}"
                self._tree.setdefault(here, {})
            self._tree[here][name] = FILE

    def _scan(self, directory: str) -> dict[str, str]:
        return dict(self._tree.get(directory, ()))

    def _read_link(self, path: str) -> str:
        raise OSError(22, "not a symbolic link", path)

    def _open(self, path: str, limit: int) -> bytes:
        return self._files[path][:limit]
