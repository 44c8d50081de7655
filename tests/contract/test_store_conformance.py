"""What every store must do, run on each implementation.

Memory is the reference, so SQLite is also compared with it over random histories, in
test_store_model.py.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.store_backends import BACKENDS, drain, write
from vfio_coordinator.store.interface import (
    DEFAULT_RETENTION,
    FIRST_REVISION,
    MAX_TXN_BYTES,
    MAX_TXN_KEYS,
    MAX_VALUE_BYTES,
    Absent,
    Compacted,
    Compare,
    CreateRevisionIs,
    Delete,
    DeleteEvent,
    DuplicateKey,
    Event,
    KeyInvalid,
    KeyValue,
    ModRevisionIs,
    Put,
    PutEvent,
    Retention,
    Store,
    StoreClosed,
    Txn,
    TxnTooLarge,
    ValueIs,
    ValueTooLarge,
)
from vfio_coordinator.store.watch import WINDOW_REVISIONS

MakeStore = Callable[..., Store]
WAIT_SECONDS = 60.0
"""Bound for a test that waits for another thread; never reached by a store that works."""


@pytest.fixture(params=BACKENDS)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Call it for a new, empty store: `make_store(revisions=10)` bounds its history."""
    with contextlib.ExitStack() as cleanup:

        def make(**bounds: int) -> Store:
            retention = Retention(**bounds) if bounds else DEFAULT_RETENTION
            store: Store = BACKENDS[request.param](tmp_path, cleanup, retention)
            cleanup.callback(store.close)
            return store

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


def put_event(key: str, value: bytes, *, created: int, revision: int, version: int) -> PutEvent:
    item = KeyValue(key, value, create_revision=created, mod_revision=revision, version=version)
    return PutEvent(item)


def test_a_new_store_is_empty_at_the_first_revision(store: Store) -> None:
    assert store.revision() == FIRST_REVISION == 1
    assert store.get("a") is None
    assert store.range("") == []
    assert store.read("a/").items == ()
    assert store.commit([]) == []


def test_a_key_carries_its_revisions_and_version(store: Store) -> None:
    assert write(store, Put("other", b"")) == 2
    assert write(store, Put("a", b"one")) == 3
    assert write(store, Put("a", b"two")) == 4
    expected = KeyValue("a", b"two", create_revision=3, mod_revision=4, version=2)
    assert store.get("a") == expected
    assert write(store, Delete("a")) == 5
    assert store.get("a") is None
    assert write(store, Put("a", b"new")) == 6
    assert store.get("a") == KeyValue("a", b"new", create_revision=6, mod_revision=6, version=1)


def test_writing_the_same_value_again_is_a_change(store: Store) -> None:
    write(store, Put("a", b"same"))
    assert write(store, Put("a", b"same")) == 3
    assert store.get("a") == KeyValue("a", b"same", create_revision=2, mod_revision=3, version=2)


def test_values_are_any_bytes_and_an_empty_value_is_not_absence(store: Store) -> None:
    every_byte = bytes(range(256))
    write(store, Put("every", every_byte), Put("empty", b""))
    assert [item.value for item in store.range("e")] == [b"", every_byte]
    (result,) = store.commit([Txn((Absent("empty"),), (Put("x", b""),))])
    assert not result.succeeded


def test_one_transaction_is_one_revision(store: Store) -> None:
    revision = write(store, Put("a", b"1"), Put("b", b"2"), Put("c", b"3"))
    assert {item.mod_revision for item in store.range("")} == {revision} == {store.revision()}


def test_what_changes_nothing_takes_no_revision(store: Store) -> None:
    write(store, Put("a", b"1"))
    assert write(store, Delete("missing")) == 2
    assert write(store) == 2
    (result,) = store.commit([Txn((Absent("missing"),), ())])
    assert (result.succeeded, result.revision, store.revision()) == (True, 2, 2)
    assert write(store, Delete("missing"), Delete("a")) == 3
    assert drain(store.watch("", 3)) == [DeleteEvent("a", 3)]


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        (Absent("missing"), True),
        (Absent("a"), False),
        (ModRevisionIs("a", 4), True),
        (ModRevisionIs("a", 3), False),
        (ModRevisionIs("missing", 0), True),
        (ModRevisionIs("missing", 4), False),
        (CreateRevisionIs("a", 3), True),
        (CreateRevisionIs("a", 4), False),
        (CreateRevisionIs("missing", 0), True),
        (CreateRevisionIs("a", 0), False),
        (ValueIs("a", b"two"), True),
        (ValueIs("a", b"one"), False),
        (ValueIs("missing", b""), False),
        (ValueIs("empty", b""), True),
    ],
    ids=repr,
)
def test_compares(store: Store, compare: Compare, expected: bool) -> None:
    for op in (Put("empty", b""), Put("a", b"one"), Put("a", b"two")):
        write(store, op)
    (result,) = store.commit([Txn((compare,), (Put("done", b""),))])
    assert result.succeeded is expected
    assert result.failed == (() if expected else (compare,))
    assert result.revision == store.revision() == (5 if expected else 4)
    assert (store.get("done") is not None) is expected


def test_a_refusal_names_every_failed_compare_and_writes_nothing(store: Store) -> None:
    write(store, Put("a", b"1"))
    wrong = (Absent("a"), ValueIs("a", b"2"), ModRevisionIs("b", 9))
    txn = Txn((wrong[0], Absent("b"), *wrong[1:]), (Put("b", b""), Delete("a")))
    (result,) = store.commit([txn])
    assert (result.succeeded, result.failed) == (False, wrong)
    assert [item.key for item in store.range("")] == ["a"]
    assert drain(store.watch("", 3)) == []


def test_in_a_group_a_failed_compare_fails_only_its_own_transaction(store: Store) -> None:
    claims = [Txn((Absent("unit"),), (Put("unit", b"%d" % n),)) for n in range(64)]
    other = Txn((Absent("else"),), (Put("else", b""),))
    results = store.commit([*claims, other])
    assert [result.succeeded for result in results] == [True, *[False] * 63, True]
    assert all(result.failed == (Absent("unit"),) for result in results[1:64])
    assert [item.value for item in store.range("")] == [b"", b"0"]


def test_a_group_is_evaluated_in_order_and_sees_its_own_writes(store: Store) -> None:
    fence = ValueIs("meta/epoch", b"7")
    write(store, Put("meta/epoch", b"7"))
    results = store.commit(
        [
            Txn((fence, Absent("a")), (Put("a", b"1"),)),
            Txn((fence, ValueIs("a", b"1")), (Delete("a"),)),
            Txn((fence, Absent("a")), (Put("a", b"2"),)),
            Txn((fence,), (Put("meta/epoch", b"8"),)),
            Txn((fence,), (Put("a", b"stale"),)),
        ]
    )
    assert [result.succeeded for result in results] == [True] * 4 + [False]
    assert results[4].failed == (fence,)
    item = store.get("a")
    assert item is not None
    assert (item.value, item.create_revision, item.version) == (b"2", results[2].revision, 1)


def test_each_changing_transaction_of_a_group_adds_one_revision(store: Store) -> None:
    txns = [Txn((), (Put("a", b"1"), Put("b", b"1"))), Txn((), ()), Txn((), (Put("a", b"2"),))]
    assert [result.revision for result in store.commit(txns)] == [2, 2, 3]
    refused = [Txn((Absent("a"),), (Put("c", b""),)), Txn((), (Put("c", b""),))]
    assert [result.revision for result in store.commit(refused)] == [3, 4]


def test_a_range_is_in_byte_order_and_its_prefix_is_text(store: Store) -> None:
    keys = ["vm/10/a", "vm/1/b", "vm/1/a", "vm/1-x", "vm/1.x", "vm/A", "vm/~", "vn", "v", "vm/"]
    write(store, *(Put(key, b"") for key in keys))
    assert [item.key for item in store.range("")] == sorted(keys)
    assert [item.key for item in store.range("vm/1/")] == ["vm/1/a", "vm/1/b"]
    assert len(store.range("vm/1")) == 5
    assert [item.key for item in store.range("vm/~")] == ["vm/~"]
    assert store.range("vm/1/c") == []


def test_a_range_tells_where_to_watch_on(store: Store) -> None:
    write(store, Put("a/1", b""), Put("b/1", b""))
    seen = store.read("a/")
    assert (seen.prefix, seen.revision) == ("a/", store.revision())
    assert list(seen.items) == store.range("a/")
    watch = store.watch("a/", seen.revision + 1)
    write(store, Put("b/2", b""))
    revision = write(store, Put("a/2", b"x"))
    expected = put_event("a/2", b"x", created=revision, revision=revision, version=1)
    assert drain(watch) == [expected]


def test_the_largest_transaction_is_accepted_and_the_next_larger_refused(store: Store) -> None:
    names = [f"unit/{number}" for number in range(MAX_TXN_KEYS + 1)]
    full = names[:MAX_TXN_KEYS]
    txn = Txn(tuple(map(Absent, full)), tuple(Put(name, b"") for name in full))
    assert store.commit([txn])[0].succeeded
    with pytest.raises(TxnTooLarge, match="101 keys; at most 100 fit"):
        Txn((Absent(names[-1]),), tuple(Put(name, b"") for name in full))
    with pytest.raises(TxnTooLarge, match="101 compares"):
        Txn((Absent("a"),) * (MAX_TXN_KEYS + 1), ())


def test_value_and_transaction_sizes_are_bounded(store: Store) -> None:
    largest = bytes(MAX_VALUE_BYTES)
    write(store, Put("artifact/1", largest), Put("artifact/2", largest))
    assert [item.value for item in store.range("artifact/")] == [largest, largest]
    with pytest.raises(ValueTooLarge, match=r"'artifact/3' has 524289 bytes; at most 524288"):
        Put("artifact/3", largest + b"x")
    with pytest.raises(TxnTooLarge, match=f"bytes of keys and values; at most {MAX_TXN_BYTES}"):
        Txn((), tuple(Put(f"artifact/{number}", largest) for number in range(3)))


def test_a_transaction_writes_a_key_once() -> None:
    with pytest.raises(DuplicateKey, match="'b' more than once"):
        Txn((), (Put("a", b""), Put("b", b""), Delete("b")))


@pytest.mark.parametrize("key", ["", "a b", "a\n", "a\x00b", "\x7f", "grün", "\ud800", "k" * 1025])
def test_a_key_that_no_store_should_hold_is_refused(store: Store, key: str) -> None:
    for use in (store.get, Absent, Delete, lambda key: Put(key, b"")):
        with pytest.raises(KeyInvalid, match="printable ASCII"):
            use(key)
    if key:
        with pytest.raises(KeyInvalid):
            store.range(key)
        with pytest.raises(KeyInvalid):
            store.watch(key, 1)


def test_a_watch_reads_back_from_an_old_revision(store: Store) -> None:
    write(store, Put("a/1", b"x"), Put("b/1", b""))
    write(store, Put("b/2", b""))
    write(store, Delete("a/1"), Put("a/2", b"y"))
    deleted, created = (
        DeleteEvent("a/1", 4),
        put_event("a/2", b"y", created=4, revision=4, version=1),
    )
    first = put_event("a/1", b"x", created=2, revision=2, version=1)
    assert drain(store.watch("a/", 1)) == [first, deleted, created]
    assert drain(store.watch("a/", 2)) == [first, deleted, created]
    assert drain(store.watch("a/", 3)) == [deleted, created]
    assert drain(store.watch("a/", 5)) == []
    assert len(drain(store.watch("", 1))) == 5
    with pytest.raises(ValueError, match="revisions begin at 1"):
        store.watch("a/", 0)


def test_a_watch_tells_each_change_once_and_never_what_lies_before_it(store: Store) -> None:
    watch = store.watch("", 4)
    for number in range(4):
        write(store, Put("a", b"%d" % number))
        write(store, Put("a", b""), Put("b", b""))
        for event in (events := watch.poll(0)):
            assert event.revision in (store.revision() - 1, store.revision())
        assert len(events) == (0 if number == 0 else 3)
    assert watch.poll(0) == []


def test_a_long_backlog_comes_in_whole_revisions(store: Store) -> None:
    count = WINDOW_REVISIONS + 5
    store.commit([Txn((), (Put("a", b""), Put("b", b""))) for _ in range(count)])
    watch = store.watch("", 2)
    batches = iter(lambda: watch.poll(0), [])
    ends = [{event.revision for event in batch[-2:]} for batch in batches]
    assert len(ends) > 1
    assert all(len(revisions) == 1 for revisions in ends)
    assert len(drain(store.watch("", 2))) == 2 * count


def test_history_is_bounded_and_an_old_watch_is_told(make_store: MakeStore) -> None:
    store = make_store(revisions=3)
    slow = store.watch("", 2)
    for _ in range(9):
        write(store, Put("a", b""))
    assert store.revision() == 10
    assert [event.revision for event in drain(store.watch("", 8))] == [8, 9, 10]
    with pytest.raises(Compacted) as refused:
        store.watch("", 7).poll(0)
    assert refused.value.oldest == 8
    with pytest.raises(Compacted):
        slow.poll(0)


def test_history_is_bounded_by_bytes_but_keeps_the_newest_revision(make_store: MakeStore) -> None:
    store = make_store(revisions=100, bytes=25)
    for value in (b"1234567", b"1234567", b"1234567", b"1234567"):
        write(store, Put("key", value))
    assert [event.revision for event in drain(store.watch("", 4))] == [4, 5]
    with pytest.raises(Compacted) as refused:
        store.watch("", 3).poll(0)
    assert refused.value.oldest == 4
    revision = write(store, Put("key", bytes(100)))
    assert len(drain(store.watch("", revision))) == 1


def test_a_waiting_watch_wakes_when_its_prefix_changes(store: Store) -> None:
    watch = store.watch("a/", 1)
    found: list[Event] = []
    waiting = threading.Thread(target=lambda: found.extend(watch.poll(WAIT_SECONDS)))
    waiting.start()
    write(store, Put("b/1", b""))
    revision = write(store, Put("a/1", b""))
    waiting.join(WAIT_SECONDS)
    assert [event.revision for event in found] == [revision]


@pytest.mark.parametrize("ending", ["watch", "store"])
def test_closing_wakes_a_waiting_watch(store: Store, ending: str) -> None:
    watch = store.watch("a/", 1)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            watch.poll(WAIT_SECONDS)
        except StoreClosed as closed:
            raised.append(closed)

    waiting = threading.Thread(target=wait)
    waiting.start()
    (watch if ending == "watch" else store).close()
    waiting.join(WAIT_SECONDS)
    assert len(raised) == 1


def test_a_closed_store_refuses_everything(store: Store) -> None:
    write(store, Put("a", b""))
    watch = store.watch("", 1)
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        store.revision,
        lambda: store.get("a"),
        lambda: store.range(""),
        lambda: store.read(""),
        lambda: store.commit([]),
        lambda: store.watch("", 1),
        lambda: watch.poll(0),
    ]
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


def test_concurrent_callers_lose_no_update(store: Store) -> None:
    write(store, Put("count", b"0"))

    def increment() -> None:
        done = 0
        while done < 25:
            item = store.get("count")
            assert item is not None
            value = b"%d" % (int(item.value) + 1)
            txn = Txn((ModRevisionIs("count", item.mod_revision),), (Put("count", value),))
            done += store.commit([txn])[0].succeeded

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    item = store.get("count")
    assert item is not None
    assert (item.value, item.version) == (b"100", 101)
