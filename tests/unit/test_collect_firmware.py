"""The firmware tuple: what is there, what the platform provably lacks, what nobody could read."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.firmware import collect_firmware
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root

DMI = {
    "bios_vendor": "American Megatrends",
    "bios_version": "F11",
    "bios_date": "06/20/2024",
    "sys_vendor": "Gigabyte",
    "product_name": "R282",
    "product_uuid": "4c4c4544-0042-3510-8051-b4c04f4d3832",
    "board_name": "MZ92",
}


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    tree = SysfsTree(tmp_path)
    for name, text in DMI.items():
        tree.write(f"/sys/class/dmi/id/{name}", text + "\n")
    tree.mkdir("/sys/devices/platform")
    tree.write("/sys/devices/platform/ipmi_bmc.0/firmware_revision", "2.86\n")
    tree.write("/proc/cpuinfo", "processor: 0\nmicrocode\t: 0xa0011d5\nflags: svm\n")
    tree.write("/sys/firmware/acpi/tables/IVRS", b"IVRS\x00\xff table")
    return tree


def live(tree: SysfsTree) -> Reader:
    return Reader(LiveRoot(str(tree.top)))


def test_a_server(tree: SysfsTree) -> None:
    reader = live(tree)
    found = collect_firmware(reader)
    assert found.bios_version == "F11"
    assert found.system_vendor == "Gigabyte"
    assert found.product_uuid == DMI["product_uuid"]
    assert found.bmc_revision == "2.86"
    assert found.microcode == "0xa0011d5"
    assert found.ivrs_sha256 == sha256(b"IVRS\x00\xff table").hexdigest()
    assert found.dmar_sha256 == ""
    assert found.attributes == ()
    assert reader.gaps == ()


def test_a_platform_without_any_of_it_says_so(tmp_path: Path) -> None:
    tree = SysfsTree(tmp_path)
    tree.mkdir("/sys/devices/platform")
    tree.write("/proc/cpuinfo", "processor: 0\nCPU implementer: 0x41\n")
    reader = live(tree)
    found = collect_firmware(reader)
    assert (found.bios_version, found.product_uuid, found.microcode) == ("", "", "")
    assert (found.bmc_revision, found.dmar_sha256, found.ivrs_sha256) == ("", "", "")
    assert reader.gaps == ()


def test_a_capture_without_any_of_it_knows_nothing(tmp_path: Path) -> None:
    reader = Reader(open_root(str(tmp_path)))
    found = collect_firmware(reader)
    assert {getattr(found, name) for name in found.__slots__} == {None}
    assert "/sys/class/dmi/id/bios_version" in {gap.path for gap in reader.gaps}
    assert "/sys/firmware/acpi/tables/DMAR" in {gap.path for gap in reader.gaps}


def test_a_bmc_whose_driver_is_not_loaded_is_not_absent(tree: SysfsTree) -> None:
    tree.remove("/sys/devices/platform/ipmi_bmc.0/firmware_revision")
    tree.at("/sys/devices/platform/ipmi_bmc.0").rmdir()
    reader = live(tree)
    assert collect_firmware(reader).bmc_revision is None
    assert [gap.remedy for gap in reader.gaps] == ["sudo modprobe ipmi_si"]
    tree.mkdir("/sys/firmware/dmi/entries/1-0")
    assert collect_firmware(live(tree)).bmc_revision == ""
    tree.mkdir("/sys/firmware/dmi/entries/38-0")
    assert collect_firmware(live(tree)).bmc_revision is None


def test_settings_are_sorted_and_whole(tree: SysfsTree) -> None:
    folder = "/sys/class/firmware-attributes/dell-wmi-sysman/attributes"
    tree.write(f"{folder}/VtForDirectIo/current_value", "Enabled\n")
    tree.write(f"{folder}/AcsControl/current_value", "Disabled\n")
    tree.mkdir(f"{folder}/NoValueHere")
    tree.write(f"{folder}/pending_reboot", "0\n")
    reader = live(tree)
    assert collect_firmware(reader).attributes == (
        ("AcsControl", "Disabled"),
        ("VtForDirectIo", "Enabled"),
    )
    assert reader.gaps == ()


def test_half_of_the_settings_is_none_of_them(tree: SysfsTree) -> None:
    folder = "/sys/class/firmware-attributes/thinklmi/attributes"
    tree.write(f"{folder}/One/current_value", "Enable\n")
    tree.mkdir(f"{folder}/Two/current_value")  # reading a directory fails with EISDIR
    reader = live(tree)
    assert collect_firmware(reader).attributes is None
    assert [gap.path for gap in reader.gaps] == [f"{folder}/Two/current_value"]


def test_a_table_that_cannot_be_read_is_not_absent(tree: SysfsTree) -> None:
    tree.mkdir("/sys/firmware/acpi/tables/DMAR")  # reading a directory fails with EISDIR
    reader = live(tree)
    assert collect_firmware(reader).dmar_sha256 is None
    assert [gap.remedy for gap in reader.gaps] == ["sudo sha256sum /sys/firmware/acpi/tables/DMAR"]
