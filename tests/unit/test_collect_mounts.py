"""The mount table: its formats, and which mount a path is on."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.mounts import MountTable, collect_mounts, parse_mountinfo, parse_mounts
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot

INFO = r"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
27 1 8:2 / / rw,relatime shared:1 master:2 - ext4 /dev/sda2 rw,errors=remount-ro
28 27 8:3 / /srv/my\040disk rw - xfs /dev/sda3 rw,logdev=/dev/sdb1
29 27 0:40 / /run rw - tmpfs tmpfs rw
30 29 0:41 / /run/root/lower ro - 9p root ro,trans=virtio
31 27 8:4 / /data rw - ext4 /dev/sda4 rw
32 31 8:5 / /data/deep rw - ext4 /dev/sda5 rw
33 31 8:6 / /data rw - ext4 /dev/sda6 rw
"""


def point_of(table: MountTable, path: str) -> str:
    mount = table.containing(path)
    return "" if mount is None else f"{mount.number} {mount.point}"


def test_fields_of_mountinfo() -> None:
    mounts = parse_mountinfo(INFO)
    assert [m.number for m in mounts[:3]] == ["0:21", "8:2", "8:3"]
    assert mounts[2].point == "/srv/my disk"
    assert mounts[2].option("logdev") == "/dev/sdb1"
    assert mounts[2].option("rtdev") == ""
    assert mounts[1].fstype == "ext4"


def test_the_mount_of_a_path() -> None:
    table = MountTable(parse_mountinfo(INFO))
    assert point_of(table, "/etc/passwd") == "8:2 /"
    assert point_of(table, "/srv/my disk/x") == "8:3 /srv/my disk"
    assert point_of(table, "/srv/my diskette") == "8:2 /"
    assert point_of(table, "/run/root/lower/../lower/usr") == "0:41 /run/root/lower"
    assert point_of(table, "/run/x") == "0:40 /run"


def test_a_mount_that_was_mounted_over_is_not_found() -> None:
    table = MountTable(parse_mountinfo(INFO))
    assert point_of(table, "/data/file") == "8:6 /data"
    assert point_of(table, "/data/deep/file") == "8:6 /data"


def test_a_table_that_names_itself_as_parent_ends() -> None:
    loop = "1 2 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
    assert MountTable(parse_mountinfo(loop)).containing("/etc") is None
    own = "1 1 0:1 / / rw - rootfs rootfs rw\n2 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
    assert point_of(MountTable(parse_mountinfo(own)), "/etc") == "8:2 /"


def test_the_older_table_has_no_numbers_but_the_same_tree() -> None:
    text = "rootfs / rootfs rw 0 0\n/dev/sda2 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n"
    table = MountTable(parse_mounts(text))
    found = [table.containing(path) for path in ("/etc", "/run/x")]
    assert [m and (m.fstype, m.number) for m in found] == [("ext4", ""), ("tmpfs", "")]


def test_process_1_is_asked_first(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.write("/proc/self/mountinfo", "9 1 0:9 / / rw - overlay overlay rw\n")
    reader = Reader(LiveRoot(str(tmp_path)))
    first = collect_mounts(reader)
    assert first is not None
    assert first.mounts[0].fstype == "overlay"
    tree.write("/proc/1/mountinfo", INFO)
    second = collect_mounts(reader)
    assert second is not None
    assert len(second.mounts) == 8
    assert reader.gaps == ()


def test_no_table_is_a_gap_and_so_is_an_empty_one(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    reader = Reader(LiveRoot(str(tmp_path)))
    assert collect_mounts(reader) is None
    assert [gap.path for gap in reader.gaps] == ["/proc/1/mountinfo"]
    tree.write("/proc/1/mountinfo", "")
    assert collect_mounts(Reader(LiveRoot(str(tmp_path)))) is None


@given(st.text(), st.text())
def test_no_text_makes_a_table_raise(text: str, path: str) -> None:
    for rows in (text, INFO + text, f"40 27 8:9 / {text} rw - ext4 /dev/x rw\n", text * 3):
        MountTable(parse_mountinfo(rows)).containing("/" + path)
        MountTable(parse_mounts(rows)).containing("/" + path)
