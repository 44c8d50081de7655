"""Roots: live, captured directory, captured tar: same answers, no escapes, no hangs."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import manifest as manifest_module
from vfio_agent.collect import tar_root
from vfio_agent.collect.deadline import Deadline
from vfio_agent.collect.manifest import BadCapture, Manifest, read_manifest
from vfio_agent.collect.reader import REMEDY_ROOT, Reader
from vfio_agent.collect.root import LiveRoot, NotCaptured, Root, open_root, read_kmsg
from vfio_agent.collect.tar_root import TarRoot
from vfio_agent.collect.tree_root import DirectoryRoot

Mode = Literal["w", "w:gz", "w:bz2", "w:xz"]

PORT = "/sys/devices/pci0000:00/0000:00:02.0"
NIC = f"{PORT}/0000:01:00.0"


def make_tree(top: Path) -> SysfsTree:
    tree = SysfsTree(top)
    tree.host()
    tree.bridge("0000:00:02.0", group=0)
    tree.function("0000:01:00.0", parent="0000:00:02.0", driver="e1000e", group=1)
    return tree


def pack(top: Path, target: Path, *, prefix: str = "", mode: Mode = "w:gz") -> Path:
    with tarfile.open(target, mode) as tar:
        tar.add(top, arcname=prefix or ".")
    return target


def tar_of(target: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(target, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target


def file_member(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def link_member(
    name: str, target: str, kind: bytes = tarfile.SYMTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def errno_of(ask: Callable[[str], object], path: str) -> int | None:
    try:
        ask(path)
    except OSError as error:
        return error.errno
    return None


def open_live(top: Path, work: Path) -> Root:
    return LiveRoot(str(top))


def open_directory(top: Path, work: Path) -> Root:
    return open_root(str(top))


def open_tar(top: Path, work: Path) -> Root:
    return open_root(str(pack(top, work / "host.tar.gz")))


def open_prefixed_tar(top: Path, work: Path) -> Root:
    return open_root(str(pack(top, work / "host.tar.bz2", prefix="alpha", mode="w:bz2")))


CAPTURED = (open_directory, open_tar, open_prefixed_tar)
Opener = Callable[[Path, Path], Root]


@pytest.mark.parametrize("opener", [open_live, *CAPTURED])
def test_every_root_gives_the_same_answers(opener: Opener, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "host")
    tree.write("/proc/empty", b"")
    root = opener(tree.top, tmp_path)
    assert root.read("/sys/bus/pci/devices/0000:01:00.0/vendor") == b"0x8086\n"
    assert root.read("/sys/bus/pci/devices/0000:01:00.0/config", limit=6)[:2] == b"\x86\x80"
    assert len(root.read("/sys/bus/pci/devices/0000:01:00.0/config", limit=6)) == 6
    assert root.read("/proc/empty") == b""
    assert root.list("/sys/bus/pci/devices") == ["0000:00:02.0", "0000:01:00.0"]
    assert root.list("/sys/kernel/iommu_groups/1/devices") == ["0000:01:00.0"]
    driver = "/sys/bus/pci/devices/0000:01:00.0/driver"
    assert root.link(driver).endswith("/bus/pci/drivers/e1000e")
    assert root.real("/sys/bus/pci/devices/0000:01:00.0") == NIC
    assert root.real(f"{NIC}/iommu_group/devices/0000:01:00.0/../0000:01:00.0/vendor") == (
        f"{NIC}/vendor"
    )
    good, missing, again = root.read_many([f"{NIC}/vendor", "/nope", f"{NIC}/class"])
    assert (good, again) == (b"0x8086\n", b"0x020000\n")
    assert isinstance(missing, OSError)
    listed = root.list_many(["/sys/bus/pci/drivers", "/nope"])
    assert listed[0] == ["e1000e", "pcieport"]
    assert isinstance(listed[1], OSError)
    assert errno_of(root.read, "/sys/bus/pci/devices") == errno.EISDIR
    assert errno_of(root.link, f"{NIC}/vendor") == errno.EINVAL
    assert errno_of(root.list, f"{NIC}/vendor") == errno.ENOTDIR


@pytest.mark.parametrize("opener", CAPTURED)
def test_a_missing_path_is_proof_only_on_the_live_host(opener: Opener, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "host")
    captured = opener(tree.top, tmp_path)
    for ask in (captured.read, captured.list, captured.link, captured.real):
        with pytest.raises(NotCaptured) as caught:
            ask("/sys/class/iommu/dmar0")
        assert caught.value.errno == 0
    assert not captured.authoritative("/sys/class/iommu")
    assert not captured.live
    assert captured.privileged is None
    live = LiveRoot(str(tree.top))
    with pytest.raises(FileNotFoundError):
        live.list("/sys/class/iommu")
    assert live.authoritative("/sys/class/iommu")


@pytest.mark.parametrize("opener", CAPTURED)
def test_links_resolve_inside_the_capture(opener: Opener, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    tree = SysfsTree(tmp_path / "host")
    tree.write("/etc/inside", "inside")
    tree.at("/sys").mkdir()
    tree.at("/sys/absolute").symlink_to("/etc/inside")
    tree.at("/sys/dots").symlink_to("../../../../../../etc/inside")
    tree.at("/sys/out").symlink_to(tmp_path / "secret")
    tree.at("/sys/dots-out").symlink_to("../../secret")
    tree.at("/sys/folder").symlink_to("/etc")
    root = opener(tree.top, tmp_path)
    assert root.read("/sys/absolute") == b"inside"
    assert root.read("/sys/dots") == b"inside"
    assert root.read("/sys/folder/inside") == b"inside"
    assert root.read("/sys/../../../etc/inside") == b"inside"
    assert root.real("/sys/folder/inside") == "/etc/inside"
    for path in ("/sys/out", "/sys/dots-out", "/../secret", str(tmp_path / "secret")):
        with pytest.raises(NotCaptured):
            root.read(path)


@pytest.mark.parametrize("opener", [open_live, *CAPTURED])
def test_a_cyclic_link_is_an_error_that_says_so(opener: Opener, tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "host")
    tree.mkdir("/sys/a")
    tree.at("/sys/a/self").symlink_to("self")
    tree.at("/sys/a/one").symlink_to("two")
    tree.at("/sys/a/two").symlink_to("../a/one")
    tree.at("/sys/a/down").symlink_to("down/down")
    root = opener(tree.top, tmp_path)
    for name in ("self", "one", "two", "down"):
        assert errno_of(root.read, f"/sys/a/{name}/vendor") == errno.ELOOP
        assert errno_of(root.real, f"/sys/a/{name}") == errno.ELOOP
    assert root.link("/sys/a/self") == "self"


TARGETS = st.sampled_from(
    ["/", "..", "../..", "../../..", "a", "b/c", "../a/b", "/a/b", "/secret", "../../secret", "."]
)
NAMES = st.sampled_from(["a", "b", "c", "a/b", "b/a", "a/b/c", "c/c"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.dictionaries(NAMES, TARGETS, max_size=6),
    asked=st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "secret"]), max_size=8),
)
def test_no_path_leaves_a_capture(links: dict[str, str], asked: list[str], tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    top = place / "host"
    top.mkdir(parents=True, exist_ok=True)
    (place / "secret").write_text("outside")
    for name, target in links.items():
        path = top / name
        if not any(p.is_symlink() for p in path.parents) and not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
    for root in (DirectoryRoot(str(top)), TarRoot(str(pack(top, place / "t.tar", mode="w")))):
        for ask in (root.read, root.list, root.real, root.link):
            try:
                answer = ask("/" + "/".join(asked))
            except OSError:
                continue
            assert answer != b"outside"
            assert "secret" not in answer or not isinstance(answer, list)


# --- deadline ------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A file whose open blocks until somebody writes; lets the stuck reader go at the end."""
    path = tmp_path / "sys" / "blocked"
    path.parent.mkdir()
    os.mkfifo(path)
    yield path
    release(path)


def release(path: Path) -> None:
    if path.is_fifo():
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "collect-read"]


def test_a_blocked_read_is_an_error_and_the_rest_goes_on(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "sys" / "free").write_text("1\n")
    root = LiveRoot(str(tmp_path), deadline_s=0.2)
    results = root.read_many(["/sys/free", "/sys/blocked", "/sys/free", "/sys/free"])
    assert [r for r in results if isinstance(r, bytes)] == [b"1\n"] * 3
    blocked = results[1]
    assert isinstance(blocked, TimeoutError)
    assert blocked.errno == errno.ETIMEDOUT
    assert blocked.strerror == "blocked for 0.2 s"


def test_a_stuck_path_is_not_read_twice_at_once(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "sys" / "free").write_text("1\n")
    root = LiveRoot(str(tmp_path), deadline_s=0.2)
    before = set(readers())
    with pytest.raises(TimeoutError, match="blocked for"):
        root.read("/sys/blocked")
    (stuck,) = set(readers()) - before
    assert root.read("/sys/free") == b"1\n"
    with pytest.raises(TimeoutError, match="still blocked"):
        root.read("/sys/blocked")
    assert root.read_many(["/sys/free", "/sys/blocked"])[0] == b"1\n"
    again = LiveRoot(str(tmp_path), deadline_s=0.2)
    with pytest.raises(TimeoutError, match="still blocked"):
        again.read("/sys/blocked")
    release(fifo)
    stuck.join(timeout=30)
    assert not stuck.is_alive()
    fifo.unlink()
    fifo.write_text("2\n")
    assert root.read("/sys/blocked") == b"2\n"


def test_a_blocked_read_is_a_gap_with_its_path(tmp_path: Path, fifo: Path) -> None:
    reader = Reader(LiveRoot(str(tmp_path), deadline_s=0.2))
    assert reader.text("/sys/blocked") is None
    assert [(g.path, g.errno, g.reason) for g in reader.gaps] == [
        ("/sys/blocked", errno.ETIMEDOUT, "blocked for 0.2 s")
    ]


def test_a_captured_fifo_does_not_block_at_all(tmp_path: Path, fifo: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        DirectoryRoot(str(tmp_path)).read("/sys/blocked")


def test_an_idle_worker_ends_with_its_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    before = set(readers())
    root = LiveRoot(str(tmp_path))
    assert root.read("/file") == b"1"
    (worker,) = set(readers()) - before
    del root
    gc.collect()
    worker.join(timeout=30)
    assert not worker.is_alive()


def test_other_exceptions_reach_the_caller_and_leave_the_worker_usable() -> None:
    deadline = Deadline(10)

    def explode(path: str) -> str:
        if path == "/bad":
            raise KeyError(path)
        return path

    with pytest.raises(KeyError):
        deadline.run(explode, ["/good", "/bad", "/good"])
    assert deadline.run(explode, ["/good"]) == ["/good"]
    assert deadline.run(explode, []) == []
    deadline.close()
    assert deadline.run(explode, ["/good"]) == ["/good"]


def test_a_nul_in_a_path_is_an_error_like_any_other(tmp_path: Path) -> None:
    make_tree(tmp_path / "host")
    for opener in (open_live, open_directory, open_tar):
        root = opener(tmp_path / "host", tmp_path)
        (result,) = root.read_many(["/sys/\0"])
        assert isinstance(result, OSError)


# --- tar -----------------------------------------------------------------------------------------


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


# --- reader --------------------------------------------------------------------------------------


def test_reader_tells_absent_from_not_captured(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "host")
    live, captured = Reader(LiveRoot(str(tree.top))), Reader(open_root(str(tree.top)))
    assert live.optional("/proc/none") == ""
    assert live.optional_names("/proc/none") == ()
    assert live.link_name("/proc/none") == ""
    assert live.real("/proc/none") == ""
    assert [gap.path for gap in live.gaps] == []
    assert live.text("/proc/none") is None
    assert [gap.errno for gap in live.gaps] == [errno.ENOENT]
    assert captured.optional("/proc/none") is None
    assert captured.optional_names("/proc/folder") is None
    assert captured.link_name("/proc/link") is None
    assert captured.real("/proc/real") is None
    assert [(g.path, g.errno, g.reason, g.remedy) for g in captured.gaps] == [
        ("/proc/none", 0, "not captured", "cat /proc/none"),
        ("/proc/folder", 0, "not captured", "ls /proc/folder"),
        ("/proc/link", 0, "not captured", "readlink /proc/link"),
        ("/proc/real", 0, "not captured", "readlink -f /proc/real"),
    ]


def test_reader_names_the_command_that_would_have_shown_it(tmp_path: Path) -> None:
    reader = Reader(LiveRoot(str(tmp_path)))
    reader.gap("/sys/x", PermissionError(errno.EACCES, "Permission denied", "/sys/x"))
    reader.gap("/sys/y", PermissionError(errno.EACCES, "Permission denied"), "sudo cat /sys/y")
    reader.gap("/sys/x", "a second reason for the same path is not kept")
    assert [(g.path, g.remedy) for g in reader.gaps] == [
        ("/sys/x", REMEDY_ROOT),
        ("/sys/y", "sudo cat /sys/y"),
    ]


def test_reader_shows_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.write("/sys/odd", b" caf\xe9 \xff\n")
    reader = Reader(LiveRoot(str(tmp_path)))
    assert reader.text("/sys/odd") == "caf\\xe9 \\xff"
    assert reader.texts(["/sys/odd", "/sys/none"]) == ["caf\\xe9 \\xff", None]
    assert reader.optional_texts(["/sys/odd", "/sys/none"]) == ["caf\\xe9 \\xff", ""]


def test_kmsg_of_a_test_tree_is_read_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(b"6,1,0,-;Linux version 6.1\n")
    assert read_kmsg(str(path), 1 << 20) == b"6,1,0,-;Linux version 6.1\n"
    assert read_kmsg(str(path), 3) == b"6,1"
