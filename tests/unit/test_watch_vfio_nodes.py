"""Who opens and closes VFIO nodes: inotify, and the counter that no namespace hides."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from vfio_agent.watch.signals import Happening, Part, Sign, want
from vfio_agent.watch.vfio_nodes import PER_S, POLL_S, VfioNodes
from vfio_contract.address import Address

GPU, NIC = Address("0000:01:00.0"), Address("0000:02:00.0")


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    path = tmp_path / "dev" / "vfio"
    path.mkdir(parents=True)
    for name in ("14", "vfio", "noiommu-3", "README"):
        (path / name).write_text("")
    return path


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    path = tmp_path / "devices"
    for address in (GPU, NIC):
        (path / address).mkdir(parents=True)
        (path / address / "enable").write_text("0\n")
    return path


@pytest.fixture
def source(dev: Path, sysfs: Path) -> Iterator[VfioNodes]:
    opened = VfioNodes(folders=[str(dev), str(dev / "devices")], devices=str(sysfs))
    yield opened
    opened.close()


def test_opening_and_closing_a_group_is_noticed(source: VfioNodes, dev: Path) -> None:
    node = "/dev/vfio/14"
    with (dev / "14").open():
        (opened,) = source.read()
    assert opened.wanted == want(Part.HOLDERS)
    assert opened.happened == ((Happening(Sign.OPENED, node), 1),)
    (closed,) = source.read()
    assert closed.wanted == want(Part.HOLDERS)
    assert closed.happened == ((Happening(Sign.CLOSED, node), 1),)
    assert source.read() == []


@pytest.mark.parametrize("name", ["vfio", "README"])
def test_the_container_and_other_files_hold_no_device(
    source: VfioNodes, dev: Path, name: str
) -> None:
    (dev / name).read_text()
    assert source.read() == []


def test_a_collector_that_lists_the_folder_does_not_set_itself_off(
    source: VfioNodes, dev: Path
) -> None:
    (dev / "devices").mkdir()
    source.read()
    for folder in (dev, dev / "devices"):
        os.listdir(folder)
    assert source.read() == []


def test_device_nodes_are_watched_when_their_folder_appears(source: VfioNodes, dev: Path) -> None:
    (dev / "devices").mkdir()
    source.read()
    (dev / "devices" / "vfio0").write_text("")
    assert {s.wanted for s in source.read()} == {want(Part.HOLDERS)}


def test_nothing_is_looked_at_before_something_is_bound(source: VfioNodes) -> None:
    assert source.due_at() == inf
    source.know([GPU], 10.0)
    assert source.due_at() == 10.0 + POLL_S
    source.know([], 11.0)
    assert source.due_at() == inf


def test_many_functions_are_compared_less_often(source: VfioNodes, sysfs: Path) -> None:
    many = [Address(f"0000:{bus:02x}:00.0") for bus in range(3, 131)]
    for address in many:
        (sysfs / address).mkdir()
        (sysfs / address / "enable").write_text("0\n")
    source.know([*many, *many], 10.0)
    assert source.due_at() == 10.0 + len(many) / PER_S == 11.0


def test_a_counter_that_moves_is_an_open_device(source: VfioNodes, sysfs: Path) -> None:
    source.know([GPU, NIC], 0.0)
    assert source.tick(0.5) == []
    (sysfs / GPU / "enable").write_text("1\n")
    (signal,) = source.tick(1.0)
    assert signal.wanted == want(Part.HOLDERS, functions=(GPU,))
    assert source.tick(1.5) == []
    assert source.due_at() == 1.5 + POLL_S


def test_a_function_that_has_gone_is_left_alone(source: VfioNodes, sysfs: Path) -> None:
    shutil.rmtree(sysfs / NIC)
    source.know([GPU, NIC], 0.0)
    assert source.gaps() == ()
    assert source.tick(0.5) == []


def test_a_counter_that_cannot_be_followed_is_a_gap(source: VfioNodes, sysfs: Path) -> None:
    (sysfs / NIC / "enable").unlink()
    (sysfs / NIC / "enable").mkdir()
    source.know([GPU, NIC], 0.0)
    (gap,) = source.gaps()
    assert str(NIC) in gap.path
    source.know([GPU], 0.0)
    assert source.gaps() == ()


def test_the_counters_of_this_machine_can_be_followed(dev: Path) -> None:
    present = [Address(name) for name in os.listdir("/sys/bus/pci/devices")]
    source = VfioNodes(folders=[str(dev)])
    try:
        source.know(present, 0.0)
        assert source.gaps() == ()
        assert source.tick(0.5) == []
    finally:
        source.close()


def test_descriptors_are_given_back(source: VfioNodes) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        source.know([GPU, NIC], 0.0)
        source.know([], 0.0)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes and mount namespaces need root")
def test_what_inotify_sees_of_device_nodes_on_devtmpfs() -> None:
    """An open in the host's /dev is seen; one of a node that libvirt made in a namespace is not,
    which is why the counters are compared."""
    folder = Path(f"/dev/vfioctl-test-{os.getpid()}")
    folder.mkdir()
    try:
        os.mknod(folder / "14", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        source = VfioNodes(folders=[str(folder)])
        try:
            private = (
                "import ctypes, os, stat, sys\n"
                "libc = ctypes.CDLL(None)\n"
                "assert libc.unshare(0x20000) == 0\n"
                "assert libc.mount(None, b'/', None, 0x44000, None) == 0\n"
                "folder = sys.argv[1]\n"
                "assert libc.mount(b'tmpfs', folder.encode(), b'tmpfs', 0, None) == 0\n"
                "os.mknod(f'{folder}/14', stat.S_IFCHR | 0o600, os.makedev(1, 3))\n"
                "os.close(os.open(f'{folder}/14', os.O_RDWR))\n"
            )
            subprocess.run([sys.executable, "-c", private, str(folder)], check=True)
            assert source.read() == []
            os.close(os.open(folder / "14", os.O_RDWR))
            assert {s.wanted for s in source.read()} == {want(Part.HOLDERS)}
        finally:
            source.close()
    finally:
        shutil.rmtree(folder)
