"""The index answers what a search through all functions would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.sysfs_tree import SysfsTree, make_big_host
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import LiveRoot
from vfio_contract.address import Address, address_key, slot_of
from vfio_contract.function_index import FunctionIndex, index
from vfio_contract.host import Host
from vfio_contract.identity import ancestors
from vfio_contract.model import PciFunction
from vfio_contract.units import companions, hot_resets, reset_domain, resets_alone


@pytest.fixture
def functions(tmp_path: Path) -> tuple[PciFunction, ...]:
    tree = SysfsTree(tmp_path)
    make_big_host(tree, functions=24)
    tree.bridge("0002:00:00.0", buses=(1, 4))
    tree.bridge("0002:01:00.0", parent="0002:00:00.0", port_type=5, buses=(2, 4))
    for number in (0, 1):
        tree.bridge(f"0002:02:0{number}.0", parent="0002:01:00.0", port_type=6)
        tree.function(f"0002:0{number + 3}:00.0", parent=f"0002:02:0{number}.0")
    tree.virtual_function("0002:03:10.0", physfn="0002:03:00.0", index=0)
    return collect_host(LiveRoot(str(tmp_path))).facts.functions or ()


def test_neighbourhoods(functions: tuple[PciFunction, ...]) -> None:
    found = FunctionIndex.of(reversed(functions))
    for one in functions:
        below = [f.address for f in functions if one.address in ancestors(f, found)]
        assert list(found.below.get(one.address, ())) == sorted(below, key=address_key)
        for name, key, wanted in (
            ("children", one.address, {f for f in functions if f.parent == one.address}),
            ("virtual", one.address, {f for f in functions if f.physfn == one.address}),
            (
                "slots",
                slot_of(one.address),
                {f for f in functions if slot_of(f.address) == slot_of(one.address)},
            ),
        ):
            assert set(getattr(found, name).get(key, ())) == wanted
    assert len(found.below[Address("0002:01:00.0")]) == 5
    assert [f.address for f in found.virtual[Address("0002:03:00.0")]] == ["0002:03:10.0"]


def test_a_plain_mapping_gives_the_same_answers(functions: tuple[PciFunction, ...]) -> None:
    plain = {f.address: f for f in functions}
    found = FunctionIndex.of(functions)
    assert index(found) is found
    assert index(plain) == plain
    for function in functions:
        assert reset_domain(function, plain) == reset_domain(function, found)
        assert companions(function, plain) == companions(function, found)
        assert hot_resets(function, plain) == hot_resets(function, found)
        if not resets_alone(function) and function.parent:
            assert function.address in reset_domain(function, found)


def test_a_host_has_one(tmp_path: Path) -> None:
    make_big_host(SysfsTree(tmp_path), functions=8)
    host = Host(collect_host(LiveRoot(str(tmp_path))))
    assert isinstance(host.by_address, FunctionIndex)
    assert host.by_address is host.by_address
    assert list(host.by_address.values()) == list(host.functions)
