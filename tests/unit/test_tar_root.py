"""Tars from anywhere: capped, never climbing out, refused with a reason; and their manifest."""

from __future__ import annotations

import errno
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.captured import (
    CAPTURED,
    NIC,
    PORT,
    Mode,
    Opener,
    file_member,
    link_member,
    make_tree,
    pack,
    tar_of,
)
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import manifest as manifest_module
from vfio_agent.collect import tar_root
from vfio_agent.collect.manifest import BadCapture, Manifest, read_manifest
from vfio_agent.collect.root import LiveRoot, NotCaptured, Root, open_root


def test_a_root_may_hold_only_a_kernel_log(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "log.tar", file_member("dmesg", b"[    0.0] Linux version 6.1\n"))
    root = open_root(str(path))
    assert root.read("/dmesg").startswith(b"[    0.0]")
    with pytest.raises(NotCaptured):
        root.list("/sys/bus/pci/devices")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([file_member("../etc/passwd")], "climbs out"),
        ([file_member("sys/../../x")], "climbs out"),
        ([file_member("sys/a"), file_member("sys/a/b")], "directory and something else"),
        ([link_member("sys/a", "/etc"), file_member("sys/a/passwd")], "directory and something"),
    ],
)
def test_a_tar_that_climbs_or_overlaps_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], reason: str, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "bad.tar", *members)
    with pytest.raises(BadCapture, match=reason) as caught:
        open_root(str(path))
    assert str(path) in str(caught.value)


def test_hard_links_and_device_nodes_of_a_tar_are_left_out(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "odd.tar",
        file_member("etc/shadow", b"secret"),
        link_member("sys/hard", "etc/shadow", tarfile.LNKTYPE),
        link_member("dev/mem", "", tarfile.CHRTYPE),
        link_member("dev/pipe", "", tarfile.FIFOTYPE),
        file_member("/sys/absolute", b"kept"),
    )
    root = open_root(str(path))
    for name in ("/sys/hard", "/dev/mem", "/dev/pipe"):
        with pytest.raises(NotCaptured):
            root.read(name)
    assert root.read("/sys/absolute") == b"kept"


def test_caps_of_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "host"
    top.mkdir()
    (top / "dmesg").write_bytes(bytes(3_000_000))
    packed = pack(top, tmp_path / "bomb.tar.gz")
    assert packed.stat().st_size < 10_000
    monkeypatch.setattr(tar_root, "MAX_MEMBER_BYTES", 2_000_000)
    with pytest.raises(BadCapture, match="dmesg' is larger than 2000000"):
        open_root(str(packed))
    monkeypatch.setattr(tar_root, "MAX_TOTAL_BYTES", 1_000_000)
    with pytest.raises(BadCapture, match="larger than 1000000 bytes when unpacked"):
        open_root(str(packed))
    xz = pack(top, tmp_path / "bomb.tar.xz", mode="w:xz")
    with pytest.raises(BadCapture):
        open_root(str(xz))
    monkeypatch.undo()
    monkeypatch.setattr(tar_root, "MAX_MEMBERS", 1)
    with pytest.raises(BadCapture, match="more than 1 members"):
        open_root(str(packed))


@pytest.mark.parametrize("keep", [0, 1, 15, 300, -9, -1])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_a_cut_tar_is_refused_or_whole(mode: Mode, keep: int, tmp_path: Path) -> None:
    whole = pack(make_tree(tmp_path / "host").top, tmp_path / "t", mode=mode).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[:keep])
    root = open_or_refusal(path)
    if isinstance(root, str):
        assert str(path) in root
    else:
        # only the padding at the end of a plain tar may be missing
        assert mode == "w"
        assert root.read(f"{NIC}/vendor") == b"0x8086\n"


def open_or_refusal(path: Path) -> Root | str:
    try:
        return open_root(str(path))
    except BadCapture as error:
        return str(error)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_a_tar_or_a_clear_refusal(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    for head in (b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00"):
        path.write_bytes(head + data)
        assert open_or_refusal(path)


def test_a_missing_capture_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_root(str(tmp_path / "nope.tar"))


def test_open_root_takes_the_running_host_for_slash() -> None:
    assert isinstance(open_root("/"), LiveRoot)
    assert isinstance(open_root("//"), LiveRoot)


# --- manifest ------------------------------------------------------------------------------------


def own_capture(top: Path) -> SysfsTree:
    tree = make_tree(top)
    manifest = Manifest(
        boot_id="b-1",
        privileged=True,
        collector="vfioctl 0",
        errors={
            "/sys/class/iommu": errno.ENOENT,
            f"{NIC}/sriov_numvfs": errno.ETIMEDOUT,
            "/proc/1/environ": errno.EACCES,
        },
        listings={NIC: ("config", "rom", "vendor"), "/dev/vfio": ("17", "vfio")},
        complete=frozenset({"/sys/bus/pci/devices", "/sys/kernel/empty"}),
        empty_dirs=frozenset({"/sys/kernel/empty"}),
        nodes={"/dev/vfio/17": ("c", 239, 0)},
    )
    tree.write("/manifest.json", manifest.encode())
    return tree


@pytest.mark.parametrize("opener", CAPTURED)
def test_replay_serves_the_manifest(opener: Opener, tmp_path: Path) -> None:
    root = opener(own_capture(tmp_path / "host").top, tmp_path)
    assert root.privileged is True
    assert root.list("/sys/kernel/empty") == []
    assert root.list("/dev/vfio") == ["17", "vfio"]
    assert root.list("/sys/bus/pci/devices/0000:01:00.0") == ["config", "rom", "vendor"]
    assert root.list("/sys/bus/pci/devices") == ["0000:00:02.0", "0000:01:00.0"]
    for path in ("/sys/class/iommu", "/sys/class/iommu/dmar0", f"{NIC}/physfn"):
        with pytest.raises(FileNotFoundError):
            root.read(path)
        assert root.authoritative(path)
    with pytest.raises(PermissionError):
        root.read("/proc/1/environ")
    with pytest.raises(TimeoutError, match="when it was captured"):
        root.read(f"{NIC}/sriov_numvfs")
    # never asked: its directory was not listed, or its content not read
    for path in ("/etc/hosts", f"{PORT}/physfn", f"{NIC}/rom", "/dev/vfio/17"):
        with pytest.raises(NotCaptured):
            root.read(path)
    with pytest.raises(NotCaptured):
        root.list("/proc")
    assert not root.authoritative("/etc/hosts")
    assert "manifest.json" not in root.list("/") if root.authoritative("/no") else True


def test_somebody_elses_manifest_is_no_authority(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "host")
    tree.write("/manifest.json", json.dumps({"schema": "other/v1", "errors": {"/x": 2}}))
    root = open_root(str(tree.top))
    with pytest.raises(NotCaptured):
        root.read("/x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ('{"schema": "vfioctl.capture/v9"}', "v9"),
        ('{"schema": "vfioctl.capture/v1"}', "damaged: KeyError: 'empty_dirs'"),
        ('{"schema": "vfioctl.capture/v1", "empty_dirs": 5}', "expected a list"),
    ],
)
def test_a_damaged_manifest_is_refused_with_its_reason(
    text: str, reason: str, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "host")
    tree.write("/manifest.json", text)
    for opener in CAPTURED:
        with pytest.raises(BadCapture, match=reason):
            opener(tree.top, tmp_path)


def test_a_huge_manifest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module.Manifest, "LIMIT_BYTES", 10)
    with pytest.raises(BadCapture, match="larger than"):
        read_manifest(b" " * 11)
