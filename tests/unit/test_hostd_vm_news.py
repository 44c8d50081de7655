"""Starts and ends of VMs: told once, also of what happened while hostd was away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.fakes.durable import moment as at
from tests.fakes.snapshots import make_snapshot, nic
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import LiveRoot
from vfio_agent.hostd.vm_news import VmNews
from vfio_agent.journal import Bounds, Journal
from vfio_contract.durable import Mark, Payload, VmStarted, VmStopped
from vfio_contract.host import Host
from vfio_contract.model import VmProcess

WEB = VmProcess(pid=900, vm="web", kind="libvirt", started_seconds=10.0)
DB = VmProcess(pid=901, vm="101", kind="proxmox", started_seconds=11.5)


def host(*running: VmProcess, boot: str | None = "boot-1", known: bool = True) -> Host:
    snapshot = make_snapshot(nic("0000:01:00.0"), boot_id=boot)
    readings = replace(snapshot.readings, vm_processes=running if known else None)
    return Host(replace(snapshot, readings=readings))


def start(tree: SysfsTree, pid: int, command: str, *words: str) -> None:
    tree.write(f"/proc/{pid}/comm", f"{command}\n")
    tree.write(f"/proc/{pid}/cmdline", "\0".join(words) + "\0")
    tree.write(f"/proc/{pid}/stat", f"{pid} ({command}) S{' 0' * 18} 4711 0\n")


def told(journal: Journal) -> list[Payload | None]:
    return [row.event.payload for row in journal.spool.after(0, 1_000)]


def test_what_begins_and_what_ends(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    news = VmNews(journal)
    news.tell(host(WEB), at=at(1))
    assert told(journal) == [], "it ran before anybody looked"
    news.tell(host(WEB, DB), at=at(2))
    news.tell(host(WEB, DB), at=at(3))
    again = replace(DB, started_seconds=99.0)
    news.tell(host(again), at=at(4))
    assert told(journal) == [
        VmStarted("101", "proxmox"),
        VmStopped("web", "libvirt"),
        VmStopped("101", "proxmox"),
        VmStarted("101", "proxmox"),
    ]
    journal.close()


def test_what_happened_while_hostd_was_away(tmp_path: Path) -> None:
    for number, running in enumerate([(WEB,), (DB,), (DB,)]):
        journal = Journal.open(tmp_path / "journal.db")
        VmNews(journal).tell(host(*running), at=at(number))
        seen = told(journal)
        journal.close()
    assert seen == [VmStopped("web", "libvirt"), VmStarted("101", "proxmox")]


def test_a_boot_ends_what_ran_before_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    news = VmNews(journal)
    news.tell(host(WEB), at=at(1))
    news.tell(host(WEB, boot="boot-2"), at=at(2))
    assert told(journal) == [VmStopped("web", "libvirt"), VmStarted("web", "libvirt")]
    journal.close()


def test_what_is_not_known_is_no_end(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    news = VmNews(journal)
    news.tell(host(WEB), at=at(1))
    news.tell(host(known=False), at=at(2))
    news.tell(host(boot=None), at=at(3))
    news.tell(host(WEB), at=at(4))
    assert told(journal) == []
    journal.close()


def test_without_room_it_is_told_with_the_next_look(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db", bounds=Bounds(events=2))
    news = VmNews(journal)
    news.tell(host(), at=at(1))
    news.tell(host(WEB), at=at(2))
    news.tell(host(), at=at(3))
    news.tell(host(DB), at=at(4))  # does not fit any more
    assert len(told(journal)) == 2
    last = journal.spool.after(0, 10)[-1]
    assert journal.spool.acknowledge(Mark(journal.spool.id, last.seq, last.event.at))
    news.tell(host(DB), at=at(5))
    assert told(journal) == [VmStarted("101", "proxmox")]
    journal.close()


def test_processes_of_a_live_host(tmp_path: Path) -> None:
    """With a device or without; whose QEMU only says what it can do runs no VM."""
    tree = SysfsTree(tmp_path)
    tree.host(boot_id="boot-1")
    tree.write("/etc/pve/qemu-server/101.conf", "name: db\n")
    start(tree, 900, "kvm", "kvm", "-id", "101", "-name", "db")
    start(tree, 901, "qemu-system-x86", "/usr/bin/qemu-system-x86_64", "-name", "guest=lone")
    start(tree, 902, "qemu-system-x86", "/usr/bin/qemu-system-x86_64", "-machine", "none")
    start(tree, 903, "qemu-img", "qemu-img", "convert")
    seen = collect_host(LiveRoot(str(tmp_path)))
    assert seen.readings.vm_processes == (
        VmProcess(900, "101", "proxmox", 47.11),
        VmProcess(901, "lone", "qemu", 47.11),
    )
    tree.write("/proc/901/stat", "901 (qemu) S 1\n")
    seen = collect_host(LiveRoot(str(tmp_path)))
    assert seen.readings.vm_processes is None
    assert "/proc/901/stat" in {gap.path for gap in seen.readings.gaps}
