"""Imported ZFS pools and the disks that they are made of, without asking zpool.

The kernel module lists imported pools in /proc/spl/kstat/zfs; /etc/zfs/zpool.cache, an XDR-packed
list of names and values, holds the tree of virtual devices of each. Any bytes give a tree or None:
sizes, counts and depth are bounded, and a pool of which one disk was not understood is not known at
all. This module must never take a pool that is not in the cache for one without disks.
Source: OpenZFS module/nvpair/nvpair.c (nvs_xdr), module/zfs/spa_config.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct

from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import LIMIT_BYTES, NotCaptured

CACHE = "/etc/zfs/zpool.cache"
KSTAT = "/proc/spl/kstat/zfs"
_MODULES = "/proc/modules"

_U32 = Struct(">I").unpack_from
_HEADER = b"\x01"
"""nvs_header_t: encoding 1 is XDR; then byte order and two reserved bytes."""

_STRING, _NVLIST, _NVLIST_ARRAY = 9, 19, 20
_MAX_DEPTH = 16
"""Root, mirror or raidz, replacing, spare, disk: five levels in practice."""

_MAX_PAIRS = 200_000
_CHILDREN = ("children", "l2cache", "spares")
_WITHOUT_DISK = frozenset({"hole", "indirect", "missing", "dspare"})
"""Virtual devices that stand for none: removed ones, and the spare space of a draid."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A disk (or partition) or a file that a pool is made of, by the path it was opened at."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class _List:
    """What matters of one list: its strings and the lists in it."""

    texts: Mapping[str, str]
    lists: Mapping[str, tuple[_List, ...]]


class _Broken(ValueError):
    """The bytes are no such list."""


def list_imported(reader: Reader) -> tuple[str, ...] | None:
    """Names of the imported pools; () where there is no ZFS, None + gap when not known."""
    try:
        names = reader.root.list(KSTAT)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        if isinstance(error, NotCaptured) and _is_not_loaded(reader):
            return ()
        reader.gap(KSTAT, error, f"ls {KSTAT}")
        return None
    found = []
    folders = reader.root.list_many([f"{KSTAT}/{name}" for name in names])
    for name, below in zip(names, folders, strict=True):
        if not isinstance(below, OSError):
            found.append(name)
        elif not isinstance(below, NotADirectoryError):
            reader.gap(f"{KSTAT}/{name}", below, f"ls {KSTAT}")
            return None
    return tuple(found)


def _is_not_loaded(reader: Reader) -> bool:
    """True when the list of modules was captured and ZFS, which is never built in, is not there."""
    try:
        text = decode(reader.root.read(_MODULES))
    except OSError:
        return False
    return bool(text) and not any(line.split()[:1] == ["zfs"] for line in text.split("\n"))


def read_pools(reader: Reader) -> Mapping[str, tuple[Leaf, ...] | None]:
    """Disks and files by pool, as far as the cache holds them; None for a pool not understood."""
    try:
        data = reader.root.read(CACHE)
    except OSError as error:
        reader.gap(CACHE, error, "zpool status -P")
        return {}
    found = None if len(data) >= LIMIT_BYTES else parse_cache(data)
    if found is None:
        reader.gap(CACHE, "not a pool cache that can be read", "zpool status -P")
    return found or {}


def parse_cache(data: bytes) -> Mapping[str, tuple[Leaf, ...] | None] | None:
    """Disks and files by pool; None when these bytes are no pool cache."""
    if data[:1] != _HEADER or len(data) < 12:
        return None
    try:
        top, _ = _Parser(data).read_list(4, len(data), 0)
    except _Broken:
        return None
    found: dict[str, tuple[Leaf, ...] | None] = {}
    for name, configs in top.lists.items():
        trees = [tree for config in configs for tree in config.lists.get("vdev_tree", ())]
        try:
            leaves = tuple(dict.fromkeys(leaf for tree in trees for leaf in _leaves(tree)))
        except _Broken:
            leaves = ()
        found[name] = leaves or None
    return found


def _leaves(device: _List) -> Iterator[Leaf]:
    """The disks and files below a virtual device; _Broken where one is neither."""
    below = [child for name in _CHILDREN for child in device.lists.get(name, ())]
    kind, path = device.texts.get("type", ""), device.texts.get("path", "")
    if kind in ("disk", "file") and path.startswith("/"):
        yield Leaf(kind, path)
    elif not below and kind not in _WITHOUT_DISK:
        raise _Broken
    for child in below:
        yield from _leaves(child)


class _Parser:
    """Reads nested lists; every position is checked against the end of what holds it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pairs = 0

    def read_list(self, start: int, end: int, depth: int) -> tuple[_List, int]:
        """The list at `start` and the position behind it."""
        if depth > _MAX_DEPTH:
            raise _Broken
        texts: dict[str, str] = {}
        lists: dict[str, tuple[_List, ...]] = {}
        place = start + 8  # version and flags
        while True:
            size = self._number(place, end)
            if size == 0:
                return _List(texts, lists), place + 8
            self._pairs += 1
            if size < 20 or place + size > end or self._pairs > _MAX_PAIRS:
                raise _Broken
            self._read_pair(place + 8, place + size, depth, texts, lists)
            place += size

    def _read_pair(
        self,
        place: int,
        end: int,
        depth: int,
        texts: dict[str, str],
        lists: dict[str, tuple[_List, ...]],
    ) -> None:
        name, place = self._text(place, end)
        kind, count = self._number(place, end), self._number(place + 4, end)
        place += 8
        if kind == _STRING:
            texts[name], _ = self._text(place, end)
        elif kind in (_NVLIST, _NVLIST_ARRAY):
            found = []
            for _ in range(1 if kind == _NVLIST else count):
                below, place = self.read_list(place, end, depth + 1)
                found.append(below)
            lists[name] = tuple(found)

    def _number(self, place: int, end: int) -> int:
        if place + 4 > end:
            raise _Broken
        number: int = _U32(self._data, place)[0]
        return number

    def _text(self, place: int, end: int) -> tuple[str, int]:
        length = self._number(place, end)
        stop = place + 4 + length
        if stop > end:
            raise _Broken
        text = self._data[place + 4 : stop].decode("utf-8", "backslashreplace")
        return text, place + 4 + (length + 3 & ~3)
