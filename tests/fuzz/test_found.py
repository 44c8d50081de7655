"""What the long runs found, so that it stays found."""

from __future__ import annotations

import json

import pytest

from vfio_agent.collect.manifest import SCHEMA, BadCapture, read_manifest

WHOLE = {
    "schema": SCHEMA,
    "boot_id": "",
    "privileged": True,
    "collector": "x",
    "errors": {},
    "listings": {},
    "complete": [],
    "empty_dirs": [],
    "nodes": {},
}


@pytest.mark.parametrize(
    "damage",
    [
        {"nodes": {"/dev/kvm": ["c", 10]}},
        {"errors": {"/a": float("inf")}},
        {"complete": ["/" * 60_000]},
    ],
    ids=["a node without its number", "a number without an end", "a path beyond all paths"],
)
def test_a_damaged_manifest_is_refused(damage: dict[str, object]) -> None:
    assert read_manifest(json.dumps(WHOLE).encode()) is not None
    with pytest.raises(BadCapture, match="damaged"):
        read_manifest(json.dumps(WHOLE | damage).encode())
