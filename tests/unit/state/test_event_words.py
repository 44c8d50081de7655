"""What durable events are called in the event log."""

from __future__ import annotations

import pytest

from tests.fakes.durable import moment
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import cards, snapshot
from vfio_contract.durable import (
    ActionEnded,
    BindingChanged,
    DeviceAppeared,
    DeviceRemoved,
    DurableEvent,
    HolderChanged,
    Payload,
    Spooled,
)
from vfio_coordinator.state.events import EventsReceived

SPOOL = "a" * 32
PASSED = "between two looks at the host, which show no difference)"


def test_what_names_no_address_is_told_by_where_its_function_is_now() -> None:
    cluster, agent = Cluster(), Agent("pve01", snapshot(*cards(1)))
    cluster.hello(agent, spool_id=SPOOL)
    cluster.inventory(agent)
    inventory = cluster.state.nodes["pve01"].inventory
    assert inventory is not None
    ((identity, _, address),) = inventory.units[0].places
    bound = BindingChanged("odd", "vfio-pci")
    at = [(identity, ""), ("gone-for-ever", ""), (identity, "0000:09:00.0")]
    events = [Spooled(n, DurableEvent(moment(n), *of, bound)) for n, of in enumerate(at, start=1)]
    cluster.send(
        EventsReceived(node=agent.name, session=agent.session, spool_id=SPOOL, events=tuple(events))
    )
    texts = [r.text for r in cluster.state.log.values() if r.code == "BINDING_CHANGED"]
    begins = (f"{address} ({identity}): ", "gone-for-ever: ", f"0000:09:00.0 ({identity}): ")
    assert [t.startswith(b) for t, b in zip(texts, begins, strict=True)] == [True] * 3, texts


def test_a_commands_id_is_as_long_as_people_need_it() -> None:
    cluster, agent = Cluster(), Agent("pve01", snapshot(*cards(1)))
    cluster.hello(agent, spool_id=SPOOL)
    event = DurableEvent(moment(1), "", "", ActionEnded("0123456789abcdef" * 2, "bind", "done", ""))
    cluster.send(
        EventsReceived(
            node=agent.name, session=agent.session, spool_id=SPOOL, events=(Spooled(1, event),)
        )
    )
    (row,) = [row for row in cluster.state.log.values() if row.code == "ACTION_ENDED"]
    assert row.text.startswith("bind 0123456789ab done")


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        (BindingChanged("odd", "vfio-pci"), "BINDING_CHANGED", "odd -> vfio-pci"),
        (BindingChanged("odd", "", 2), "BINDING_CHANGED", f"odd -> no driver (2 times {PASSED}"),
        (DeviceAppeared("8086:10d3", 1), "DEVICE_ADDED", f"to the bus 8086:10d3 (once {PASSED}"),
        (DeviceRemoved("", 3), "DEVICE_REMOVED", f"left the bus (3 times {PASSED}"),
        (HolderChanged("", True, 1), "HOLDER_CHANGED", f"a process opened it (once {PASSED}"),
        (HolderChanged("qemu (7)", False), "HOLDER_CHANGED", "qemu (7) let go of it"),
    ],
)
def test_the_words_of_what_came_and_went(payload: Payload, code: str, text: str) -> None:
    cluster, agent = Cluster(), Agent("pve01", snapshot(*cards(1)))
    cluster.join(agent)
    cluster.hello(agent, spool_id=SPOOL)
    event = DurableEvent(moment(1), "an-identity", "0000:01:00.0", payload)
    cluster.send(
        EventsReceived(
            node=agent.name, session=agent.session, spool_id=SPOOL, events=(Spooled(1, event),)
        )
    )
    (row,) = [row for row in cluster.state.log.values() if row.code == code]
    assert f"{text} (at " in row.text
