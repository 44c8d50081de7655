"""hostd as a whole: the journal, the looks at the host, and the verbs that are answered.

It owns all that is of the host. It must never open a connection to anywhere, nor obey a fence that
is lower than one that it has obeyed, whatever the network process believes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vfio_agent.actuate.reach import Reach, reach_host
from vfio_agent.actuate.steps import Verb
from vfio_agent.fence import Fence
from vfio_agent.hostd.acting import Acting
from vfio_agent.hostd.commands import Commands, NotYet
from vfio_agent.hostd.looking import Looking
from vfio_agent.hostd.messages import (
    PROTOCOL,
    Acknowledge,
    Acknowledged,
    Act,
    Acted,
    BundleProblem,
    CommandTaken,
    Credentials,
    Done,
    GetBundle,
    GetEvents,
    GetFence,
    GetLedger,
    Greeting,
    Ledger,
    Obeyed,
    ObeyFence,
    Rescan,
    SetPace,
    SpoolState,
    TakeCommand,
)
from vfio_agent.hostd.packing import pack_bundle, pack_events, pack_observed
from vfio_agent.hostd.server import Server
from vfio_agent.hostd.verbs import Answer, Refusal, Verbs
from vfio_agent.inspect import observe
from vfio_agent.journal import Journal, JournalFull
from vfio_agent.session.outbox import Observed
from vfio_contract.bundle import Bundle, BundleError
from vfio_contract.durable import MAX_SEQ
from vfio_contract.version import VERSION

JOURNAL_FILE = "journal.db"

MAX_EVENTS = 1_000
"""Durable events in one answer; the spool bounds its bytes."""

LEDGER_ATTEMPTS = 1_000
"""Most that one answer carries: below 1 MB."""

_ACTION_ID = re.compile(r"[0-9a-f]{32}")

CLUSTER_ID_CHARACTERS = 200
MAX_COUNT = (1 << 63) - 1
"""Of an incarnation or an epoch."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a hostd is started. `root` is `/` or a captured host that is replayed."""

    state: Path
    root: str


class Hostd:
    """One running hostd."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        listener: socket.socket | None = None,
        allowed: tuple[int, ...] = (),
        bundle: Callable[[], Bundle] | None = None,
        reach: Reach | None = None,
    ) -> None:
        """`bundle` loads the credentials that its own child may have; None: they are not its.

        `reach` is how actions reach the host, None for the root of `settings`. OSError where that
        cannot be opened.
        """
        self._journal = journal
        reach = reach or reach_host(settings.root, lambda root: observe(root, journal, None).host)
        self._looking = Looking(settings.root, journal, self._offer)
        self._acting = Acting(
            journal,
            reach,
            on_end=self._looking.look_soon,
            on_fault=self._looking.fail,
        )
        self._commands = Commands(
            journal,
            submit=self._acting.submit,
            allow=reach.allow,
            look_soon=self._looking.look_soon,
        )
        self._server = Server(
            self._verbs(bundle),
            Greeting(PROTOCOL, VERSION, journal.state_id),
            listener=listener,
            allowed=allowed,
            on_fault=self._looking.fail,
        )

    def run(self, *connections: socket.socket) -> None:
        """Look and answer until stopped. `connections` are served beside the listener's.

        JournalError and RootError name what is wrong with a file; anything else is our own fault.
        """
        self._journal.spool.attach(self._tell_spool)
        self._tell_spool()
        self._acting.start()
        self._server.start(*connections)
        try:
            self._looking.run()
        finally:
            self._journal.spool.attach(None)
            self._server.close()
            self._acting.close()

    def stop(self) -> None:
        """Ask for a clean end, from any thread."""
        self._looking.stop()

    def fail(self, error: BaseException) -> None:
        """Have `run` raise this, from any thread."""
        self._looking.fail(error)

    # --- verbs --------------------------------------------------------------------------------

    def _verbs(self, bundle: Callable[[], Bundle] | None) -> Verbs:
        verbs = Verbs()
        verbs.add("fence.get", GetFence, self._get_fence)
        verbs.add("fence.obey", ObeyFence, self._obey_fence)
        verbs.add("pace", SetPace, self._set_pace)
        verbs.add("rescan", Rescan, self._rescan)
        verbs.add("ledger", GetLedger, self._get_ledger)
        verbs.add("spool.after", GetEvents, self._get_events)
        verbs.add("spool.acknowledge", Acknowledge, self._acknowledge)
        verbs.add("act", Act, self._act, for_root=True)
        verbs.add("command", TakeCommand, self._take_command)
        if bundle is not None:
            verbs.add("bundle", GetBundle, _give(bundle))
        return verbs

    def _get_fence(self, _request: GetFence, answer: Answer) -> None:
        answer(Obeyed(self._journal.fence()))

    def _obey_fence(self, request: ObeyFence, answer: Answer) -> None:
        known = self._journal.fence()
        if request.fence != known:
            _require_higher(request.fence, known)
            with _refusing_when_full():
                self._journal.obey(request.fence)
        answer(Obeyed(request.fence))

    def _set_pace(self, request: SetPace, answer: Answer) -> None:
        self._looking.set_pace(request.interval_s)
        answer(Done())

    def _rescan(self, _request: Rescan, answer: Answer) -> None:
        self._looking.look_soon()
        answer(Done())

    def _get_ledger(self, _request: GetLedger, answer: Answer) -> None:
        rows = self._journal.attempts()
        kept = rows[-LEDGER_ATTEMPTS:]
        answer(Ledger(tuple(kept), len(rows) - len(kept)))

    def _get_events(self, request: GetEvents, answer: Answer) -> None:
        seq, limit = min(max(request.seq, 0), MAX_SEQ), min(max(request.limit, 0), MAX_EVENTS)
        answer(pack_events(self._journal.spool.after(seq, limit)))

    def _acknowledge(self, request: Acknowledge, answer: Answer) -> None:
        if not 0 <= request.mark.seq <= MAX_SEQ:
            raise Refusal("spool.acknowledge.mark.seq: out of range")
        with _refusing_when_full():
            answer(Acknowledged(self._journal.spool.acknowledge(request.mark)))

    def _act(self, request: Act, answer: Answer) -> None:
        if not _ACTION_ID.fullmatch(request.id):
            raise Refusal("act.id: expected 32 hex digits")
        if request.verb not in tuple(Verb):
            raise Refusal(f"act.verb: expected one of {', '.join(Verb)}")
        if not request.address:
            raise Refusal("act.address: missing")
        self._acting.submit(
            id=request.id,
            verb=Verb(request.verb),
            address=request.address,
            expected=None,
            done=lambda report: answer(Acted(report)),
        )

    def _take_command(self, request: TakeCommand, answer: Answer) -> None:
        try:
            answer(CommandTaken(self._commands.take(request.command), ""))
        except (NotYet, JournalFull) as error:
            answer(CommandTaken(None, str(error)))

    def _offer(self, seen: Observed) -> None:
        self._server.offer(pack_observed(seen))
        self._commands.observed(seen)

    def _tell_spool(self) -> None:
        spool = self._journal.spool
        self._server.offer(SpoolState(spool.id, spool.last, spool.status()))


@contextmanager
def _refusing_when_full() -> Iterator[None]:
    """A full disk refuses one write; any other error of the journal ends its use, and hostd."""
    try:
        yield
    except JournalFull as error:
        raise Refusal(str(error)) from None


@contextmanager
def open_journal(settings: Settings) -> Iterator[Journal]:
    """The journal of a hostd, owned while it is open; JournalError names the file and the fix."""
    journal = Journal.open(settings.state / JOURNAL_FILE)
    try:
        yield journal
    finally:
        journal.close()


def _require_higher(offered: Fence, known: Fence) -> None:
    if not 0 < len(offered.cluster_id) <= CLUSTER_ID_CHARACTERS:
        raise Refusal("fence.obey.fence.cluster_id: empty or too long")
    if not (0 <= offered.incarnation <= MAX_COUNT and 0 <= offered.epoch <= MAX_COUNT):
        raise Refusal("fence.obey.fence: incarnation or epoch is out of range")
    if known.cluster_id not in ("", offered.cluster_id):
        raise Refusal(f"this host obeys cluster {known.cluster_id}, not {offered.cluster_id!r:.80}")
    if (offered.incarnation, offered.epoch) < (known.incarnation, known.epoch):
        raise Refusal(
            f"incarnation {offered.incarnation} epoch {offered.epoch} is lower than "
            f"incarnation {known.incarnation} epoch {known.epoch}, which was obeyed"
        )


def _give(bundle: Callable[[], Bundle]) -> Callable[[GetBundle, Answer], None]:
    def handle(_request: GetBundle, answer: Answer) -> None:
        try:
            answer(pack_bundle(bundle()))
        except BundleError as error:
            problem = BundleProblem(error.field, error.problem, error.fix)
            answer(Credentials("", "", "", "", problem))

    return handle
