"""The reset ledger over two boots: a card that does not come back, and what it takes to clear it.

The card's slot loses its power before somebody resets it, so that it answers nothing and the kernel
says in its own words that it gave up. hostd and the coordinator are killed meanwhile, the host is
booted again, and nobody may forget. What the two of them keep must be the same rows. Another card
goes from VM to VM, which is what proves a reset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.actions.acting import RESET_STEPS
from tests.lab.cluster import Answer, Cluster, serving
from tests.lab.conftest import Boot
from tests.lab.hands import ACT_LIMIT_S, EVERYTHING, require
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from vfio_contract.views import Decision, Event, UnitView

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

NODE = "resetbox"
CYCLED = "0000:01:00.0"
HUNG, PORT = "0000:02:00.0", "0000:00:02.1"
GAVE_UP = f"vfio-pci {HUNG}: not ready 65535ms after FLR; giving up"
# The kernel waits for 65 s, by a clock that may run slowly in there.
WAIT_LIMIT_S = 300
# A look by the clock comes once in a minute, and takes up to 40 s on a busy host.
LOOK_LIMIT_S = 240


@dataclass(frozen=True, slots=True)
class Moment:
    """What both ends say of a card's resets, and whether it is given to a VM."""

    here: dict[str, Any]
    there: dict[str, Any]
    decision: Decision
    unit: UnitView

    @property
    def states(self) -> tuple[str, str]:
        """The class on the host and in the cluster."""
        return str(self.here["state"]), str(self.there["state"])


@dataclass(frozen=True, slots=True)
class First:
    """The first boot.

    `waiting` is what the kernel did when hostd was killed, `ended` how its reset ended. `wedged`
    is told after both hostd and the coordinator were killed, `powered` when the card answers again.
    """

    waiting: list[str]
    ended: dict[str, Any]
    wedged: Moment
    answers: dict[str, Any]
    powered: Moment
    cycled: tuple[Moment, ...]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("ledger") / "c", NODE) as found:
        yield found


@pytest.fixture(scope="module")
def first(cluster: Cluster, boot: Boot) -> First:
    with boot(scenarios.LEDGER) as guest:
        cluster.join(guest, NODE)
        cluster.until_state(NODE, "ready")
        cycled = (use(guest, cluster, CYCLED), use(guest, cluster, CYCLED))

        guest.call("port.cut_power", port=PORT)
        since = guest.call("host.kernel_time")
        guest.call("reset.begin", address=HUNG, method="flr")
        waiting = guest.call("host.await_log", texts=[f"{HUNG}: not ready"], since=since)
        guest.call("agent.kill", which="hostd")
        guest.call("agent.start_again", which="hostd")
        ended = guest.call("reset.end", within_s=WAIT_LIMIT_S, limit_s=WAIT_LIMIT_S + 30)
        await_class(cluster, HUNG, "wedged")

        guest.call("agent.kill", which="hostd")
        cluster.kill_and_start_again()
        guest.call("agent.start_again", which="hostd")
        cluster.until_state(NODE, "ready")
        wedged = look(guest, cluster, HUNG)
        guest.call("port.give_power", port=PORT)
        answers = guest.call("vfio.attempt", address=HUNG)
        powered = look(guest, cluster, HUNG)
        cluster.leave(guest, NODE)
    return First(waiting, ended, wedged, answers, powered, cycled)


@pytest.fixture(scope="module")
def second(cluster: Cluster, boot: Boot, first: First) -> Iterator[Guest]:
    """The machine after a reboot, which for this card is a cold start."""
    with boot(scenarios.LEDGER) as guest:
        guest.call("actuate.allow", text=EVERYTHING)
        cluster.join(guest, NODE)
        cluster.until_state(NODE, "ready")
        yield guest
        cluster.leave(guest, NODE)


def use(guest: Guest, cluster: Cluster, address: str) -> Moment:
    """Have a VM with the card until it is told how its start went; the VM is gone then."""
    before = tried(history(cluster, address))
    started = guest.call("nested.start", name="user", addresses=[address])
    assert started["started"], started
    try:
        cluster.until(
            NODE,
            lambda _: tried(history(cluster, address)) > before,
            what=f"told of a VM with {address}",
        )
    finally:
        guest.call("nested.stop", name="user")
    cluster.until(NODE, lambda _: unit_of(cluster, address).state != "foreign", what="let go")
    return look(guest, cluster, address)


def look(guest: Guest, cluster: Cluster, address: str) -> Moment:
    arguments = ["device", "history", address, "-o", "json"]
    here = guest.call("host.vfioctl", arguments=arguments, limit_s=LOOK_LIMIT_S)
    unit = unit_of(cluster, address)
    return Moment(
        here=document_of(here["out"]),
        there=history(cluster, address),
        decision=cluster.place("asker", unit.kind, dry_run=True),
        unit=unit,
    )


def history(cluster: Cluster, address: str) -> dict[str, Any]:
    answer: Answer = cluster.vfioctl("device", "history", NODE, address, "-o", "json")
    return document_of(answer.out)


def document_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)["history"]
    return found


def await_class(cluster: Cluster, address: str, wanted: str) -> None:
    """Wait until the cluster calls the card's history that."""
    cluster.until(
        NODE,
        lambda _: history(cluster, address).get("state") == wanted,
        what=f"{address} {wanted}",
    )


def unit_of(cluster: Cluster, address: str) -> UnitView:
    view = cluster.ask().show_node(NODE)
    return next(unit for unit in view.units if address in unit.addresses)


# --- the first boot ------------------------------------------------------------------------------


def test_a_card_that_goes_from_vm_to_vm_is_proven(first: First) -> None:
    """The first start says that the card works, the second that it was reset in between."""
    once, twice = first.cycled

    assert once.states == ("capable", "capable")
    assert twice.states == ("proven", "proven")
    assert [row["method"] for row in rows_of(twice.there)] == ["vm-start", "vm-cycle"]
    assert {row["outcome"] for row in rows_of(twice.there)} == {"success"}


def test_the_kernel_gave_up_on_the_card_while_hostd_was_dead(first: First) -> None:
    """Without it the next tests would prove nothing."""
    assert all("giving up" not in line for line in first.waiting)
    assert any(GAVE_UP in line for line in first.ended["log"])
    assert first.ended["errno"]


def test_a_wedged_card_is_remembered_over_both_deaths_with_the_kernels_line(first: First) -> None:
    wedged = first.wedged

    assert wedged.states == ("wedged", "wedged")
    for end in (wedged.here, wedged.there):
        assert any(row["evidence"].endswith(GAVE_UP) for row in rows_of(end))
    assert wedged.unit.reset == "wedged"


def test_a_wedged_card_is_given_to_nobody_also_when_it_answers_again(first: First) -> None:
    """Its power is back, and nobody has reset it since."""
    assert first.answers["step"] == "opened"
    assert first.powered.states == ("wedged", "wedged")
    for moment in (first.wedged, first.powered):
        assert moment.decision.refusal is not None
        assert (moment.unit.state, moment.unit.reset) == ("unfit", "wedged")


def test_both_ends_keep_the_same_rows(first: First) -> None:
    for moment in (*first.cycled, first.wedged, first.powered):
        assert rows_of(moment.here)
        assert rows_of(moment.here) == rows_of(moment.there)


def test_a_dead_card_is_not_counted_again_with_every_access(first: First) -> None:
    """What the kernel says of it at each access is no reset."""
    for moment in (first.wedged, first.powered):
        rows = [row for row in rows_of(moment.there) if row["outcome"] == "wedged"]
        assert sum(not row["method"] for row in rows) <= 1


# --- after a reboot ------------------------------------------------------------------------------


def test_after_a_reboot_it_is_on_probation_and_one_success_is_not_enough(
    cluster: Cluster, second: Guest
) -> None:
    """A warm reboot may not reset a card, and a reset alone may not make it work."""
    rebooted = look(second, cluster, HUNG)
    assert rebooted.states == ("probation", "probation")
    # Of many lines about it the newest are kept, and the one that it rests on.
    assert f"vfio-pci {HUNG}: " in rebooted.there["evidence"]

    require(reset_test(second, HUNG), "done")
    cluster.until(
        NODE,
        lambda _: any(row["outcome"] == "success" for row in rows_of(history(cluster, HUNG))),
        what="told of the reset",
    )
    assert look(second, cluster, HUNG).states == ("probation", "probation")


def test_a_reset_and_a_start_clear_it(cluster: Cluster, second: Guest) -> None:
    cleared = use(second, cluster, HUNG)

    assert cleared.states == ("capable", "capable")
    assert cleared.decision.placement is not None
    assert use(second, cluster, HUNG).states == ("proven", "proven")


@pytest.mark.parametrize("step", RESET_STEPS)
def test_killed_at_each_step_of_a_reset_both_ends_keep_the_same(
    cluster: Cluster, second: Guest, step: str
) -> None:
    """One row of the reset, if it was made at all, whoever looks."""
    before = second.call("acting.newest")
    second.call("acting.begin", verb="reset-test", address=CYCLED)
    killed = second.call("acting.kill_in_reset", limit_s=ACT_LIMIT_S, before=before, step=step)
    print(f"killed at {killed['last']}")
    second.call("agent.start_again", which="hostd")
    second.call("acting.end", limit_s=ACT_LIMIT_S)
    cluster.until(
        NODE, lambda _: any(killed["id"][:12] in e.text for e in ended(cluster)), what="told"
    )
    cluster.until_state(NODE, "ready")

    seen = look(second, cluster, CYCLED)
    assert rows_of(seen.here) == rows_of(seen.there)
    assert second.call("acting.kept", id=killed["id"])["attempts"] == (killed["last"] != "asked")
    assert len([e for e in ended(cluster) if killed["id"][:12] in e.text]) == 1


def ended(cluster: Cluster) -> list[Event]:
    return [event for event in cluster.events() if event.code == "ACTION_ENDED"]


def reset_test(guest: Guest, address: str) -> dict[str, Any]:
    acted: dict[str, Any] = guest.call(
        "acting.device", limit_s=ACT_LIMIT_S, verb="reset-test", address=address, options=[]
    )
    return acted


def tried(document: dict[str, Any]) -> int:
    """How many attempts there ever were, those that are no longer kept too."""
    return sum(each["attempts"] for each in document["tuples"])


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The attempts on the firmware that runs, in the order they happened."""
    return [row for each in document["tuples"] if each["present"] for row in each["newest"]]
