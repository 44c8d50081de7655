"""Captures: what is recorded replays to the same facts, and says no more than was asked.

Length: each scene is one way a capture may lie, and all share one made-up host.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.config_bytes import make_config, pcie, sriov
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.capture import RecordingRoot, capture_host
from vfio_agent.collect.root import LiveRoot, ManyBytes, NotCaptured, open_root
from vfio_agent.collect.tar_root import TarRoot
from vfio_contract.artifact import digest_facts
from vfio_contract.model import Holder, KernelLog, Snapshot

KMSG = (
    b"6,0,0,-;Linux version 6.1.0-56-amd64 (b@h) (gcc 12) #1 SMP Debian 6.1.192-2\n"
    b"6,1,0,-;Command line: root=/dev/vda1 intel_iommu=on\n"
    b"6,2,2000000,-;DMAR: Intel(R) Virtualization Technology for Directed I/O\n"
    b" SUBSYSTEM=pci\n DEVICE=+pci:0000:00:00.0\n"
    b"6,3,3000001,-;Run /init as init process\n"
)


def make_host(top: Path) -> SysfsTree:
    tree = SysfsTree(top)
    tree.host(boot_id="b-1")
    tree.write("/dev/kmsg", KMSG)
    tree.iommu("dmar0")
    tree.bridge("0000:00:02.0", group=0)
    config = make_config(plain=(pcie(flr=True),), extended=(sriov(enabled=1),))
    tree.function(
        "0000:01:00.0",
        parent="0000:00:02.0",
        driver="e1000e",
        group=1,
        config=config,
        files={"rom": "never read", "vpd": "never read", "sriov_totalvfs": "7\n"},
    )
    tree.virtual_function("0000:01:10.0", physfn="0000:01:00.0", index=0, group=2)
    tree.bind("0000:01:10.0", "vfio-pci")
    tree.mkdir(f"{tree.place('0000:01:10.0')}/vfio-dev/vfio0")
    tree.mkdir("/etc/driverctl.d")
    tree.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=8086:10ca\n")
    tree.write("/dev/vfio/2", "")
    tree.write("/dev/vfio/vfio", "")
    tree.hold(1, "systemd", "/run/secret-of-systemd")
    tree.hold(4711, "qemu", "/dev/vfio/vfio", "/dev/vfio/2", "/home/alice/private.qcow2")
    return tree


def comparable(snapshot: Snapshot) -> Snapshot:
    """What a replay must give back; it is not live, and its log is a file."""
    readings = replace(snapshot.readings, live=False, kernel_log=as_file(snapshot))
    return replace(snapshot, readings=readings)


def as_file(snapshot: Snapshot) -> KernelLog | None:
    """Of a file nobody says which times it covers without a gap."""
    log = snapshot.readings.kernel_log
    if log is None:
        return None
    return replace(log, source="dmesg", first_seconds=None, last_seconds=None)


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def extract(path: Path, target: Path) -> Path:
    with tarfile.open(path) as tar:
        tar.extractall(target)  # our own capture; Debian 12's Python has no filters yet
    return target


def test_replay_gives_the_same_snapshot(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    target = tmp_path / "alpha.tar.gz"
    seen = capture_host(str(target), root=LiveRoot(str(tree.top)))
    live = collect_host(LiveRoot(str(tree.top)))
    assert seen == live
    replayed = collect_host(open_root(str(target)))
    assert replayed.facts == live.facts
    assert digest_facts(replayed.facts) == digest_facts(live.facts)
    assert replayed == comparable(live)
    assert replayed.readings.holders == (Holder("/dev/vfio/2", 4711, "qemu", stale_node=False),)
    assert replayed.readings.boot_id == "b-1"
    unpacked = collect_host(open_root(str(extract(target, tmp_path / "unpacked"))))
    assert unpacked == replayed


def test_the_same_host_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    for name in ("one", "two"):
        capture_host(str(tmp_path / name), root=LiveRoot(str(tree.top)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for member in members(tmp_path / "one").values():
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0,) * 3 + (
            "",
        ) * 2


def test_only_what_was_asked_is_recorded(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    tree.write("/etc/shadow", "secret")
    target = tmp_path / "alpha.tar.gz"
    capture_host(str(target), root=LiveRoot(str(tree.top)))
    names = set(members(target))
    assert "etc/modprobe.d/vfio.conf" in names
    assert "dmesg" in names
    assert not any(name.endswith(("/rom", "/vpd", "shadow", "kmsg")) for name in names)
    text = b"".join(content(target, name) for name in names if not name.endswith("config"))
    for word in (b"private.qcow2", b"secret-of-systemd", b"never read", b'"1"'):
        assert word not in text
    assert sorted(n for n in names if n.startswith("proc/4711/fd")) == ["proc/4711/fd/11"]
    root = open_root(str(target))
    assert "rom" in root.list("/sys/bus/pci/devices/0000:01:00.0")
    with pytest.raises(NotCaptured):
        root.read("/sys/bus/pci/devices/0000:01:00.0/rom")
    with pytest.raises(NotCaptured):
        root.read("/etc/shadow")
    with pytest.raises(FileNotFoundError):
        root.read("/sys/bus/pci/devices/0000:01:00.0/boot_vga")


def content(path: Path, name: str) -> bytes:
    with tarfile.open(path) as tar:
        file = tar.extractfile(name) if tar.getmember(name).isfile() else None
        return b"" if file is None else file.read()


def test_the_kernel_log_is_a_file_that_dmesg_would_print(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    target = tmp_path / "alpha.tar.gz"
    capture_host(str(target), root=LiveRoot(str(tree.top)))
    lines = content(target, "dmesg").decode().splitlines()
    assert lines[2].endswith(
        "[    2.000000] DMAR: Intel(R) Virtualization Technology for Directed I/O"
    )
    assert len(lines) == 4


class OrdinaryUser(LiveRoot):
    """A live root that may not read config space, processes, or the log."""

    @property
    def privileged(self) -> bool | None:
        return False

    def _load(self, path: str, limit: int = 1 << 20) -> bytes:
        if path == "/dev/kmsg" or path.endswith("/numa_node"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return super()._load(path, limit)

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        return [
            data[:64] if path.endswith("/config") and isinstance(data, bytes) else data
            for path, data in zip(paths, super().read_many(paths), strict=True)
        ]

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        return self.read_many(paths)

    def _names(self, path: str) -> list[str]:
        if path.endswith("/fd"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return super()._names(path)


def test_errors_are_replayed_with_their_number(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    live = collect_host(OrdinaryUser(str(tree.top)))
    target = tmp_path / "alpha.tar.gz"
    capture_host(str(target), root=OrdinaryUser(str(tree.top)))
    replayed = collect_host(open_root(str(target)))
    assert replayed.facts == live.facts
    assert replayed.readings.holders is None
    assert replayed.readings.kernel_log is None
    assert replayed.readings.privileged is False
    numbers = {gap.path: gap.errno for gap in replayed.readings.gaps}
    assert numbers["/proc/*/fd"] == errno.EACCES
    assert numbers["/dmesg"] == errno.EACCES
    assert numbers["/sys/bus/pci/devices/0000:01:00.0/numa_node"] == errno.EACCES
    # one process stands for all that could not be looked into; QEMU is kept for its own sake
    assert [n for n in manifest(target)["listings"]["/proc"] if n.isdecimal()] == ["1", "4711"]


def manifest(path: Path) -> dict[str, dict[str, list[str]]]:
    loaded: dict[str, dict[str, list[str]]] = json.loads(content(path, "manifest.json"))
    return loaded


def test_what_was_left_alone_stays_unknown_on_replay(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    tree.write(f"{tree.place('0000:01:10.0')}/power_state", "D3hot\n")
    target = tmp_path / "alpha.tar.gz"
    live = capture_host(str(target), root=LiveRoot(str(tree.top)))
    (sleeping,) = [f for f in live.facts.functions or () if f.address == "0000:01:10.0"]
    assert sleeping.config is None
    assert collect_host(open_root(str(target))).facts == live.facts


def test_a_blocked_read_is_replayed_as_one(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    path = tree.at(f"{tree.place('0000:01:00.0')}/sriov_numvfs")
    os.mkfifo(path)
    target = tmp_path / "alpha.tar.gz"
    try:
        live = capture_host(str(target), root=LiveRoot(str(tree.top), deadline_s=0.5))
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    replayed = collect_host(open_root(str(target)))
    assert replayed.facts == live.facts
    (gap,) = [g for g in replayed.readings.gaps if g.path.endswith("/sriov_numvfs")]
    assert (gap.errno, gap.reason) == (errno.ETIMEDOUT, "blocked when it was captured")


def test_device_nodes_are_listed_and_never_opened(tmp_path: Path) -> None:
    root = LiveRoot()
    recorder = RecordingRoot(root)
    names = recorder.list("/dev")
    assert "null" in names
    target = tmp_path / "dev.tar.gz"
    target.write_bytes(recorder.pack(boot_id="", privileged=True))
    assert manifest(target)["nodes"]["/dev/null"] == ["c", 1, 3]
    replayed = open_root(str(target))
    assert replayed.list("/dev") == names
    with pytest.raises(NotCaptured):
        replayed.read("/dev/null")
    with pytest.raises(FileNotFoundError):
        replayed.read("/dev/no-such-node")


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "host")
    odd = os.fsdecode(b"caf\xe9")
    tree.write(f"/etc/{odd}/{odd}", b"\xff")
    recorder = RecordingRoot(LiveRoot(str(tree.top)))
    assert recorder.list("/etc") == [odd]
    assert recorder.read(f"/etc/{odd}/{odd}") == b"\xff"
    target = tmp_path / "odd.tar.gz"
    target.write_bytes(recorder.pack(boot_id="", privileged=True))
    root = TarRoot(str(target))
    assert root.list("/etc") == [odd]
    assert root.read(f"/etc/{odd}/{odd}") == b"\xff"


def test_links_and_cycles_are_recorded_as_they_are(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path / "host")
    tree.write("/sys/devices/a/value", "1")
    tree.link("/sys/class/x/a", "/sys/devices/a")
    tree.at("/sys/class/x/loop").symlink_to("loop")
    tree.at("/sys/class/x/gone").symlink_to("nowhere/at/all")
    recorder = RecordingRoot(LiveRoot(str(tree.top)))
    assert recorder.read("/sys/class/x/a/value") == b"1"
    assert recorder.real("/sys/class/x/a") == "/sys/devices/a"
    assert recorder.link("/sys/class/x/gone") == "nowhere/at/all"
    for path in ("/sys/class/x/loop/value", "/sys/class/x/gone/value", "/sys/class/y/z"):
        with pytest.raises(OSError, match=re.escape(path)):
            recorder.read(path)
    target = tmp_path / "links.tar.gz"
    target.write_bytes(recorder.pack(boot_id="", privileged=True))
    root = open_root(str(target))
    assert root.read("/sys/class/x/a/value") == b"1"
    assert root.read("/sys/devices/a/value") == b"1"
    assert root.link("/sys/class/x/gone") == "nowhere/at/all"
    for path, number in (
        ("/sys/class/x/loop/value", errno.ELOOP),
        ("/sys/class/x/gone/value", errno.ENOENT),
        ("/sys/class/y/z", errno.ENOENT),
        ("/sys/class/y/other", errno.ENOENT),
        ("/sys/class/w", 0),
    ):
        (answer,) = root.read_many([path])
        assert isinstance(answer, OSError)
        assert answer.errno == number, path


def test_a_target_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    tree = make_host(tmp_path / "host")
    with pytest.raises(FileNotFoundError):
        capture_host(str(tmp_path / "no" / "alpha.tar.gz"), root=LiveRoot(str(tree.top)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        capture_host(str(tmp_path / "folder"), root=LiveRoot(str(tree.top)))
    assert sorted(os.listdir(tmp_path)) == ["folder", "host"]


def test_other_tools_read_the_extracted_tree(tmp_path: Path) -> None:
    if shutil.which("lspci") is None:
        pytest.skip("lspci is not installed (apt-get install pciutils)")
    tree = make_host(tmp_path / "host")
    target = tmp_path / "alpha.tar.gz"
    capture_host(str(target), root=LiveRoot(str(tree.top)))
    top = extract(target, tmp_path / "unpacked")
    command = ["lspci", "-A", "linux-sysfs", "-O", f"sysfs.path={top}/sys/bus/pci", "-vvnD"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert listed == ["0000:00:02.0", "0000:01:00.0", "0000:01:10.0"]
    assert "FLReset+" in done.stdout
    assert "Total VFs: 7" in done.stdout


def test_this_very_machine_replays(tmp_path: Path) -> None:
    target = tmp_path / "here.tar.gz"
    live = capture_host(str(target))
    replayed = collect_host(open_root(str(target)))
    assert digest_facts(replayed.facts) == digest_facts(live.facts)
    assert replayed.readings.functions == live.readings.functions
    assert replayed.readings.holders == live.readings.holders


PATHS = st.sampled_from(
    [
        "/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/vendor",
        "/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/config",
        "/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/resource",
        "/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/boot_vga",
        "/sys/kernel/iommu_groups/1/type",
        "/sys/kernel/iommu_groups/3/devices/x",
        "/sys/kernel/iommu_groups/4",
        "/proc/cmdline",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/random/boot_id",
        "/proc/cpuinfo",
        "/proc/4711/comm",
        "/proc/99/fd",
        "/etc/modprobe.d/vfio.conf",
        "/etc/modprobe.d/z.conf",
        "/etc/driverctl.d/pci-0000:01:00.0",
        "/sys/class/dmi/id/bios_version",
        "/sys/class/iommu/ivhd0",
        "/sys/module/vfio_pci/parameters/ids",
        "/dev/kmsg",
        "/dev/kvm",
    ]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.dictionaries(PATHS, st.one_of(st.binary(max_size=200), st.none()), max_size=8),
)
def test_any_host_replays_to_its_own_facts(writes: dict[str, bytes | None], tmp_path: Path) -> None:
    """None removes the path; bytes replace it."""
    top = Path(tempfile.mkdtemp(dir=tmp_path))
    tree = make_host(top / "host")
    for path, data in writes.items():
        place = tree.at(path)
        if place.is_dir():
            shutil.rmtree(place)
        elif os.path.lexists(place):
            place.unlink()
        if data is not None:
            tree.write(path, data)
    live = RecordingRoot(LiveRoot(str(tree.top)))
    seen = collect_host(live)
    target = top / "host.tar.gz"
    target.write_bytes(live.pack(boot_id=seen.readings.boot_id or "", privileged=True))
    replayed = collect_host(open_root(str(target)))
    assert replayed.facts == seen.facts
    assert replayed.readings.holders == seen.readings.holders
    assert replayed.readings.functions == seen.readings.functions
    assert as_file(replayed) == as_file(seen)
    again = RecordingRoot(LiveRoot(str(tree.top)))
    assert collect_host(again).facts == seen.facts
    assert target.read_bytes() == again.pack(boot_id=seen.readings.boot_id or "", privileged=True)


def test_a_directory_that_was_only_resolved_to_is_there_on_replay(tmp_path: Path) -> None:
    """A hidden NVMe path device: its link leads somewhere, and nothing in it can be read."""
    place = tmp_path / "host/sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0c0n1"
    place.mkdir(parents=True)
    link = tmp_path / "host/sys/class/block/nvme0c0n1"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0c0n1")
    root = RecordingRoot(LiveRoot(str(tmp_path / "host")))
    real = root.real("/sys/class/block/nvme0c0n1")
    with pytest.raises(FileNotFoundError):
        root.read("/sys/class/block/nvme0c0n1/dev")
    packed = tmp_path / "host.tar.gz"
    packed.write_bytes(root.pack(boot_id="b-1", privileged=True))
    replay = open_root(str(packed))
    assert replay.real("/sys/class/block/nvme0c0n1") == real
    with pytest.raises(FileNotFoundError):
        replay.read("/sys/class/block/nvme0c0n1/dev")
    with pytest.raises(NotCaptured):
        replay.list(real)
