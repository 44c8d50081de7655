"""Certificates that could not be renewed: a line of health, and two rows of the event log."""

from __future__ import annotations

from tests.unit.state.cluster import Cluster
from tests.unit.state.hosts import agent, cards
from vfio_contract.codes import CERT_NOT_RENEWED
from vfio_contract.views import HealthItem
from vfio_coordinator.mirror import Mirror
from vfio_coordinator.state import report
from vfio_coordinator.state.events import CertificatesSeen

CODE = CERT_NOT_RENEWED.name


def see(cluster: Cluster, trouble: str) -> list[HealthItem]:
    cluster.send(CertificatesSeen(trouble=trouble))
    items = report.status(cluster.state, cluster.now).items
    return [item for item in items if item.code == CODE]


def rows(cluster: Cluster) -> list[str]:
    found, _ = report.list_events(cluster.state)
    return [row.text for row in found if row.code == CODE]


def test_trouble_is_shown_while_it_lasts_and_written_when_it_begins_and_ends() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01", *cards(1)))
    assert see(cluster, "") == []
    for words in ("node pve01: full", "node pve01: full", "node pve02: full"):
        (item,) = see(cluster, words)
        assert (item.level, item.scope, item.text) == ("WARN", "cluster", words)
        assert item.next == CERT_NOT_RENEWED.decision
    assert see(cluster, "") == []
    assert see(cluster, "") == []
    assert rows(cluster) == ["node pve01: full", "over: every certificate is renewed"]


def test_a_long_story_is_cut() -> None:
    cluster = Cluster()
    (item,) = see(cluster, "x" * 1_000)
    assert item.text == "x" * 300


def test_whoever_watches_is_told_of_what_has_no_row() -> None:
    cluster = Cluster()
    cluster.send(CertificatesSeen(trouble="node pve01: full"))
    mirror = Mirror(cluster.state)
    mirror.update_summary(cluster.state, cluster.now, coordinator="co1")
    log = cluster.state.log
    assert not mirror.summary_is_old(cluster.state)
    cluster.send(CertificatesSeen(trouble="node pve02: full"))
    assert cluster.state.log is log
    assert mirror.summary_is_old(cluster.state)


def test_whoever_watches_is_told_since_when() -> None:
    cluster = Cluster()
    cluster.send(CertificatesSeen(trouble="node pve01: full"))
    mirror = Mirror(cluster.state)
    mirror.update_summary(cluster.state, cluster.now, coordinator="co1")
    log = cluster.state.log
    cluster.wait(1)  # with a tick the code is counted, and nothing else changes
    assert cluster.state.log is log
    assert mirror.summary_is_old(cluster.state)
    (item,) = report.status(cluster.state, cluster.now).items
    assert item.since
    mirror.update_summary(cluster.state, cluster.now, coordinator="co1")
    cluster.wait(1)
    assert not mirror.summary_is_old(cluster.state)
