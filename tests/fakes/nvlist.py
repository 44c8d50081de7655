"""ZFS's zpool.cache made of named parts: an XDR-packed list of names and values.

Written from the format (OpenZFS nvpair.c), without the product's parser. A number is a uint64, a
text a string, a dict a list, a list of dicts an array of lists.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

_UINT64, _STRING, _NVLIST, _NVLIST_ARRAY = 8, 9, 19, 20


def pack(values: Mapping[str, Any]) -> bytes:
    """A whole file: the header of an XDR encoding, then the list."""
    return b"\x01\x01\x00\x00" + _list(values)


def make_pool(*vdevs: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A pool's configuration with these top-level virtual devices."""
    tree = {"type": "root", "id": 0, "guid": 1, "children": list(vdevs)} | changes
    return {"version": 5000, "name": "pool", "state": 0, "vdev_tree": tree}


def disk(path: str) -> dict[str, Any]:
    return {"type": "disk", "id": 0, "guid": 77, "path": path, "whole_disk": 1}


def _list(values: Mapping[str, Any]) -> bytes:
    return struct.pack(">II", 0, 1) + b"".join(_pair(*row) for row in values.items()) + bytes(8)


def _pair(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        kind, count, body = _STRING, 1, _text(value)
    elif isinstance(value, Mapping):
        kind, count, body = _NVLIST, 1, _list(value)
    elif isinstance(value, Sequence):
        kind, count, body = _NVLIST_ARRAY, len(value), b"".join(map(_list, value))
    else:
        kind, count, body = _UINT64, 1, struct.pack(">Q", value)
    pair = _text(name) + struct.pack(">II", kind, count) + body
    return struct.pack(">II", len(pair) + 8, len(pair) + 40) + pair


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)
