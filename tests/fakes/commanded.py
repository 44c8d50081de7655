"""A host that takes commands: the real journal and hostd's own judgement, and hands that count.

What the hands do happens in the world of the test (`effects`), which no crash takes back; all else
of the host is the real thing on a real file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.steps import Verb
from vfio_agent.fence import Fence
from vfio_agent.hostd.commands import Commands
from vfio_agent.hostd.job import Done, Valid
from vfio_agent.inspect import now
from vfio_agent.journal import Journal
from vfio_agent.journal.spool import DEFAULT_BOUNDS
from vfio_agent.journal.spool_rows import Bounds
from vfio_agent.session.outbox import Observed, Packer, seconds_up
from vfio_contract.action import ActionReport, AskedUnit, Outcome, ended_event
from vfio_contract.address import Address
from vfio_contract.findings import Finding
from vfio_contract.model import Snapshot

EVERYTHING = Allowance(frozenset(Verb), frozenset("*"), "the test")
NOTHING = Allowance(frozenset(), frozenset(), "the test")


@dataclass(slots=True)
class Job:
    verb: Verb
    address: Address
    valid: Valid | None = None


class CommandedHost:
    """One host; `crash` is a SIGKILL of its agent, `reinstall` gives it another journal."""

    def __init__(
        self, directory: Path, snapshot: Snapshot, *, uuid: str, bounds: Bounds = DEFAULT_BOUNDS
    ) -> None:
        self.snapshot = snapshot
        self.uuid = uuid
        self.allowance = EVERYTHING
        self.effects: Counter[str] = Counter()
        self.units: dict[str, AskedUnit | None] = {}
        self.looks_wanted = 0
        self.pending: dict[str, Job] = {}
        self._bounds = bounds
        self._path = directory / "agent" / "journal.db"
        self._packer = Packer()
        self._began_s = 0.0
        self._open()

    def close(self) -> None:
        self.journal.close()

    # --- what happens to it ---

    def crash(self) -> None:
        """What the hands had not begun never happens, and is told as such."""
        self.journal.close()
        self.pending.clear()
        self._open()
        for kept in self.journal.actions.unfinished():
            if kept.verb in tuple(Verb):
                done = self.effects[kept.id] > 0
                outcome = Outcome.DONE if done else Outcome.UNKNOWN
                self._end(kept.id, Verb(kept.verb), Address(""), outcome)

    def reinstall(self) -> None:
        self.journal.close()
        self.pending.clear()
        self._path.unlink()
        self._open()

    def obey(self, fence: Fence) -> None:
        if self.journal.fence() != fence:
            self.journal.obey(fence)

    def look(self, findings: tuple[Finding, ...] = ()) -> Observed:
        """A look that begins now, later than all before."""
        self._began_s = max(seconds_up(), self._began_s + 0.001)
        seen = self._packer.pack(
            self.snapshot, findings, checks_version="checks-1", at_s=self._began_s
        )
        seen = Observed(
            digest=seen.digest,
            facts_zlib=seen.facts_zlib,
            parts_zlib=seen.parts_zlib,
            boot_id=seen.boot_id,
            product_uuid=self.uuid,
            checks_version=seen.checks_version,
            at_s=seen.at_s,
        )
        self.commands.observed(seen)
        return seen

    def act(self, id: str, *, told: bool = True) -> None:
        """The hands do it. Not `told`: the agent ends before it can write that down."""
        job = self.pending.pop(id)
        self.effects[id] += 1
        if told:
            self._end(id, job.verb, job.address, Outcome.DONE)

    # --- inside ---

    def _open(self) -> None:
        self.journal = Journal.open(self._path, bounds=self._bounds)
        self.commands = Commands(
            self.journal,
            submit=self._submit,
            allow=lambda: self.allowance,
            look_soon=self._want_look,
        )

    def _want_look(self) -> None:
        self.looks_wanted += 1

    def _submit(
        self,
        *,
        id: str,
        verb: Verb,
        address: Address,
        expected: AskedUnit | None,
        done: Done,
        valid: Valid | None = None,
    ) -> None:
        assert id not in self.pending, "submitted twice"
        self.units[id] = expected
        self.pending[id] = Job(verb, address, valid)

    def _end(self, id: str, verb: Verb, address: Address, outcome: Outcome) -> None:
        report = ActionReport(id=id, verb=verb, address=address, outcome=outcome, detail="n=1")
        event = ended_event(report, identity="", at=now(self.snapshot.readings.boot_id))
        self.journal.actions.end(id, report, event, None)
