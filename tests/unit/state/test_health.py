"""Lines of health that are about an incident, and about notifications that reached nobody."""

from __future__ import annotations

from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import agent, cards
from vfio_contract.codes import NOTIFY_FAILED
from vfio_contract.findings import Verdict
from vfio_contract.mute_views import MuteView
from vfio_contract.views import ClusterStatus, HealthItem
from vfio_coordinator.state import report
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import NotifyEnded
from vfio_coordinator.state.incident_notices import HOLD_S
from vfio_coordinator.state.notify_trouble import AGAIN_S

CODE = "RESET_WEDGED"


def wedged(name: str) -> Agent:
    one = agent(name, *cards(1))
    one.replaced = {("reset-history", "function:0000:01:00.0"): (Verdict.FAIL, CODE)}
    return one


def status(cluster: Cluster) -> ClusterStatus:
    return report.status(cluster.state, cluster.now)


def items(cluster: Cluster) -> dict[str, HealthItem]:
    return {item.code: item for item in status(cluster).items}


def told(cluster: Cluster) -> list[str]:
    """Of the node's trouble; that it fell silent meanwhile is an incident of its own."""
    found = [effect for effect in cluster.effects if isinstance(effect, Notify)]
    return [effect.stamp for effect in found if effect.incident.code == CODE]


def end(cluster: Cluster, stamp: str, *, ok: bool, detail: str = "") -> None:
    id = stamp.partition("/")[0]
    cluster.send(NotifyEnded(incident=id, stamp=stamp, ok=ok, detail=detail))


def trouble_rows(cluster: Cluster) -> list[str]:
    rows, _ = report.list_events(cluster.state)
    return [row.text for row in rows if row.code == NOTIFY_FAILED.name]


# --- incidents -----------------------------------------------------------------------------------


def test_the_line_of_several_nodes_is_that_of_their_incident() -> None:
    cluster = Cluster()
    cluster.join(wedged("pve01"), wedged("pve02"))
    item = items(cluster)[CODE]
    assert (item.incident, item.next, item.count) == ("INC-1", "vfioctl incident show INC-1", 2)
    assert item.text == "INC-1, 00:16: pve01 pve02: 0000:01:00.0"
    assert item.since == "2026-11-22T00:16:40Z"
    assert status(cluster).next == "vfioctl incident show INC-1"


def test_the_line_of_one_node_names_the_incident_and_shows_the_node() -> None:
    cluster = Cluster()
    cluster.join(wedged("pve01"))
    item = items(cluster)[CODE]
    assert (item.incident, item.next) == ("INC-1", "vfioctl node show pve01")
    assert item.text == "pve01: 0000:01:00.0"


def test_an_incident_of_another_day_says_which() -> None:
    cluster = Cluster()
    agents = [wedged("pve01"), wedged("pve02")]
    cluster.join(*agents)
    cluster.set_wall("2026-11-24T09:00:00Z")
    for one in agents:
        cluster.observe(one)
    assert items(cluster)[CODE].text.startswith("INC-1, 11-22 00:16: ")


# --- notifications -------------------------------------------------------------------------------


def test_what_reached_nobody_is_shown_written_once_and_tried_again() -> None:
    cluster = Cluster()
    one = wedged("pve01")
    cluster.join(one)
    cluster.wait(HOLD_S)
    assert told(cluster) == ["INC-1/1"]
    for tries in (1, 2, 3):
        end(cluster, "INC-1/1", ok=False, detail=f"chat: it answered 50{tries}")
        cluster.wait(1)
        item = items(cluster)[NOTIFY_FAILED.name]
        assert (item.level, item.scope) == ("WARN", "cluster")
        assert item.text == f"chat: it answered 50{tries}"
        assert told(cluster) == ["INC-1/1"] * tries
        cluster.wait(AGAIN_S)
        assert told(cluster) == ["INC-1/1"] * (tries + 1)
    end(cluster, "INC-1/1", ok=True)
    cluster.wait(1)
    assert NOTIFY_FAILED.name not in items(cluster)
    texts = trouble_rows(cluster)
    assert texts == [
        "chat: it answered 501",
        "over: a notification reached everybody it was meant for",
    ]
    cluster.wait(AGAIN_S + 1)
    assert told(cluster).count("INC-1/1") == 4


def test_a_target_that_was_given_up_while_another_took_it_is_shown_and_nobody_told_twice() -> None:
    cluster = Cluster()
    cluster.join(wedged("pve01"))
    cluster.wait(HOLD_S)
    end(cluster, "INC-1/1", ok=True, detail="chat: it answered 500")
    cluster.wait(AGAIN_S + 1)
    assert items(cluster)[NOTIFY_FAILED.name].text == "chat: it answered 500"
    assert told(cluster).count("INC-1/1") == 1


def test_a_restart_tells_again_what_was_not_marked_and_nothing_else() -> None:
    cluster = Cluster()
    cluster.join(wedged("pve01"))
    cluster.wait(HOLD_S)
    cluster.restart()
    assert told(cluster) == ["INC-1/1", "INC-1/1"]
    end(cluster, "INC-1/1", ok=True)
    cluster.restart()
    assert told(cluster) == ["INC-1/1", "INC-1/1"]


def test_what_is_muted_is_not_tried_again() -> None:
    cluster = Cluster()
    one = wedged("pve01")
    cluster.join(one)
    cluster.seconds += HOLD_S
    cluster.observe(one)
    cluster.wait(0)
    cluster.mute(MuteView, CODE)
    end(cluster, "INC-1/1", ok=False, detail="chat: it answered 500")
    cluster.wait(AGAIN_S + 1)
    assert told(cluster).count("INC-1/1") == 1
    cluster.unmute(MuteView, CODE)
    assert told(cluster).count("INC-1/1") == 2
