"""The one thread that writes the store: commits in order, in groups, each answered exactly once.

What has gathered while one group was being synced becomes the next group, so that many callers
share one fsync and nobody waits for a timer. Any failure ends the thread, and with it the process:
after an fsync error nobody knows what is on disk, and the only honest answer is to start again and
read it back. It must never drop a transaction in silence.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from vfio_coordinator.store.interface import KeyValue, Store, StoreError, Txn, TxnResult

log = logging.getLogger("vfio-coordinator")

MAX_GROUP = 256
"""Transactions that share one sync; bounds the latency of the first of them."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction's result. `found` are the keys of its failed compares as they stood after the
    whole group, None for an absent one: whoever asks again starts from what is true."""

    result: TxnResult
    found: tuple[tuple[str, KeyValue | None], ...]


@dataclass(frozen=True, slots=True)
class _Write:
    txn: Txn
    done: Callable[[Committed], None]


@dataclass(frozen=True, slots=True)
class _Read:
    key: str
    done: Callable[[KeyValue | None], None]


class Writer:
    """Runs `store` on its own thread. Callbacks come on that thread, in the order of submission.

    `on_failure` gets one line, once; nothing submitted later is answered.
    """

    def __init__(self, store: Store, on_failure: Callable[[str], None]) -> None:
        self._store = store
        self._on_failure = on_failure
        self._queue: queue.SimpleQueue[_Write | _Read | None] = queue.SimpleQueue()
        # A daemon, because a write that hangs in the kernel must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def commit(self, txn: Txn, done: Callable[[Committed], None]) -> None:
        """Commit `txn`; `done` gets the result once it is durable."""
        self._queue.put(_Write(txn, done))

    def read(self, key: str, done: Callable[[KeyValue | None], None]) -> None:
        """Read `key` after everything submitted before."""
        self._queue.put(_Read(key, done))

    def close(self, timeout_s: float) -> bool:
        """Finish what was submitted and stop; False if that takes longer than `timeout_s`."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._serve(self._queue.get()):
                continue
        except Exception as error:
            log.exception("the store's thread ends")
            known = isinstance(error, StoreError)
            self._on_failure(str(error) if known else f"the store's thread failed: {error!r}")

    def _serve(self, item: _Write | _Read | None) -> bool:
        group: list[_Write] = []
        while True:
            if isinstance(item, _Write):
                group.append(item)
            if not isinstance(item, _Write) or len(group) >= MAX_GROUP or self._queue.empty():
                break
            item = self._queue.get()
        if group:
            results = self._store.commit([write.txn for write in group])
            for write, result in zip(group, results, strict=True):
                write.done(self._read_failed(result))
        if isinstance(item, _Read):
            item.done(self._store.get(item.key))
        return item is not None

    def _read_failed(self, result: TxnResult) -> Committed:
        keys = dict.fromkeys(compare.key for compare in result.failed)
        return Committed(result, tuple((key, self._store.get(key)) for key in keys))
