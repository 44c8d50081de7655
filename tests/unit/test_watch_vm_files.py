"""VM definitions: changes that the kernel tells, and those that only a look finds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfio_agent.watch import vm_files
from vfio_agent.watch.signals import Part, want
from vfio_agent.watch.vm_files import POLL_S, VmFiles


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("qemu-server", "libvirt", "run")}
    for path in made.values():
        path.mkdir()
    return made


@pytest.fixture
def source(folders: dict[str, Path]) -> Iterator[VmFiles]:
    definitions = [str(folders["qemu-server"]), str(folders["libvirt"])]
    opened = VmFiles(definitions=definitions, running=[str(folders["run"])], now_s=100.0)
    yield opened
    opened.close()


def test_a_definition_that_is_written_is_noticed(source: VmFiles, folders: dict[str, Path]) -> None:
    path = folders["qemu-server"] / "100.conf"
    path.write_text("hostpci0: 01:00\n")
    assert {(s.why, s.wanted) for s in source.read()} == {(str(path), want(Part.VMS))}


def test_a_vm_that_starts_may_hold_a_device(source: VmFiles, folders: dict[str, Path]) -> None:
    (folders["run"] / "100.pid").write_text("4711\n")
    assert {s.wanted for s in source.read()} == {want(Part.VMS, Part.HOLDERS)}


def test_what_comes_without_a_notice_is_found_by_the_next_look(
    source: VmFiles, folders: dict[str, Path]
) -> None:
    """pmxcfs: another node writes. Here the notice is thrown away instead."""
    path = folders["qemu-server"] / "100.conf"
    path.write_text("a")
    source.read()
    assert source.due_at() == 100.0 + POLL_S
    (signal,) = source.tick(130.0)
    assert signal.wanted == want(Part.VMS)
    assert source.due_at() == 130.0 + POLL_S
    assert source.tick(160.0) == []
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    source.read()
    assert len(source.tick(190.0)) == 1
    path.unlink()
    source.read()
    assert len(source.tick(220.0)) == 1


def test_no_definition_is_ever_opened(source: VmFiles, folders: dict[str, Path]) -> None:
    """A file without any right would fail, were it not for root: a FIFO would block."""
    os.mkfifo(folders["libvirt"] / "vm.xml")
    source.read()
    assert len(source.tick(130.0)) == 1
    assert source.gaps() == ()


def test_folders_that_are_not_there_are_no_gap(tmp_path: Path) -> None:
    source = VmFiles(definitions=[str(tmp_path / "a" / "b")], running=[], now_s=0.0)
    try:
        assert source.gaps() == ()
        assert source.tick(POLL_S) == []
        (tmp_path / "a" / "b").mkdir(parents=True)
        assert len(source.tick(2 * POLL_S)) == 1
    finally:
        source.close()


def test_a_loop_of_links_is_a_gap_once(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    source = VmFiles(definitions=[str(tmp_path / "loop")], running=[], now_s=0.0)
    try:
        (gap,) = source.gaps()
        assert gap.path == str(tmp_path / "loop")
    finally:
        source.close()


def test_the_folders_are_those_that_the_collectors_read() -> None:
    assert set(vm_files.DEFINITIONS) == {
        "/etc/pve/qemu-server",
        "/etc/pve/mapping",
        "/etc/libvirt/qemu",
        "/etc/libvirt/qemu/autostart",
    }


def test_a_folder_that_was_covered_without_a_notice_is_watched_after_the_next_look(
    tmp_path: Path,
) -> None:
    """As /etc/pve is when pmxcfs is mounted after the agent has started."""
    for name in ("empty", "mounted", "etc"):
        (tmp_path / name).mkdir()
    pve = tmp_path / "etc" / "qemu-server"
    pve.symlink_to(tmp_path / "empty")
    source = VmFiles(definitions=[str(pve)], running=[], now_s=0.0)
    try:
        os.symlink(tmp_path / "mounted", tmp_path / "etc" / "next")
        os.replace(tmp_path / "etc" / "next", pve)
        assert source.read() == []
        assert [signal.wanted for signal in source.tick(POLL_S)] == [want(Part.VMS)]
        (tmp_path / "mounted" / "100.conf").write_text("x")
        assert {signal.why for signal in source.read()} == {f"{pve}/100.conf"}
    finally:
        source.close()
