"""`vm-functions`: the right functions, all of them, and nothing that the host needs."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    config_space,
    gpu,
    make_host,
    nic,
    nvme,
    unread,
    virtual_function,
)
from tests.fakes.vms import make_device, make_mapping, make_vm
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks import vm_memory
from vfio_agent.checks.vm_functions import judge
from vfio_contract.address import Address
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import NO_GROUP, Gap, Holder, NetDevice, PciFunction
from vfio_contract.vm import LIBVIRT, PROXMOX, QEMU, MappingEntry, VmConfig

CARD = nic("0000:01:00.0")
GPU = gpu("0000:03:00.0", group=3)
SOUND = audio("0000:03:00.1", group=3)


def judged(vm: VmConfig, *functions: PciFunction, vms: Any = (), **changes: Any) -> Finding:
    host = make_host(*functions, vms=(vm, *vms), **changes)
    return find(judge(host), f"vm:{vm.name}")


def test_everything_right() -> None:
    vm = make_vm(make_device("0000:03:00"), make_device("0000:01:00.0", key="hostpci1", line=7))
    finding = judged(vm, GPU, SOUND, CARD)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "VM_FUNCTIONS_READY")
    assert finding.intended is True
    assert "/etc/pve/qemu-server/101.conf:7: hostpci1: host=0000:01:00.0,pcie=1" in texts(finding)


def test_no_vms_and_vms_that_were_not_read() -> None:
    (finding,) = judge(make_host(CARD))
    assert (finding.subject, finding.verdict) == ("node", Verdict.NOT_APPLICABLE)
    (finding,) = judge(make_host(CARD, vms=(make_vm(), make_vm(make_device(), template=True))))
    assert finding.verdict is Verdict.NOT_APPLICABLE
    (finding,) = judge(make_host(CARD, vms=None))
    assert (finding.subject, finding.verdict) == ("node", Verdict.UNKNOWN)
    gap = Gap("/etc/libvirt/qemu", 13, "Permission denied", "sudo vfioctl check")
    found = judge(make_host(CARD, vms=(make_vm(make_device("0000:01:00.0")),), gaps=(gap,)))
    assert find(found, "vm:101").verdict is Verdict.PASS
    assert commands(find(found)) == ["sudo vfioctl check"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0000:03:00", "0000:03:00.1"),
        ("0000:03:00.1", "0000:03:00"),
        ("0000:03:00.0", "0000:03:00.0"),
        ("0000:03:00", "0000:03:00"),
    ],
)
def test_an_overlap_dies_on_proxmox(one: str, other: str) -> None:
    vm = make_vm(make_device(one), make_device(other, key="hostpci1", line=7))
    finding = judged(vm, GPU, SOUND)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_DEVICE_TWICE")
    assert "101.conf:6" in texts(finding)
    assert "101.conf:7" in texts(finding)


def test_an_address_that_is_not_there() -> None:
    finding = judged(make_vm(make_device("0000:09:00.0", line=4)), CARD)
    assert finding.code == "VM_DEVICE_MISSING"
    text = "/etc/pve/qemu-server/101.conf:4: hostpci0: this host has no function at 0000:09:00.0"
    assert text in texts(finding)
    finding = judged(make_vm(make_device("0000:09:00.0")), functions=None)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VM_FUNCTIONS_UNKNOWN")
    assert commands(finding) == ["lspci -nnk"]


def test_an_entry_that_names_nothing() -> None:
    vm = make_vm(make_device(options=(("host", "rubbish"),)), faults=((6, "not a PCI address"),))
    assert judged(vm, CARD).code == "VM_ENTRY_BROKEN"
    vm = make_vm(make_device("0000:01:00.0"), faults=((9, "not a setting"),))
    assert judged(vm, CARD).verdict is Verdict.PASS


def test_a_group_mate_that_the_host_needs_is_said_loudly() -> None:
    disk = nvme("0000:02:00.0", driver="nvme", group=1)
    network = (
        NetDevice("nvme-net", disk.address, "", (), (), ("10.0.0.9/24",), ("default",)),
        NetDevice("lo", Address(""), "", (), (), (), ()),
    )
    finding = judged(make_vm(make_device("0000:01:00.0")), CARD, disk, network=network)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_HOST_CRITICAL")
    assert "STARTING THIS VM" in finding.meaning
    assert "shares group 1 with 0000:02:00.0" in texts(finding)
    finding = judged(make_vm(make_device("0000:01:00.0")), CARD, disk, storage_uses=None)
    assert finding.verdict is Verdict.UNKNOWN


def test_a_companion_that_was_forgotten() -> None:
    vm = make_vm(make_device("0000:03:00.0"))
    finding = judged(vm, GPU, SOUND)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_COMPANION_LEFT")
    assert "0000:03:00.1 is not passed" in texts(finding)
    apart = replace(SOUND, group=4)
    alone = replace(GPU, reset_methods=("flr",), config=config_space(flr=True))
    finding = judged(vm, alone, apart)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "VM_COMPANION_APART")
    assert judged(vm, alone, unread(apart, "class_code")).verdict is Verdict.UNKNOWN
    assert judged(vm, alone, unread(apart, "group"), groups=()).verdict is Verdict.UNKNOWN
    port = bridge("0000:00:03.0", group=9)
    bus = [replace(f, reset_methods=("bus",), config=config_space()) for f in (GPU, apart)]
    assert judged(vm, *behind(port, *bus)).code == "VM_COMPANION_LEFT"


@pytest.mark.parametrize(
    ("managed", "driver", "code"),
    [
        (True, "igb", "VM_FUNCTIONS_READY"),
        (True, "", "VM_FUNCTIONS_READY"),
        (False, "vfio-pci", "VM_FUNCTIONS_READY"),
        (False, "igb", "VM_NOT_BOUND"),
        (False, "", "VM_NOT_BOUND"),
    ],
)
def test_bound_or_bindable(managed: bool, driver: str, code: str) -> None:
    idle = (NetDevice("eth9", Address("0000:01:00.0"), "", (), (), (), ()),)
    card = nic("0000:01:00.0", driver=driver)
    vm = make_vm(make_device("0000:01:00.0", managed=managed, pcie=None), kind=LIBVIRT)
    assert judged(vm, card, network=idle).code == code
    silent = unread(card, "driver", "vfio_device")
    verdict = judged(vm, silent, network=idle).verdict
    assert verdict is (Verdict.PASS if managed else Verdict.UNKNOWN)


def test_a_device_of_two_vms() -> None:
    vm = make_vm(make_device("0000:01:00.0"))
    resting = make_vm(make_device("0000:01:00"), name="102")
    assert judged(vm, CARD, vms=[resting]).verdict is Verdict.PASS
    starting = replace(resting, autostart=True)
    finding = judged(vm, CARD, vms=[starting])
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_DEVICE_SHARED")
    assert "/etc/pve/qemu-server/102.conf:6" in texts(finding)
    running = replace(resting, kind=QEMU, autostart=None)
    assert judged(vm, CARD, vms=[running]).code == "VM_DEVICE_SHARED"
    unsure = replace(resting, kind=LIBVIRT, autostart=None)
    assert judged(vm, CARD, vms=[unsure]).verdict is Verdict.UNKNOWN
    assert judged(vm, CARD, vms=[replace(starting, template=True)]).verdict is Verdict.PASS


def mapped(**changes: Any) -> Finding:
    vm = make_vm(make_device(mapping="fast", key="hostpci0"))
    return judged(vm, CARD, **changes)


def test_mappings() -> None:
    good = make_mapping("fast", "0000:01:00.0", group=1)
    assert mapped(mappings=(good,)).verdict is Verdict.PASS
    finding = mapped(mappings=(make_mapping("fast", "0000:01:00.0", group=17),))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "MAPPING_STALE")
    assert "/etc/pve/mapping/pci.cfg:2: iommugroup=17, but 0000:01:00.0 is in group 1" in texts(
        finding
    )
    entry = replace(good.entries[0], ids="10de:2204")
    assert mapped(mappings=(replace(good, entries=(entry,)),)).code == "MAPPING_STALE"
    gone = make_mapping("fast", "0000:09:00.0")
    assert mapped(mappings=(gone,)).code == "MAPPING_STALE"
    assert mapped(mappings=()).code == "VM_DEVICE_MISSING"
    elsewhere = replace(good, entries=(replace(good.entries[0], node="pve02"),))
    assert mapped(mappings=(elsewhere,)).code == "VM_DEVICE_MISSING"
    assert mapped(mappings=None).verdict is Verdict.UNKNOWN


def test_a_mediated_device_leaves_its_parent_with_the_host() -> None:
    parent = gpu("0000:03:00.0", group=3, driver="i915", boot_vga=True)
    vm = make_vm(make_device("0000:03:00.0", mdev="i915-GVTg_V5_4"))
    # it takes nothing from the host, but whether it is there was not looked at
    finding = judged(vm, parent)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VM_FUNCTIONS_UNKNOWN")
    assert "mdev" in texts(finding) or "hostpci0" in texts(finding)
    assert commands(finding) == ["ls /sys/bus/pci/devices/0000:03:00.0/mdev_supported_types"]
    assert "/sys/bus/mdev/devices" in finding.missing[0].evidence
    host = make_host(parent, vms=(vm,))
    assert not host.intentions


def test_what_is_worst_comes_first_and_the_rest_is_named() -> None:
    vm = make_vm(make_device("0000:03:00.0"), make_device("0000:09:00.0", key="hostpci1", line=7))
    finding = judged(vm, GPU, SOUND)
    assert finding.code == "VM_DEVICE_MISSING"
    assert "VM_COMPANION_LEFT" in finding.meaning


# --- what no vfio driver takes -------------------------------------------------------------------


def test_a_bridge_is_never_assigned() -> None:
    vm = make_vm(make_device("0000:00:02.0"))
    finding = judged(vm, *behind(bridge("0000:00:02.0", group=9), CARD))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_NOT_BINDABLE")
    assert "0000:00:02.0 is a bridge" in texts(finding)
    unclear = unread(bridge("0000:00:02.0", group=9), "config")
    assert judged(vm, *behind(unclear, CARD)).verdict is Verdict.UNKNOWN


def test_nor_is_a_function_without_a_group() -> None:
    vm = make_vm(make_device("0000:01:00.0"))
    adrift = nic("0000:01:00.0", group=NO_GROUP)
    finding = judged(vm, adrift, nic("0000:05:00.0", group=5))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_NOT_BINDABLE")
    assert "0000:01:00.0 is in no IOMMU group" in texts(finding)


def test_a_vf_of_a_physical_function_on_vfio_needs_its_token() -> None:
    owner = nic("0000:03:00.0", group=3, sriov_total_vfs=2, sriov_num_vfs=1)
    vf = virtual_function(owner, "0000:03:10.0", 0, group=20, driver="vfio-pci")
    vm = make_vm(make_device("0000:03:10.0"))
    finding = judged(vm, owner, vf)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_VF_TOKEN")
    host_driven = replace(owner, driver="igb", vfio_device=False)
    assert judged(vm, host_driven, vf).verdict is Verdict.PASS
    token = (("host", "03:10.0"), ("vf-token", "00112233-4455-6677-8899-aabbccddeeff"))
    given = make_vm(make_device("0000:03:10.0", options=token))
    assert judged(given, owner, vf).code != "VM_VF_TOKEN"
    assert judged(vm, unread(owner, "driver", "vfio_device"), vf).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("kind", [PROXMOX, LIBVIRT, QEMU])
def test_a_function_that_is_being_taken_from_its_holder_is_not_ready(kind: str) -> None:
    """Its link to the physical function goes with the driver, so no token is asked for."""
    leaving = replace(CARD, driver="", vfio_device=False, physfn=None)
    holder = Holder(f"/dev/vfio/{CARD.group}", 4212, "kvm", stale_node=False)
    finding = judged(make_vm(make_device("0000:01:00.0"), kind=kind), leaving, holders=(holder,))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_HELD_UNBOUND")
    assert "held by kvm (pid 4212)" in texts(finding)


def test_a_mapping_with_too_few_entries_is_shared() -> None:
    card, spare = CARD, nic("0000:02:00.0", group=2)
    first = MappingEntry("pve01", ("0000:01:00.0",), "", "", -1, 2)
    second = MappingEntry("pve01", ("0000:02:00.0",), "", "", -1, 3)
    wanted = make_device(mapping="nics")
    vm = make_vm(wanted)
    other = make_vm(wanted, name="102", autostart=True)
    one = make_mapping("nics", "0000:01:00.0")
    both = replace(one, entries=(first, second))
    known = {"host": "pve01"}
    assert judged(vm, card, spare, vms=(other,), mappings=(one,), **known).code == (
        "VM_DEVICE_SHARED"
    )
    assert judged(vm, card, spare, vms=(other,), mappings=(both,), **known).verdict is Verdict.PASS
    by_address = make_vm(make_device("0000:01:00.0"), name="103", autostart=True)
    assert judged(vm, card, vms=(by_address,), mappings=(one,), **known).code == "VM_DEVICE_SHARED"
    assert judged(vm, card, spare, vms=(by_address,), mappings=(both,), **known).code == (
        "VM_FUNCTIONS_READY"
    )


def test_what_a_mapping_gives_to_another_vm_may_be_this_ones_device() -> None:
    vm = make_vm(make_device("0000:01:00.0"))
    other = make_vm(make_device(mapping="nics"), name="102", autostart=True)
    finding = judged(vm, CARD, vms=(other,), mappings=None)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "VM_FUNCTIONS_UNKNOWN")
    assert any("mapping" in missing.evidence for missing in finding.missing)
    resting = replace(other, autostart=False)
    assert judged(vm, CARD, vms=(resting,), mappings=None).verdict is Verdict.PASS


def test_a_parent_on_a_vfio_driver_makes_no_mediated_device() -> None:
    vm = make_vm(make_device("0000:03:00", mdev="nvidia-63"))
    for driver in ("vfio-pci", ""):
        finding = judged(vm, replace(GPU, driver=driver, vfio_device=bool(driver)), SOUND)
        assert (finding.verdict, finding.code) == (Verdict.FAIL, "VM_MDEV_PARENT")
        assert "0000:03:00.0" in finding.decision
    hosted = judged(vm, replace(GPU, driver="nvidia", vfio_device=False), SOUND)
    unseen = judged(vm, unread(GPU, "driver", "vfio_device"), SOUND)
    assert hosted.code == unseen.code == "VM_FUNCTIONS_UNKNOWN"
    assert len(unseen.missing) == len(hosted.missing) + 1


def test_a_uuid_alone_is_not_known_unless_it_runs() -> None:
    entry = make_device(mdev="c2177883-f1bb-47f0-914d-32a22e3a8804")
    finding = judged(make_vm(entry, kind=LIBVIRT), GPU)
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == ["ls /sys/bus/mdev/devices"]
    assert entry.mdev in texts(finding)
    running = make_vm(entry, kind=QEMU, source="/proc/4711/cmdline")
    assert judged(running, GPU).verdict is Verdict.PASS
    assert judged(replace(running, source="paste"), GPU).verdict is Verdict.UNKNOWN


def test_all_companions_are_named_and_in_the_hypervisor_s_words() -> None:
    usb, ucsi = (
        replace(audio(f"0000:03:00.{n}", group=3), class_code=c)
        for n, c in ((2, 0x0C0330), (3, 0x0C8000))
    )
    entry = make_device("0000:03:00.0")
    finding = judged(make_vm(entry), GPU, SOUND, usb, ucsi)
    assert finding.code == "VM_COMPANION_LEFT"
    for address in ("0000:03:00.1", "0000:03:00.2", "0000:03:00.3"):
        assert address in finding.decision
        assert f"{address} is not passed" in texts(finding)
    libvirt = judged(make_vm(entry, kind=LIBVIRT, name="win 11"), GPU, SOUND)
    assert libvirt.decision == ("virsh edit 'win 11': one hostdev more for each of 0000:03:00.1")


def test_beside_vms_that_were_read_one_check_speaks_for_those_that_were_not() -> None:
    gap = Gap("/etc/libvirt/qemu", 0, "not captured", "ls /etc/libvirt/qemu")
    host = make_host(CARD, vms=(make_vm(make_device("0000:01:00.0")),), gaps=(gap,))
    assert find(judge(host)).code == "VMS_UNKNOWN"
    assert [f.subject for f in vm_memory.judge(host)] == ["vm:101"]
    alone = make_host(CARD, vms=None, gaps=(gap,))
    assert find(vm_memory.judge(alone)).code == "VMS_UNKNOWN"


def test_why_a_configuration_could_not_be_read_is_said() -> None:
    reason = "line 1: a document type declaration is not read"
    gap = Gap("/etc/libvirt/qemu/a.xml", 0, reason, "")
    (missing,) = find(judge(make_host(CARD, vms=(), gaps=(gap,)))).missing
    assert missing.evidence == f"/etc/libvirt/qemu/a.xml: {reason}"
    assert missing.command == "cat /etc/libvirt/qemu/a.xml"
