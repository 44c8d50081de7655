"""Commands from whoever asks to the hands and back, with everything crashing on the way.

Hypothesis drives the real reducer over a real store and hostd's real judgement over a real
journal. Commits are held back, lost with the process or unanswered; messages are lost, repeated and
late; the agent crashes before and after its hands have moved, is reinstalled, and its host boots.
At the end everything settles: no command was done twice, each has an end, and what was done is
known wherever it still can be.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.fakes.commanded import CommandedHost
from tests.unit.journals import MEMORY
from tests.unit.state.cluster import Agent
from tests.unit.state.hosts import cards, snapshot
from tests.unit.state.stream_machine import NODE, StreamMachine
from vfio_agent.fence import Fence
from vfio_agent.hostd.commands import NotYet
from vfio_agent.session.delivery import Delivery
from vfio_agent.session.outbox import seconds_up
from vfio_contract.artifact import decode
from vfio_contract.command import ACTS, SENDING_S, VERSION, AnswerState, Command, Order
from vfio_contract.command_codes import COMMAND_LOST
from vfio_contract.views import CommandView
from vfio_coordinator.state import keys
from vfio_coordinator.state.effects import (
    Effect,
    Failure,
    HoldEvents,
    SendCommand,
)
from vfio_coordinator.state.events import (
    CommandAnswered,
    CommandAwaited,
    CommandRequested,
)
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.records import CommandRecord

UUID = "uuid-pve01"
CARD = "0000:01:00.0"
_ID = re.compile(r"\b([0-9a-f]{8}) (?:done|unknown)")


class Commanding(StreamMachine):
    def __init__(self) -> None:
        limits = Limits(events_per_s=1e6, events_burst=1e6, lost_after_s=1e6, commands_kept=200)
        super().__init__(Agent(NODE, snapshot(*cards(2)), uuid=UUID), limits)
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY))
        self.host = CommandedHost(self.directory, self.agent.snapshot, uuid=UUID)
        self.sent: list[Command] = []
        self.tickets: list[int] = []
        self.asked = 0
        self.booted = 0
        self.lost_host = False
        self.connect()
        self.settle_store()
        self.cluster.inventory(self.agent)
        self.cluster.observe(self.agent)

    def teardown(self) -> None:
        try:
            self.settle()
            self.check()
        finally:
            self.host.close()
            shutil.rmtree(self.directory)

    # --- people ---

    @rule(verb=st.sampled_from([Order.BIND, Order.RESET_TEST, Order.CHECK, Order.RESCAN]))
    def ask(self, verb: Order) -> None:
        self.asked += 1
        first = len(self.cluster.effects)
        self.tickets.append(
            self.cluster.ask_later(
                lambda ticket: CommandRequested(
                    ticket=ticket,
                    id=f"{self.asked:08x}",
                    node=NODE,
                    verb=verb,
                    address=CARD if verb in ACTS else "",
                    actor="ann",
                )
            )
        )
        self.collect(self.cluster.effects[first:])

    @precondition(lambda self: self.sent)
    @rule(wait_s=st.sampled_from([0.0, 5.0]))
    def wait_for_end(self, wait_s: float) -> None:
        id = self.sent[-1].id
        self.tickets.append(
            self.cluster.ask_later(lambda t: CommandAwaited(ticket=t, id=id, wait_s=wait_s))
        )

    @rule(seconds=st.sampled_from([0.5, 6.0]))
    def wait(self, seconds: float) -> None:
        self.cluster.wait(seconds)

    # --- the host ---

    @rule()
    def look(self) -> None:
        seen = self.host.look()
        if self.session is not None and seen.boot_id == self.agent.boot_id:
            began_ms = int(seen.at_s * 1000)
            self.collect(self.cluster.observe(self.agent, began_boottime_ms=began_ms))

    @precondition(lambda self: self.host.pending)
    @rule(told=st.booleans())
    def act(self, told: bool) -> None:
        self.host.act(next(iter(self.host.pending)), told=told)
        if not told:
            self.crash_agent()

    def crash_agent(self) -> None:
        self.leave()
        self.host.crash()
        self.host.look()

    def reinstall(self) -> None:
        self.leave()
        self.lost_host = True
        self.host.reinstall()
        self.host.look()
        # its old stream has ended, else the newcomer is taken for a copy of it
        self.cluster.close(self.agent)

    def boot(self) -> None:
        self.leave()
        self.booted += 1
        made = snapshot(*cards(2))
        readings = replace(made.readings, boot_id=f"{self.booted:08}-0000-4000-8000-000000000000")
        self.agent.snapshot = replace(made, readings=readings)
        self.host.snapshot = self.agent.snapshot
        self.host.crash()
        self.host.look()

    @rule(what=st.sampled_from(["agent", "agent", "coordinator", "coordinator", "boot", "new"]))
    def mishap(self, what: str) -> None:
        match what:
            case "agent":
                self.crash_agent()
            case "coordinator":
                self.crash_coordinator(self.asked % 3)
            case "boot":
                self.boot()
            case _:
                self.reinstall()

    # --- the stream ---

    @rule(late=st.sampled_from([False, False, False, True]))
    def connect(self, late: bool = False) -> None:
        """`late`: the host's clock is beyond the deadline of what was asked for before."""
        self.leave()
        delivery = Delivery(self.host.journal.spool)
        spool_id = delivery.begin()
        ahead_s = -2 * SENDING_S if late else 0.0
        effects = self.cluster.hello(
            self.agent,
            spool_id=spool_id,
            agent_state_id=self.host.journal.state_id,
            commands=VERSION,
            boottime_ms=int((seconds_up() + ahead_s) * 1000),
        )
        if self.begin(effects, delivery, spool_id):
            state = self.cluster.state
            self.host.obey(Fence(state.cluster_id, state.incarnation, state.epoch))

    @precondition(lambda self: self.session and self.session.down)
    @rule(repeated=st.booleans())
    def be_told(self, repeated: bool = False) -> None:
        assert self.session is not None
        word = self.session.down.pop(0)
        if isinstance(word, HoldEvents):
            assert not self.session.delivery.hear(word.mark, word.window)
            return
        for _ in range(1 + repeated):
            self.take(word.command)

    def take(self, command: Command) -> None:
        try:
            answer = self.host.commands.take(command)
        except NotYet:
            return
        if self.session is not None:
            answered = CommandAnswered(node=NODE, session=self.session.id, answer=answer)
            self.session.up.append(answered)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), changed=st.sampled_from(["", "id", "epoch", "boot_id", "product_uuid"]))
    def hear_an_old_one(self, data: st.DataObject, changed: str) -> None:
        """What was sent once comes again, as it was or made to look like something else."""
        command = data.draw(st.sampled_from(self.sent))
        if changed == "id" and command.sequence > self.host.journal.actions.sequence():
            return  # nothing tells it from a new one
        if changed == "epoch":
            command = replace(command, id="f" * 8, epoch=command.epoch - 1)
        elif changed:
            strange: dict[str, Any] = {"id": "f" * 8, changed: "f" * 8}
            command = replace(command, **strange)
        try:
            answer = self.host.commands.take(command)  # whoever says this is told, not our cluster
        except NotYet:
            return
        done = self.host.effects[command.id] or command.id in self.host.pending
        done = done and command.agent_state_id == self.host.journal.state_id
        assert not (done and answer.state == AnswerState.REFUSED), "refused and done"

    @precondition(lambda self: self.session)
    @rule()
    def say(self) -> None:
        assert self.session is not None
        self.session.tell(tuple(self.session.delivery.next_batch()))

    @precondition(lambda self: self.late)
    @rule()
    def arrive_late(self) -> None:
        before = self.cluster.state.commands.get(NODE)
        self.collect(self.cluster.send(self.late.pop(0)))
        same = self.cluster.state.commands.get(NODE) == before
        assert same or self.session is None, "only the newest session is heard"

    @rule(rounds=st.integers(1, 6), acts=st.booleans())
    def go_on(self, rounds: int, acts: bool) -> None:
        """What happens when nothing goes wrong, so that what does finds something to break."""
        for _ in range(rounds):
            if acts:
                self.act_all()
                if self.host.looks_wanted:
                    self.host.looks_wanted = 0
                    self.look()
            if self.session is None:
                self.connect()
            if self.session is not None and self.session.down:
                self.be_told()
            if self.session is not None:
                self.say()
            if self.session is not None and self.session.up:
                self.arrive()
            if self.cluster.queue:
                self.commit()

    @rule(verb=st.sampled_from([Order.BIND, Order.CHECK]), steps=st.integers(2, 8))
    def cut_short(self, verb: Order, steps: int) -> None:
        """One command on its way, up to some step of it."""
        if self.session is None:
            self.connect()
        way: list[Callable[[], object]] = [
            lambda: self.ask(verb),
            self.settle_store,
            self.hear_all,
            self.arrive_all,
            self.act_all,
            self.look,
            self.say,
            self.arrive_all,
        ]
        for step in way[:steps]:
            if self.session is not None:
                step()

    def act_all(self) -> None:
        for id in list(self.host.pending):
            self.host.act(id)

    def hear_all(self) -> None:
        while self.session is not None and self.session.down:
            self.be_told()

    def arrive_all(self) -> None:
        while self.session is not None and self.session.up:
            self.arrive()

    def collect(self, effects: Iterable[Effect]) -> None:
        told = list(effects)
        for effect in told:
            if isinstance(effect, SendCommand):
                self.sent.append(effect.command)
                item = self.cluster.store.get(keys.command_key(NODE, effect.command.id))
                assert item is not None, "sent before it was durable"
        super().collect(told)

    # --- the coordinator ---

    def crash_coordinator(self, landed: int) -> None:
        self.crash(landed)
        self.late.clear()
        self.tickets.clear()

    # --- what holds ---

    def records(self) -> list[CommandRecord]:
        rows = self.cluster.store.range(keys.COMMANDS)
        return [decode(CommandRecord, item.value) for item in rows]

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert not [id for id, count in self.host.effects.items() if count > 1]

    @invariant()
    def nothing_is_told_twice(self) -> None:
        told = (_ID.search(row.text) for row in self.rows() if row.code == "ACTION_ENDED")
        rows = Counter(match[1] for match in told if match)
        assert not [id for id, count in rows.items() if count > 1], rows

    def settle_store(self) -> None:
        while self.cluster.queue:
            self.commit()

    def settle(self) -> None:
        self.host.crash()
        self.host.look()
        self.leave()
        self.cluster.close(self.agent)
        self.settle_store()
        self.connect()
        for _ in range(200):
            self.cluster.wait(10.0)
            self.settle_store()
            assert self.session is not None
            self.hear_all()
            self.act_all()
            self.look()
            self.say()
            if not self.session.up and not self.session.down and not self.cluster.queue:
                return
            self.arrive_all()
        raise AssertionError("it never comes to rest")

    def check(self) -> None:
        for record in self.records():
            done = self.host.effects[record.id]
            assert record.outcome, f"has no end: {record}"
            if record.code == COMMAND_LOST.name:
                assert self.lost_host or record.boot_id != self.agent.boot_id, record
            elif record.verb in ACTS:
                assert (record.outcome == "done") == bool(done), (record, done)
            if done and not self.lost_host:
                assert record.outcome == "done", "its result still comes, and is recorded"
        known = {record.id for record in self.records()}
        assert set(self.host.effects) <= known, "done without an intent"
        for ticket in self.tickets:
            assert isinstance(self.cluster.replies[ticket], CommandView | Failure)


TestCommanding = Commanding.TestCase
TestCommanding.settings = settings(
    max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
