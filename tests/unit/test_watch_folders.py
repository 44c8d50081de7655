"""Watched directories that come late, go, are replaced, or were never allowed."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.watch import inotify
from vfio_agent.watch.folders import CHANGES, OPENS, Change, Folders
from vfio_agent.watch.inotify import Inotify, Notice, parse_notices

Open = Callable[..., Folders]


@pytest.fixture
def watch() -> Iterator[Open]:
    """Folders that are closed at the end."""
    opened: list[Folders] = []

    def make(*paths: Path, mask: int = CHANGES) -> Folders:
        opened.append(Folders([str(path) for path in paths], mask))
        return opened[-1]

    yield make
    for folders in opened:
        folders.close()


def names(folders: Folders) -> set[str]:
    return {change.name for change in folders.read()}


def is_silent(folders: Folders) -> bool:
    """Not even a notice that is thrown away woke anybody."""
    return not select.select([folders], [], [], 0)[0]


def test_a_file_that_is_written_made_removed_or_renamed_into_place(
    tmp_path: Path, watch: Open
) -> None:
    folders = watch(tmp_path)
    (tmp_path / "100.conf").write_text("a")
    assert names(folders) == {"100.conf"}
    (tmp_path / "100.conf").write_text("b")
    assert names(folders) == {"100.conf"}
    (tmp_path / "new").write_text("c")
    os.replace(tmp_path / "new", tmp_path / "100.conf")
    assert names(folders) == {"new", "100.conf"}
    (tmp_path / "100.conf").unlink()
    assert folders.read() == [Change(str(tmp_path), "100.conf")]
    assert folders.read() == []


def test_a_directory_that_appears_is_watched_from_then_on(tmp_path: Path, watch: Open) -> None:
    wanted = tmp_path / "etc" / "libvirt" / "qemu"
    folders = watch(wanted)
    (tmp_path / "other").mkdir()
    assert folders.read() == []
    wanted.mkdir(parents=True)
    assert folders.read() == [Change(str(wanted), "")]
    (wanted / "vm.xml").write_text("x")
    assert names(folders) == {"vm.xml"}
    (tmp_path / "another").mkdir()
    assert is_silent(folders), "what was watched on the way still is"


def test_a_directory_that_appears_step_by_step(tmp_path: Path, watch: Open) -> None:
    wanted = tmp_path / "etc" / "libvirt" / "qemu"
    folders = watch(wanted)
    for path in (tmp_path / "etc", tmp_path / "etc" / "libvirt"):
        path.mkdir()
        assert folders.read() == []
    wanted.mkdir()
    assert folders.read() == [Change(str(wanted), "")]


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_directory_that_is_replaced_is_found_again(tmp_path: Path, watch: Open, how: str) -> None:
    wanted = tmp_path / "qemu-server"
    wanted.mkdir()
    folders = watch(wanted)
    if how == "removed":
        wanted.rmdir()
    else:
        wanted.rename(tmp_path / "old")
    assert Change(str(wanted), "") in folders.read()
    wanted.mkdir()
    if how == "replaced":
        (tmp_path / "old" / "1.conf").write_text("nobody looks here any more")
    folders.read()
    (wanted / "2.conf").write_text("x")
    assert names(folders) == {"2.conf"}


def test_a_link_is_followed_as_proxmox_has_it(tmp_path: Path, watch: Open) -> None:
    (tmp_path / "nodes" / "pve1").mkdir(parents=True)
    (tmp_path / "qemu-server").symlink_to("nodes/pve1")
    folders = watch(tmp_path / "qemu-server")
    (tmp_path / "nodes" / "pve1" / "100.conf").write_text("x")
    assert names(folders) == {"100.conf"}


def test_what_covers_a_directory_without_a_notice_is_found_by_looking(
    tmp_path: Path, watch: Open
) -> None:
    """As a mount does; here the link's target is exchanged, which inotify does not see either."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "qemu-server"
    link.symlink_to(tmp_path / "a")
    folders = watch(link)
    os.symlink(tmp_path / "b", tmp_path / "links" / "next")
    os.replace(tmp_path / "links" / "next", link)
    assert folders.read() == []
    assert folders.arm() == [Change(str(link), "")]
    assert folders.arm() == []
    (tmp_path / "b" / "100.conf").write_text("x")
    assert names(folders) == {"100.conf"}
    (tmp_path / "a" / "100.conf").write_text("x")
    assert folders.read() == []


def test_a_folder_within_a_watched_folder_keeps_both_watched(tmp_path: Path, watch: Open) -> None:
    """/dev/vfio and /dev/vfio/devices, which is not there before Linux 6.6."""
    (tmp_path / "14").write_text("")
    folders = watch(tmp_path, tmp_path / "devices", mask=OPENS | CHANGES)
    (tmp_path / "14").read_text()
    assert names(folders) == {"14"}
    (tmp_path / "devices").mkdir()
    assert {c.folder for c in folders.read()} == {str(tmp_path), str(tmp_path / "devices")}
    (tmp_path / "devices" / "vfio0").write_text("")
    (tmp_path / "14").read_text()
    assert names(folders) == {"14", "vfio0"}


def test_opens_elsewhere_cost_nothing_while_the_folder_is_missing(
    tmp_path: Path, watch: Open
) -> None:
    """/dev is opened all the time; only /dev/vfio is watched for that."""
    (tmp_path / "null").write_text("")
    folders = watch(tmp_path / "vfio", mask=OPENS | CHANGES)
    (tmp_path / "null").read_text()
    assert is_silent(folders)


def test_an_overflow_means_that_every_folder_may_have_changed(tmp_path: Path, watch: Open) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    files = [tmp_path / "one" / name for name in "ab"]
    for file in files:
        file.write_text("")
    folders = watch(tmp_path / "one", tmp_path / "two", mask=OPENS | CHANGES)
    for _ in range(limit // 4 + 1):
        for file in files:
            # two notices for each, and never two equal ones in a row, which count once
            os.close(os.open(file, os.O_RDONLY))
    found: set[Change] = set()
    while changes := folders.read():
        found |= set(changes)
    assert Change(str(tmp_path / "two"), "") in found
    (tmp_path / "two" / "x").write_text("")
    assert names(folders) == {"x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_a_folder_that_may_not_be_looked_into_is_a_gap(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != closed:
            folder.chmod(folder.stat().st_mode | 0o005)
    code = (
        "import os, sys\n"
        "from vfio_agent.watch.folders import CHANGES, Folders\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "for gap in Folders([sys.argv[1]], CHANGES).gaps():\n"
        "    print(gap.path, gap.errno, gap.remedy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(closed)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{closed} 13 sudo vfioctl agent run\n", done.stderr


def test_notices_are_read_as_the_kernel_writes_them() -> None:
    data = struct.pack("=iIII16s", 3, inotify.CREATE, 0, 16, b"100.conf") + struct.pack(
        "=iIII", -1, inotify.OVERFLOW, 0, 0
    )
    assert list(parse_notices(data)) == [
        Notice(3, inotify.CREATE, "100.conf"),
        Notice(-1, inotify.OVERFLOW, ""),
    ]


@given(st.binary(max_size=200))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    for notice in parse_notices(data):
        assert "\0" not in notice.name


def test_a_path_that_cannot_be_watched_names_itself() -> None:
    instance = Inotify()
    try:
        with pytest.raises(FileNotFoundError, match="/nowhere"):
            instance.add("/nowhere", inotify.CREATE)
    finally:
        instance.close()
