"""The stores that the contract tests run on, and what those tests share.

A new implementation joins by one entry in `BACKENDS`.
"""

from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from vfio_coordinator.store.interface import Event, Op, Retention, Store, Txn, Watch
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.memory import MemoryStore
from vfio_coordinator.store.sqlite import SqliteStore


def open_memory(folder: Path, cleanup: ExitStack, retention: Retention) -> Store:
    return MemoryStore(retention=retention)


def open_sqlite(folder: Path, cleanup: ExitStack, retention: Retention) -> Store:
    lock = cleanup.enter_context(StateLock.acquire(Path(mkdtemp(dir=folder))))
    return SqliteStore.open(lock, retention=retention)


BACKENDS = {"memory": open_memory, "sqlite": open_sqlite}


def write(store: Store, *ops: Op) -> int:
    """Commit the ops without compares; return the store's revision after that."""
    (result,) = store.commit([Txn((), ops)])
    assert result.succeeded
    return result.revision


def drain(watch: Watch) -> list[Event]:
    """Everything the watch has to tell without waiting."""
    events: list[Event] = []
    while batch := watch.poll(0):
        events += batch
    return events
