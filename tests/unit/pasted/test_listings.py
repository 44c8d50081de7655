"""lspci in every form and group listings in their shapes: what they prove and what they do not."""

from __future__ import annotations

import pytest

from tests.unit.pasted.pastes import LOOP, LSPCI_VV
from vfio_agent.pasted.inventory import Inventory, build_inventory
from vfio_agent.pasted.listing import Listing, parse_listing
from vfio_agent.pasted.recognise import clean
from vfio_contract.model import NO_GROUP, PciFunction


def read(*texts: str) -> Inventory:
    return build_inventory([listing(text) for text in texts])


def listing(text: str) -> Listing:
    return parse_listing(clean(text.encode()))


def one(text: str) -> PciFunction:
    (found,) = read(text).functions or ()
    return found


# --- header lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80] (rev a1)",
        "0000:01:00.0 VGA compatible controller [0300]: NVIDIA X [10de:1b80] (rev a1) (prog-if 00)",
        "01:00.0 0300: 10de:1b80 (rev a1)",
        "01:00.0 Class 0300: 10de:1b80 (rev a1)",
        "\t[RESET] 01:00.0 VGA compatible controller [0300]: NVIDIA X [10de:1b80] (rev a1)",
        "[10de:1b80] [R] 01:00.0  VGA compatible controller                GP104 [GTX 1080]",
        "    01:00.0 VGA compatible controller [0300]: Odd [AMD/ATI] Name [10de:1b80]",
    ],
)
def test_header_forms(line: str) -> None:
    function = one(line + "\n")
    assert function.address == "0000:01:00.0"
    assert function.ids == "10de:1b80"
    assert function.class_code == 0x030000
    assert function.is_bridge is False
    assert function.driver is None


def test_names_alone_give_the_class_and_no_ids() -> None:
    function = one(
        "10000:e1:00.0 Non-Volatile memory controller: Samsung SSD (prog-if 02 [NVMe])\n"
    )
    assert function.address == "10000:e1:00.0"
    assert function.class_code == 0x010802
    assert function.vendor is None


@pytest.mark.parametrize(
    ("class_name", "bridge"),
    [
        ("PCI bridge [0604]", True),
        ("Host bridge [0600]", False),
        ("Bridge [0680]", None),
        ("Unheard-of thing", None),
        ("CardBus bridge [0607]", True),
    ],
)
def test_what_a_class_says_of_the_header(class_name: str, bridge: bool | None) -> None:
    assert one(f"01:00.0 {class_name}: Maker Name [10de:1b80]\n").is_bridge is bridge


def test_paths_of_pp_name_the_bridges_above() -> None:
    function = one("0001:00:1c.3/08:00.0/09:01.0 Ethernet controller [0200]: R [10ec:8168]\n")
    assert function.address == "0001:09:01.0"
    assert function.parent == "0001:08:00.0"


# --- rows below ----------------------------------------------------------------------------------


def test_everything_that_vv_tells() -> None:
    found = {str(f.address): f for f in read(LSPCI_VV).functions or ()}
    gpu, audio, port = (found[f"0000:{a}"] for a in ("01:00.0", "01:00.1", "00:01.0"))
    assert (gpu.driver, gpu.group, gpu.numa_node, gpu.parent) == ("vfio-pci", 1, 0, "0000:00:01.0")
    assert (gpu.subsystem_vendor, gpu.subsystem_device) == (0x1458, 0x3702)
    assert gpu.root == "pci0000:00"
    config = gpu.config
    assert config is not None
    assert config.pcie is not None
    assert config.capabilities == (0x01, 0x10)
    assert (config.pcie.port_type, config.pcie.flr, config.pcie.max_link_width) == (1, False, 16)
    assert config.pm_no_soft_reset is True
    assert config.extended == (0x02,)
    assert audio.config is not None
    assert audio.config.pcie is not None
    assert audio.config.pcie.flr is True
    assert audio.config.extended is None  # no extended one is shown: none, or out of reach
    assert port.is_bridge is True
    assert port.config is not None
    assert port.config.secondary_bus == 1
    assert read(LSPCI_VV).doubts == ()


def test_acs_serial_and_sriov_in_words() -> None:
    text = (
        "00:01.0 Ethernet controller [0200]: Intel Corporation I350 [8086:1521]\n"
        "\tControl: I/O+ Mem+\n\tCapabilities: [40] Express (v2) Endpoint, MSI 00\n"
        "\t\t\tExtTag+ FLReset+\n"
        "\tCapabilities: [140 v1] Device Serial Number a0-36-9f-ff-ff-12-34-56\n"
        "\tCapabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)\n"
        "\t\tInitial VFs: 8, Total VFs: 8, Number of VFs: 2, Function Dependency Link: 00\n"
        "\t\tVF offset: 128, stride: 4, Device ID: 1520\n"
        "\tCapabilities: [1d0 v1] Access Control Services\n"
        "\t\tACSCap:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd- EgressCtrl-\n"
        "\t\tACSCtl:\tSrcValid- TransBlk- ReqRedir+ CmpltRedir- UpstreamFwd- EgressCtrl-\n\n"
    )
    function = one(text)
    assert function.config is not None
    assert function.config.serial_number == "a0-36-9f-ff-ff-12-34-56"
    assert function.config.acs is not None
    assert (function.config.acs.capability, function.config.acs.control) == (0x0D, 0x04)
    assert (function.sriov_total_vfs, function.sriov_num_vfs) == (8, 2)


def test_denied_capabilities_are_unknown_and_the_header_is_not() -> None:
    text = (
        "00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e92]\n"
        "\tControl: I/O+ Mem+\n\tCapabilities: <access denied>\n\tKernel driver in use: i915\n\n"
    )
    config = one(text).config
    assert config is not None
    assert config.header_type == 0
    assert config.capabilities is None
    assert config.length == 64


def test_hex_is_read_as_bytes_and_a_virtual_function_is_known_by_them() -> None:
    head = "de 10 80 1b 07 01 10 00 a1 00 00 03 08 00 80 00"
    rows = [head, *["00 " * 15 + "00"] * 3]
    dump = "".join(f"{i * 16:02x}: {row}\n" for i, row in enumerate(rows))
    function = one(f"01:00.0 VGA compatible controller: NVIDIA\n{dump}\n")
    assert function.ids == "10de:1b80"
    assert function.config is not None
    assert function.config.multifunction is True
    virtual = one(f"01:10.0 Ethernet controller: X\n{dump.replace('de 10 80 1b', 'ff ff ff ff')}\n")
    assert virtual.physfn is None
    assert virtual.vendor is None


def test_a_device_that_does_not_answer_may_be_asleep() -> None:
    text = "01:00.0 VGA compatible controller [0300]: X [10de:1b80] (rev ff)\n"
    assert one(text + "\t!!! Unknown header type 7f\n\n").config is None


def test_no_driver_is_known_only_where_the_form_shows_drivers() -> None:
    nic = "00:19.0 Ethernet controller [0200]: Intel Corporation I217 [8086:153a]\n"
    usb = "00:14.0 USB controller [0c03]: Intel Corporation xHCI [8086:8c31]\n"
    plain = read(nic + usb).functions or ()
    assert [f.driver for f in plain] == [None, None]
    shown = read(usb + "\tKernel driver in use: xhci_hcd\n" + nic + "\n").functions or ()
    assert [f.driver for f in shown] == ["xhci_hcd", ""]


def test_a_neighbour_without_a_group_line_is_in_no_group() -> None:
    text = LSPCI_VV + (
        "00:1f.0 ISA bridge [0601]: Intel Corporation LPC [8086:a306]\n\tControl: I/O+ Mem+\n\n"
    )
    found = {str(f.address): f.group for f in read(text).functions or ()}
    assert found["0000:00:1f.0"] == NO_GROUP
    old = read(text.replace("\tIOMMU group: ", "\tX: ")).functions or ()
    assert {f.group for f in old} == {None}


# --- group listings ------------------------------------------------------------------------------

HEADER = "01:00.0 VGA compatible controller [0300]: NVIDIA X [10de:1b80] (rev a1)"


@pytest.mark.parametrize(
    "text",
    [
        f"IOMMU Group 3:\n\t{HEADER}\n",
        f"IOMMU Group 3:\n{HEADER}\n",
        f"IOMMU Group 3 {HEADER}\n",
        f"IOMMU group 3: {HEADER}\n",
        f"Group 3: {HEADER}\n",
        f"Group:  3  0000:{HEADER}\n",
        f"### Group 3 ###\n    {HEADER}\n",
        "Group 3:\t[10de:1b80] [R] 01:00.0  VGA compatible controller      GP104\n",
        "/sys/kernel/iommu_groups/3/devices/0000:01:00.0\n",
        "/sys/kernel/iommu_groups/3/devices:\n0000:01:00.0\n",
        "lrwxrwxrwx 1 root root 0 Nov 1 10:00 /sys/bus/pci/devices/0000:01:00.0/iommu_group -> "
        "../../../../kernel/iommu_groups/3\n",
        "group\tbdf\tids\tclass\tlspci\n3\t0000:01:00.0\t10de:1b80\t0x030000\tname\n",
    ],
)
def test_group_shapes(text: str) -> None:
    found = read(text)
    assert found.groups is not None
    assert [(g.number, g.members) for g in found.groups] == [(3, ("0000:01:00.0",))]
    assert "no member of group 0-2 is listed" in found.group_doubts


def test_link_targets_tell_the_parents() -> None:
    text = (
        "/sys/kernel/iommu_groups/0/devices/0000:01:00.0 -> "
        "../../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0\n" + HEADER + "\n"
    )
    assert one(text).parent == "0000:00:01.0"
    assert one(text).root == "pci0000:00"


def test_a_loop_ends_where_its_indentation_does() -> None:
    found = read(LOOP + "\n" + HEADER.replace("01:00", "05:00") + "\n")
    assert "0000:05:00.0" not in {m for g in found.groups or () for m in g.members}
    assert len(found.functions or ()) == 6


# --- is it whole, and is it one host -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        (LSPCI_VV[LSPCI_VV.index("01:00.0") :], "nothing of bus 0000:00"),
        (LSPCI_VV.rstrip("\n"), "ends inside 0000:01:00.1"),
        (LSPCI_VV[: LSPCI_VV.index("\tKernel modules")], "ends inside 0000:01:00.0"),
        (LSPCI_VV.replace("IOMMU group: 1\n", "IOMMU group: 9\n"), "no member of group 1, 3-8"),
        (LSPCI_VV + "[...]\n", "left out"),
        (LSPCI_VV.replace("subordinate=01", "subordinate=03"), "leads to buses 01-03"),
        (LOOP[:-30], "ends inside 0000:02:00.0"),
    ],
)
def test_signs_of_an_excerpt(text: str, sign: str) -> None:
    assert sign in "; ".join(read(text).doubts)


def test_two_texts_fill_each_other() -> None:
    vv = LSPCI_VV.replace("[0300]", "").replace(" [10de:1b80]", "")
    found = {
        str(f.address): f for f in read(vv, LOOP.replace("02:00.0", "00:1f.6")).functions or ()
    }
    assert found["0000:01:00.0"].ids == "10de:1b80"
    assert found["0000:01:00.0"].driver == "vfio-pci"


def test_contradictions_count_for_nothing_and_are_named() -> None:
    other = LSPCI_VV.replace("vfio-pci", "nvidia").replace("IOMMU group: 1\n", "IOMMU group: 7\n")
    found = read(LSPCI_VV, other)
    gpu = next(f for f in found.functions or () if f.address == "0000:01:00.0")
    assert gpu.driver is None
    assert gpu.group is None
    assert "0000:01:00.0: driver is vfio-pci and nvidia" in found.conflicts


# --- Proxmox's own table -------------------------------------------------------------------------

PVESH = """\
root@pve:~# pvesh get /nodes/pve/hardware/pci --pci-class-blacklist ""
┌──────────┬────────┬──────────────┬────────────┬────────┬────────────────────────┐
│ class    │ device │ id           │ iommugroup │ vendor │ device_name            │
╞══════════╪════════╪══════════════╪════════════╪════════╪════════════════════════╡
│ 0x010601 │ 0xa382 │ 0000:00:17.0 │          1 │ 0x8086 │ SATA AHCI              │
├──────────┼────────┼──────────────┼────────────┼────────┼────────────────────────┤
│ 0x030000 │ 0x1b81 │ 0000:01:00.0 │          1 │ 0x10de │ GP104 [GeForce GTX 1…  │
│ 0x020000 │ 0x1533 │ 0000:02:00.0 │         -1 │ 0x8086 │ I210                   │
│ 0x0c0330 │ 0xa12f │ half a row
└──────────┴────────┴──────────────┴────────────┴────────┴────────────────────────┘
"""


@pytest.mark.parametrize("bar", ["│", "|"])
def test_the_table_of_proxmox(bar: str) -> None:
    found = read(PVESH.replace("│", bar))
    rows = {f.address: (f.group, f.vendor, f.device, f.class_code) for f in found.functions or ()}
    assert rows == {
        "0000:00:17.0": (1, 0x8086, 0xA382, 0x010601),
        "0000:01:00.0": (1, 0x10DE, 0x1B81, 0x030000),
        "0000:02:00.0": (NO_GROUP, 0x8086, 0x1533, 0x020000),
    }
    assert any("pvesh leaves out bridges" in doubt for doubt in found.group_doubts)
