"""What the owner's file permits, and what stands on the host already: both as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.snapshots import audio, gpu, make_host, nic
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.actuate.allowance import EXAMPLE, Allowance, AllowanceError, load_allowance
from vfio_agent.actuate.persistence import MODPROBE_FILE, driverctl_file
from vfio_agent.actuate.preparation import read_written
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_contract.address import Address
from vfio_contract.units import Unit

GPU = Address("0000:03:00.0")


def card() -> Unit:
    return make_host(gpu(GPU, group=3), audio("0000:03:00.1", group=3)).units[0]


def write_allowance(folder: Path, text: str, *, mode: int = 0o644) -> Path:
    path = folder / "actuate.toml"
    path.write_text(text)
    path.chmod(mode)
    folder.chmod(0o755)
    return path


def load(path: Path) -> Allowance:
    return load_allowance(path, owner=path.parent.stat().st_uid)


def test_the_example_is_an_allowance(tmp_path: Path) -> None:
    found = load(write_allowance(tmp_path, EXAMPLE))

    assert (found.verbs, found.per_hour) == (frozenset(Verb), 20)
    assert found.permits(Verb.BIND, gpu("0000:09:00.0"))
    assert not found.permits(Verb.BIND, nic("0000:02:00.0"))


@pytest.mark.parametrize("text", [None, "", "actuate = false\nverbs = ['bind']\ndevices = ['*']"])
def test_without_consent_nothing_is_permitted(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "actuate.toml" if text is None else write_allowance(tmp_path, text)

    assert not load(path).verbs


@pytest.mark.parametrize(
    "text",
    [
        "actuate = 1",
        "actuate = true\nper_hour = -1",
        "actuate = true\nper_hour = true",
        "actuate = true\nper_hour = '9'",
        "actuate = true\nverbs = 'bind'",
        "verbs = ['start']",
        "devices = ['01:00.0']",
        "devices = [1]",
        "device = ['*']",
        "actuate = ",
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1") + "\0",
        "# " + "x" * (1 << 16),
    ],
)
def test_a_mistake_is_no_consent(tmp_path: Path, text: str) -> None:
    with pytest.raises(AllowanceError, match=r"actuate\.toml"):
        load(write_allowance(tmp_path, text))


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_no_consent(tmp_path: Path, mode: int) -> None:
    with pytest.raises(AllowanceError, match="nobody else may write"):
        load(write_allowance(tmp_path, EXAMPLE, mode=mode))


def test_neither_is_one_of_somebody_else_nor_a_link_nor_one_in_an_open_folder(
    tmp_path: Path,
) -> None:
    path = write_allowance(tmp_path, EXAMPLE)
    with pytest.raises(AllowanceError):
        load_allowance(path, owner=path.stat().st_uid + 1)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    with pytest.raises(AllowanceError):
        load(link)
    tmp_path.chmod(0o777)
    with pytest.raises(AllowanceError, match="folder"):
        load(path)


# --- what is written -------------------------------------------------------------------------


def test_files_and_driverctl_are_found(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.write("/usr/sbin/driverctl", "#!/bin/bash\n")
    tree.write("/lib/udev/rules.d/05-driverctl.rules", "\n")
    tree.write(driverctl_file(GPU), "vfio-pci\n")
    tree.write("/etc/udev/rules.d/05-vfioctl-0000:0a:00.0.rules", "ours\n")
    tree.write("/etc/udev/rules.d/70-persistent-net.rules", "not ours\n")
    unit = card()
    root = LiveRoot(str(tmp_path))

    # the program alone loads nothing at boot
    assert not read_written(root, unit).driverctl
    tree.mkdir("/run/systemd/system")
    found = read_written(root, unit)
    assert found.driverctl
    assert dict(found.files) == {
        driverctl_file(GPU): "vfio-pci\n",
        "/etc/udev/rules.d/05-vfioctl-0000:0a:00.0.rules": "ours\n",
    }


def test_a_capture_that_lacks_a_file_proves_nothing(tmp_path: Path) -> None:
    SysfsTree(tmp_path).mkdir("/etc/udev/rules.d")
    unit = card()

    with pytest.raises(OSError, match=MODPROBE_FILE):
        read_written(open_root(str(tmp_path)), unit)
