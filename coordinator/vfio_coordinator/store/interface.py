"""What the coordinator asks of durable storage: one ordered key space with compare-and-write.

Memory, SQLite and etcd implement `Store`; the conformance suite runs on each. Revisions, versions
and watches mean here exactly what they mean in etcd's v3 API, so that a cluster can move between
implementations without a caller noticing. This module defines values, limits, errors and the
meaning of a compare. It must never do input or output (pure packages may import it), and never
knows what a key stands for.

Growth of revisions is what callers may rely on. The embedded implementations add exactly 1 for
each transaction that changes something; one that merges a group into a single write may give
several transactions of that group the same revision, so nobody may count transactions by revision.
"""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

FIRST_REVISION = 1
"""Revision of a store that was never written, as in etcd: the first write makes it 2."""

MAX_TXN_KEYS = 100
"""Keys, and compares, in one transaction. etcd's default is 128 (`--max-txn-ops`); the rest is
reserved for what an implementation adds itself, such as the leader's fence."""

MAX_VALUE_BYTES = 512 * 1024
"""One value. Larger artifacts are stored in chunks."""

MAX_TXN_BYTES = 1280 * 1024
"""Keys and values of one transaction. etcd refuses a request over 1.5 MiB
(`--max-request-bytes`); the rest is left for its encoding."""

MAX_KEY_BYTES = 1024

_KEY = re.compile(r"[!-~]+")


class StoreError(Exception):
    """Anything the store refuses or cannot do."""


class KeyInvalid(StoreError):
    """Keys are printable ASCII without blanks, so that text order is byte order everywhere."""

    def __init__(self, key: str, /) -> None:
        super().__init__(
            f"key {key[:80]!r} ({len(key)} characters) is not 1 to {MAX_KEY_BYTES} printable"
            " ASCII characters without blanks"
        )


class DuplicateKey(StoreError):
    """A transaction writes one key twice, which etcd refuses too."""

    def __init__(self, key: str, /) -> None:
        super().__init__(f"transaction writes key {key!r} more than once")


class ValueTooLarge(StoreError):
    """A value above `MAX_VALUE_BYTES`."""

    def __init__(self, key: str, size: int, /) -> None:
        super().__init__(
            f"value of key {key!r} has {size} bytes; at most {MAX_VALUE_BYTES} are allowed:"
            " store it in chunks"
        )


class TxnTooLarge(StoreError):
    """A transaction that is too large to be atomic; it is refused, never split."""

    def __init__(self, found: int, limit: int, unit: str, /) -> None:
        super().__init__(
            f"transaction has {found} {unit}; at most {limit} fit into one atomic write"
        )


class Compacted(StoreError):
    """The history no longer reaches back that far: list again, then watch from there.

    `oldest` is the lowest revision that can still be watched.
    """

    def __init__(self, oldest: int, /) -> None:
        super().__init__(f"history before revision {oldest} is gone: list again, then watch")
        self.oldest = oldest


class StoreClosed(StoreError):
    """The store or the watch was closed by its owner."""


class StoreFailed(StoreError):
    """A write, a sync or a read failed underneath. Every later call raises it too.

    What a failed sync left on the disk cannot be known from inside the process, so the process
    must end; the next start reads what is really there.
    """

    def __init__(self, detail: str, /) -> None:
        super().__init__(f"the store failed and this process must not use it further: {detail}")
        self.detail = detail


class _PathError(StoreError):
    def __init__(self, path: str, detail: str, /) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class StoreCorrupt(_PathError):
    """The stored file is not what a store wrote. It was left as it was found."""


class StoreInaccessible(_PathError):
    """The operating system refuses what the store needs of this path; the data may be fine."""


class StoreLocked(StoreError):
    """Another process holds this state directory or its database."""

    def __init__(self, path: str, holder: str, /) -> None:
        super().__init__(f"{path}: held by {holder}; one coordinator at a time uses a directory")
        self.path = path
        self.holder = holder


class SchemaTooNew(StoreError):
    """A newer vfioctl wrote this store. An older one never touches it."""

    def __init__(self, path: str, /, *, found: int, known: int) -> None:
        super().__init__(
            f"{path}: store schema {found} was written by a newer vfioctl; this one knows up to"
            f" {known}. Nothing was changed: start the newer version again"
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it stands. Revisions are the store's, `version` counts puts since creation."""

    key: str
    value: bytes
    _: KW_ONLY
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True, slots=True)
class _Keyed:
    key: str

    def __post_init__(self) -> None:
        check_key(self.key)


@dataclass(frozen=True, slots=True)
class Absent(_Keyed):
    """Holds if the key does not exist."""


@dataclass(frozen=True, slots=True)
class ModRevisionIs(_Keyed):
    """Holds if the key was last changed at this revision; 0 means it does not exist."""

    revision: int


@dataclass(frozen=True, slots=True)
class CreateRevisionIs(_Keyed):
    """Holds if the key was created at this revision; 0 means it does not exist."""

    revision: int


@dataclass(frozen=True, slots=True)
class ValueIs(_Keyed):
    """Holds if the key exists with exactly this value. An absent key equals no value."""

    value: bytes


Compare = Absent | ModRevisionIs | CreateRevisionIs | ValueIs


@dataclass(frozen=True, slots=True)
class Put(_Keyed):
    """Write the value, creating the key or adding 1 to its version."""

    value: bytes

    def __post_init__(self) -> None:
        check_key(self.key)
        if len(self.value) > MAX_VALUE_BYTES:
            raise ValueTooLarge(self.key, len(self.value))


@dataclass(frozen=True, slots=True)
class Delete(_Keyed):
    """Remove the key. Removing an absent key changes nothing and is no event."""


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Txn:
    """All `ops` happen in one revision if every compare holds; otherwise none does.

    Its limits are checked when it is made, in the caller's frame: a transaction that exists can
    be committed, and a bad one never reaches the group that others share.

    Raises: TxnTooLarge, DuplicateKey.
    """

    compares: tuple[Compare, ...]
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        written = {op.key for op in self.ops}
        keys = written.union([compare.key for compare in self.compares])
        if len(keys) > MAX_TXN_KEYS:
            raise TxnTooLarge(len(keys), MAX_TXN_KEYS, "keys")
        if len(self.compares) > MAX_TXN_KEYS:
            raise TxnTooLarge(len(self.compares), MAX_TXN_KEYS, "compares")
        if len(written) != len(self.ops):
            names = [op.key for op in self.ops]
            raise DuplicateKey(next(name for name in names if names.count(name) > 1))
        size = sum(map(_encoded_bytes, self.compares)) + sum(map(_encoded_bytes, self.ops))
        if size > MAX_TXN_BYTES:
            raise TxnTooLarge(size, MAX_TXN_BYTES, "bytes of keys and values")


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`revision` is the store's after this transaction; `failed` lists every compare that did
    not hold, in the transaction's order, and is empty exactly if it succeeded."""

    succeeded: bool
    revision: int
    failed: tuple[Compare, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Every key under a prefix, in key order, as of one revision.

    `watch(prefix, revision + 1)` continues from here without a gap.
    """

    prefix: str
    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class PutEvent:
    """A key was written; the item is as it stood after that."""

    item: KeyValue

    @property
    def key(self) -> str:
        return self.item.key

    @property
    def revision(self) -> int:
        return self.item.mod_revision


@dataclass(frozen=True, slots=True)
class DeleteEvent:
    """A key was removed at this revision."""

    key: str
    revision: int


Event = PutEvent | DeleteEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much history watches can read back: the newest revisions, until either bound is
    reached. `bytes` counts keys and values. The newest revision is kept whatever its size."""

    revisions: int = 10_000
    bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.revisions < 1 or self.bytes < 0:
            raise ValueError(f"history cannot be bounded by {self}")


DEFAULT_RETENTION = Retention()


class Watch(Protocol):
    """A cursor over changes under one prefix. One thread at a time may use it; `close` may come
    from any."""

    def poll(self, timeout: float) -> list[Event]:
        """The next events, oldest first; empty if there were none within `timeout` seconds.

        A revision's events always come together, and never twice. With a timeout of 0 it does
        not wait. It returns part of a long backlog; ask again until it returns nothing.

        Raises: Compacted if it was not polled for longer than the history reaches back;
        StoreClosed; StoreFailed.
        """
        ...

    def close(self) -> None:
        """Wake a waiting `poll` with StoreClosed and free what the watch holds."""
        ...


class Store(Protocol):
    """Durable, ordered, linearizable keys.

    Every method may be called from any thread; calls take effect one after another, and a read
    that starts after `commit` returned sees it. Reads may wait for a running commit.
    Any method raises StoreClosed after `close`, and StoreFailed after a failure underneath.
    """

    def revision(self) -> int:
        """The newest revision; FIRST_REVISION in an empty store."""
        ...

    def get(self, key: str) -> KeyValue | None:
        """The key as it stands, or None if it does not exist."""
        ...

    def range(self, prefix: str) -> list[KeyValue]:
        """Every key that begins with `prefix`, sorted. The prefix is text, not a folder:
        `claims/vm-1` includes `claims/vm-10`; write `claims/vm-1/`."""
        ...

    def read(self, prefix: str) -> Range:
        """`range` together with the revision that it shows, to watch on from there."""
        ...

    def commit(self, txns: Sequence[Txn]) -> list[TxnResult]:
        """Commit a group with one durable sync; one result for each, in order.

        Transactions are evaluated in order and see what earlier ones of the group wrote. A
        compare that does not hold fails its own transaction only. When it returns, everything
        that succeeded survives a crash and a loss of power. If it raises, the outcome of every
        transaction in the group is unknown: read back, never repeat blindly.
        """
        ...

    def watch(self, prefix: str, from_revision: int) -> Watch:
        """Changes under the prefix from that revision on, itself included; it may lie ahead.

        Raises: Compacted, here or at the first `poll`, if the history does not reach back to it;
        ValueError for a revision below FIRST_REVISION.
        """
        ...

    def close(self) -> None:
        """Release everything; watches raise StoreClosed. A second call does nothing."""
        ...


def check_key(key: str) -> None:
    """Raises: KeyInvalid."""
    if len(key) > MAX_KEY_BYTES or _KEY.fullmatch(key) is None:
        raise KeyInvalid(key)


def prefix_end(prefix: str) -> str:
    """The first text that sorts after every key with this prefix.

    Raises: KeyInvalid for a prefix that no key can have.
    """
    if not prefix:
        return "\x7f"
    check_key(prefix)
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def holds(compare: Compare, current: KeyValue | None) -> bool:
    """Whether a compare holds for the key as it stands (None: it does not exist)."""
    match compare:
        case Absent():
            return current is None
        case ModRevisionIs(revision=revision):
            return (current.mod_revision if current else 0) == revision
        case CreateRevisionIs(revision=revision):
            return (current.create_revision if current else 0) == revision
        case ValueIs(value=value):
            return current is not None and current.value == value


def _encoded_bytes(part: Compare | Op) -> int:
    return len(part.key) + (len(part.value) if isinstance(part, Put | ValueIs) else 0)
