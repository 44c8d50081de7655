"""Interfaces with the PCI function below, what is stacked on them, addresses and routes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.network import MAX_DESTINATIONS, collect_network, routes_known
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, open_root
from vfio_agent.collect.route_tables import (
    parse_fib_trie,
    parse_if_inet6,
    parse_ipv6_route,
    parse_route,
)
from vfio_contract.model import NetDevice

VIRTUAL = "/sys/devices/virtual/net"
NIC0 = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/net"
NIC1 = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/net"
HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


class Net:
    """A host's interfaces and tables."""

    def __init__(self, tree: SysfsTree) -> None:
        self.tree = tree
        self.routes = HEADER
        self.leaves = "127.0.0.1"
        self.add("lo", VIRTUAL)

    def add(self, name: str, place: str, *, up: bool = True) -> None:
        self.tree.write(f"{place}/{name}/address", "02:00:00:00:00:01\n")
        self.tree.write(f"{place}/{name}/flags", "0x1003\n" if up else "0x1002\n")
        self.tree.link(f"/sys/class/net/{name}", f"{place}/{name}")

    def stack(self, upper: str, lower: str) -> None:
        up, low = (f"/sys/class/net/{name}" for name in (upper, lower))
        self.tree.link(f"{low}/upper_{upper}", up)
        self.tree.link(f"{up}/lower_{lower}", low)

    def route(self, name: str, network: str, mask: str = "FFFFFFFF", gateway: str = "") -> None:
        flags = "0003" if gateway else "0001"
        self.routes += f"{name}\t{network}\t{gateway or '00000000'}\t{flags}\t0\t0\t0\t{mask}\t0\n"

    def collect(self, *, process: str = "1/", six: bool = True) -> tuple[NetDevice, ...] | None:
        return collect_network(self.reader(process=process, six=six))

    def reader(self, *, process: str = "1/", six: bool = True) -> Reader:
        folder = f"/proc/{process}net"
        leaves = "".join(
            f"        |-- {address}\n           /32 host LOCAL\n" for address in self.leaves.split()
        )
        self.tree.write(f"{folder}/route", self.routes)
        self.tree.write(f"{folder}/fib_trie", f"Local:\n  +-- 0.0.0.0/0 2 0 2\n{leaves}")
        if six:
            self.tree.write(f"{folder}/if_inet6", IF_INET6)
            self.tree.write(f"{folder}/ipv6_route", IPV6_ROUTE)
        return Reader(LiveRoot(str(self.tree.top)))


ZERO = "0" * 32
IF_INET6 = f"{ZERO[:-1]}1 01 80 10 80       lo\n"
IPV6_ROUTE = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net(SysfsTree(tmp_path))


def by_name(devices: tuple[NetDevice, ...] | None) -> dict[str, NetDevice]:
    assert devices is not None
    return {device.name: device for device in devices}


def test_a_plain_interface(net: Net) -> None:
    net.add("eth0", NIC0)
    net.route("eth0", "00000000", "00000000", gateway="0102000A")
    net.route("eth0", "0002000A", "00FFFFFF")
    net.leaves += " 10.0.2.15"
    assert net.collect() == (
        NetDevice(
            name="eth0",
            function=by_name(net.collect())["eth0"].function,
            mac="02:00:00:00:00:01",
            uppers=(),
            lowers=(),
            addresses=("10.0.2.15",),
            routes=("default", "10.0.2.0/24"),
        ),
    )
    assert by_name(net.collect())["eth0"].function == "0000:01:00.0"


def test_the_innermost_function_is_the_interfaces_own(net: Net) -> None:
    vmd = "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0/10000:e1:00.0"
    net.add("deep0", f"{vmd}/virtio3/net")
    assert by_name(net.collect())["deep0"].function == "10000:e1:00.0"


def test_a_bridge_over_a_bond_carries_the_address(net: Net) -> None:
    net.add("eth0", NIC0)
    net.add("eth1", NIC1)
    for name in ("bond0", "vmbr0", "tap100i0", "vmbr0.7"):
        net.add(name, VIRTUAL)
    net.stack("bond0", "eth0")
    net.stack("bond0", "eth1")
    net.stack("vmbr0", "bond0")
    net.stack("vmbr0", "tap100i0")
    net.stack("vmbr0.7", "vmbr0")
    net.tree.write("/sys/class/net/bonding_masters", "bond0\n")
    net.route("vmbr0", "0002000A", "00FFFFFF")
    net.leaves += " 10.0.2.15"
    found = by_name(net.collect())
    assert list(found) == ["bond0", "eth0", "eth1", "vmbr0", "vmbr0.7"]
    assert found["eth0"].uppers == ("bond0",)
    assert found["eth0"].addresses == ()
    assert found["bond0"].lowers == ("eth0", "eth1")
    assert found["vmbr0"].lowers == ("bond0",)  # not the tap, which comes and goes
    assert found["vmbr0"].function == ""
    assert found["vmbr0"].addresses == ("10.0.2.15",)


def test_an_interface_without_anything_is_listed_empty(net: Net) -> None:
    net.add("eth1", NIC1, up=False)
    found = by_name(net.collect())["eth1"]
    assert (found.addresses, found.routes, found.uppers) == ((), (), ())


def test_virtual_interfaces_that_hold_something_are_kept(net: Net) -> None:
    net.add("br0", VIRTUAL)  # an Open vSwitch port: nothing below it in sysfs
    net.add("veth1", VIRTUAL)
    net.route("br0", "0002000A", "00FFFFFF")
    net.leaves += " 10.0.2.15"
    assert list(by_name(net.collect())) == ["br0"]


def test_the_longest_connected_route_has_the_address(net: Net) -> None:
    net.add("eth0", NIC0)
    net.add("eth1", NIC1)
    net.route("eth0", "0000000A", "000000FF")
    net.route("eth1", "0002000A", "00FFFFFF")
    net.route("eth0", "0F02000A", gateway="0102000A")  # by a router: holds no address of ours
    net.leaves += " 10.0.2.15 10.9.9.9"
    found = by_name(net.collect())
    assert found["eth0"].addresses == ("10.9.9.9",)
    assert found["eth1"].addresses == ("10.0.2.15",)


def test_two_interfaces_on_one_network_both_count(net: Net) -> None:
    net.add("eth0", NIC0)
    net.add("eth1", NIC1)
    net.route("eth0", "0002000A", "00FFFFFF")
    net.route("eth1", "0002000A", "00FFFFFF")
    net.leaves += " 10.0.2.15"
    assert {d.addresses for d in net.collect() or ()} == {("10.0.2.15",)}


def test_an_address_that_no_route_explains_makes_idle_interfaces_unknown(net: Net) -> None:
    net.add("eth0", NIC0)
    net.add("eth1", NIC1, up=False)
    net.add("eth2", NIC1)
    net.route("eth0", "0002000A", "00FFFFFF")
    net.leaves += " 10.0.2.15 192.0.2.1"
    found = by_name(net.collect())
    assert found["eth0"].addresses == ("10.0.2.15",)
    assert found["eth1"].addresses == ()  # it is down: it holds none
    assert found["eth2"].addresses is None


def test_ipv6_without_what_the_kernel_makes_itself(net: Net) -> None:
    net.add("eth0", NIC0)
    reader = net.reader()
    net.tree.write(
        "/proc/1/net/if_inet6",
        "fd000000000000000000000000000002 02 40 00 82     eth0\n"
        "fe8000000000000000fc00fffe000001 02 40 20 80     eth0\n"
        "fd0000000000000000000000dead0001 02 40 00 01     eth0\n" + IF_INET6,
    )
    row = "{} {} " + ZERO + " 00 {} 00000100 00000001 00000000 {}     eth0\n"
    net.tree.write(
        "/proc/1/net/ipv6_route",
        row.format("fd" + ZERO[2:], "40", ZERO, "00000001")
        + row.format("fe80" + ZERO[4:], "40", ZERO, "00000001")
        + row.format("ff" + ZERO[2:], "08", ZERO, "00000001")
        + row.format(ZERO, "00", "fd" + ZERO[3:] + "1", "00000003")
        + row.format("fd" + ZERO[3:] + "2", "80", ZERO, "80200001")
        + IPV6_ROUTE,
    )
    found = by_name(collect_network(reader))["eth0"]
    assert found.addresses == ("fd00::2",)
    assert found.routes == ("::/0", "fd00::/64")


def test_a_kernel_without_ipv6(net: Net) -> None:
    net.add("eth0", NIC0)
    reader = net.reader(six=False)
    assert by_name(collect_network(reader))["eth0"].routes == ()
    assert reader.gaps == ()


def test_the_table_of_another_namespace_is_the_last_resort(net: Net) -> None:
    net.add("eth0", NIC0)
    net.route("eth0", "0002000A", "00FFFFFF")
    assert by_name(net.collect(process=""))["eth0"].routes == ("10.0.2.0/24",)
    net.routes = HEADER
    assert by_name(net.collect(process="1/"))["eth0"].routes == ()


def test_a_full_routing_table_is_shortened(net: Net) -> None:
    net.add("eth0", NIC0)
    net.route("eth0", "00000000", "00000000", gateway="0102000A")
    for number in range(200):
        net.route("eth0", f"{number:02X}02000A", gateway="0102000A")
    routes = by_name(net.collect())["eth0"].routes
    assert routes is not None
    assert routes[0] == "default"
    assert routes[MAX_DESTINATIONS:] == (f"and {201 - MAX_DESTINATIONS} more",)


def test_a_capture_without_tables_knows_no_addresses(net: Net) -> None:
    net.add("eth0", NIC0)
    reader = Reader(open_root(str(net.tree.top)))
    found = by_name(collect_network(reader))
    assert list(found) == ["eth0"]
    assert found["eth0"].function == "0000:01:00.0"
    assert (found["eth0"].addresses, found["eth0"].routes) == (None, None)
    assert not routes_known(collect_network(reader))
    assert {g.path for g in reader.gaps} >= {"/proc/net/route", "/proc/net/fib_trie"}


def test_a_copy_that_lost_its_links_does_not_make_a_nic_virtual(net: Net) -> None:
    net.tree.write("/sys/class/net/eth0/address", "02:00:00:00:00:01\n")
    net.tree.write("/sys/class/net/eth0/flags", "0x1003\n")
    reader = Reader(open_root(str(net.tree.top)))
    assert by_name(collect_network(reader))["eth0"].function is None


def test_a_host_without_network_has_none(tmp_path: Path) -> None:
    assert collect_network(Reader(LiveRoot(str(tmp_path)))) == ()
    assert collect_network(Reader(open_root(str(tmp_path)))) is None


@given(st.text(alphabet="0123456789abcdefAF|-/+ \n\tethLOCALhost.:"), st.text())
def test_no_text_makes_a_table_raise(hexish: str, text: str) -> None:
    for part in (hexish, text, f"{hexish} {ZERO} 00 {ZERO} 00 {ZERO} 1 2 3 {text} eth0"):
        for route in (*parse_route(HEADER + part), *parse_ipv6_route(part)):
            assert route.destination
        parse_fib_trie(f"|-- {part}\n/32 host LOCAL\n{part}")
        list(parse_if_inet6(part))
