"""The pool cache: trees of virtual devices, and bytes that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.nvlist import disk, make_pool, pack
from vfio_agent.collect.zpool import Leaf, parse_cache

MIRROR = {"type": "mirror", "children": [disk("/dev/sda3"), disk("/dev/sdb3")]}
WHOLE = pack({"rpool": make_pool(MIRROR), "tank": make_pool(disk("/dev/sdc1"))})


def test_every_disk_of_every_pool() -> None:
    assert parse_cache(WHOLE) == {
        "rpool": (Leaf("disk", "/dev/sda3"), Leaf("disk", "/dev/sdb3")),
        "tank": (Leaf("disk", "/dev/sdc1"),),
    }


def test_logs_caches_spares_and_files_count() -> None:
    replacing = {"type": "replacing", "children": [disk("/dev/sde1"), disk("/dev/sdf1")]}
    pool = make_pool(
        {"type": "raidz", "children": [disk("/dev/sda1"), replacing]},
        {"type": "file", "path": "/srv/vdev"},
        disk("/dev/nvme0n1p1") | {"is_log": 1},
        {"type": "hole"},
        {"type": "indirect"},
        l2cache=[disk("/dev/sdg1")],
        spares=[disk("/dev/sdh1")],
    )
    found = parse_cache(pack({"tank": pool}))
    assert found is not None
    leaves = found["tank"]
    assert leaves is not None
    names = ["sda1", "sde1", "sdf1", "vdev", "nvme0n1p1", "sdg1", "sdh1"]
    assert [leaf.path.rpartition("/")[2] for leaf in leaves] == names


@pytest.mark.parametrize("vdev", [{"type": "disk"}, {"type": "disk", "path": "sda"}, {"type": "?"}])
def test_a_pool_with_a_device_that_is_not_understood_is_not_known(vdev: dict[str, str]) -> None:
    assert parse_cache(pack({"tank": make_pool(disk("/dev/sda1"), vdev)})) == {"tank": None}


def test_a_pool_without_any_device_is_not_known() -> None:
    assert parse_cache(pack({"tank": make_pool()})) == {"tank": None}


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\x01", b"\xff" * 64, b"no cache at all"])
def test_what_is_no_cache(data: bytes) -> None:
    assert parse_cache(data) is None


def test_depth_is_bounded() -> None:
    vdev = disk("/dev/sda1")
    for _ in range(40):
        vdev = {"type": "mirror", "children": [vdev]}
    assert parse_cache(pack({"tank": make_pool(vdev)})) is None


@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_cut_cache_never_loses_a_disk_silently(cut: int) -> None:
    found = parse_cache(WHOLE[:cut])
    assert found is None or found == parse_cache(WHOLE)


@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_without_an_exception(place: int, byte: int) -> None:
    parse_cache(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    parse_cache(b"\x01\x01\x00\x00" + data)
