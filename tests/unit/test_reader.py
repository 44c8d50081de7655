"""What a reader makes of unreadable, absent and odd files."""

from __future__ import annotations

import errno
from pathlib import Path

from tests.fakes.captured import make_tree
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.reader import REMEDY_ROOT, Reader
from vfio_agent.collect.root import LiveRoot, open_root, read_kmsg


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
