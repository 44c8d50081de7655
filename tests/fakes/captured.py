"""Small hosts and the ways to open them: live, as a directory, as a tar."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.root import LiveRoot, Root, open_root

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
