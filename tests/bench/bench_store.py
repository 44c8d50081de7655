"""Figures of the stores, one line each: `name value unit`. No limits are asserted here.

A claim is what placement commits: the epoch and the node's admin key compared, two unit keys and
the claim key absent, all three put with about 300 bytes. It runs under `make bench`, or alone:
`python tests/bench/bench_store.py`.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vfio_coordinator.store.interface import Absent, Put, Store, Txn, ValueIs
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.memory import MemoryStore
from vfio_coordinator.store.sqlite import SqliteStore

SECONDS = 2.0
GROUP = 64
RANGE_KEYS = 5_000
VALUE = b"v" * 300
EPOCH = ValueIs("meta/epoch", b"7")


def claim(number: int) -> Txn:
    keys = (f"units/node-{number % 5_000}/{number}/{part}" for part in range(2))
    names = (*keys, f"claims/vm-{number}/1")
    admin = Absent(f"nodes/node-{number % 5_000}/admin")
    return Txn((EPOCH, admin, *map(Absent, names)), tuple(Put(name, VALUE) for name in names))


def claims_per_second(store: Store, *, group: int) -> float:
    first = store.revision() * 1_000
    done = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        results = store.commit([claim(first + done + index) for index in range(group)])
        assert all(result.succeeded for result in results)
        done += group
    return done / spent


def refused_per_second(store: Store) -> float:
    stale = Txn((ValueIs("meta/epoch", b"6"),), (Put("a", VALUE),))
    began = time.perf_counter()
    for _ in range(100):
        assert not any(result.succeeded for result in store.commit([stale] * GROUP))
    return 100 * GROUP / (time.perf_counter() - began)


def range_ms(store: Store) -> float:
    for start in range(0, RANGE_KEYS, 100):
        puts = (Put(f"range/{number:05}", VALUE[:256]) for number in range(start, start + 100))
        store.commit([Txn((), tuple(puts))])
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        assert len(store.range("range/")) == RANGE_KEYS
        best = min(best, time.perf_counter() - began)
    return best * 1_000


def syncs_per_second(directory: Path) -> float:
    """The disk's own limit: overwrite one page and fdatasync it."""
    descriptor = os.open(directory / "probe", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(1 << 20), 0)
        os.fsync(descriptor)
        count = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < SECONDS:
            os.pwrite(descriptor, os.urandom(4096), count % 256 * 4096)
            os.fdatasync(descriptor)
            count += 1
        return count / spent
    finally:
        os.close(descriptor)


def measure(directory: Path, report: Callable[[str], None]) -> None:
    report(f"store.disk.syncs {syncs_per_second(directory):.0f} syncs/s")
    with StateLock.acquire(directory) as lock:
        sqlite = SqliteStore.open(lock)
        for name, store in (("sqlite", sqlite), ("memory", MemoryStore())):
            store.commit([Txn((), (Put("meta/epoch", b"7"),))])
            single = claims_per_second(store, group=1)
            report(f"store.{name}.claims.single {single:.0f} txns/s")
            grouped = claims_per_second(store, group=GROUP)
            report(f"store.{name}.claims.group{GROUP} {grouped:.0f} txns/s")
            report(f"store.{name}.fence_refused {refused_per_second(store):.0f} txns/s")
            report(f"store.{name}.range{RANGE_KEYS} {range_ms(store):.1f} ms")
            store.close()
        began = time.perf_counter()
        reopened = SqliteStore.open(lock)
        report(f"store.sqlite.reopen {(time.perf_counter() - began) * 1_000:.0f} ms")
        reopened.close()
    size = (directory / "store.db").stat().st_size
    report(f"store.sqlite.file {size / 1e6:.1f} MB")


@pytest.mark.bench
def test_store_figures(tmp_path: Path) -> None:
    measure(tmp_path, print)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), print)
