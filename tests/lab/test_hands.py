"""The product's hands on real kernels: bind, reset, unbind, every refusal, and the host untouched.

One machine whose igb and e1000e the host can spare; its management card and its disk it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

HANDS = replace(scenarios.SRIOV, name="hands-6.12")

NIC, NVME, IGB, GPU, AUDIO = (
    "0000:01:00.0",
    "0000:02:00.0",
    "0000:03:00.0",
    "0000:04:00.0",
    "0000:04:00.1",
)
MANAGEMENT, DISK = "0000:00:1c.0", "0000:00:1f.2"
VERBS = ("bind", "unbind", "reset-test")
EVERYTHING = """
actuate = true
verbs = ["bind", "unbind", "reset-test"]
devices = ["*"]
"""
DEVICES = "/sys/bus/pci/devices"
# A look at the host takes 10 to 40 s in there.
LOOK_S = 240.0


@pytest.fixture(scope="module")
def guest(boot: Boot) -> Iterator[Guest]:
    with boot(HANDS) as guest:
        guest.call("actuate.allow", text=EVERYTHING)
        yield guest


@pytest.fixture(autouse=True)
def _untouched(guest: Guest) -> Iterator[None]:
    """Whatever a test does and undoes, the host is afterwards as it was."""
    before = guest.call("actuate.footprint")
    yield
    assert guest.call("actuate.footprint") == before


def carry(guest: Guest, verb: str, address: str, name: str, **more: Any) -> dict[str, Any]:
    done = guest.call(
        "actuate.carry", limit_s=LOOK_S, verb=verb, address=address, name=name, **more
    )
    assert isinstance(done, dict)
    return done


def codes(answer: dict[str, Any]) -> set[str]:
    return {code for code, _, _ in answer["reasons"]}


def test_bind_reset_unbind_each_with_its_proof(guest: Guest) -> None:
    assert guest.call("host.driver_of", address=IGB) == "igb"

    bound = carry(guest, "bind", IGB, "bind-igb")
    assert bound["state"] == "done", bound
    assert guest.call("host.driver_of", address=IGB) == "vfio-pci"
    # somebody else has written ids already, and a second line would replace theirs
    assert bound["method"] == "udev"
    rule = f"/etc/udev/rules.d/05-vfioctl-{IGB}.rules"
    assert rule in guest.call("actuate.footprint")["files"]
    assert guest.call("vfio.attempt", address=IGB)["step"] == "opened"

    reset = guest.call("actuate.reset", limit_s=LOOK_S, address=IGB, name="reset-igb")
    assert (reset["ending"], reset["outcome"], reset["method"]) == ("reset", "success", "flr")
    assert [row["key"] for row in reset["attempts"]] == ["reset-igb"]
    assert not any(
        "bar" in c or "identity" in c for rows in reset["changes"].values() for c in rows
    )

    free = carry(guest, "unbind", IGB, "unbind-igb")
    assert free["state"] == "done", free
    assert guest.call("host.driver_of", address=IGB) == "igb"
    assert rule not in guest.call("actuate.footprint")["files"]


def test_a_card_is_hot_reset_with_its_audio(guest: Guest) -> None:
    reset = guest.call("actuate.reset", limit_s=LOOK_S, address=GPU, name="reset-gpu")

    assert (reset["ending"], reset["outcome"], reset["method"]) == ("reset", "success", "bus")
    assert len(reset["attempts"]) == 2
    assert set(reset["changes"]) == {GPU, AUDIO}


def test_what_was_bound_by_ids_goes_back_to_the_host_and_returns(guest: Guest) -> None:
    free = carry(guest, "unbind", NIC, "free-nic")
    assert free["state"] == "done", free
    assert guest.call("host.driver_of", address=NIC) == "e1000e"
    assert any("modprobe.d/vfio.conf" in note for note in free["notes"])

    back = guest.call("actuate.undo", name="free-nic")
    assert back["state"] == "undone", back
    assert guest.call("host.driver_of", address=NIC) == "vfio-pci"
    # ids cannot be given back for one function alone
    override = f"{DEVICES}/{NIC}/driver_override"
    assert guest.call("host.read", path=override) == "vfio-pci"
    guest.call("host.write", path=override, text="\n")


@pytest.mark.parametrize("address", [MANAGEMENT, DISK])
@pytest.mark.parametrize("verb", VERBS)
def test_what_the_host_needs_is_refused(guest: Guest, verb: str, address: str) -> None:
    asked = guest.call("actuate.prepare", limit_s=LOOK_S, verb=verb, address=address)

    assert not asked["consented"]
    assert "HOST_CRITICAL" in codes(asked)


def test_a_pf_with_virtual_functions_is_refused(guest: Guest) -> None:
    numvfs = f"{DEVICES}/{IGB}/sriov_numvfs"
    guest.call("host.write", path=f"{DEVICES}/{IGB}/sriov_drivers_autoprobe", text="0")
    assert guest.call("host.write", path=numvfs, text="2") == ""
    try:
        asked = guest.call("actuate.prepare", limit_s=LOOK_S, verb="bind", address=IGB)
        assert "PF_HAS_VFS" in codes(asked)
    finally:
        guest.call("host.write", path=numvfs, text="0")
        guest.call("host.write", path=f"{DEVICES}/{IGB}/sriov_drivers_autoprobe", text="1")


def test_a_reset_needs_the_function_on_vfio(guest: Guest) -> None:
    asked = guest.call("actuate.prepare", limit_s=LOOK_S, verb="reset-test", address=IGB)

    assert codes(asked) == {"ACTION_HOST_DRIVER"}


def test_without_the_owners_word_nothing_is_done(guest: Guest) -> None:
    guest.call("actuate.allow", text=EVERYTHING.replace("true", "false"))
    try:
        for verb in VERBS:
            asked = guest.call("actuate.prepare", limit_s=LOOK_S, verb=verb, address=GPU)
            assert codes(asked) == {"ACTION_NOT_PERMITTED"}
    finally:
        guest.call("actuate.allow", text=EVERYTHING)


def test_an_unbind_of_a_held_function_waits_and_goes_on_when_it_is_let_go(guest: Guest) -> None:
    """The holder comes between the look and the effect: nobody hangs, nothing is lost."""
    assert carry(guest, "bind", IGB, "bind-held")["state"] == "done"
    guest.call("actuate.plan_ahead", limit_s=LOOK_S, verb="unbind", address=IGB, name="held")
    assert guest.call("nested.start", name="late", addresses=[IGB])["started"]
    try:
        waits = guest.call("actuate.resume", name="held", within_s=3)
        assert waits["state"] == "waiting", waits
        assert guest.call("nested.status", name="late") == "prelaunch"
    finally:
        guest.call("nested.stop", name="late")
    done = guest.call("actuate.resume", name="held")
    assert done["state"] == "done", done
    assert guest.call("host.driver_of", address=IGB) == "igb"


def test_killed_at_each_step_of_a_bind_it_is_finished_or_undone(guest: Guest) -> None:
    planned = guest.call(
        "actuate.plan_ahead", limit_s=LOOK_S, verb="bind", address=IGB, name="killed"
    )
    assert planned["consented"], planned
    rows = guest.call("actuate.kill_and_resume", limit_s=400, name="killed", address=IGB)

    # the operation, an intent and a result for each of five steps, and the end
    assert len(rows) == 12
    assert {row["driver"] for row in rows} == {"igb", "", "vfio-pci"}
    for row in rows:
        assert row["status"] == -9
        assert (row["finished"], row["bound"]) == ("done", "vfio-pci")
        assert (row["undone"], row["after"]) == ("undone", "igb")


def test_a_held_card_is_refused_and_vfio_closes_the_race(guest: Guest) -> None:
    started = guest.call("nested.start", name="holder", addresses=[GPU, AUDIO], slot=True)
    try:
        assert started["started"], started
        for verb in VERBS:
            asked = guest.call("actuate.prepare", limit_s=LOOK_S, verb=verb, address=GPU)
            assert codes(asked) == {"ACTION_HELD"}
        # a holder that came after the look: the kernel itself refuses
        late = guest.call("actuate.reset", limit_s=LOOK_S, address=GPU, name="late", guarded=False)
        assert (late["ending"], late["attempts"]) == ("refused", [])
        assert "EBUSY" in late["why"]
        assert guest.call("nested.status", name="holder") == "prelaunch"
    finally:
        guest.call("nested.stop", name="holder")
