"""SQLite against the reference over random histories: same results, keys, revisions and events.

SQLite is closed and opened again at random points, which must change nothing.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.store_backends import drain
from vfio_coordinator.store.interface import (
    Absent,
    Compacted,
    Compare,
    CreateRevisionIs,
    Delete,
    Event,
    ModRevisionIs,
    Op,
    Put,
    Retention,
    Txn,
    ValueIs,
    Watch,
)
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.memory import MemoryStore
from vfio_coordinator.store.sqlite import SqliteStore

RETENTION = Retention(revisions=6, bytes=70)

keys = st.sampled_from(["a", "a/1", "a/10", "a/2", "b/a-name-of-some-length", "~"])
prefixes = st.sampled_from(["", "a", "a/", "a/1", "b/", "~", "c"])
values = st.sampled_from([b"", b"x", b"\x00\xff", b"long" * 6])
revisions = st.integers(0, 12)
compares: st.SearchStrategy[Compare] = st.one_of(
    st.builds(Absent, keys),
    st.builds(ModRevisionIs, keys, revisions),
    st.builds(CreateRevisionIs, keys, revisions),
    st.builds(ValueIs, keys, values),
)
ops: st.SearchStrategy[Op] = st.one_of(st.builds(Put, keys, values), st.builds(Delete, keys))
txns = st.builds(
    Txn,
    st.lists(compares, max_size=2).map(tuple),
    st.lists(ops, max_size=3, unique_by=lambda op: op.key).map(tuple),
)


def told(watch: Callable[[], Watch]) -> list[Event] | int:
    """The watch's events, or the oldest revision that it says it could tell."""
    try:
        return drain(watch())
    except Compacted as compacted:
        return compacted.oldest


class TwoStores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.lock = StateLock.acquire(Path(self.folder.name))
        self.sqlite = SqliteStore.open(self.lock, retention=RETENTION)
        self.memory = MemoryStore(retention=RETENTION)
        self.watches: list[tuple[Watch, Watch]] = []

    @rule(group=st.lists(txns, max_size=5))
    def commit(self, group: list[Txn]) -> None:
        before = self.memory.revision()
        results = self.memory.commit(group)
        assert self.sqlite.commit(group) == results
        assert [result.succeeded for result in results] == [not r.failed for r in results]
        assert before <= self.memory.revision() <= before + len(group)

    @rule(prefix=prefixes, revision=st.integers(1, 30))
    def read_history(self, prefix: str, revision: int) -> None:
        expected = told(lambda: self.memory.watch(prefix, revision))
        assert told(lambda: self.sqlite.watch(prefix, revision)) == expected

    @rule(prefix=prefixes, ahead=st.integers(0, 2))
    def open_watch(self, prefix: str, ahead: int) -> None:
        revision = self.memory.revision() + ahead
        pair = (self.memory.watch(prefix, revision), self.sqlite.watch(prefix, revision))
        self.watches.append(pair)

    @precondition(lambda self: self.watches)
    @rule(choice=st.integers(0, 99))
    def poll(self, choice: int) -> None:
        expected, found = self.watches[choice % len(self.watches)]
        assert told(lambda: found) == told(lambda: expected)

    @rule()
    def reopen(self) -> None:
        self.sqlite.close()
        self.lock.release()
        self.lock = StateLock.acquire(Path(self.folder.name))
        self.sqlite = SqliteStore.open(self.lock, retention=RETENTION)
        self.watches.clear()  # theirs ended with the old one

    @invariant()
    def same_contents(self) -> None:
        assert self.sqlite.revision() == self.memory.revision()
        assert self.sqlite.read("") == self.memory.read("")

    @rule(prefix=prefixes, key=keys)
    def read(self, prefix: str, key: str) -> None:
        assert self.sqlite.range(prefix) == self.memory.range(prefix)
        assert self.sqlite.get(key) == self.memory.get(key)

    def teardown(self) -> None:
        self.sqlite.close()
        self.lock.release()
        self.folder.cleanup()


def test_sqlite_behaves_like_the_reference() -> None:
    run_state_machine_as_test(TwoStores, settings=settings(max_examples=60, stateful_step_count=30))
