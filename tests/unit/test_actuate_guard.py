"""The guard: consent only for what is known to be spare, free and allowed; all else refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.orders import as_asked
from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    function_reading,
    gpu,
    make_host,
    nic,
    nvme,
    silent_host,
    unread,
    virtual_function,
)
from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.guard import judge
from vfio_agent.actuate.persistence import Written
from vfio_agent.actuate.preparation import Prepared, prepare
from vfio_agent.actuate.steps import Kind, Verb
from vfio_agent.checks import host_critical
from vfio_contract.address import Address
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import (
    NO_GROUP,
    BlockDevice,
    Gap,
    Holder,
    IommuGroup,
    NetDevice,
    PciFunction,
    StorageUse,
)

NIC, NVME, GPU, AUDIO = (
    Address(a) for a in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:03:00.1")
)
EVERYTHING = Allowance(frozenset(Verb), frozenset({"*"}), "/etc/vfioctl/actuate.toml")
EMPTY = Written(False, ())
VERBS = pytest.mark.parametrize("verb", list(Verb))


def rows(**changes: dict[str, Any]) -> tuple[PciFunction, ...]:
    """A bound card with its audio, a bound NIC and a bound disk; `changes` by `gpu`, `nic`, ..."""
    port = bridge("0000:00:01.0", group=1)
    return (
        *behind(
            port,
            gpu(GPU, **{"group": 3} | changes.get("gpu", {})),
            audio(AUDIO, **{"group": 3} | changes.get("audio", {})),
        ),
        nic(NIC, **{"group": 4} | changes.get("nic", {})),
        nvme(NVME, **{"group": 5} | changes.get("nvme", {})),
    )


def ask(
    verb: Verb, host: Host, address: str = GPU, allowance: Allowance = EVERYTHING, **more: Any
) -> Prepared:
    return prepare(verb, host, Address(address), allowance, EMPTY, **more)


def codes(prepared: Prepared) -> set[str]:
    """Codes of all reasons; there must be no plan beside one."""
    assert prepared.plan is None
    return {reason.code for reason in prepared.reasons}


@VERBS
@pytest.mark.parametrize("address", [NIC, NVME, GPU, AUDIO])
def test_what_is_spare_free_and_allowed_gets_consent(verb: Verb, address: str) -> None:
    prepared = ask(verb, make_host(*rows()), address)

    assert prepared.consented
    assert (prepared.plan is None) is (verb is Verb.RESET_TEST)


def in_use(name: str, address: Address) -> dict[str, Any]:
    """What makes the host need a function: a mount, or an address."""
    if name == "disk":
        return {
            "block": (BlockDevice("nvme0n1", "259:0", (address,), (), ""),),
            "storage_uses": (StorageUse("/srv (ext4)", "mount", ("nvme0n1",), (), ""),),
        }
    return {
        "network": (NetDevice("eth1", address, "52:54:00:00:00:02", (), (), ("10.9.0.1/24",), ()),)
    }


@VERBS
@pytest.mark.parametrize(
    ("use", "address", "asked"),
    [
        ("disk", NVME, NVME),
        ("net", NIC, NIC),
        # a group mate, and what a reset takes along
        ("net", AUDIO, GPU),
    ],
)
def test_what_the_host_needs_is_refused_with_the_reason(
    verb: Verb, use: str, address: Address, asked: str
) -> None:
    prepared = ask(verb, make_host(*rows(), **in_use(use, address)), asked)

    assert "HOST_CRITICAL" in codes(prepared)
    text = " ".join(e.text for r in prepared.reasons for e in r.evidence)
    assert ("/srv" in text) or ("10.9.0.1" in text)


@given(
    verb=st.sampled_from(list(Verb)),
    needed=st.sets(st.sampled_from([NIC, NVME, GPU, AUDIO])),
    shared=st.sampled_from([3, 4, 5]),
    drivers=st.tuples(*[st.sampled_from(["", "vfio-pci", "host"])] * 4),
)
def test_no_plan_ever_touches_what_the_host_needs(
    verb: Verb, needed: set[Address], shared: int, drivers: tuple[str, ...]
) -> None:
    names = ("gpu", "audio", "nic", "nvme")
    changes: dict[str, dict[str, Any]] = {
        name: {"driver": driver} for name, driver in zip(names, drivers, strict=True)
    }
    changes["nic"]["group"] = shared
    network = tuple(
        NetDevice(f"eth{n}", a, f"52:54:00:00:00:0{n}", (), (), (f"10.9.{n}.1/24",), ())
        for n, a in enumerate(sorted(needed))
    )
    host = make_host(*rows(**changes), network=network)
    critical = {f.subject for f in host_critical.judge(host) if f.verdict is not Verdict.PASS}

    for unit in host.units:
        prepared = ask(verb, host, unit.primary)
        assert (prepared.plan is None) or not prepared.reasons
        for step in prepared.plan.steps if prepared.plan else ():
            assert f"function:{step.subject}" not in critical
        if needed & set(unit.addresses):
            assert not prepared.consented


HOLDER = Holder("/dev/vfio/3", 4711, "qemu-system-x86")


@VERBS
def test_what_somebody_has_open_is_refused_by_name(verb: Verb) -> None:
    prepared = ask(verb, make_host(*rows(), holders=(HOLDER,)))

    assert codes(prepared) == {"ACTION_HELD"}
    assert "4711" in prepared.reasons[0].evidence[0].text


@VERBS
def test_a_device_node_counts_as_held_too(verb: Verb) -> None:
    functions = rows()
    nodes = tuple(
        function_reading(f, vfio_nodes=("vfio7",) if f.address == AUDIO else ()) for f in functions
    )
    host = make_host(*functions, holders=(replace(HOLDER, path="/dev/vfio/devices/vfio7"),))
    host = Host(replace(host.snapshot, readings=replace(host.readings, functions=nodes)))

    assert codes(ask(verb, host)) == {"ACTION_HELD"}


@VERBS
def test_a_holder_of_a_node_that_may_be_ours_is_not_excluded(verb: Verb) -> None:
    functions = rows()
    host = make_host(*functions, holders=(replace(HOLDER, path="/dev/vfio/devices/vfio7"),))
    nodes = tuple(
        function_reading(f, vfio_nodes=None if f.address == GPU else ()) for f in functions
    )
    host = Host(replace(host.snapshot, readings=replace(host.readings, functions=nodes)))

    assert codes(ask(verb, host)) == {"ACTION_HOLDER_UNKNOWN"}


@VERBS
def test_another_units_holder_is_no_reason(verb: Verb) -> None:
    host = make_host(*rows(), holders=(replace(HOLDER, path="/dev/vfio/5"),))

    assert ask(verb, host).consented


@VERBS
def test_a_pf_with_vfs_is_refused(verb: Verb) -> None:
    functions = rows(nic={"sriov_total_vfs": 7, "sriov_num_vfs": 1})
    owner = next(f for f in functions if f.address == NIC)
    virtual = virtual_function(owner, "0000:01:10.0", 0, group=8)
    host = make_host(*functions, virtual)

    assert "PF_HAS_VFS" in codes(ask(verb, host, NIC))
    # a VF does not take its PF along
    assert ask(verb, host, "0000:01:10.0").consented


def unread_of(name: str) -> Callable[[], Host]:
    """The host with one field of the card's first function not known."""

    def make() -> Host:
        return make_host(*(unread(f, name) if f.address == GPU else f for f in rows()))

    return make


UNKNOWNS: dict[str, Callable[[], Host]] = {
    "driver": unread_of("driver"),
    "group": unread_of("group"),
    "header type": unread_of("config"),
    "VFs": lambda: make_host(
        *(unread(f, "sriov_num_vfs", "sriov_total_vfs") if f.address == GPU else f for f in rows())
    ),
    "holders": lambda: make_host(*rows(), holders=None),
    "mounts": lambda: make_host(
        *rows(gpu={"class_code": 0x010802, "driver": "nvme"}), storage_uses=None
    ),
    "interfaces": lambda: make_host(
        *rows(gpu={"class_code": 0x020000, "driver": "igb"}), network=None
    ),
    "a group member": lambda: make_host(
        *rows(),
        groups=(IommuGroup(3, "", "DMA", (GPU, AUDIO, "0000:09:00.0"), ()),),
    ),
    "an excerpt": lambda: make_host(
        *rows(), gaps=(Gap("/sys/bus/pci/devices", 0, "may be an excerpt", "lspci -nnk"),)
    ),
}


@pytest.mark.parametrize("name", sorted(UNKNOWNS))
@pytest.mark.parametrize("verb", [Verb.BIND, Verb.RESET_TEST])
def test_what_is_not_known_refuses(name: str, verb: Verb) -> None:
    prepared = ask(verb, UNKNOWNS[name]())

    assert not prepared.consented
    assert prepared.plan is None
    assert any(r.verdict is Verdict.UNKNOWN for r in prepared.reasons)
    assert any(r.missing for r in prepared.reasons)


def test_an_override_that_was_not_read_refuses_to_bind() -> None:
    assert codes(ask(Verb.BIND, unread_of("driver_override")())) == {"ACTION_EVIDENCE_MISSING"}


@VERBS
def test_a_host_of_which_nothing_is_known_is_left_alone(verb: Verb) -> None:
    assert not ask(verb, silent_host()).consented


def test_without_an_iommu_nothing_is_bound_and_everything_may_be_given_back() -> None:
    host = make_host(*rows(nic={"group": NO_GROUP}))

    assert "ACTION_NO_GROUP" in codes(ask(Verb.BIND, host, NIC))
    assert ask(Verb.UNBIND, host, NIC).consented


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"audio": {"driver": "snd_hda_intel"}}, "ACTION_HOST_DRIVER"),
        ({"gpu": {"driver": ""}, "audio": {"driver": ""}}, "ACTION_NOT_BOUND"),
    ],
)
def test_a_reset_needs_the_whole_domain_off_the_host(changes: dict[str, Any], code: str) -> None:
    assert code in codes(ask(Verb.RESET_TEST, make_host(*rows(**changes))))


def test_a_reset_needs_its_bridge_off_the_host_too() -> None:
    port = bridge("0000:00:01.0", group=1, driver="shpchp")
    host = make_host(*behind(port, gpu(GPU, group=3), audio(AUDIO, group=3)))

    assert codes(ask(Verb.RESET_TEST, host)) == {"ACTION_HOST_DRIVER"}


def test_a_port_in_the_group_counts_although_it_is_in_no_unit() -> None:
    port = bridge("0000:00:02.0", group=4, driver="shpchp")
    host = make_host(port, nic(NIC, group=4))

    assert host.unit_of[NIC].addresses == (NIC,)
    assert codes(ask(Verb.RESET_TEST, host, NIC)) == {"ACTION_HOST_DRIVER"}


def test_a_device_without_a_reset_is_not_tested() -> None:
    bare: dict[str, Any] = {"reset_method_file": False, "reset_methods": (), "reset_file": False}
    host = make_host(nic(NIC, group=4, config=gpu(GPU).config, **bare))

    assert codes(ask(Verb.RESET_TEST, host, NIC)) == {"RESET_NONE"}


@VERBS
@pytest.mark.parametrize(
    "allowance",
    [
        Allowance(frozenset(), frozenset({"*"}), "actuate.toml"),
        Allowance(frozenset(Verb), frozenset({"0000:09:00.0", "8086:10d3"}), "actuate.toml"),
        # every function of the unit must be named, by whatever name
        Allowance(frozenset(Verb), frozenset({str(GPU)}), "actuate.toml"),
    ],
)
def test_only_what_the_owner_wrote_is_done(verb: Verb, allowance: Allowance) -> None:
    assert codes(ask(verb, make_host(*rows()), allowance=allowance)) == {"ACTION_NOT_PERMITTED"}


def test_the_owner_may_name_ids_or_addresses() -> None:
    allowance = Allowance(frozenset({Verb.BIND}), frozenset({"10de:2231", str(AUDIO)}), "a.toml")

    assert ask(Verb.BIND, make_host(*rows()), allowance=allowance).consented
    assert not ask(Verb.UNBIND, make_host(*rows()), allowance=allowance).consented


def test_a_unit_that_changed_since_is_refused() -> None:
    asked = as_asked(make_host(*rows()).unit_of[GPU])
    now = make_host(*rows(nic={"group": 3}))

    assert "UNIT_CHANGED" in codes(ask(Verb.BIND, now, expected=asked))
    assert ask(Verb.BIND, make_host(*rows()), expected=asked).consented


def test_a_bridge_and_an_absent_function_have_no_unit() -> None:
    host = make_host(*rows())

    assert codes(ask(Verb.BIND, host, "0000:00:01.0")) == {"NO_UNIT"}
    assert codes(ask(Verb.BIND, host, "0000:0f:00.0")) == {"NO_UNIT"}


def test_every_reason_has_evidence_or_says_what_is_missing() -> None:
    hosts = [make() for make in UNKNOWNS.values()]
    hosts.append(make_host(*rows(nic={"sriov_num_vfs": 1}), holders=(HOLDER,)))
    nothing = Allowance(frozenset(), frozenset(), "actuate.toml")

    for host in hosts:
        for unit in host.units:
            for verb in Verb:
                for reason in judge(verb, host, unit, nothing):
                    assert reason.evidence or reason.missing
                    assert reason.meaning
                    assert reason.decision
                    assert reason.verdict in (Verdict.FAIL, Verdict.UNKNOWN)


def test_a_plan_for_a_card_on_host_drivers_has_steps_on_both_functions() -> None:
    host = make_host(*rows(gpu={"driver": "nouveau"}, audio={"driver": "snd_hda_intel"}))
    prepared = ask(Verb.BIND, host)

    assert prepared.plan is not None
    assert {s.subject for s in prepared.plan.steps if s.kind is Kind.BIND} == {GPU, AUDIO}
