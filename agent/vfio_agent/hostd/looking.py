"""The loop that looks at the host: when something was noticed, when asked, and every interval.

It is hostd's main thread. What the kernel says is durable before anything else is done about it. It
must never look more often than the host can bear, nor go on after a fault of its own: a hostd that
half works looks like a host that has nothing to report, so `run` raises and whoever supervises it
starts it again.
"""

from __future__ import annotations

import logging
import queue
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from vfio_agent.checks import checks_version, in_order
from vfio_agent.collect.kernel import collect_boot_id
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import Root, open_root
from vfio_agent.hostd.news import Names, names_of, tell_changes, tell_lines
from vfio_agent.hostd.passing import Passing, attribute
from vfio_agent.hostd.vm_news import VmNews
from vfio_agent.hostd.vm_uses import VmUses
from vfio_agent.inspect import Inspection, now, observe
from vfio_agent.journal import Journal, JournalFull
from vfio_agent.session.outbox import Observed, Packer, seconds_up
from vfio_agent.watch import Batch, Part, Place, Watch, open_watch, replay_watch, want
from vfio_contract.artifact import ArtifactError, decode, encode
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import Snapshot

log = logging.getLogger("vfio-hostd")

DEFAULT_INTERVAL_S = 60.0
"""Between looks until the network process says otherwise."""

MIN_INTERVAL_S = 1.0
MAX_INTERVAL_S = 600.0
"""Between looks: whoever asks can neither load the host nor blind it. In the long run the watch's
schedule lets no more than one in 2 s through."""

REST = 4.0
"""After a look, times the processor time that it took: however much there is to notice, looking
costs at most a fifth of a core. What the kernel says is told meanwhile."""

_LONG_S = 3600.0


class RootError(Exception):
    """The root that is looked at cannot be opened; the text names it."""


class _Stop:
    """Asks the loop to end."""


class _Soon:
    """Asks for a look without waiting for the interval."""


@dataclass(frozen=True, slots=True)
class _Pace:
    interval_s: float


_STOP, _SOON = _Stop(), _Soon()


class Looking:
    """One host under observation; all methods but `run` may be called from any thread."""

    def __init__(self, root: str, journal: Journal, offer: Callable[[Observed], None]) -> None:
        """`offer` takes each observation, on the thread of `run`."""
        self._path = root
        self._journal = journal
        self._offer = offer
        self._inbox: queue.SimpleQueue[_Stop | _Soon | _Pace | BaseException] = queue.SimpleQueue()
        self._watch: Watch | None = None
        self._interval_s = DEFAULT_INTERVAL_S
        self._packer = Packer()
        self._vms = VmNews(journal)
        self._uses = VmUses(journal)
        self._passing = Passing()
        # Below: of the last look.
        self._boot_id = ""
        self._names: Names = {}
        self._snapshot: Snapshot | None = None

    def stop(self) -> None:
        """Ask for a clean end."""
        self._say(_STOP)

    def fail(self, error: BaseException) -> None:
        """Have `run` raise this."""
        self._say(error)

    def look_soon(self) -> None:
        """Ask for a look; many before it are one."""
        self._say(_SOON)

    def set_pace(self, interval_s: float) -> None:
        """Seconds between looks, within the limits; 0 for the default."""
        asked = min(max(interval_s, MIN_INTERVAL_S), MAX_INTERVAL_S)
        self._say(_Pace(asked if interval_s > 0 else DEFAULT_INTERVAL_S))

    def run(self) -> None:
        """Look until stopped. JournalError and RootError name what is wrong with a file; anything
        else is our own fault."""
        root = self._open_root()
        self._boot_id = collect_boot_id(Reader(root)) or ""
        try:
            # before the first look: what changes during it is noticed
            watch = self._begin_watch(root)
            ending = False
            while not ending:
                began = time.process_time()
                boot_id = self._look(root, watch)
                if boot_id != self._boot_id:  # a capture was replaced
                    self._boot_id = boot_id
                    watch = self._begin_watch(root)
                spent = time.process_time() - began
                ending = self._rest(watch, until=time.monotonic() + REST * spent)
                if not root.live:
                    root = self._open_root()
        finally:
            self._end_watch()

    # --- looking --------------------------------------------------------------------------------

    def _look(self, root: Root, watch: Watch) -> str:
        """Look, make durable what happened, and offer the rest; the boot id."""
        at_s, began_s = seconds_up(), time.monotonic()
        gaps = watch.gaps() if root.live else ()
        seen = observe(root, self._journal, self._snapshot, gaps=gaps)
        self._keep(seen, watch, began_s=began_s)
        self._offer(
            self._packer.pack(
                seen.snapshot,
                in_order(seen.report.findings),
                checks_version=checks_version(),
                at_s=at_s,
            )
        )
        return seen.snapshot.readings.boot_id or ""

    def _keep(self, seen: Inspection, watch: Watch, *, began_s: float) -> None:
        with suppress(JournalFull):  # the spool's status says it
            self._journal.spool.flush()
        at = now(seen.snapshot.readings.boot_id)
        self._vms.tell(seen.host, at=at)
        if self._uses.tell(seen.host, at=at):
            watch.want(want(Part.WHOLE))  # so that the checks know it soon
        settles_in_s = self._uses.settles_in_s(at=at)
        if settles_in_s is not None:
            watch.want_within(settles_in_s)
        if self._snapshot is not None:
            before = Host(self._snapshot)
            changes = tell_changes(before, seen.host, at=at)
            self._passing.explain(changes, before, seen.host, time.monotonic())
            changes += self._passing.settle(seen.host, began_s=began_s, at=at)
            if changes:
                self._journal.spool.extend(changes)
        # judged hosts are large, and the next look may be a minute away
        self._snapshot = seen.snapshot
        self._names = names_of(seen.host)
        functions = seen.host.functions
        watch.know(
            [f.address for f in functions],
            bound=[f.address for f in functions if is_vfio_bound(f)],
        )

    def _open_root(self) -> Root:
        """The host, once: it remembers which reads are blocked. A capture each time anew, because
        it may have been replaced by one of the next boot."""
        try:
            return open_root(self._path)
        except OSError as error:
            raise RootError(f"{self._path}: {error.strerror or error}") from error

    # --- noticing -------------------------------------------------------------------------------

    def _begin_watch(self, root: Root) -> Watch:
        self._end_watch()
        self._passing = Passing()
        known = self._read_place()
        how = (self._boot_id, self._interval_s, known)
        self._watch = _watch_host(*how) if root.live else _watch_capture(self._path, *how)
        return self._watch

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _read_place(self) -> Place | None:
        text = self._journal.place()
        try:
            return decode(Place, text.encode()) if text else None
        except ArtifactError as error:
            log.warning("where the kernel log was left is not known, it is told anew: %s", error)
            return None

    def _rest(self, watch: Watch, *, until: float) -> bool:
        """Tell what the kernel says until it is time to look again; True when asked to end. What
        was given to `fail` is raised."""
        wanted = False
        while True:
            if self._take_words(watch):
                return True
            left = until - time.monotonic()
            if wanted and left <= 0:
                return False
            batch = watch.wait(left if wanted else _LONG_S)
            if batch is not None:
                self._tell(batch)
                wanted = wanted or bool(batch.wanted)

    def _tell(self, batch: Batch) -> None:
        if batch.happened and self._snapshot is not None:
            happened = attribute(batch.happened, Host(self._snapshot))
            self._passing.note(happened, time.monotonic())
        at = now(self._boot_id)
        events = tell_lines(batch.events, batch.lost, names=self._names, at=at)
        place = encode(batch.place).decode("ascii")
        if events or place != self._journal.place():
            self._journal.tell(events, place=place)

    def _say(self, word: _Stop | _Soon | _Pace | BaseException) -> None:
        self._inbox.put(word)
        watch = self._watch
        if watch is not None:
            watch.wake()

    def _take_words(self, watch: Watch) -> bool:
        """What other threads asked for; True for the end."""
        while True:
            try:
                word = self._inbox.get_nowait()
            except queue.Empty:
                return False
            match word:
                case _Stop():
                    return True
                case _Soon():
                    watch.want(want(Part.WHOLE))
                case _Pace():
                    self._interval_s = word.interval_s
                    watch.set_interval(word.interval_s)
                case _:
                    raise word


def _watch_host(boot_id: str, interval_s: float, place: Place | None) -> Watch:
    return open_watch(boot_id=boot_id, interval_s=interval_s, uniform=random.uniform, place=place)


def _watch_capture(path: str, boot_id: str, interval_s: float, place: Place | None) -> Watch:
    return replay_watch(
        path, boot_id=boot_id, interval_s=interval_s, uniform=random.uniform, place=place
    )
