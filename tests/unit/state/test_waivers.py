"""What people lifted in spite of a cause, when many causes go at once."""

from __future__ import annotations

from tests.fakes.snapshots import behind, bridge, nic
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import snapshot
from vfio_contract.findings import Verdict
from vfio_contract.model import PciFunction, Snapshot
from vfio_contract.views import BaselineView, NodeView
from vfio_coordinator.state import report

CARDS = 110
"""With a log row each, too much for one transaction."""


def many(*, together: int) -> Snapshot:
    """A host of so many cards that share their groups by so many."""
    functions: list[PciFunction] = []
    for number in range(CARDS):
        port = bridge(f"0000:00:{number % 32:02x}.{number // 32}", group=1000 + number)
        card = nic(f"0000:{number + 1:02x}:00.0", group=number // together)
        functions += behind(port, card)
    return snapshot(*functions)


def test_many_waivers_end_in_one_row() -> None:
    cluster = Cluster()
    cluster.checked = False
    one = Agent("pve01", many(together=1))
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    cluster.change(one, many(together=2))
    cluster.uncordon(NodeView, "pve01")
    admin = cluster.state.nodes["pve01"].admin
    assert admin is not None
    assert len(admin.waived) == CARDS
    cluster.change(one, many(together=1))
    admin = cluster.state.nodes["pve01"].admin
    assert admin is not None
    assert admin.waived == ()
    rows, _ = report.list_events(cluster.state, node="pve01")
    ended = [row for row in rows if row.code == "WAIVER_ENDED"]
    assert len(ended) == 1
    assert f"and {CARDS - 3} more are gone" in ended[0].text
    assert ended[0].actor == "auto:GROUP_WIDENED"


def test_more_codes_than_one_transaction_has_rows_for() -> None:
    cluster = Cluster()
    cluster.checked = False
    one = Agent("pve01", many(together=1))
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    one.replaced = {
        ("reset-history", f"function:0000:{number + 1:02x}:00.0"): (Verdict.FAIL, f"ODD_{number}")
        for number in range(CARDS)
    }
    cluster.observe(one)
    assert cluster.view("pve01").state == "cordoned"
    admin = cluster.state.nodes["pve01"].admin
    assert admin is not None
    assert len(admin.cordons) == CARDS
    texts = [row.text for row in report.list_events(cluster.state, node="pve01")[0]]
    assert any("70 rows more: auto:ODD_" in text for text in texts)
