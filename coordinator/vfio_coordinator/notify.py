"""Tells people of incidents, and of what puts the cluster itself in doubt: one notification each,
to every target that wants it.

Each target has its own queue and its own task, so that one that hangs delays nobody else, and
nothing here ever makes the state or the store wait. What fails is tried again with full jitter;
after `ATTEMPTS` it is given up. What comes faster than a bucket allows is told together, in one
digest. The outcome goes back once per notification: told when at least one target took it and the
others were given up, or when nobody wants it; else the state keeps it for later. Ids repeat after a
crash and are otherwise unique, also where a backup of the store was put back and incidents are
numbered again, so a receiver can drop what it had. Who is to be told of what was decided by the
state.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from vfio_contract.incident_views import IncidentView
from vfio_coordinator.admission import Allowance
from vfio_coordinator.notify_config import AnyTarget
from vfio_coordinator.notify_delivery import deliver
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import NotifyEnded

log = logging.getLogger("vfio-coordinator")

SCHEMA = "vfioctl.notify/v1"

ATTEMPTS = 8
FIRST_S = 2.0
LONGEST_S = 120.0
"""Full jitter up to 2, 4, 8 ... 120 s between tries: 246 s at worst, beside 8 timeouts of 10 s
(60 s at most): given up after 326 s (726 s)."""

AT_ONCE = 10
PER_S = 1 / 60
"""Ten at once, then one a minute: a person reads no more."""

WAITING = 1_000
"""For one target. What is over is refused, and the state tries it again later."""

LISTED = 20
"""Incidents named in a digest."""


@dataclass(eq=False, slots=True)
class _Notice:
    """One notification on its way; `open` targets have not said yet, `failed` gave up."""

    effect: Notify
    open: set[str]
    taken: bool = False
    failed: list[str] = field(default_factory=list)


class Notifier:
    """See the module. Lives on one event loop. `ended` gets one event for each `tell`.

    `name` gives the cluster's id and incarnation, for the ids of notifications.
    """

    def __init__(
        self,
        targets: Sequence[AnyTarget],
        ended: Callable[[NotifyEnded], None],
        name: Callable[[], tuple[str, int]],
    ) -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._lines = [_Line(target, self._settle, name) for target in targets]

    def start(self) -> None:
        """Begin to deliver."""
        for line in self._lines:
            line.start()

    async def stop(self) -> None:
        """Deliver nothing any more; what was not told is told after the next start."""
        for line in self._lines:
            await line.stop()

    def tell(self, effect: Notify) -> None:
        """Queue it for whoever wants it; never waits."""
        incident = effect.incident
        lines = [
            line
            for line in self._lines
            if line.target.wants(level=incident.level, code=incident.code)
        ]
        notice = _Notice(effect, {line.target.name for line in lines})
        if not lines:
            self._loop.call_soon(self._end, notice)
        for line in lines:
            line.put(notice)

    def _settle(self, notice: _Notice, target: AnyTarget, problem: str) -> None:
        notice.open.discard(target.name)
        if problem:
            notice.failed.append(f"{target.name}: {problem}")
        else:
            notice.taken = True
        if not notice.open:
            self._loop.call_soon(self._end, notice)

    def _end(self, notice: _Notice) -> None:
        detail = "; ".join(notice.failed)
        if detail:
            log.warning("notify %s: given up: %s", notice.effect.stamp, detail)
        ok = notice.taken or not notice.failed
        incident = notice.effect.incident.id
        self._ended(NotifyEnded(incident=incident, stamp=notice.effect.stamp, ok=ok, detail=detail))


Settle = Callable[[_Notice, AnyTarget, str], None]


class _Line:
    """One target: what waits for it, how fast it may be told, and the task that does."""

    def __init__(
        self, target: AnyTarget, settle: Settle, name: Callable[[], tuple[str, int]]
    ) -> None:
        self.target = target
        self._settle = settle
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Notice] = deque()
        self._news = asyncio.Event()
        # what is charged may be a debt: the last one at once is one
        self._bucket = Allowance(rate=PER_S, burst=AT_ONCE - 1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """Stop; a try that is under way is cut off."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def put(self, notice: _Notice) -> None:
        """Queue it, or refuse it when too many wait."""
        if len(self._waiting) >= WAITING:
            self._settle(notice, self.target, f"{WAITING} others wait")
            return
        self._waiting.append(notice)
        self._news.set()

    async def _go_on(self) -> None:
        while True:
            await self._news.wait()
            wait_s = self._bucket.wait_s(self._loop.time())
            if wait_s:
                # Meanwhile more may come: all of it goes out together.
                await asyncio.sleep(wait_s)
            many = list(self._waiting) if wait_s else [self._waiting[0]]
            for _ in many:
                self._waiting.popleft()
            if not self._waiting:
                self._news.clear()
            self._bucket.charge(1.0, self._loop.time())
            problem = await self._deliver(many)
            for notice in many:
                self._settle(notice, self.target, problem)

    async def _deliver(self, many: Sequence[_Notice]) -> str:
        """Try until it is taken; "" then, else why the last try failed."""
        cluster, incarnation = self._name()
        effects = [notice.effect for notice in many]
        document = make_document(effects, cluster=cluster, incarnation=incarnation)
        longest_s, problem = FIRST_S, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0, longest_s))
                longest_s = min(2 * longest_s, LONGEST_S)
            try:
                problem = await deliver(self.target, document)
            except Exception:  # a fault of ours must not end the task: others wait behind this
                log.exception("notify %s", self.target.name)
                problem = "it could not be tried; the coordinator's log says why"
            if not problem:
                return ""
        return problem


def make_document(effects: Sequence[Notify], *, cluster: str, incarnation: int) -> bytes:
    """The JSON of one notification, or of several told together; a line, ASCII alone."""
    prefix = f"{cluster}/{incarnation}"
    if len(effects) == 1:
        (effect,) = effects
        kind = "incident" if effect.incident.id else "cluster"
        told: dict[str, object] = {"kind": kind, "reason": effect.reason}
        told |= {**_brief(effect, prefix), "incident": asdict(effect.incident)}
    else:
        shown = sorted(effects, key=lambda e: (e.incident.level != "ERR", -e.incident.nodes))
        first, more = shown[0], len(effects) - 1
        stamps = " ".join(sorted(e.stamp for e in effects))
        told = {
            "kind": "digest",
            **_brief(first, prefix),
            "id": f"{prefix}/{sha256(stamps.encode()).hexdigest()[:16]}",
            "text": f"{_line(first.incident)} and {more} more",
            "count": len(effects),
            "incidents": [{"reason": e.reason, **_brief(e, prefix)} for e in shown[:LISTED]],
        }
    document = _escaped({"schema": SCHEMA, "cluster": cluster, **told})
    return json.dumps(document).encode("ascii") + b"\n"


def _escaped(value: Any) -> Any:
    """Without control characters in any text: much of it came from hosts."""
    if isinstance(value, str):
        return "".join(
            c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
            for c in value
        )
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value


def _brief(effect: Notify, prefix: str) -> dict[str, object]:
    incident = effect.incident
    return {
        "id": f"{prefix}/{effect.stamp}",
        "level": incident.level,
        "code": incident.code,
        "text": _line(incident),
    }


def _line(incident: IncidentView) -> str:
    if not incident.id:
        where = f" on {incident.first_node}" if incident.first_node else ""
        return f"{incident.code}{where}: {incident.text}"
    nodes = f"{incident.nodes} node{'s' if incident.nodes != 1 else ''}"
    return f"{incident.id} {incident.code} on {nodes}: {incident.text}"
