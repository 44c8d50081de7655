"""The feed: whoever comes back gets each event once and each row as it is, or is told what is lost.

A plain model, a list of all events and a dict of all rows, says what a watcher must have seen.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vfio_contract.errors import ErrorCode
from vfio_contract.findings import Verdict
from vfio_contract.views import (
    ClusterChange,
    ClusterStatus,
    Event,
    NodeView,
    VmView,
    WatchCursor,
    WatchKind,
)
from vfio_coordinator.feed import ALL_KINDS, SUMMARY_KEY, Compacted, Feed, Row, RowKey

GONE_KEPT, EVENTS_KEPT = 3, 4


def node(name: str, text: str = "") -> NodeView:
    return NodeView(
        name, "ready", (), Verdict.PASS, 0.0, 0.0, text, "", "", "", "", 0, 0, (), (), (), (), ()
    )


def vm(name: str, generation: int, text: str = "") -> VmView:
    return VmView(name, "pve01", generation, 1, "running", "placed", (), (), text, "", "", "")


def summary(text: str) -> ClusterStatus:
    return ClusterStatus("c", "HEALTH_OK", "co", 1, 1, "", (), (), (), (), (), text)


def event(seq: int, subject: str = "cluster") -> Event:
    return Event(seq, "", subject, "CODE", str(seq), "")


def row_of(key: RowKey, text: str) -> Row:
    if key.kind is WatchKind.NODES:
        return node(key.name, text)
    return vm(key.name, key.generation, text) if key.kind is WatchKind.VMS else summary(text)


class Watcher:
    """Has what it was told, and nothing else."""

    def __init__(self, cursor: WatchCursor | None, kinds: frozenset[WatchKind] = ALL_KINDS) -> None:
        self.cursor = cursor
        self.kinds = kinds
        self.rows: dict[RowKey, Row] = {}
        self.events: list[int] = []
        self.begun: int | None = None
        self.resets = 0

    def step(self, feed: Feed, *, limit: int = 500) -> bool:
        """One change; True when it is current."""
        change = feed.since(self.cursor, kinds=self.kinds, limit=limit)
        if self.begun is None:
            self.begun = change.cursor.event_seq
        assert self.cursor is None or change.cursor.event_seq >= self.cursor.event_seq
        assert len(change.events) <= limit
        self._apply(change)
        self.cursor = change.cursor
        return change.current

    def catch_up(self, feed: Feed, *, limit: int = 500) -> None:
        steps = 0
        while not self.step(feed, limit=limit):
            steps += 1
            assert steps < 1_000, "it never becomes current"

    def _apply(self, change: ClusterChange) -> None:
        if change.reset:
            self.resets += 1
            self.rows.clear()
        if change.summary is not None:
            self.rows[SUMMARY_KEY] = change.summary
        for view in change.nodes:
            self.rows[RowKey(WatchKind.NODES, view.name)] = view
        for name in change.nodes_gone:
            self.rows.pop(RowKey(WatchKind.NODES, name), None)
        for claim in change.vms:
            self.rows[RowKey(WatchKind.VMS, claim.name, claim.generation)] = claim
        for key in change.vms_gone:
            self.rows.pop(RowKey(WatchKind.VMS, key.name, key.generation), None)
        self.events += [row.seq for row in change.events]


KEYS = (
    SUMMARY_KEY,
    *(RowKey(WatchKind.NODES, f"pve{number}") for number in range(6)),
    *(RowKey(WatchKind.VMS, f"vm{number % 3}", 1 + number // 3) for number in range(6)),
)
keys = st.sampled_from(KEYS)
leaving = st.sampled_from(KEYS[1:])
"""The summary is always there."""
limits = st.integers(1, 4)


class Story(RuleBasedStateMachine):
    """Rows change, go away and come back; watchers read, pause, and begin anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.rows: dict[RowKey, Row] = {}
        self.log: list[int] = []
        self.kept_from = 0
        self.feed = self.new_feed()
        self.watchers: list[Watcher] = []
        self.told = 0

    def new_feed(self) -> Feed:
        floor = self.log[-EVENTS_KEPT - 1] if len(self.log) > EVENTS_KEPT else 0
        feed = Feed(
            incarnation=1,
            epoch=self.epoch,
            event_floor=floor,
            gone_kept=GONE_KEPT,
            events_kept=EVENTS_KEPT,
        )
        for seq in self.log[-EVENTS_KEPT:]:
            feed.append(event(seq))
        for key, row in self.rows.items():
            feed.put(key, row)
        return feed

    @rule(key=keys)
    def put(self, key: RowKey) -> None:
        self.told += 1
        self.rows[key] = row_of(key, str(self.told))
        self.feed.put(key, self.rows[key])

    @rule(key=leaving)
    def drop(self, key: RowKey) -> None:
        self.rows.pop(key, None)
        self.feed.drop(key)

    @rule(gap=st.integers(1, 3), count=st.integers(1, 6))
    def append(self, gap: int, count: int) -> None:
        for _ in range(count):
            seq = (self.log[-1] if self.log else 0) + gap
            self.log.append(seq)
            self.feed.append(event(seq))

    @rule()
    def restart(self) -> None:
        self.epoch += 1
        self.feed = self.new_feed()

    @rule()
    def come(self) -> None:
        if len(self.watchers) < 5:
            self.watchers.append(Watcher(None))

    @precondition(lambda self: self.watchers)
    @rule(data=st.data(), limit=limits)
    def read_one(self, data: st.DataObject, limit: int) -> None:
        watcher = data.draw(st.sampled_from(self.watchers), label="watcher")
        self.listen(watcher, lambda: watcher.step(self.feed, limit=limit))

    @precondition(lambda self: self.watchers)
    @rule(data=st.data(), limit=limits)
    def read_all(self, data: st.DataObject, limit: int) -> None:
        watcher = data.draw(st.sampled_from(self.watchers), label="watcher")
        if self.listen(watcher, lambda: watcher.catch_up(self.feed, limit=limit)):
            assert watcher.rows == self.rows
            assert watcher.begun is not None
            assert watcher.events == [seq for seq in self.log if seq > watcher.begun]

    def listen(self, watcher: Watcher, read: object) -> bool:
        """False, and the watcher is gone, when it was told that events are lost."""
        assert callable(read)
        try:
            read()
        except Compacted as compacted:
            assert watcher.cursor is not None
            lost = [seq for seq in self.log if watcher.cursor.event_seq < seq]
            assert len(lost) > EVENTS_KEPT, "it was refused though everything is kept"
            rest = Watcher(compacted.resume)
            rest.catch_up(self.feed)
            assert rest.rows == self.rows
            assert rest.events == self.log[-len(rest.events) :]
            assert len(rest.events) >= EVENTS_KEPT
            self.watchers.remove(watcher)
            return False
        return True

    @invariant()
    def events_come_once_and_in_order(self) -> None:
        for watcher in self.watchers:
            assert watcher.events == sorted(set(watcher.events))
            if watcher.events:
                first, last = watcher.events[0], watcher.events[-1]
                assert watcher.events == [seq for seq in self.log if first <= seq <= last]

    @invariant()
    def a_fresh_list_is_what_is_there(self) -> None:
        fresh = Watcher(None)
        fresh.catch_up(self.feed, limit=3)
        assert (fresh.rows, fresh.events, fresh.resets) == (self.rows, [], 1)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.feed._gone) <= 2 * GONE_KEPT
        assert len(self.feed._rows) <= len(self.rows) + 2 * GONE_KEPT
        assert len(self.feed._events) <= 2 * EVENTS_KEPT
        assert len(self.feed._places) <= 2 * len(self.feed._rows) + 1_024 + 1


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=100, stateful_step_count=30)


def feed(*, epoch: int = 1, incarnation: int = 1, **limits: int) -> Feed:
    return Feed(incarnation=incarnation, epoch=epoch, **limits)


def test_what_changed_often_is_told_once() -> None:
    told = feed()
    watcher = Watcher(None)
    watcher.catch_up(told)
    for number in range(10_000):
        told.put(KEYS[1], node("pve0", str(number)))
    change = told.since(watcher.cursor)
    assert [view.firmware for view in change.nodes] == ["9999"]
    assert (change.reset, change.current) == (False, True)
    assert len(told._places) <= 2 + 1_024 + 1


def test_another_epoch_resets_rows_and_goes_on_with_events() -> None:
    old, new = feed(), feed(epoch=2)
    watcher = Watcher(None)
    watcher.catch_up(old)
    for number in (1, 2):
        old.append(event(number))
    watcher.catch_up(old)
    for number in (1, 2, 3):
        new.append(event(number))
    watcher.catch_up(new)
    assert (watcher.resets, watcher.events) == (2, [1, 2, 3])


def test_events_of_a_restored_store_are_not_taken_for_the_same() -> None:
    told = feed(incarnation=2)
    told.append(event(1))
    cursor = WatchCursor(1, 7, 3, 1)
    with pytest.raises(Compacted, match="incarnation 1, the store was restored") as caught:
        told.since(cursor)
    assert caught.value.code is ErrorCode.COMPACTED
    assert told.since(caught.value.resume).events == (event(1),)
    rows = told.since(cursor, kinds={WatchKind.NODES})
    assert (rows.reset, rows.events) == (True, ())


def test_a_cursor_that_was_never_given_gets_a_fresh_list() -> None:
    told = feed()
    told.put(KEYS[1], node("pve0"))
    change = told.since(WatchCursor(1, 1, 99, 0))
    assert (change.reset, len(change.nodes)) == (True, 1)


def test_a_number_that_is_not_there_yet_is_waited_for() -> None:
    told = feed()
    told.append(event(5))
    change = told.since(WatchCursor(0, 0, 0, 7))
    assert (change.events, change.current, change.cursor.event_seq) == ((), True, 7)
    told.append(event(7))
    told.append(event(8))
    assert told.since(change.cursor).events == (event(8),)


def test_kinds_and_nodes_are_picked() -> None:
    told = feed()
    for key in KEYS:
        told.put(key, row_of(key, ""))
    for seq, subject in enumerate(("node:pve1", "cluster", "node:pve10", "node:pve1"), 1):
        told.append(event(seq, subject))
    start = WatchCursor(0, 0, 0, 0)
    change = told.since(start, kinds={WatchKind.EVENTS}, node="pve1")
    assert [row.seq for row in change.events] == [1, 4]
    assert (change.nodes, change.vms, change.summary) == ((), (), None)
    change = told.since(start, kinds={WatchKind.VMS})
    assert (len(change.vms), change.nodes, change.events, change.current) == (6, (), (), True)
    assert change.cursor.event_seq == 4


@given(st.integers(1, 50), st.integers(1, 7))
def test_a_list_that_breaks_off_goes_on_where_it_was(rows: int, limit: int) -> None:
    told = feed()
    for number in range(rows):
        told.put(RowKey(WatchKind.NODES, f"n{number}"), node(f"n{number}"))
    first = told.since(None, limit=limit)
    again = Watcher(first.cursor)
    again.rows = {RowKey(WatchKind.NODES, view.name): view for view in first.nodes}
    told.drop(RowKey(WatchKind.NODES, "n0"))
    told.put(RowKey(WatchKind.NODES, f"n{rows - 1}"), node(f"n{rows - 1}", "changed"))
    again.catch_up(told, limit=limit)
    fresh = Watcher(None)
    fresh.catch_up(told)
    assert again.rows == fresh.rows
    assert again.resets == 0


def test_a_long_list_ends_although_many_rows_went_away() -> None:
    told = feed(gone_kept=2)
    for number in range(12):
        told.put(RowKey(WatchKind.NODES, f"n{number}"), node(f"n{number}"))
    for number in range(5):
        told.put(RowKey(WatchKind.VMS, "vm", number), vm("vm", number))
        told.drop(RowKey(WatchKind.VMS, "vm", number))
    fresh = Watcher(None)
    fresh.catch_up(told, limit=5)
    assert (len(fresh.rows), fresh.resets) == (12, 1)


def test_an_event_out_of_order_is_our_own_fault() -> None:
    told = feed()
    told.append(event(2))
    with pytest.raises(ValueError, match="event 2 after 2"):
        told.append(replace(event(2), text="other"))
