"""Whom a mute of all nodes covers: by name, for any number of nodes and VMs, within one record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.state.cluster import Cluster, ask_for
from tests.unit.state.test_mutes import CODE, item_of, refuse, showing, with_code
from vfio_contract.artifact import encode
from vfio_contract.findings import Verdict
from vfio_contract.mute_views import MuteView
from vfio_contract.views import Decision
from vfio_coordinator.state import keys, mutes
from vfio_coordinator.state.conditions import ERR
from vfio_coordinator.state.mutes import cover
from vfio_coordinator.state.records import MuteRecord
from vfio_coordinator.store.interface import MAX_VALUE_BYTES, Put, Txn


def test_a_mute_from_before_nodes_were_kept_still_covers_as_many() -> None:
    cluster, (one, _) = with_code("pve01", "pve02")
    cluster.mute(MuteView, CODE)
    held = cluster.state.mutes[CODE, ""]
    old = encode(replace(held.record, covered=""))
    cluster.store.commit([Txn(compares=(), ops=(Put(keys.mute_key(CODE, ""), old),))])
    cluster.restart()
    one.replaced = {}
    cluster.join(one, showing("pve03"))
    assert item_of(cluster).muted


def test_a_mute_of_what_concerns_very_many_fits_into_the_store() -> None:
    names = [f"node-with-a-rather-long-name-{n:05}.cluster.example" for n in range(12_000)]
    vms = [f"customer-{n:05}-production-database.example" for n in range(14_000)]
    covered = cover(nodes=names, vms=vms[1_000:])
    record = MuteRecord(CODE, "", "x", "ann", "", "", ERR, 12_000, tuple(vms[:1_000]), covered)
    assert len(encode(record)) < MAX_VALUE_BYTES
    assert len(set(covered.split())) == 12_000 + 13_000


def test_more_vms_than_are_named_are_covered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutes, "_LISTED", 1)
    cluster = Cluster()
    one = showing("pve01", Verdict.FAIL)
    one.replaced = {}
    cluster.join(one)
    cluster.place(Decision, ask_for("vm1"))
    cluster.place(Decision, ask_for("vm2"))
    cluster.close(one)
    cluster.wait(120)
    view = cluster.mute(MuteView, "NODE_LOST")
    assert view.vms == ("vm1",)
    cluster.wait(1)
    cluster.join(one)
    cluster.close(one)
    cluster.wait(120)
    assert item_of(cluster, "NODE_LOST").muted


def test_more_than_a_record_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutes, "_MOST", 1)
    cluster, _ = with_code("pve01", "pve02")
    assert "2 nodes and 0 VMs are too many for one; mute it by node" in refuse(cluster, CODE).detail
