"""Roots: live, captured directory, captured tar: same answers, no escapes, no hangs."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.captured import (
    CAPTURED,
    NIC,
    Opener,
    make_tree,
    open_live,
    pack,
)
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.root import LiveRoot, NotCaptured
from vfio_agent.collect.tar_root import TarRoot
from vfio_agent.collect.tree_root import DirectoryRoot


def errno_of(ask: Callable[[str], object], path: str) -> int | None:
    try:
        ask(path)
    except OSError as error:
        return error.errno
    return None


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
