"""Uevents: what they mean, what may come instead of one, and the kernel's own."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.watch.signals import NOTHING, Happening, Part, Sign, Signal, Wanted, want
from vfio_agent.watch.uevents import Uevent, Uevents, parse_uevent, signal_of
from vfio_contract.address import Address

GPU = Address("0000:01:00.0")
BELOW = "/devices/pci0000:00/0000:00:01.0/0000:01:00.0"
NULL = Path("/sys/devices/virtual/mem/null/uevent")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="writing to sysfs needs root")


def datagram(action: str, devpath: str, **values: str) -> bytes:
    rows = [f"{action}@{devpath}", f"ACTION={action}", f"DEVPATH={devpath}"]
    return b"".join(
        row.encode() + b"\0" for row in (*rows, *(f"{k}={v}" for k, v in values.items()))
    )


def test_a_real_uevent() -> None:
    """Word for word from Linux 6.18."""
    data = (
        b"change@/devices/pci0000:00/0000:00:01.0\0ACTION=change\0"
        b"DEVPATH=/devices/pci0000:00/0000:00:01.0\0SUBSYSTEM=pci\0SYNTH_UUID=0\0"
        b"DRIVER=virtio-pci\0PCI_CLASS=FFFF00\0PCI_ID=1AF4:1045\0PCI_SUBSYS_ID=1AF4:1045\0"
        b"PCI_SLOT_NAME=0000:00:01.0\0SEQNUM=1816\0"
    )
    uevent = parse_uevent(data)
    path = "/devices/pci0000:00/0000:00:01.0"
    assert uevent == Uevent("change", path, "pci", "", "virtio-pci", True)
    assert uevent.function == "0000:00:01.0"


@pytest.mark.parametrize(
    ("action", "devpath", "values", "wanted"),
    [
        ("add", BELOW, {"SUBSYSTEM": "pci"}, want(Part.WHOLE)),
        ("remove", BELOW, {"SUBSYSTEM": "pci"}, want(Part.WHOLE)),
        ("bind", BELOW, {"SUBSYSTEM": "pci"}, want(functions=(GPU,))),
        ("unbind", BELOW, {"SUBSYSTEM": "pci"}, want(functions=(GPU,))),
        ("change", BELOW, {"SUBSYSTEM": "pci"}, want(functions=(GPU,))),
        (
            "add",
            f"{BELOW}/vfio-dev/vfio0",
            {"SUBSYSTEM": "vfio-dev"},
            want(Part.HOLDERS, functions=(GPU,)),
        ),
        ("add", "/devices/virtual/vfio/14", {"SUBSYSTEM": "vfio"}, want(Part.HOLDERS)),
        (
            "remove",
            f"{BELOW}/net/eth0",
            {"SUBSYSTEM": "net"},
            want(Part.HOST_USE, functions=(GPU,)),
        ),
        (
            "add",
            "/devices/virtual/net/vmbr0",
            {"SUBSYSTEM": "net", "DEVTYPE": "bridge"},
            want(Part.HOST_USE),
        ),
        ("add", "/devices/virtual/net/veth1a2b", {"SUBSYSTEM": "net"}, NOTHING),
        (
            "add",
            f"{BELOW}/nvme/nvme0/nvme0n1",
            {"SUBSYSTEM": "block", "DEVTYPE": "disk"},
            want(Part.HOST_USE, functions=(GPU,)),
        ),
        ("add", "/devices/virtual/iommu/dmar0", {"SUBSYSTEM": "iommu"}, want(Part.WHOLE)),
        ("add", "/module/vfio_pci", {"SUBSYSTEM": "module"}, want(Part.WHOLE)),
        ("add", "/module/nft_chain_nat", {"SUBSYSTEM": "module"}, NOTHING),
        ("change", "/devices/virtual/mem/null", {"SUBSYSTEM": "mem"}, NOTHING),
        ("add", "/kernel/slab/x", {}, NOTHING),
    ],
)
def test_what_is_read_again(
    action: str, devpath: str, values: dict[str, str], wanted: Wanted
) -> None:
    uevent = parse_uevent(datagram(action, devpath, **values))
    assert uevent is not None
    signal = signal_of(uevent)
    assert (signal.wanted if signal is not None else NOTHING) == wanted


@pytest.mark.parametrize(
    ("action", "confirm"), [("remove", True), ("change", True), ("bind", False)]
)
def test_what_the_kernel_may_tell_too_early_is_read_twice(action: str, confirm: bool) -> None:
    uevent = parse_uevent(datagram(action, BELOW, SUBSYSTEM="pci"))
    assert uevent is not None
    signal = signal_of(uevent)
    assert signal is not None
    assert signal.confirm is confirm


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"libudev\0\xfe\xed\xca\xfe",
        b"add",
        b"add@",
        b"add@devices/x\0SUBSYSTEM=pci\0",
        b"explode@/devices/x\0SUBSYSTEM=pci\0",
        b"add@/" + b"x" * 5000 + b"\0SUBSYSTEM=pci\0",
    ],
)
def test_what_is_no_uevent_is_none(data: bytes) -> None:
    assert parse_uevent(data) is None


@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(
            st.sampled_from([b"add", b"remove", b"change", b"bind"]),
            st.binary(max_size=80),
            st.lists(st.binary(max_size=40), max_size=6),
        ).map(lambda t: t[0] + b"@/" + t[1] + b"\0" + b"\0".join((b"SUBSYSTEM=pci", *t[2]))),
    )
)
def test_no_bytes_are_too_odd(data: bytes) -> None:
    uevent = parse_uevent(data)
    if uevent is not None:
        signal_of(uevent)


# --- the kernel's own -------------------------------------------------------------------------


@pytest.fixture
def uevents() -> Iterator[Uevents]:
    source = Uevents()
    yield source
    source.close()


def uevent_file() -> Path:
    """Of a device whose uevents mean something to us."""
    for folder in ("/sys/bus/pci/devices", "/sys/block"):
        for device in sorted(Path(folder).glob("*/uevent")):
            return device
    pytest.skip("this machine has neither a PCI function nor a disk")


def read_until(source: Uevents, words: str) -> Signal:
    while select.select([source], [], [], 10)[0]:
        for signal in source.read():
            if words in signal.why:
                return signal
    raise AssertionError(f"no signal with {words!r}")


@as_root
def test_a_uevent_of_the_running_kernel(uevents: Uevents) -> None:
    device = uevent_file()
    NULL.write_text("change")
    device.write_text("change")
    signal = read_until(uevents, f"change {device.parent.name}")
    assert signal.wanted


@as_root
def test_when_the_kernel_dropped_uevents_anything_may_have_changed(uevents: Uevents) -> None:
    own = socket.socket(fileno=os.dup(uevents.fileno()))
    with own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for _ in range(100):
        NULL.write_text("change")
    signal = read_until(uevents, "dropped")
    assert signal.wanted == want(Part.WHOLE)
    assert signal.confirm
    device = uevent_file()
    device.write_text("change")
    assert read_until(uevents, f"change {device.parent.name}").wanted, "it is deaf afterwards"


@as_root
def test_what_a_process_sends_is_not_believed(uevents: Uevents) -> None:
    forged = datagram("add", "/devices/virtual/iommu/forged", SUBSYSTEM="iommu")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as process:
        process.sendto(forged, (0, 1))
    device = uevent_file()
    device.write_text("change")
    seen: list[str] = []
    while not any(device.parent.name in why for why in seen):
        assert select.select([uevents], [], [], 10)[0]
        seen += [signal.why for signal in uevents.read()]
    assert not any("forged" in why for why in seen)


@as_root
def test_an_ordinary_user_hears_uevents_too() -> None:
    """The child drops its rights, says so, and prints what it hears first of the device."""
    device = uevent_file()
    code = (
        "import os, select, sys\n"
        "from vfio_agent.watch.uevents import Uevents\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "source = Uevents()\n"
        "print('ready', os.geteuid(), flush=True)\n"
        "while select.select([source], [], [], 20)[0]:\n"
        "    for signal in source.read():\n"
        "        if sys.argv[1] in signal.why:\n"
        "            print(signal.why, flush=True); sys.exit(0)\n"
        "sys.exit(1)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"change {device.parent.name}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready 65534\n"
        device.write_text("change")
        assert child.stdout.readline().endswith(f"change {device.parent.name}\n")
    assert child.returncode == 0


@as_root
def test_a_user_namespace_of_its_own_says_that_it_hears_nothing() -> None:
    code = (
        "from vfio_agent.watch.uevents import Uevents\n"
        "source = Uevents()\n"
        "print([gap.path for gap in source.gaps()])\n"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "['netlink:uevent']\n", done.stderr


@as_root
def test_the_first_user_namespace_has_no_gap(uevents: Uevents) -> None:
    assert uevents.gaps() == ()


@pytest.mark.parametrize(
    ("action", "devpath", "values", "happened"),
    [
        ("add", BELOW, {}, Happening(Sign.ADDED, GPU)),
        ("remove", BELOW, {}, Happening(Sign.REMOVED, GPU)),
        ("bind", BELOW, {"DRIVER": "vfio-pci"}, Happening(Sign.BOUND, GPU, "vfio-pci")),
        ("unbind", BELOW, {"DRIVER": "odd"}, Happening(Sign.UNBOUND, GPU)),
        ("change", BELOW, {}, None),
        ("add", BELOW, {"SYNTH_UUID": "0"}, None),  # udevadm trigger: nothing came
        ("add", f"{BELOW}/net/eth0", {"SUBSYSTEM": "net"}, None),
    ],
)
def test_what_a_uevent_says_has_happened(
    action: str, devpath: str, values: dict[str, str], happened: Happening | None
) -> None:
    uevent = parse_uevent(datagram(action, devpath, **{"SUBSYSTEM": "pci"} | values))
    assert uevent is not None
    signal = signal_of(uevent)
    assert signal is not None
    assert signal.happened == (((happened, 1),) if happened is not None else ())
