"""Spool, lossy channel and crashing coordinator: what was appended is applied once, in order.

Hypothesis drives a real journal file and the agent's own delivery against the real reducer over a
real store. Messages are lost with their session or arrive after the next one began; commits are
held back, answered or not, and lost with the process; the agent crashes, is reinstalled, and is
restored from an older copy of its file, and so is the store. At the end everything settles, and
each event that was appended is in the event log exactly once, or within the gaps recorded there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.fakes.durable import ended, line, numbers_in, reset
from tests.unit.journals import MEMORY
from tests.unit.state.cluster import Agent
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.stream_machine import NODE, StreamMachine
from vfio_agent.journal import Bounds, Journal, Reservation, SpoolFull
from vfio_agent.session.delivery import Delivery
from vfio_contract.artifact import decode
from vfio_contract.durable import CRITICAL, DurableEvent, Spooled
from vfio_coordinator.state import keys
from vfio_coordinator.state.effects import HoldEvents
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.records import AttemptsRecord, SpoolRecord
from vfio_coordinator.store.interface import KeyValue, Put, Txn
from vfio_coordinator.store.memory import MemoryStore

BOUNDS = Bounds(events=12, bytes=1 << 26, action_share=0.75)
WINDOW = 5


class Exchange(StreamMachine):
    def __init__(self) -> None:
        limits = Limits(events_window=WINDOW, events_per_s=4.0, events_burst=6.0)
        super().__init__(Agent(NODE, snapshot(*cards(1))), limits)
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY))
        self.path = self.directory / "agent" / "journal.db"
        self.journal = Journal.open(self.path, bounds=BOUNDS)
        self.copies: list[Path] = []
        self.appended: list[int] = []
        self.reserved: list[tuple[str, Reservation]] = []
        self.critical: set[int] = set()
        self.swapped = False
        self.excused: set[int] = set()
        self.forsaken: set[int] = set()
        self.sent: dict[tuple[str, int], Spooled] = {}
        self.backups: list[tuple[KeyValue, ...]] = []
        self.next = 1

    def teardown(self) -> None:
        try:
            self.settle()
            self.check()
        finally:
            self.journal.close()
            shutil.rmtree(self.directory)

    # --- the agent ---

    def append(self, *events: DurableEvent) -> None:
        first = self.next
        self.next += len(events)
        try:
            self.journal.spool.extend(events)
        except SpoolFull:
            return
        self.appended.extend(range(first, self.next))
        kinds = zip(range(first, self.next), events, strict=True)
        self.critical.update(n for n, e in kinds if isinstance(e.payload, CRITICAL))

    @rule(kinds=st.lists(st.sampled_from([line, line, reset]), min_size=1, max_size=4))
    def happen(self, kinds: list[type]) -> None:
        self.append(*(kind(self.next + i) for i, kind in enumerate(kinds)))

    @rule()
    def begin_action(self) -> None:
        try:
            reservation = self.journal.spool.reserve("bind")
        except SpoolFull:
            return
        self.reserved.append((self.journal.state_id, reservation))

    @precondition(lambda self: self.reserved)
    @rule()
    def end_action(self) -> None:
        state_id, reservation = self.reserved.pop(0)
        if (
            state_id != self.journal.state_id
            or reservation not in self.journal.spool.reservations()
        ):
            return  # of a file that is not in use now
        with self.journal.spool.ending(ended(self.next), reservation):
            pass  # it always fits
        self.appended.append(self.next)
        self.critical.add(self.next)
        self.next += 1

    @rule()
    def crash_agent(self) -> None:
        self.leave()
        self.journal.close()
        self.journal = Journal.open(self.path, bounds=BOUNDS)

    @rule()
    def copy(self) -> None:
        self.crash_agent()
        self.journal.close()
        self.copies.append(self.directory / f"copy-{len(self.copies)}")
        shutil.copy(self.path, self.copies[-1])
        self.journal = Journal.open(self.path, bounds=BOUNDS)

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        self.replace_file(data.draw(st.sampled_from(self.copies)))

    @rule()
    def reinstall(self) -> None:
        self.replace_file(None)

    def replace_file(self, copy: Path | None) -> None:
        self.leave()
        self.journal.close()
        self.swapped = True
        # what only the file that is gone had, nobody can tell of
        self.forsaken = set(self.appended)
        self.excused |= self.forsaken - set(numbers_in(self.rows()))
        self.path.unlink()
        if copy is not None:
            shutil.copy(copy, self.path)
        self.journal = Journal.open(self.path, bounds=BOUNDS)

    # --- the stream ---

    @rule()
    def connect(self) -> None:
        if self.session is not None:
            self.late = self.session.up
        delivery = Delivery(self.journal.spool)
        spool_id = delivery.begin()
        effects = self.cluster.hello(self.agent, spool_id=spool_id)
        self.begin(effects, delivery, spool_id)

    @precondition(lambda self: self.session)
    @rule()
    def say(self) -> None:
        assert self.session is not None
        batch = tuple(self.session.delivery.next_batch())
        self.sent.update({(self.session.spool_id, row.seq): row for row in batch})
        self.session.tell(batch)

    @rule(rounds=st.integers(1, 6), commits=st.booleans())
    def go_on(self, rounds: int, commits: bool) -> None:
        """What happens when nothing goes wrong, so that what does finds something to break."""
        for _ in range(rounds):
            if self.session is None:
                self.connect()
            if self.session is not None and self.session.down:
                self.be_told()
            if self.session is not None:
                self.say()
            if self.session is not None and self.session.up:
                self.arrive()
            if commits and self.cluster.queue:
                self.commit()

    @rule(count=st.integers(1, 4))
    def repeat(self, count: int) -> None:
        """A session that begins with what was applied before."""
        self.connect()
        intake = self.cluster.state.intakes[NODE]
        mark = intake.mark_of(intake.spool_id)
        numbers = range(max(1, mark.seq - count + 1), mark.seq + 1)
        rows = [self.sent.get((mark.spool_id, number)) for number in numbers]
        told = tuple(row for row in rows if row is not None)
        if self.session is not None and len(told) == len(rows):
            self.session.tell(told)

    @precondition(lambda self: self.late)
    @rule()
    def arrive_late(self) -> None:
        before = self.cluster.state.intakes.get(NODE)
        self.cluster.send(self.late.pop(0))
        assert self.cluster.state.intakes.get(NODE) == before or self.session is None

    @precondition(lambda self: self.session and self.session.down)
    @rule()
    def be_told(self) -> None:
        assert self.session is not None
        word = self.session.down.pop(0)
        assert isinstance(word, HoldEvents), "nobody asked for anything"
        if self.session.delivery.hear(word.mark, word.window):
            self.swapped = True  # an older copy of the file: it begins a new spool
            self.disconnect()

    # --- the coordinator ---

    @rule(landed=st.integers(0, 3))
    def crash_coordinator(self, landed: int) -> None:
        self.crash(landed)

    @rule()
    def back_up_store(self) -> None:
        self.backups.append(self.cluster.store.read("").items)

    @precondition(lambda self: self.backups)
    @rule()
    def restore_store(self) -> None:
        """What was applied since is gone; agents that forgot it cannot tell it again."""
        self.leave()
        self.swapped = True
        self.cluster.store = MemoryStore()
        for item in self.backups[-1]:
            self.cluster.store.commit([Txn((), (Put(item.key, item.value),))])
        # nor what only this store had, because the file that told it is gone too
        self.excused |= self.forsaken - set(numbers_in(self.rows()))
        self.cluster.restart()

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        first = len(self.cluster.effects)
        self.cluster.wait(seconds)
        self.collect(list(self.cluster.effects[first:]))

    # --- what holds ---

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        found = numbers_in(self.rows())
        assert len(found) == len(set(found)), found
        assert set(found) <= set(self.appended)
        assert self.swapped or found == sorted(found), found

    def settle(self) -> None:
        for _ in range(200):
            self.wait(1.0)
            while self.cluster.queue:
                self.commit()
            if self.session is None:
                self.connect()
            if self.session is not None:
                while self.session is not None and self.session.down:
                    self.be_told()
            if self.session is None:
                continue
            self.say()
            waits = self.session.up or self.cluster.queue or self.cluster.state.throttled
            if not waits and not self.journal.spool.after(0, 1):
                return
            while self.session is not None and self.session.up:
                self.arrive()
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        found = numbers_in(self.rows())
        missing = set(self.appended) - set(found)
        item = self.cluster.store.get(keys.spool_key(NODE))
        if item is None:
            assert not found
            assert missing <= self.excused
            return
        record = decode(SpoolRecord, item.value)
        assert record.applied == len(found)
        told = [row for row in self.rows() if row.code == "EVENTS_LOST"]
        if self.swapped:
            assert missing <= self.excused or told
        else:
            assert len(missing) == record.lost
            assert record.seq == record.applied + record.lost == self.journal.spool.last
            assert bool(told) == bool(missing)
            assert not missing & self.critical, "a critical event was dropped"
        assert (record.spool_id, record.seq) == (self.journal.spool.id, self.journal.spool.last)
        copies = [decode(AttemptsRecord, i.value) for i in self.cluster.store.range(keys.ATTEMPTS)]
        resets = [row for row in self.rows() if row.code == "RESET_ATTEMPT"]
        assert sum(copy.attempts for copy in copies) == len(resets)


TestExchange = Exchange.TestCase
TestExchange.settings = settings(
    max_examples=25, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
