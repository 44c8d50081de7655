"""Two captures of one machine: the same but for what is declared, and never the same otherwise."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.harness.capture import HOSTS, keep
from tests.lab.harness.volatile import VOLATILE, compare

HOST = HOSTS / "amd-6.1.tar.gz"
GPU = "sys/devices/pci0000:00/0000:00:07.0/0000:03:00.0"


def _copy(path: Path, change: Callable[[str, bytes], bytes | None], *, more: str = "") -> Path:
    """A copy of the host's capture with each file changed, or left out where that is None."""
    with tarfile.open(HOST) as old, tarfile.open(path, "w:gz") as new:
        for member in old:
            file = old.extractfile(member) if member.isfile() else None
            if file is None:
                new.addfile(member)
                continue
            data = change(member.name, file.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        if more:
            new.addfile(tarfile.TarInfo(more))
    return path


def _another_boot(name: str, data: bytes) -> bytes:
    """What another boot of the same machine leaves different."""
    text = data.decode(errors="surrogateescape")
    if name.endswith("boot_id"):
        text = "00000000-1111-4222-8333-444444444444\n"
    elif name == "manifest.json":
        text = re.sub(r'("boot_id": ")\w+', r"\g<1>00000000", text)
    elif name in ("proc/uptime", "proc/stat", "proc/pressure/cpu"):
        text = re.sub(r"(?<= )\d+", "7", text)
    elif name == "proc/diskstats":
        text = re.sub(r"(?<=sda )\d+", "7", text)
    elif name == "proc/meminfo":
        text = re.sub(r"(MemFree: *)\d+", r"\g<1>4242", text)
    elif name == "proc/interrupts":
        text = re.sub(r"(?m)^( *\w+:) +\d+", r"\1 99", text)
    elif name == "proc/modules":
        text = re.sub(r"0x\w+", "0xffffffffc0000000", text)
    elif name == "dmesg":
        moved = re.sub(r"\[ *\d+\.\d+\]", "[    0.500000]", text).splitlines()
        text = "\n".join(reversed(moved)) + "\n"
    return text.encode(errors="surrogateescape")


def test_another_boot_of_the_same_machine_changes_nothing(tmp_path: Path) -> None:
    again = _copy(tmp_path / "again.tar.gz", _another_boot)
    assert compare(HOST, again) == []
    committed = tmp_path / "host.tar.gz"
    committed.write_bytes(HOST.read_bytes())
    assert keep(again, committed) == "unchanged"
    assert committed.read_bytes() == HOST.read_bytes()


def _replaced(what: str, before: bytes, after: bytes) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != what:
            return data
        assert before in data
        return data.replace(before, after)

    return change


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        (f"{GPU}/reset_method", b"bus", b"flr", "bus -> flr"),
        ("proc/cmdline", b"iommu=pt", b"iommu=off", "iommu=off"),
        ("proc/modules", b"vfio_pci ", b"vfio_pcx ", "vfio_pci "),
        ("proc/meminfo", b"MemTotal:      ", b"MemTotal:     9", "MemTotal: "),
        ("proc/interrupts", b"virtio2-requests", b"virtio3-requests", "virtio3-requests"),
        ("dmesg", b"AMD-Vi: Interrupt remapping enabled", b"AMD-Vi: Oh", "AMD-Vi: Oh"),
    ],
)
def test_what_is_evidence_is_named(
    name: str, before: bytes, after: bytes, said: str, tmp_path: Path
) -> None:
    changed = _copy(tmp_path / "changed.tar.gz", _replaced(name, before, after))
    (line,) = compare(HOST, changed)
    assert line.startswith(f"{name}: ")
    assert said in line
    committed = tmp_path / "host.tar.gz"
    committed.write_bytes(HOST.read_bytes())
    assert keep(changed, committed) == f"1 changed\n  {line}"
    assert committed.read_bytes() == changed.read_bytes()


def test_what_came_and_went_is_named(tmp_path: Path) -> None:
    fewer = _copy(
        tmp_path / "fewer.tar.gz",
        lambda name, data: None if name.endswith("03:00.0/config") else data,
        more="proc/new",
    )
    assert compare(HOST, fewer) == ["proc/new: new", f"{GPU}/config: gone"]


def test_every_row_of_the_table_is_about_a_file_that_hosts_have() -> None:
    names: set[str] = set()
    for path in HOSTS.glob("*.tar.gz"):
        with tarfile.open(path) as tar:
            names |= set(tar.getnames())
    for row in VOLATILE:
        assert any(re.fullmatch(row.files, name) for name in names), row.files
        assert row.reason
