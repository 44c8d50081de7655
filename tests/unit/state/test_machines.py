"""One machine under two node names: which one stands for it, why, and what ends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.state import commanding
from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import BOOTS, agent, cards, snapshot
from vfio_contract.artifact import encode
from vfio_contract.errors import ErrorCode
from vfio_contract.views import Decision
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.events import Heartbeat, ReleaseRequested
from vfio_coordinator.store.interface import Put, Txn

UUID = "4c4c4544-0042-3510-8051-b4c04f4d3832"
CODE = "MACHINE_TWICE"


def names_of_one(*names: str, uuid: str = UUID, boot: int = 0) -> list[Agent]:
    made = [agent(name, boot=boot) for name in names]
    for one in made:
        one.uuid = uuid
    return made


def why(cluster: Cluster, name: str) -> str:
    """The reason of this kind that the node shows, "" for none."""
    view = cluster.view(name)
    texts = [r.text for r in view.reasons if (r.code, r.owner) == (CODE, f"auto:{CODE}")]
    assert len(texts) <= 1
    assert not (texts and view.state == "ready")
    return texts[0] if texts else ""


def held_back(cluster: Cluster, *names: str) -> list[bool]:
    return [bool(why(cluster, name)) for name in names]


def go(cluster: Cluster, *agents: Agent) -> None:
    """The agents end, and nobody waits for them any more."""
    for one in agents:
        cluster.close(one)
    cluster.wait(cluster.limits.lost_after_s + cluster.limits.reconnect_window_s)


def reboot(cluster: Cluster, *agents: Agent, boot: int) -> None:
    """The machine goes down with all that run on it, and is up as `boot`; nobody speaks yet."""
    for one in agents:
        cluster.close(one)
        one.snapshot = snapshot(*cards(2), boot=boot)


def test_the_second_name_of_a_machine_takes_nothing_and_says_what_to_do() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve02", "pve01")
    cluster.join(first, second)
    assert cluster.view("pve02").state == "ready"
    assert why(cluster, "pve01") == (
        "is on the machine of pve02: both say boot 10000000; "
        "waits for: the end of one of the two agents"
    )
    refused = cluster.place(Decision, ask_for("vm1", node="pve01")).refusal
    assert refused is not None
    assert refused.stages[0].stage == "admitted"
    assert CODE in str(refused)
    (item,) = [i for i in report.status(cluster.state, cluster.now).items if i.code == CODE]
    assert item.level == "ERR"
    assert "pve02" in item.text
    assert cluster.codes("pve01").count(CODE) == 1
    assert [i.draft.code for i in cluster.state.incidents.held.values()] == [CODE]
    cluster.observe(second)
    cluster.observe(first)
    assert cluster.codes("pve01").count(CODE) == 1


def test_the_name_that_holds_units_stands_whoever_was_first() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    cluster.join(first)
    cluster.place(Decision, ask_for("vm1"))
    cluster.join(second)
    assert why(cluster, "pve02") == (
        "is on the machine of pve01: both say boot 10000000, and pve01 holds units for vm1; "
        "waits for: the end of this agent, or vfioctl vm release vm1"
    )
    assert cluster.view("pve01").state == "ready"


def test_a_machine_of_another_uuid_is_another_machine() -> None:
    cluster = Cluster()
    for name, uuid in (("pve01", UUID), ("pve02", "another")):
        (one,) = names_of_one(name, uuid=uuid)
        cluster.join(one)
    assert held_back(cluster, "pve01", "pve02") == [False, False]


@pytest.mark.parametrize("uuids", [(UUID, ""), ("", UUID), ("", ""), (UUID, UUID.upper())])
def test_the_boot_id_alone_is_enough_where_a_uuid_says_nothing(uuids: tuple[str, str]) -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    for one, uuid in zip((first, second), uuids, strict=True):
        cluster.hello(one, product_uuid=uuid or "0" * 32)
        cluster.inventory(one)
        cluster.observe(one)
    assert held_back(cluster, "pve01", "pve02") == [False, True]


def test_a_uuid_that_is_learned_later_frees_the_other_name_at_once() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    first.uuid = "-"
    cluster.join(first, second)
    assert held_back(cluster, "pve01", "pve02") == [False, True]
    first.uuid = "another"
    cluster.join(first)
    assert held_back(cluster, "pve01", "pve02") == [False, False]


def test_a_boot_that_is_not_known_tells_nothing_and_takes_nothing() -> None:
    cluster = Cluster()
    agents = names_of_one("pve01", "pve02", uuid="-")
    for one in agents:
        one.snapshot = replace(one.snapshot, readings=replace(one.snapshot.readings, boot_id=None))
        cluster.join(one)
    assert held_back(cluster, "pve01", "pve02") == [False, False]
    assert cluster.place(Decision, ask_for("vm1")).placement is None


def test_both_come_at_once_and_exactly_one_stands() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    cluster.held = True
    cluster.join(second, first)
    cluster.settle_store()
    cluster.held = False
    # neither record was there when the other spoke: they are as old as each other
    assert held_back(cluster, "pve01", "pve02") == [False, True]
    assert cluster.view("pve01").state == "ready"


def test_a_renamed_host_is_placeable_once_its_old_name_is_lost_and_holds_nothing() -> None:
    cluster = Cluster()
    old, new = names_of_one("old", "new")
    cluster.join(old)
    cluster.place(Decision, ask_for("vm1"))
    cluster.close(old)
    cluster.join(new)
    go(cluster)
    cluster.observe(new)
    assert cluster.view("old").state == "lost"
    assert "vfioctl vm release vm1" in why(cluster, "new")
    cluster.release(object, "vm1")
    cluster.observe(new)
    assert cluster.view("new").state == "ready"
    assert set(cluster.codes("new")[-2:]) == {"MACHINE_ALONE", "NODE_VALIDATED"}
    # the old name comes back: the new one holds a unit by now
    cluster.place(Decision, ask_for("vm2"))
    cluster.join(old)
    assert held_back(cluster, "old", "new") == [True, False]


def test_the_old_name_of_a_rebooted_host_is_known_by_its_uuid() -> None:
    cluster = Cluster()
    old, new = names_of_one("old", "new")
    cluster.join(old)
    cluster.place(Decision, ask_for("vm1"))
    reboot(cluster, old, new, boot=1)
    for restart in (False, True):
        if restart:
            cluster.restart()
        cluster.join(new)
        assert why(cluster, "new") == (
            "may be the machine of old under another name: one DMI UUID, and old holds units "
            "for vm1; waits for: old in a boot of its own, or vfioctl vm release vm1"
        )
    cluster.release(object, "vm1")
    assert cluster.view("new").state == "ready"


def side_by_side() -> tuple[Cluster, Agent, Agent]:
    """Two machines with one UUID, as copies have; the first holds a unit, both have just spoken."""
    cluster, (one, copy) = Cluster(), names_of_one("pve01", "pve02")
    copy.snapshot = snapshot(*cards(2), boot=1)
    cluster.join(one)
    cluster.place(Decision, ask_for("vm1"))
    cluster.join(copy)
    return cluster, one, copy


def beat(cluster: Cluster, *agents: Agent) -> None:
    """Each says that it lives, and then what it sees."""
    for agent_ in agents:
        cluster.send(Heartbeat(agent_.name, agent_.session))
    for agent_ in agents:
        cluster.observe(agent_)


def test_copies_with_one_uuid_are_two_machines_once_both_are_heard_side_by_side() -> None:
    cluster, one, copy = side_by_side()
    for _ in range(2):
        beat(cluster, one, copy)
        assert held_back(cluster, "pve01", "pve02") == [False, True]  # its words may be old ones
        cluster.seconds += cluster.limits.lost_after_s / 2
    cluster.seconds += 1
    beat(cluster, copy, one)
    assert held_back(cluster, "pve01", "pve02") == [False, False]
    # and stay so, while one of them is away and the other comes back
    go(cluster, one)
    cluster.close(copy)
    cluster.join(copy)
    assert cluster.view("pve02").state == "ready"


def test_a_host_that_came_back_renamed_is_not_told_apart_by_what_was_on_its_way() -> None:
    cluster, one, copy = side_by_side()
    cluster.seconds += cluster.limits.lost_after_s / 2
    beat(cluster, one, copy)
    for _ in range(5):
        cluster.seconds += cluster.limits.lost_after_s - 1
        cluster.send(Heartbeat("pve02", copy.session))
        cluster.observe(copy)
    assert held_back(cluster, "pve02") == [True]


def test_no_unit_is_given_twice_before_a_reboot_is_noticed() -> None:
    """The old name's stream is still open, and it holds nothing: it could be given a unit."""
    cluster, (old, new) = Cluster(), names_of_one("old", "new")
    cluster.join(old)
    new.snapshot = snapshot(*cards(2), boot=1)
    cluster.seconds += 1
    cluster.join(new)
    assert held_back(cluster, "old", "new") == [False, True]
    cluster.seconds += cluster.limits.lost_after_s
    cluster.send(Heartbeat("new", new.session))
    cluster.wait(1)
    assert cluster.view("old").state == "revalidating"
    assert cluster.view("new").state == "ready"


@pytest.mark.parametrize("names", [("old", "new"), ("z-old", "a-new")])
def test_two_boots_that_begin_in_one_moment_are_apart_once_both_are_heard(
    names: tuple[str, str],
) -> None:
    """The name tells nothing of which came first: the one that is silent holds the units."""
    cluster, (old, new) = Cluster(), names_of_one(*names)
    cluster.join(old)
    assert cluster.place(Decision, ask_for("vm1")).placement is not None
    new.snapshot = snapshot(*cards(2), boot=1)
    cluster.join(new)
    cluster.wait(7 * cluster.limits.lost_after_s)
    cluster.join(new)
    assert held_back(cluster, new.name) == [True]
    cluster.join(old)
    cluster.wait(1)
    assert held_back(cluster, new.name) == [False]


def test_after_a_restart_the_name_that_stood_waits_for_no_race() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve02", "pve01")
    cluster.join(first, second)
    cluster.restart()
    cluster.join(second)
    assert held_back(cluster, "pve01") == [True]
    cluster.join(first)
    assert held_back(cluster, "pve02", "pve01") == [False, True]
    assert cluster.view("pve02").state == "ready"


def test_a_name_whose_agent_is_gone_for_good_keeps_nobody_back() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    cluster.join(first, second)
    cluster.close(first)
    assert held_back(cluster, "pve02") == [True]  # it may be on its way back
    cluster.close(second)
    cluster.join(second)
    assert cluster.codes("pve02").count(CODE) == 1
    cluster.wait(cluster.limits.reconnect_window_s + cluster.limits.lost_after_s)
    cluster.join(second)
    assert cluster.view("pve02").state == "ready"
    cluster.join(first)
    assert held_back(cluster, "pve01", "pve02") == [False, True]


def test_a_claim_that_is_being_written_counts_already() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02")
    cluster.join(first, second)
    go(cluster, first)
    cluster.join(second)
    cluster.held = True
    ticket = cluster.place_later(ask_for("vm1"))
    assert ticket not in cluster.replies
    cluster.join(first)
    assert held_back(cluster, "pve01", "pve02") == [True, False]
    cluster.lose_answer(landed=False)
    cluster.settle_store()
    answer = cluster.replies[ticket]
    assert isinstance(answer, Decision)
    assert answer.placement is not None


def test_what_an_old_store_gave_to_both_names_is_given_no_further() -> None:
    cluster = Cluster()
    first, second = names_of_one("pve01", "pve02", uuid="uuid-a")
    second.uuid = "uuid-b"
    cluster.join(first, second)
    for vm, name in (("vm1", "pve01"), ("vm2", "pve02")):
        cluster.place(Decision, ask_for(vm, node=name))
    # as if nobody had known their UUIDs when they were placed
    for name in ("pve01", "pve02"):
        admin = cluster.state.nodes[name].admin
        assert admin is not None
        bare = encode(replace(admin, product_uuid=""))
        cluster.store.commit([Txn((), (Put(keys.node_key(name), bare),))])
    first.uuid = second.uuid = UUID
    cluster.restart()
    cluster.join(first, second)
    assert "both hold units; waits for: vfioctl vm release vm2" in why(cluster, "pve01")
    assert "both hold units; waits for: vfioctl vm release vm1" in why(cluster, "pve02")
    cluster.ask_later(lambda t: ReleaseRequested(ticket=t, vm="vm2", actor="ann"))
    assert held_back(cluster, "pve01", "pve02") == [False, True]
    assert cluster.view("pve01").state == "ready"


def test_nothing_acts_under_one_name_on_what_a_vm_holds_under_the_other() -> None:
    cluster, one = commanding.joined(product_uuid=UUID)
    cluster.place(Decision, ask_for("vm1", "nic=2"))
    (other,) = names_of_one("pve02")
    commanding.hello(cluster, other)
    cluster.inventory(other)
    cluster.observe(other)
    refused = commanding.refusal(cluster, node="pve02")
    assert isinstance(refused, Failure)
    assert refused.code is ErrorCode.DEVICE_CLAIMED
    assert "of VM vm1" in refused.detail
    assert one.boot_id == BOOTS[0]
