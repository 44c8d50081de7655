"""The hands on real kernels, through their own door: bind, reset, unbind, refusals, and death.

One machine whose igb and e1000e the host can spare; its management card and its disk it cannot. Its
agent runs, `vfioctl device ...` asks it, and a cluster is told. Whatever is done and taken back,
the host is afterwards as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import serving
from tests.lab.conftest import Boot
from tests.lab.hands import ACT_LIMIT_S, EVERYTHING, Hands, codes, require
from tests.lab.harness import scenarios
from vfio_agent.actuate.execution import WHOLE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NODE = "handsbox"
NIC, IGB, GPU, AUDIO = "0000:01:00.0", "0000:03:00.0", "0000:04:00.0", "0000:04:00.1"
MANAGEMENT, DISK = "0000:00:1c.0", "0000:00:1f.2"
PORT, NOBODY_THERE = "0000:00:03.0", "0000:77:00.0"
VERBS = ("bind", "unbind", "reset-test")
DEVICES = "/sys/bus/pci/devices"


@pytest.fixture(scope="module")
def hands(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hands]:
    with (
        serving(tmp_path_factory.mktemp("hands") / "c", NODE) as cluster,
        boot(scenarios.HANDS) as guest,
    ):
        guest.call("actuate.allow", text=EVERYTHING)
        cluster.join(guest, NODE)
        cluster.until_state(NODE, "ready")
        yield Hands(guest, cluster, NODE)
        cluster.leave(guest, NODE)


@pytest.fixture(autouse=True)
def _untouched(hands: Hands) -> Iterator[None]:
    """Mounts, addresses, routes, drivers, overrides and files are in the end as they were."""
    before = hands.guest.call("actuate.footprint")
    yield
    assert hands.guest.call("actuate.footprint") == before


# --- with proof ----------------------------------------------------------------------------------


def test_bind_reset_unbind_each_with_its_proof(hands: Hands) -> None:
    guest = hands.guest
    assert hands.driver(IGB) == "igb"
    before = guest.call("actuate.footprint")

    planned = require(hands.act("bind", IGB, "--dry-run"), "planned")
    written = {step["path"] for step in planned["steps"] if step["kind"] == "file"}
    assert f"/etc/udev/rules.d/05-vfioctl-{IGB}.rules" in written
    assert guest.call("actuate.footprint") == before

    bound = require(hands.act("bind", IGB), "done")
    footprint = guest.call("actuate.footprint")
    assert hands.driver(IGB) == "vfio-pci"
    # somebody else has written ids already, and a second line would replace theirs
    assert bound["method"] == "udev"
    assert footprint["overrides"][IGB] == "vfio-pci\n"
    assert set(footprint["files"]) - set(before["files"]) == written
    assert guest.call("vfio.attempt", address=IGB)["step"] == "opened"

    config = guest.call("acting.config_space", address=IGB)
    reset = require(hands.act("reset-test", IGB), "done")
    proof = reset["reset"]
    assert (proof["ending"], proof["outcome"], proof["method"]) == ("reset", "success", "flr")
    changed = [change for row in proof["changes"] for change in row["changes"]]
    assert not any("bar" in change or "identity" in change for change in changed)
    # its header and BARs, read by the kernel's own means
    assert guest.call("acting.config_space", address=IGB)[:96] == config[:96]

    free = require(hands.act("unbind", IGB), "done")
    assert hands.driver(IGB) == "igb"
    assert guest.call("actuate.footprint") == before

    for report, operations, attempts in ((bound, 1, 0), (reset, 0, 1), (free, 1, 0)):
        kept = guest.call("acting.kept", id=report["id"])
        assert kept == {"reports": 1, "operations": operations, "attempts": attempts}
        hands.await_events(1, "ACTION_ENDED", IGB, f"{report['verb']} {report['id'][:12]} done")
    hands.await_events(1, "RESET_ATTEMPT", f"flr success: reset-test of {IGB}")


def test_a_card_is_hot_reset_with_its_audio(hands: Hands) -> None:
    reset = require(hands.act("reset-test", GPU), "done")
    proof = reset["reset"]

    assert (proof["ending"], proof["outcome"], proof["method"]) == ("reset", "success", "bus")
    assert {row["function"] for row in proof["changes"]} == {GPU, AUDIO}
    assert hands.guest.call("acting.kept", id=reset["id"])["attempts"] == 2
    hands.await_events(2, "RESET_ATTEMPT", f"bus success: reset-test of {GPU}")


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [MANAGEMENT, DISK])
@pytest.mark.parametrize("verb", VERBS)
def test_what_the_host_needs_is_refused(hands: Hands, verb: str, address: str) -> None:
    refused = hands.act(verb, address)

    report = require(refused, "refused")
    assert "HOST_CRITICAL" in codes(refused)
    assert all(reason["evidence"] for reason in report["reasons"])
    assert hands.guest.call("acting.kept", id=report["id"])["operations"] == 0


@pytest.mark.parametrize("address", [PORT, NOBODY_THERE])
@pytest.mark.parametrize("verb", ["bind", "reset-test"])
def test_a_bridge_and_nothing_are_in_no_unit(hands: Hands, verb: str, address: str) -> None:
    refused = hands.act(verb, address)

    require(refused, "refused")
    assert codes(refused) == {"NO_UNIT"}


def test_a_pf_with_virtual_functions_is_refused(hands: Hands) -> None:
    autoprobe = f"{DEVICES}/{IGB}/sriov_drivers_autoprobe"
    hands.guest.call("sriov.make", address=IGB, count=2)
    try:
        for verb in ("bind", "unbind"):
            refused = hands.act(verb, IGB)
            require(refused, "refused")
            assert "PF_HAS_VFS" in codes(refused)
    finally:
        hands.guest.call("host.write", path=f"{DEVICES}/{IGB}/sriov_numvfs", text="0")
        hands.guest.call("host.write", path=autoprobe, text="1")


def test_a_reset_needs_the_whole_domain_on_vfio(hands: Hands) -> None:
    """Its own function, and one that the reset takes along."""
    guest = hands.guest
    refused = hands.act("reset-test", IGB)
    require(refused, "refused")
    assert codes(refused) == {"ACTION_HOST_DRIVER"}

    guest.call("host.bind", address=AUDIO, driver="snd_hda_intel")
    try:
        refused = hands.act("reset-test", GPU)
        report = require(refused, "refused")
        assert codes(refused) == {"ACTION_HOST_DRIVER"}
        assert {reason["subject"] for reason in report["reasons"]} == {f"function:{AUDIO}"}
    finally:
        guest.call("host.bind", address=AUDIO)
        guest.call("host.write", path=f"{DEVICES}/{AUDIO}/driver_override", text="\n")


def test_without_the_owners_word_nothing_is_done(hands: Hands) -> None:
    hands.guest.call("actuate.allow", text=EVERYTHING.replace("true", "false"))
    try:
        for verb in VERBS:
            refused = hands.act(verb, GPU)
            require(refused, "refused")
            assert codes(refused) == {"ACTION_NOT_PERMITTED"}
    finally:
        hands.guest.call("actuate.allow", text=EVERYTHING)


def test_a_held_card_is_refused_and_vfio_closes_the_race(hands: Hands) -> None:
    guest = hands.guest
    started = guest.call("nested.start", name="holder", addresses=[GPU, AUDIO], slot=True)
    try:
        assert started["started"], started
        for verb in VERBS:
            refused = hands.act(verb, GPU)
            require(refused, "refused")
            assert codes(refused) == {"ACTION_HELD"}
        # a holder that came after the look: the kernel itself refuses
        late = guest.call(
            "actuate.reset", limit_s=ACT_LIMIT_S, address=GPU, name="late", guarded=False
        )
        assert (late["ending"], late["attempts"]) == ("refused", [])
        assert "EBUSY" in late["why"]
        assert guest.call("nested.status", name="holder") == "prelaunch"
    finally:
        guest.call("nested.stop", name="holder")


# --- cut short -----------------------------------------------------------------------------------


def test_an_unbind_of_a_held_function_waits_and_goes_on_when_it_is_let_go(hands: Hands) -> None:
    """The holder comes between the look and the effect: nobody hangs, nothing is lost."""
    guest = hands.guest
    require(hands.act("bind", IGB), "done")
    guest.call("actuate.plan_ahead", limit_s=ACT_LIMIT_S, verb="unbind", address=IGB, name="held")
    assert guest.call("nested.start", name="late", addresses=[IGB])["started"]
    try:
        waits = guest.call("actuate.resume", name="held", within_s=3)
        assert waits["state"] == "waiting", waits
        assert guest.call("nested.status", name="late") == "prelaunch"
    finally:
        guest.call("nested.stop", name="late")
    done = guest.call("actuate.resume", name="held", within_s=30)
    assert done["state"] == "done", done
    assert hands.driver(IGB) == "igb"


def kill(hands: Hands, before: str, step: int | None, *which: str) -> str:
    """Kill these once the newest action came so far, and start them again; its id."""
    killed = hands.guest.call(
        "acting.kill_at", limit_s=ACT_LIMIT_S, before=before, step=step, which=which
    )
    print(f"killed {' and '.join(which)} at {step}, the last line is {killed['last']}")
    for each in which:
        hands.guest.call("agent.start_again", which=each)
    return str(killed["id"])


def test_killed_before_its_first_step_nothing_is_done(hands: Hands) -> None:
    """The command asks again by itself, and hears what became of it."""
    before = hands.guest.call("acting.newest")
    hands.guest.call("acting.begin", verb="bind", address=IGB)
    id = kill(hands, before, None, "hostd")
    ended = hands.guest.call("acting.end", limit_s=ACT_LIMIT_S)

    report = json.loads(ended["out"])
    assert (ended["status"], report["id"], report["outcome"]) == (2, id, "failed")
    assert "nothing was done" in report["detail"]
    hands.await_events(1, "ACTION_ENDED", IGB, f"bind {id[:12]} failed")


def test_killed_at_each_of_its_steps_it_is_done_in_the_end_and_once(hands: Hands) -> None:
    """One bind, whose agent dies at every step and between its end and the report of it."""
    before = hands.guest.call("acting.newest")
    hands.guest.call("acting.begin", verb="bind", address=IGB)
    ids = {
        kill(hands, before, 0, "hostd"),
        kill(hands, before, 1, "hostd", "network"),
        kill(hands, before, 2, "hostd"),
        kill(hands, before, 3, "hostd", "network"),
        kill(hands, before, 4, "hostd"),
        kill(hands, before, WHOLE, "hostd"),
    }
    ended = hands.guest.call("acting.end", limit_s=ACT_LIMIT_S)

    (id,) = ids
    # a command that waited for a minute says where to look
    assert ended["status"] == 0 or (ended["status"] == 3 and id in ended["err"]), ended
    hands.await_events(1, "ACTION_ENDED", IGB, f"bind {id[:12]} done")
    assert hands.driver(IGB) == "vfio-pci"
    kept = hands.guest.call("acting.kept", id=id)
    assert kept == {"reports": 1, "operations": 1, "attempts": 0}
    require(hands.act("unbind", IGB), "done")


def test_a_command_of_the_cluster_outlives_half_of_the_agent(hands: Hands) -> None:
    """Bound while the network process dies, given back while hostd does."""
    _command(hands, "bind", killing="network", leads_to="vfio-pci")
    _command(hands, "unbind", killing="hostd", leads_to="igb")


def _command(hands: Hands, verb: str, *, killing: str, leads_to: str) -> None:
    guest = hands.guest
    before = guest.call("acting.newest")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hands.cluster.vfioctl, "device", verb, NODE, IGB, "-o", "json")
        kill(hands, before, 1, killing)
        answer = asked.result()

    assert answer.status == 0, answer.text
    report = json.loads(answer.out)
    assert (report["outcome"], hands.driver(IGB)) == ("done", leads_to)
    kept = guest.call("acting.kept", id=report["id"])
    assert kept == {"reports": 1, "operations": 1, "attempts": 0}
    hands.await_events(1, "ACTION_ENDED", IGB, f"{verb} {report['id'][:12]} done")


def test_each_action_is_in_the_log_once(hands: Hands) -> None:
    rows = [e.text for e in hands.cluster.events() if e.code == "ACTION_ENDED"]
    ids = [text.partition(": ")[2].split()[1] for text in rows]

    assert ids
    assert len(ids) == len(set(ids)), rows
