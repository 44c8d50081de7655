"""Health codes counted as nodes change, and since when they stand, across flaps and restarts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.state.cluster import Agent, Cluster, store_text
from tests.unit.state.hosts import agent, cards
from vfio_contract.findings import Verdict
from vfio_contract.views import HealthItem
from vfio_coordinator.state import keys, report
from vfio_coordinator.state.census import CodeCount, worst_of
from vfio_coordinator.state.conditions import conditions_of
from vfio_coordinator.state.model import Limits, State

CODE = "LINK_DOWNGRADED"
KEY = ("reset-capability", "function:0000:01:00.0")


def showing(name: str = "pve01", verdict: Verdict = Verdict.WARN, code: str = CODE) -> Agent:
    one = agent(name, *cards(1))
    one.replaced = {KEY: (verdict, code)}
    return one


def item_of(cluster: Cluster, code: str = CODE) -> HealthItem:
    found = report.status(cluster.state, cluster.now)
    (item,) = [i for i in found.items if i.code == code]
    return item


def stand(cluster: Cluster, one: Agent, seconds: float) -> None:
    """Time passes and the agent goes on to say the same."""
    while seconds > 0:
        cluster.observe(one)
        cluster.wait(min(5.0, seconds))
        seconds -= 5.0


def counted(state: State) -> dict[str, CodeCount]:
    """The counts made afresh."""
    err: Counter[str] = Counter()
    warn: Counter[str] = Counter()
    for node in state.nodes.values():
        for code, level in worst_of((c.code, c.level) for c in conditions_of(node)):
            (err if level == "ERR" else warn)[code] += 1
    return {code: CodeCount(err[code], warn[code]) for code in {*err, *warn}}


def health_rows(cluster: Cluster, code: str = CODE) -> list[str]:
    rows, _ = report.list_events(cluster.state)
    return [r.code for r in rows if r.code.startswith("HEALTH_") and r.actor == f"auto:{code}"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pve01", "pve02", "pve03"]),
        st.sampled_from(["good", "warn", "fail", "other", "silent", "wait"]),
    ),
    max_size=25,
)


@given(STEPS)
def test_the_counts_are_those_made_afresh(steps: list[tuple[str, str]]) -> None:
    cluster = Cluster()
    agents = {name: showing(name) for name in ("pve01", "pve02", "pve03")}
    looks = {
        "good": {},
        "warn": {KEY: (Verdict.WARN, CODE)},
        "fail": {KEY: (Verdict.FAIL, CODE)},
        "other": {KEY: (Verdict.UNKNOWN, "OTHER_CODE")},
    }
    for name, what in steps:
        one = agents[name]
        if what == "wait":
            cluster.wait(40)
        elif what == "silent":
            if one.session:
                cluster.close(one)
        else:
            one.replaced = dict(looks[what])
            cluster.join(one)
        state = cluster.state
        assert dict(state.census.counts) == counted(state)
        assert {c for c, s in state.census.seen.items() if s.gone_s == float("inf")} == set(
            state.census.counts
        )


def test_one_node_counts_once_at_its_worst() -> None:
    cluster = Cluster()
    one = agent("pve01", *cards(2))
    one.replaced = {
        ("reset-capability", f"function:0000:0{bus}:00.0"): (verdict, CODE)
        for bus, verdict in ((1, Verdict.WARN), (2, Verdict.FAIL))
    }
    cluster.join(one, showing("pve02"))
    assert cluster.state.census.count(CODE) == CodeCount(err=1, warn=1)
    assert cluster.state.census.level(CODE) == "ERR"
    assert cluster.state.census.level(CODE, "pve02") == "WARN"
    assert cluster.state.census.level(CODE, "pve03") == ""


def test_since_is_the_first_node_and_survives_a_restart() -> None:
    cluster = Cluster()
    first, second = showing("pve01"), showing("pve02")
    cluster.join(first)
    since = cluster.now.utc
    stand(cluster, first, 40)
    cluster.join(second)
    assert (item_of(cluster).since, item_of(cluster).count) == (since, 2)
    assert health_rows(cluster) == ["HEALTH_BEGAN"]
    cluster.wait(3600)
    cluster.restart()
    cluster.wait(50)
    cluster.join(first)
    assert item_of(cluster).since == since
    stand(cluster, first, 400)
    assert item_of(cluster).since == since
    assert health_rows(cluster) == ["HEALTH_BEGAN"]


def test_a_code_that_is_gone_for_long_begins_anew() -> None:
    cluster = Cluster()
    one = showing()
    cluster.join(one)
    stand(cluster, one, 40)
    assert store_text(cluster.store, keys.HEALTH) == [keys.health_key(CODE)]
    one.replaced = {}
    stand(cluster, one, 310)
    assert store_text(cluster.store, keys.HEALTH) == []
    assert health_rows(cluster) == ["HEALTH_BEGAN", "HEALTH_ENDED"]
    one.replaced = showing().replaced
    cluster.observe(one)
    assert item_of(cluster).since == cluster.now.utc


def test_one_that_comes_and_goes_keeps_its_moment_and_writes_nothing() -> None:
    cluster = Cluster()
    one = showing()
    cluster.join(one)
    since = cluster.now.utc
    stand(cluster, one, 40)
    revision = cluster.store.revision()
    for _ in range(5):
        one.replaced = {}
        stand(cluster, one, 60)
        one.replaced = showing().replaced
        stand(cluster, one, 60)
    assert item_of(cluster).since == since
    assert cluster.store.revision() == revision


def test_what_is_there_for_a_moment_is_never_written() -> None:
    cluster = Cluster()
    one = showing()
    cluster.join(one)
    one.replaced = {}
    stand(cluster, one, 100)
    assert store_text(cluster.store, keys.HEALTH) == []
    assert CODE not in cluster.state.census.seen


def test_what_stood_before_a_restart_is_not_forgotten_while_agents_may_come_back() -> None:
    cluster = Cluster(limits=Limits(code_gone_s=1.0))
    one = showing()
    cluster.join(one)
    stand(cluster, one, 40)
    cluster.restart()
    cluster.wait(55)
    assert keys.health_key(CODE) in store_text(cluster.store, keys.HEALTH)
    cluster.wait(10)
    assert keys.health_key(CODE) not in store_text(cluster.store, keys.HEALTH)


def test_a_host_that_makes_up_codes_fills_no_store() -> None:
    cluster = Cluster(limits=Limits(codes_kept=2))
    agents = [showing(f"pve{n:02}", code=f"MADE_UP_{n}") for n in range(5)]
    agents.append(showing("pve99", code="../../x"))
    cluster.join(*agents)
    for one in agents:
        cluster.observe(one)
    cluster.wait(9)
    for _ in range(8):
        for one in agents:
            cluster.observe(one)
        cluster.wait(5)
    kept = store_text(cluster.store, keys.HEALTH)
    assert len(kept) == 2
    assert "../../x" not in "".join(kept)
    assert item_of(cluster, "../../x").since


def test_a_beginning_that_was_not_written_is_written_by_the_next() -> None:
    cluster = Cluster()
    one = showing()
    cluster.join(one)
    since = cluster.now.utc
    stand(cluster, one, 25)
    cluster.observe(one)
    cluster.held = True
    cluster.wait(6)
    assert len(cluster.queue) == 1
    cluster.lose_answer(landed=False)
    cluster.held = False
    assert store_text(cluster.store, keys.HEALTH) == []
    stand(cluster, one, 10)
    assert store_text(cluster.store, keys.HEALTH) == [keys.health_key(CODE)]
    assert item_of(cluster).since == since


def test_a_return_while_its_end_is_written_is_a_new_beginning() -> None:
    cluster = Cluster()
    one = showing()
    cluster.join(one)
    stand(cluster, one, 40)
    one.replaced = {}
    stand(cluster, one, 299)
    cluster.held = True
    cluster.wait(5)
    assert len(cluster.queue) == 1
    one.replaced = showing().replaced
    cluster.observe(one)
    back = cluster.now.utc
    cluster.held = False
    cluster.settle_store()
    assert item_of(cluster).since == back
    stand(cluster, one, 40)
    assert store_text(cluster.store, keys.HEALTH) == [keys.health_key(CODE)]
    assert health_rows(cluster) == ["HEALTH_BEGAN", "HEALTH_ENDED", "HEALTH_BEGAN"]


def test_what_is_no_nodes_evidence_is_counted_with_the_next_tick() -> None:
    cluster = Cluster()
    cluster.join(showing("pve01"))
    cluster.hello(agent("pve01"), product_uuid="another machine")
    cluster.wait(1)
    item = item_of(cluster, "NODE_CLONED")
    assert (item.scope, item.count, item.since) == ("pve01", 1, cluster.now.utc)
    assert cluster.state.census.level("NODE_CLONED", "pve01") == "ERR"
