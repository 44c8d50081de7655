"""`host-critical`: what the host needs is found through every layer, and doubt counts as need."""

import sys
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from tests.fakes.snapshots import (
    behind,
    bridge,
    function,
    gpu,
    make_host,
    nic,
    nvme,
    silent_host,
    unread,
    virtual_function,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.host_critical import judge
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import NO_GROUP, BlockDevice, NetDevice, PciFunction, StorageUse

DISK = nvme("0000:02:00.0", driver="nvme", group=2)
CARD = nic("0000:01:00.0", driver="igb", group=1, device=0x1521)
FREE = nic("0000:05:00.0", group=5)
USB = function("0000:00:14.0", class_code=0x0C0330, driver="xhci_hcd", device=0x1E31, group=14)


def judged(address: str, *functions: PciFunction, **changes: Any) -> Finding:
    return find(judge(make_host(*functions, **changes)), f"function:{address}")


def root_on(*blocks: BlockDevice, device: str = "dm-0", **changes: Any) -> dict[str, Any]:
    use = replace(StorageUse("/ (ext4)", "storage", (device,), (), ""), **changes)
    return {"block": blocks, "storage_uses": (use,)}


def interface(name: str, address: str | None = "", **changes: Any) -> NetDevice:
    values: dict[str, Any] = {
        "function": None if address is None else Address(address),
        "mac": "",
        "uppers": (),
        "lowers": (),
        "addresses": (),
        "routes": (),
    }
    return NetDevice(name, **values | changes)


def test_a_free_vfio_device_is_not_needed() -> None:
    finding = judged("0000:05:00.0", FREE)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "NOT_HOST_CRITICAL")


# --- storage -------------------------------------------------------------------------------------

LVM = root_on(
    BlockDevice("dm-0", "253:0", (), ("nvme0n1p3",), "vg-root"),
    BlockDevice("nvme0n1p3", "259:3", (), ("nvme0n1",), ""),
    BlockDevice("nvme0n1", "259:0", (DISK.address,), (), ""),
)


def test_the_root_disk_is_found_through_lvm() -> None:
    finding = judged("0000:02:00.0", DISK, FREE, **LVM)
    assert (finding.verdict, finding.code, finding.intended) == (
        Verdict.FAIL,
        "HOST_CRITICAL",
        False,
    )
    assert "/ (ext4) on dm-0 (vg-root) <- nvme0n1p3 <- nvme0n1" in texts(finding)
    assert judged("0000:05:00.0", DISK, FREE, **LVM).verdict is Verdict.PASS


def test_both_disks_of_a_mirror_are_needed_and_cycles_end() -> None:
    other = nvme("0000:03:00.0", driver="nvme", group=3)
    mirror = root_on(
        BlockDevice("md0", "9:0", (), ("nvme0n1", "nvme1n1"), "raid1"),
        BlockDevice("nvme0n1", "259:0", (DISK.address,), ("md0",), ""),
        BlockDevice("nvme1n1", "259:1", (other.address,), (), ""),
        device="md0",
    )
    for address in ("0000:02:00.0", "0000:03:00.0"):
        assert judged(address, DISK, other, **mirror).verdict is Verdict.FAIL


def test_a_file_system_without_a_block_device_names_its_function() -> None:
    virtio = function("0000:00:1d.0", class_code=0x000200, vendor=0x1AF4, driver="virtio-pci")
    use = StorageUse("/ (9p)", "storage", (), (virtio.address,), "")
    assert judged("0000:00:1d.0", virtio, storage_uses=(use,)).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "changes",
    [
        {"storage_uses": None},
        {"block": None},
        root_on(device="zram9"),
        root_on(BlockDevice("dm-0", "253:0", None, (), "")),
        root_on(device="sda2", unresolved="zfs pool rpool: vdevs not known"),
    ],
)
def test_an_unresolved_disk_source_doubts_what_may_hold_a_disk(changes: dict[str, Any]) -> None:
    functions = (DISK, CARD, FREE, USB)
    network = (interface("eth9", "0000:01:00.0"),)
    found = {
        f.subject: f.verdict
        for f in judge(make_host(*functions, network=network, **({"block": ()} | changes)))
    }
    assert found == {
        "function:0000:02:00.0": Verdict.UNKNOWN,
        "function:0000:00:14.0": Verdict.UNKNOWN,
        "function:0000:01:00.0": Verdict.PASS,
        "function:0000:05:00.0": Verdict.PASS,
    }


def test_a_vfio_bound_disk_cannot_hold_what_is_not_resolved() -> None:
    given = nvme("0000:04:00.0", group=4)
    assert judged("0000:04:00.0", given, storage_uses=None).verdict is Verdict.PASS
    adrift = nvme("0000:04:00.0", group=4, driver="")
    assert judged("0000:04:00.0", adrift, storage_uses=None).verdict is Verdict.PASS


def test_network_storage_doubts_network_cards() -> None:
    use = StorageUse("/srv (nfs)", "network", (), (), "the server's interface is not known")
    changes = {"storage_uses": (use,), "network": (interface("eth9", "0000:01:00.0"),)}
    assert judged("0000:01:00.0", CARD, DISK, **changes).verdict is Verdict.UNKNOWN
    assert judged("0000:02:00.0", CARD, DISK, **changes).verdict is Verdict.PASS


def test_gaps_of_the_mount_table_give_their_own_command() -> None:
    finding = judged("0000:02:00.0", DISK, storage_uses=None)
    assert "findmnt; swapon --show" in commands(finding)


# --- network -------------------------------------------------------------------------------------


def test_the_management_address_through_a_bridge() -> None:
    network = (
        interface("eth0", "0000:01:00.0", uppers=("vmbr0",)),
        interface("vmbr0", addresses=("10.0.2.15/24",), routes=("default",), lowers=("eth0",)),
    )
    finding = judged("0000:01:00.0", CARD, network=network)
    assert finding.verdict is Verdict.FAIL
    assert "eth0 carries 10.0.2.15/24, default route, via vmbr0" in texts(finding)


def test_through_a_bond_and_a_vlan() -> None:
    network = (
        interface("eth0", "0000:01:00.0", uppers=("bond0",)),
        interface("bond0", uppers=("bond0.7",)),
        interface("bond0.7", addresses=("10.7.0.1/24",)),
    )
    finding = judged("0000:01:00.0", CARD, network=network)
    assert "eth0 carries 10.7.0.1/24, via bond0 bond0.7" in texts(finding)


def test_a_port_of_a_bridge_without_addresses_is_needed_too() -> None:
    network = (interface("eth0", "0000:01:00.0", uppers=("vmbr1",)), interface("vmbr1"))
    finding = judged("0000:01:00.0", CARD, network=network)
    assert finding.verdict is Verdict.FAIL
    assert "eth0 belongs to vmbr1" in texts(finding)


def test_an_idle_interface_is_not_needed() -> None:
    assert judged("0000:01:00.0", CARD, network=(interface("eth1", CARD.address),)).verdict is (
        Verdict.PASS
    )


@pytest.mark.parametrize(
    "network",
    [
        None,
        (),
        (interface("eth0", "0000:01:00.0", addresses=None),),
        (interface("eth0", "0000:01:00.0", routes=None),),
        (
            interface("eth9", "0000:01:00.0"),
            interface("eth0", None, addresses=("10.0.0.1/8",)),
        ),
    ],
)
def test_unresolved_network_use_doubts_network_cards(network: Any) -> None:
    finding = judged("0000:01:00.0", CARD, FREE, network=network)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "HOST_CRITICAL_UNKNOWN")
    assert judged("0000:05:00.0", CARD, FREE, network=network).verdict is Verdict.PASS


def test_an_unread_driver_is_a_doubt() -> None:
    card = unread(CARD, "driver", "vfio_device")
    assert judged("0000:01:00.0", card).verdict is Verdict.UNKNOWN


# --- console and keyboard ------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["i915", ""])
def test_the_console_is_needed(driver: str) -> None:
    card = gpu("0000:00:02.0", driver=driver, boot_vga=True)
    finding = judged("0000:00:02.0", card)
    assert finding.verdict is Verdict.FAIL
    assert "console" in texts(finding)


def test_a_console_that_vfio_has_already_is_free() -> None:
    finding = judged("0000:01:00.0", gpu("0000:01:00.0", boot_vga=True))
    assert finding.verdict is Verdict.PASS
    assert "no console" in finding.meaning


def test_whether_it_is_the_console_must_be_known() -> None:
    card = gpu("0000:00:02.0", driver="i915")
    assert judged("0000:00:02.0", unread(card, "boot_vga")).verdict is Verdict.UNKNOWN
    dark = unread(gpu("0000:00:02.0", boot_vga=True), "driver", "vfio_device")
    assert judged("0000:00:02.0", dark).verdict is Verdict.UNKNOWN


def test_the_keyboards_controller_is_needed() -> None:
    assert judged("0000:00:14.0", USB, keyboards=(USB.address,)).verdict is Verdict.FAIL
    assert judged("0000:00:14.0", USB, keyboards=()).verdict is Verdict.PASS
    assert judged("0000:00:14.0", USB, keyboards=None).verdict is Verdict.UNKNOWN


# --- transitive ----------------------------------------------------------------------------------


def test_a_group_mate_of_the_root_disk_is_needed_and_intended_ones_move_the_verdict() -> None:
    mate = nic("0000:05:00.0", group=2)
    finding = judged("0000:05:00.0", DISK, mate, **LVM)
    assert (finding.verdict, finding.intended) == (Verdict.FAIL, True)
    assert "shares group 2 with 0000:02:00.0: / (ext4)" in texts(finding)
    assert judged("0000:02:00.0", DISK, mate, **LVM).intended is True


def test_what_a_reset_takes_along_is_needed() -> None:
    port = bridge("0000:00:01.0", group=0)
    first = gpu("0000:02:00.1", group=9, reset_methods=("bus",))
    functions = behind(port, DISK, first)
    finding = judged("0000:02:00.1", *functions, **LVM)
    assert finding.verdict is Verdict.FAIL
    assert "its reset takes along 0000:02:00.0" in texts(finding)
    own = behind(port, DISK, nic("0000:02:00.1", group=9))
    assert judged("0000:02:00.1", *own, **LVM).verdict is Verdict.PASS


def test_a_pf_is_needed_for_its_vf_and_not_the_other_way_round() -> None:
    owner = nic("0000:03:00.0", driver="igb", group=3, sriov_total_vfs=7, sriov_num_vfs=2)
    used = virtual_function(owner, "0000:03:10.0", 0, group=30, driver="igbvf")
    free = virtual_function(owner, "0000:03:10.2", 1, group=31)
    rest = interface("eth8", "0000:03:00.0")
    on_vf = (rest, interface("eth9", used.address, addresses=("10.0.0.9/24",)))
    assert judged("0000:03:00.0", owner, used, free, network=on_vf).verdict is Verdict.FAIL
    assert judged("0000:03:10.2", owner, used, free, network=on_vf).verdict is Verdict.PASS
    on_pf = (replace(rest, addresses=("10.0.0.1/24",)), interface("eth9", used.address))
    assert judged("0000:03:10.2", owner, used, free, network=on_pf).verdict is Verdict.PASS


def test_a_controller_with_a_bus_of_its_own_is_needed_for_what_hangs_there() -> None:
    vmd = function("0000:00:0e.0", class_code=0x010400, driver="vmd", group=4)
    below = nvme("10000:e1:00.0", driver="nvme", group=4, parent=vmd.address, root="pci10000:e1")
    disk = root_on(BlockDevice("nvme0n1", "259:0", (below.address,), (), ""), device="nvme0n1")
    apart = replace(below, group=NO_GROUP)
    assert judged("0000:00:0e.0", vmd, apart, **disk).verdict is Verdict.FAIL


@pytest.mark.parametrize("field", ["group", "parent", "physfn"])
def test_links_that_were_not_read_are_doubts_while_something_is_needed(field: str) -> None:
    owner = gpu("0000:05:00.0", group=5, sriov_num_vfs=None, parent=Address("0000:00:01.0"))
    disk = unread(DISK, field)
    assert judged("0000:05:00.0", owner, disk, groups=None, **LVM).verdict is Verdict.UNKNOWN
    assert judged("0000:05:00.0", owner, DISK, groups=None, **LVM).verdict is Verdict.PASS


def test_a_function_of_unread_group_may_share_the_disks() -> None:
    lost = unread(FREE, "group")
    assert judged("0000:05:00.0", lost, DISK, groups=None, **LVM).verdict is Verdict.UNKNOWN
    assert judged("0000:05:00.0", lost, groups=None).verdict is Verdict.PASS


def test_an_unread_class_may_be_anything() -> None:
    assert judged("0000:01:00.0", unread(CARD, "class_code")).verdict is Verdict.UNKNOWN


def test_no_inventory() -> None:
    assert find(judge(silent_host())).code == "INVENTORY_UNKNOWN"
    assert find(judge(make_host())).verdict is Verdict.NOT_APPLICABLE


def _count_calls(functions: int) -> int:
    """How many calls of Python code it takes to judge a host with so many cards."""
    disk = nic("0000:00:1f.2", group=0, class_code=0x010601, driver="ahci")
    cards = [nic(f"0000:{n:02x}:00.0", group=n) for n in range(1, functions + 1)]
    host = make_host(disk, *cards, storage_uses=None, intents=())
    seen = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal seen
        seen += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        judge(host)
    finally:
        sys.setprofile(before)
    return seen


def test_twice_the_functions_are_no_more_than_twice_the_work() -> None:
    _count_calls(10)
    assert _count_calls(160) < 2.5 * _count_calls(80)
