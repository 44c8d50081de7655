"""`manifest.json` of our own captures: what a tree of files cannot carry.

Empty directories, errors with their errno, device nodes, complete listings whose files were not
read, the boot id. It is what makes a capture authoritative: a path that the recorder saw missing is
missing on replay, a path that it never asked for is unknown. Reading one must never trust its
shape: it may come from anyone.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

MANIFEST = "manifest.json"
SCHEMA = "vfioctl.capture/v1"
_FAMILY = "vfioctl.capture/"


class BadCapture(OSError):
    """A capture that cannot be used; `strerror` says what is wrong with it."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(errno.EINVAL, reason, path or None)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Paths are canonical (without links), absolute as on the host; the root directory is "".

    `errors` maps a path to the errno that reading it gave; `listings` a directory to all its names
    where the capture's files do not show them; `complete` names directories whose files do;
    `nodes` maps a device node to (`c` or `b`, major, minor), `modified` a file, as it was
    asked for, to the time of its last change in seconds since 1970.
    """

    LIMIT_BYTES: ClassVar[int] = 64 * 1024 * 1024

    boot_id: str
    privileged: bool
    collector: str
    errors: Mapping[str, int]
    listings: Mapping[str, tuple[str, ...]]
    complete: frozenset[str]
    empty_dirs: frozenset[str]
    nodes: Mapping[str, tuple[str, int, int]]
    below: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modified: Mapping[str, int] = field(default_factory=dict)

    def lists(self, directory: str) -> bool:
        """True when the recorder saw every name in this directory."""
        return directory in self.listings or directory in self.complete

    def lacks_above(self, path: str) -> bool:
        """True when something on the way to `path` was seen to be missing."""
        while path := path.rpartition("/")[0]:
            if self.errors.get(path) in (errno.ENOENT, errno.ENOTDIR):
                return True
        return False

    def encode(self) -> bytes:
        """Canonical bytes: sorted, indented, a newline at the end."""
        document = {
            "schema": SCHEMA,
            "boot_id": self.boot_id,
            "privileged": self.privileged,
            "collector": self.collector,
            "errors": dict(self.errors),
            "listings": {path: list(names) for path, names in self.listings.items()},
            "complete": sorted(self.complete),
            "empty_dirs": sorted(self.empty_dirs),
            "nodes": {path: list(node) for path, node in self.nodes.items()},
            "modified": dict(self.modified),
        }
        return (json.dumps(document, sort_keys=True, indent=0) + "\n").encode("ascii")


def read_manifest(data: bytes) -> Manifest | None:
    """The manifest in these bytes; None when it is some other program's `manifest.json`.

    BadCapture for a damaged one and for a schema this version does not know.
    """
    if len(data) > Manifest.LIMIT_BYTES:
        raise BadCapture(f"{MANIFEST} is larger than {Manifest.LIMIT_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadCapture(f"{MANIFEST} is not JSON: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith(_FAMILY):
        return None
    if schema != SCHEMA:
        raise BadCapture(f"{MANIFEST} has schema {schema!r}, this version reads {SCHEMA!r}")
    try:
        return _parse(document)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadCapture(f"{MANIFEST} is damaged: {type(error).__name__}: {error}") from error


def _parse(document: dict[str, object]) -> Manifest:
    empty = frozenset(map(str, _list(document["empty_dirs"])))
    nodes = {
        str(path): (str(node[0]), int(node[1]), int(node[2]))
        for path, node in _dict(document["nodes"]).items()
    }
    listings = {
        str(path): tuple(map(str, _list(names)))
        for path, names in _dict(document["listings"]).items()
    }
    complete = frozenset(map(str, _list(document["complete"])))
    # older captures have none
    modified = {str(p): int(t) for p, t in _dict(document.get("modified", {})).items()}
    folders = (node.rpartition("/")[0] for node in nodes)
    return Manifest(
        boot_id=str(document["boot_id"]),
        privileged=document["privileged"] is True,
        collector=str(document["collector"]),
        errors={str(path): int(number) for path, number in _dict(document["errors"]).items()},
        listings=listings,
        complete=complete,
        empty_dirs=empty,
        nodes=nodes,
        below=names_below((*empty, *listings, *complete, *folders)),
        modified=modified,
    )


_PATH_CHARS = 4096
"""PATH_MAX of Linux; each step up a path costs its length."""


def names_below(directories: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By directory the names in it that lead to any of these, which are directories themselves."""
    found: dict[str, set[str]] = {}
    for path in directories:
        if len(path) > _PATH_CHARS:
            raise ValueError(f"a path of {len(path)} characters")
        while path:
            path, _, name = path.rpartition("/")
            found.setdefault(path, set()).add(name)
    return {path: tuple(sorted(names)) for path, names in found.items()}


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value
