"""Settings of the policy: who set them when, what is refused, what another version wrote."""

from __future__ import annotations

import pytest

from tests.unit.state.cluster import Cluster
from vfio_contract.artifact import decode, encode
from vfio_contract.errors import ErrorCode
from vfio_contract.policy import SETTINGS, PolicyView
from vfio_coordinator.state import keys
from vfio_coordinator.state.effects import Failure
from vfio_coordinator.state.model import State
from vfio_coordinator.state.policy import policy_value, policy_view
from vfio_coordinator.state.records import PolicyRecord
from vfio_coordinator.store.interface import Put, Txn


def test_a_setting_is_durable_and_says_who_and_when() -> None:
    cluster = Cluster()
    assert {s.value for s in policy_view(cluster.state).settings} == {"person", "any"}
    cluster.set_policy(PolicyView, "baseline=auto")
    before = policy_view(cluster.state)
    cluster.restart()
    assert policy_view(cluster.state) == before
    row = next(e for e in cluster.state.log.values() if e.code == "POLICY_SET")
    assert (row.subject, row.actor) == ("cluster", "user:root")
    assert row.text == "baseline=auto (was person)"
    shown = next(s for s in before.settings if s.name == "baseline")
    assert (shown.value, shown.by, bool(shown.at), bool(shown.meaning)) == (
        "auto",
        "root",
        True,
        True,
    )


def test_setting_what_is_so_already_writes_nothing() -> None:
    cluster = Cluster()
    before = cluster.codes()
    cluster.set_policy(PolicyView, "baseline=person")
    assert cluster.codes() == before


@pytest.mark.parametrize(
    "changes",
    [
        ("nonsense=1",),
        ("baseline=perhaps",),
        ("baseline=",),
        ("baseline=auto", "baseline=person"),
        ("baseline=person", "baseline=auto"),
        ("baseline=auto", "baseline-resets=often"),
    ],
)
def test_one_wrong_setting_refuses_all_of_them(changes: tuple[str, ...]) -> None:
    cluster = Cluster()
    refused = cluster.set_policy(Failure, *changes)
    assert refused.code is ErrorCode.BAD_REQUEST
    assert policies(cluster.state) == {}


def policies(state: State) -> dict[str, str]:
    return {name: held.record.value for name, held in state.policies.items()}


def test_a_policy_that_changed_underneath_is_read_before_it_is_set() -> None:
    cluster = Cluster()
    key = keys.policy_key("baseline")
    theirs = PolicyRecord("baseline", "auto", "eve", "t")
    cluster.store.commit([Txn((), (Put(key, encode(theirs)),))])
    cluster.set_policy(PolicyView, "baseline=auto")
    item = cluster.store.get(key)
    assert item is not None
    assert decode(PolicyRecord, item.value).by == "eve", "it was so already"


def test_a_value_of_a_newer_version_counts_as_the_default() -> None:
    cluster = Cluster()
    record = PolicyRecord("baseline", "sometimes", "eve", "t")
    other = PolicyRecord("what-comes-later", "on", "eve", "t")
    ops = tuple(Put(keys.policy_key(r.name), encode(r)) for r in (record, other))
    cluster.store.commit([Txn((), ops)])
    cluster.restart()
    assert policy_value(cluster.state, SETTINGS["baseline"]) == "person"
    assert len(policy_view(cluster.state).settings) == len(SETTINGS)
    cluster.set_policy(PolicyView, "baseline=auto")
    assert policy_value(cluster.state, SETTINGS["baseline"]) == "auto"


def test_every_setting_has_two_values_that_say_what_they_mean() -> None:
    for setting in SETTINGS.values():
        assert len(setting.values) >= 2
        assert all(meaning for _, meaning in setting.values)
