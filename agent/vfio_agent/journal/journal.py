"""The journal's own part: the agent's state id, its fence, and the reset history.

The same kernel line is the same row however often it is read: its key stays in `seen`, also when
the rows it made have been trimmed. A row is committed before its caller goes on, so a crash loses
nothing that was reported.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfio_agent.fence import NO_FENCE, Fence
from vfio_agent.journal.actions import Actions
from vfio_agent.journal.attempts import add_attempt, read_attempts, read_totals, tell_attempt
from vfio_agent.journal.database import Database, JournalError
from vfio_agent.journal.diary import JournalDiary
from vfio_agent.journal.spool import DEFAULT_BOUNDS, Spool
from vfio_agent.journal.spool_rows import Bounds
from vfio_agent.watch.bucket import Bucket
from vfio_contract.durable import DurableEvent, Stamp
from vfio_contract.ledger import Outcome, ResetAttempt, Total, without_echoes

SEEN_LIMIT = 10_000
"""Keys remembered before those are forgotten that the kernel log no longer holds."""

EVENT_BURST = 32
EVENT_PER_S = 0.1
"""Events of one method and outcome of one device: a link that comes and goes may be reset thousands
of times, and what cannot be dropped must not fill the spool. The history has all."""

_PLACE = "watch_place"
_RUNNING = "vms_running"
_USES = "vm_uses"


@dataclass(slots=True)
class _Flow:
    bucket: Bucket = field(default_factory=lambda: Bucket(burst=EVENT_BURST, per_s=EVENT_PER_S))
    held: int = 0


class Journal:
    """One open journal. Its methods may be called from any thread; all raise JournalError."""

    def __init__(self, database: Database, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self._database = database
        self._spool = Spool(database, bounds) if database.writable else None
        self._flows: dict[tuple[str, str, Outcome], _Flow] = {}

    @classmethod
    def open(cls, path: Path, *, bounds: Bounds = DEFAULT_BOUNDS) -> Journal:
        """Own `path`, made if it is not there; JournalError names the file and the fix."""
        database = Database.open(path)
        try:
            return cls(database, bounds)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_readonly(cls, path: Path) -> Journal | None:
        """The journal as another process sees it; None when there provably is none.

        Nothing is written, not even beside it. JournalError where it cannot be read.
        """
        database = Database.open_readonly(path)
        return None if database is None else cls(database)

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._database.close()

    @property
    def state_id(self) -> str:
        """Random, made with this database: a reinstalled agent is a different one."""
        return self._database.meta("state_id")

    @property
    def spool(self) -> Spool:
        """The durable events; only the journal's owner has them."""
        if self._spool is None:
            raise JournalError(f"{self._database.path}: is open for reading only")
        return self._spool

    @property
    def diary(self) -> JournalDiary:
        """What the hands wrote down."""
        return JournalDiary(self._database)

    @property
    def actions(self) -> Actions:
        """What was asked of the hands and what became of it; only the journal's owner has them."""
        return Actions(self._database, self.spool)

    def fence(self) -> Fence:
        """The highest fence obeyed."""
        text = self._database.meta("fence")
        return Fence(*json.loads(text)) if text else NO_FENCE

    def obey(self, fence: Fence) -> None:
        """Remember a fence, durably, before anything is done under it."""
        with self._database.transaction():
            values = [fence.cluster_id, fence.incarnation, fence.epoch]
            self._database.put_meta("fence", json.dumps(values))

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def place(self) -> str:
        """What `tell` last kept, "" before the first."""
        return self._database.meta(_PLACE)

    def tell(self, events: Sequence[DurableEvent], *, place: str) -> None:
        """Make what was noticed durable together with the place from which noticing goes on.

        Not for critical events. What a full disk keeps back is counted in a gap, and the place
        stays where it was.
        """
        self.spool.extend(events, beside=(_PLACE, place))

    def uses(self) -> str:
        """What `record_uses` last kept, "" before the first."""
        return self._database.meta(_USES)

    def record_uses(self, attempts: Iterable[ResetAttempt], *, uses: str, at: Stamp) -> int:
        """Store how starts of VMs went, together with the place from which watching them goes on;
        the number of new rows, each of which is a durable event too, as in `record`."""
        with self._database.transaction() as db:
            self._database.put_meta(_USES, uses)
            added = [row for row in attempts if add_attempt(db, row, wall_ms=at.wall_ms)]
            self.spool.add_within([tell_attempt(row, at) for row in added])
        self.spool.tell()
        return len(added)

    def running(self) -> str:
        """What `tell_running` last kept, "" before the first."""
        return self._database.meta(_RUNNING)

    def tell_running(self, events: Sequence[DurableEvent], *, running: str) -> None:
        """Make starts and ends of VMs durable together with what runs after them.

        SpoolFull or JournalFull where they cannot be; then nothing has changed.
        """
        self.spool.extend(events, beside=(_RUNNING, running))

    def fed_boot(self) -> str:
        """The newest boot of which a kernel log was recorded, "" before the first."""
        return self._database.meta("fed_boot")

    def record(
        self, attempts: Iterable[ResetAttempt], *, boot_id: str, at: Stamp | None = None
    ) -> int:
        """Store what the kernel log of this boot says, in its order; the number of new rows.

        A key that was recorded before is left out, also for functions that it did not concern then:
        a device put in later is not blamed for an old line. So is one that only says again that a
        device is dead. With `at`, the moment of this look,
        each new row is a durable event too, in the same transaction: the one is there exactly if
        the other is, but for a storm (EVENT_BURST), of which the next event tells how many there
        were. Where the spool has no room for it, a gap takes its number; the row stays.
        """
        rows = tuple(attempts)
        if not boot_id or any(row.boot_id != boot_id for row in rows):
            raise ValueError("a record holds the attempts of one known boot")
        with self._database.guarded():
            known = self.seen(boot_id)
            new = [row for row in rows if row.key not in known]
            if not new and self.fed_boot() == boot_id:
                return 0
            try:
                with self._database.transaction() as db:
                    self._database.put_meta("fed_boot", boot_id)
                    wall_ms = None if at is None else at.wall_ms
                    told = without_echoes(new, self.attempts())
                    added = [row for row in told if add_attempt(db, row, wall_ms=wall_ms)]
                    _remember(db, {row.key for row in new}, {row.key for row in rows}, boot_id)
                    if at is not None:
                        self.spool.add_within([*self._limited(added, at)])
            except BaseException:
                self._flows.clear()  # they counted what did not happen
                raise
        if at is not None:
            self.spool.tell()
        return len(added)

    def _limited(self, rows: Iterable[ResetAttempt], at: Stamp) -> Iterator[DurableEvent]:
        now_s = at.boottime_ms / 1000
        for row in rows:
            key = (row.identity, row.method, row.outcome)
            flow = self._flows.setdefault(key, _Flow())
            if now_s < flow.bucket.ready_at() or not flow.bucket.take(now_s):
                flow.held += 1
                continue
            more = f" ({flow.held} alike before it)" if flow.held else ""
            flow.held = 0
            yield tell_attempt(row, at, more)

    def seen(self, boot_id: str) -> frozenset[str]:
        """Keys recorded in this boot, whether or not their rows are still kept; "" for any boot."""
        found = self._database.rows(
            "SELECT key FROM seen WHERE ? IN ('', boot_id)"
            " UNION SELECT key FROM attempts WHERE ? IN ('', boot_id)",
            *(boot_id, boot_id),
        )
        return frozenset(key for (key,) in found)

    def attempts(self) -> list[ResetAttempt]:
        """All kept attempts in the order they happened."""
        return read_attempts(self._database)

    def tuple_totals(self) -> dict[tuple[str, str], Total]:
        """What was ever recorded, by identity and firmware tuple."""
        return read_totals(self._database)

    def totals(self) -> dict[str, tuple[int, int]]:
        """(attempts, failures) ever recorded, by identity, over all firmware tuples."""
        found: dict[str, tuple[int, int]] = {}
        for (identity, _), total in sorted(self.tuple_totals().items()):
            tried, failed = found.get(identity, (0, 0))
            found[identity] = (tried + total.attempts, failed + total.failures)
        return found


def _remember(db: sqlite3.Connection, new: set[str], visible: set[str], boot_id: str) -> None:
    """Keys of other boots never come back, nor do lines that the log has lost."""
    db.execute("DELETE FROM seen WHERE boot_id != ?", (boot_id,))
    (count,) = db.execute("SELECT count(*) FROM seen").fetchone()
    if count + len(new) > SEEN_LIMIT:
        db.execute("DELETE FROM seen")
        new = visible
    db.executemany("INSERT INTO seen VALUES (?, ?)", [(boot_id, key) for key in new])
