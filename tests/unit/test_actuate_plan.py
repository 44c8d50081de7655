"""Plans: only on the unit and our own files, and back to where they began from wherever cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import audio, behind, bridge, gpu, make_facts, make_host, nic, nvme
from vfio_agent.actuate.execution import is_done
from vfio_agent.actuate.persistence import (
    DRIVERCTL,
    LOAD_FILE,
    MODPROBE,
    MODPROBE_FILE,
    UDEV,
    Written,
    driverctl_file,
    is_ours,
    udev_file,
)
from vfio_agent.actuate.plan import plan_bind, plan_unbind
from vfio_agent.actuate.steps import (
    ANY_HOST_DRIVER,
    NO_DRIVER,
    Kind,
    Plan,
    Step,
    Verb,
    decode_plan,
    describe_change,
    encode_plan,
    undo,
)
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.model import Intent, Module

NIC, NVME, GPU, AUDIO = (
    Address(a) for a in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:03:00.1")
)
EMPTY = Written(False, ())
WITH_DRIVERCTL = Written(True, ())

World = dict[str, str | None]
"""What stands where: the things that steps move."""


def card(**changes: Any) -> Host:
    """A graphics card with its audio on host drivers, a NIC and a disk beside it."""
    port = bridge("0000:00:01.0", group=1)
    rows = (
        *behind(port, gpu(GPU, group=3, driver="nouveau"), audio(AUDIO, group=3, driver="snd")),
        nic(NIC, group=4, driver="igb"),
        nvme(NVME, group=5, driver="nvme"),
    )
    return make_host(*rows, **changes)


def world_of(host: Host, written: Written) -> World:
    """The world that this host and these files are."""
    found: World = {f"/sys/bus/pci/devices/{f.address}/driver": f.driver for f in host.functions}
    found |= {
        f"/sys/bus/pci/devices/{f.address}/driver_override": f.driver_override
        for f in host.functions
    }
    return found | dict(written.files)


def perform(steps: Sequence[Step], world: World) -> None:
    """Carry steps out as the executor does, in a world that does as it is told."""
    for number, step in enumerate(steps):
        if step.kind in (Kind.MODULE, Kind.FORGET):
            continue
        now = world.get(step.thing)
        if not is_done(step, steps[number + 1 :], now):
            found = "*" if now not in (None, "", "vfio-pci") else now
            assert step.old in (now, found), (step, now)
            world[step.thing] = step.new


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Host, Written]:
    """Hosts whose functions have any driver and override, and any files of ours."""

    def state(name: str) -> dict[str, Any]:
        driver = draw(st.sampled_from(("", name, "vfio-pci")))
        override = draw(st.sampled_from(("", "vfio-pci"))) if driver != name else ""
        return {"driver": driver, "driver_override": override}

    port = bridge("0000:00:01.0", group=1)
    shared = draw(st.sampled_from((3, 4)))
    rows = (
        *behind(port, gpu(GPU, group=3, **state("nouveau")), audio(AUDIO, group=3, **state("snd"))),
        nic(NIC, group=shared, **state("igb")),
        nvme(NVME, group=5, **state("nvme")),
        bridge("0000:04:00.0", group=3, driver=draw(st.sampled_from(("", "shpchp"))), port_type=7),
    )
    host = make_host(*rows, intents=())
    files = {}
    for address in (NIC, GPU):
        if draw(st.booleans()):
            files[driverctl_file(address)] = "vfio-pci\n"
        if draw(st.booleans()):
            files[udev_file(address)] = "something of ours\n"
    return host, Written(draw(st.booleans()), tuple(sorted(files.items())))


PLANS = {Verb.BIND: plan_bind, Verb.UNBIND: plan_unbind}


@given(hosts(), st.sampled_from(sorted(PLANS)), st.data())
def test_a_plan_cut_anywhere_is_finished_or_taken_back(
    given_host: tuple[Host, Written], verb: Verb, data: st.DataObject
) -> None:
    host, written = given_host
    unit = data.draw(st.sampled_from(host.units))
    plan = PLANS[verb](host, unit, written)
    start = world_of(host, written)

    goal = dict(start)
    perform(plan.steps, goal)
    for cut in range(len(plan.steps) + 1):
        world = dict(start)
        perform(plan.steps[:cut], world)
        finished, back = dict(world), dict(world)
        perform(plan.steps, finished)
        perform(undo(plan).steps, back)
        assert finished == goal
        assert {k: v for k, v in back.items() if v is not None} == {
            k: v for k, v in start.items() if v is not None
        }


@given(hosts(), st.sampled_from(sorted(PLANS)), st.data())
def test_a_plan_stays_within_its_unit_and_our_files(
    given_host: tuple[Host, Written], verb: Verb, data: st.DataObject
) -> None:
    host, written = given_host
    unit = data.draw(st.sampled_from(host.units))
    plan = PLANS[verb](host, unit, written)

    for step in plan.steps:
        if step.kind is Kind.FILE:
            assert is_ours(step.subject)
            named = [a for a in (NIC, NVME, GPU, AUDIO) if a in step.subject]
            assert set(named) <= set(unit.addresses)
        elif step.kind is not Kind.MODULE:
            assert step.subject in unit.addresses
    assert decode_plan(encode_plan(plan)) == plan
    assert undo(undo(plan)).steps == tuple(
        replace(s, why=f"as it was before: as it was before: {s.why}")
        for s in plan.steps
        if s.kind not in (Kind.MODULE, Kind.FORGET)
    )


@given(hosts(), st.data())
def test_what_is_bound_and_lasts_asks_for_nothing(
    given_host: tuple[Host, Written], data: st.DataObject
) -> None:
    host, written = given_host
    unit = data.draw(st.sampled_from(host.units))
    world = world_of(host, written)
    perform(plan_bind(host, unit, written).steps, world)

    bound = make_host(
        *(
            replace(
                f,
                driver=world[f"/sys/bus/pci/devices/{f.address}/driver"],
                driver_override=world[f"/sys/bus/pci/devices/{f.address}/driver_override"],
                vfio_device=world[f"/sys/bus/pci/devices/{f.address}/driver"] == "vfio-pci",
            )
            for f in host.functions
        ),
        intents=(),
    )
    files = {k: v for k, v in world.items() if k.startswith("/etc/") and v is not None}
    again = plan_bind(bound, unit, Written(written.driverctl, tuple(sorted(files.items()))))

    assert again.steps == ()


def plan_of(host: Host, address: str, written: Written = EMPTY) -> Plan:
    return plan_bind(host, host.unit_of[Address(address)], written)


def kinds(plan: Plan) -> list[tuple[Kind, str, str | None]]:
    return [(s.kind, s.subject, s.new) for s in plan.steps if s.kind is not Kind.FILE]


def test_a_card_goes_with_its_audio_each_off_its_driver_first() -> None:
    assert kinds(plan_of(card(), GPU)) == [
        (Kind.UNBIND, GPU, ""),
        (Kind.OVERRIDE, GPU, "vfio-pci"),
        (Kind.BIND, GPU, "vfio-pci"),
        (Kind.UNBIND, AUDIO, ""),
        (Kind.OVERRIDE, AUDIO, "vfio-pci"),
        (Kind.BIND, AUDIO, "vfio-pci"),
    ]


def test_vfio_pci_is_loaded_first_where_it_is_not() -> None:
    plan = plan_of(card(modules=(Module("vfio", ()),)), NIC)

    assert kinds(plan)[0] == (Kind.MODULE, "vfio-pci", "loaded")


@pytest.mark.parametrize(("release", "held"), [("6.1.0-1-amd64", True), ("5.15.0-1", False)])
def test_a_bridge_is_kept_off_its_driver_where_that_spoils_the_group(
    release: str, held: bool
) -> None:
    conventional = bridge("0000:05:00.0", group=4, driver="shpchp", port_type=7, acs=None)
    rows = (conventional, nic(NIC, group=4, driver="igb"))
    kernel = replace(make_facts().kernel, release=release)
    plan = plan_of(make_host(*rows, kernel=kernel), NIC)

    step = (Kind.OVERRIDE, "0000:05:00.0", NO_DRIVER)
    assert (step in kinds(plan)) is held
    if held:
        assert plan.method == UDEV
        assert "no driver at all" in plan.reasons[0]


def test_driverctl_is_chosen_where_it_works() -> None:
    plan = plan_of(card(), GPU, WITH_DRIVERCTL)

    assert plan.method == DRIVERCTL
    files = {s.subject: s.new for s in plan.steps if s.kind is Kind.FILE}
    assert files == {driverctl_file(a): "vfio-pci\n" for a in (GPU, AUDIO)}


def test_ids_are_chosen_where_they_take_nothing_else() -> None:
    plan = plan_of(card(intents=(), modules=(Module("vfio_pci", (), builtin=False),)), GPU)

    assert plan.method == MODPROBE
    texts = {s.subject: s.new or "" for s in plan.steps if s.kind is Kind.FILE}
    assert set(texts) == {MODPROBE_FILE, LOAD_FILE}
    lines = texts[MODPROBE_FILE].splitlines()
    assert "options vfio-pci ids=10de:1aef:8086:a03c,10de:2231:8086:a03c" in lines
    assert {"softdep nouveau pre: vfio-pci", "softdep snd pre: vfio-pci"} <= set(lines)
    assert any("update-initramfs" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"intents": (Intent("vfio-ids", "8086:10c9", "modprobe.d/a.conf:1"),)}, "ids already"),
        ({"intents": None}, "could not be read"),
        ({"modules": (Module("vfio_pci", (), builtin=True),)}, "built into"),
        ({"modules": (Module("vfio_pci", ()),)}, "or may be"),
    ],
)
def test_ids_are_not_chosen_where_they_may_do_harm(changes: dict[str, Any], reason: str) -> None:
    usual = {"intents": (), "modules": (Module("vfio_pci", (), builtin=False),)}
    plan = plan_of(card(**usual | changes), GPU)

    assert plan.method == UDEV
    assert reason in plan.reasons[0]


def test_a_second_card_of_the_same_id_is_never_taken_along() -> None:
    twins = (nic(NIC, group=4, driver="igb"), nic("0000:06:00.0", group=6, driver="igb"))
    modules = (Module("vfio_pci", (), builtin=False),)
    plan = plan_of(make_host(*twins, intents=(), modules=modules), NIC)

    assert plan.method == UDEV
    assert "0000:06:00.0 has the ids" in plan.reasons[0]
    rule = next(s.new for s in plan.steps if s.subject == udev_file(NIC))
    assert rule is not None
    # the address may be another device after a renumbering
    assert 'KERNEL=="0000:01:00.0", ATTR{vendor}=="0x8086", ATTR{device}=="0x10c9"' in rule


def test_unbinding_forgets_ids_and_names_what_others_wrote() -> None:
    bound = nic(NIC, group=4, driver_override="vfio-pci")
    foreign = Intent("vfio-ids", "8086:10c9", "modprobe.d/mine.conf:3")
    host = make_host(bound, intents=(foreign,))
    plan = plan_unbind(host, host.units[0], EMPTY)

    assert [s.kind for s in plan.steps] == [
        Kind.UNBIND,
        Kind.OVERRIDE,
        Kind.FORGET,
        Kind.MODULE,
        Kind.BIND,
    ]
    assert plan.steps[-1].new == ANY_HOST_DRIVER
    assert plan.steps[3].subject == "pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00"
    assert any("modprobe.d/mine.conf:3" in note for note in plan.notes)


def test_unbinding_one_of_two_keeps_the_other_ones_lines() -> None:
    usual: dict[str, Any] = {"intents": (), "modules": (Module("vfio_pci", (), builtin=False),)}
    files: dict[str, str | None] = {}
    for address in (NIC, NVME):
        plan = plan_of(card(**usual), address, Written(False, tuple(_texts(files))))
        files |= {s.subject: s.new for s in plan.steps if s.kind is Kind.FILE}
    host = card(**usual)
    written = Written(False, tuple(_texts(files)))

    one = plan_unbind(host, host.unit_of[NIC], written)
    left = files | {s.subject: s.new for s in one.steps if s.kind is Kind.FILE}
    both = plan_unbind(host, host.unit_of[NVME], Written(False, tuple(_texts(left))))

    text = left[MODPROBE_FILE] or ""
    assert ("144d:a80a" in text, "8086:10c9" in text) == (True, False)
    assert left[LOAD_FILE] is not None
    gone = {s.subject: s.new for s in both.steps if s.kind is Kind.FILE}
    assert gone == {MODPROBE_FILE: None, LOAD_FILE: None}


def _texts(files: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(path, text) for path, text in sorted(files.items()) if text is not None]


def test_a_file_edited_by_hand_is_left_alone() -> None:
    usual: dict[str, Any] = {"intents": (), "modules": (Module("vfio_pci", (), builtin=False),)}
    written = Written(False, ((MODPROBE_FILE, "options vfio-pci ids=1:2\n"),))
    host = card(**usual)
    plan = plan_bind(host, host.unit_of[NIC], written)

    assert plan.method == UDEV
    assert "edited by hand" in plan.reasons[0]
    assert MODPROBE_FILE not in {s.subject for s in plan.steps}
    back = plan_unbind(host, host.unit_of[NIC], written)
    assert MODPROBE_FILE not in {s.subject for s in back.steps}


def test_a_dry_run_shows_paths_and_diffs() -> None:
    plan = plan_of(card(), NIC, WITH_DRIVERCTL)
    shown = [line for step in plan.steps for line in describe_change(step)]

    assert shown == [
        f"echo {NIC} > /sys/bus/pci/devices/{NIC}/driver/unbind  # igb -> nothing",
        f"echo vfio-pci > /sys/bus/pci/devices/{NIC}/driver_override",
        f"echo {NIC} > /sys/bus/pci/drivers/vfio-pci/bind  # nothing -> vfio-pci",
        "--- /dev/null",
        f"+++ {driverctl_file(NIC)}",
        "@@ -0,0 +1 @@",
        "+vfio-pci",
    ]
