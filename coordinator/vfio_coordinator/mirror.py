"""From the cluster's state to the feed: which rows changed, found by what is no longer the same.

The state is made of immutable values, so a row can only have changed where the value under it is
another one; comparing identities finds them without asking who changed what, and misses none. (An
index entry follows from its node, invariant 8 of the state, so the node alone is compared.) It must
never decide what is shown: `state.report` does. Ages grow by themselves and are no change: a
row keeps the age that it was made with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from vfio_contract.views import ClusterStatus, Event, NodeView, WatchKind
from vfio_coordinator.feed import SUMMARY_KEY, Feed, RowKey
from vfio_coordinator.state import report
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.health import find_health, level_of, next_of
from vfio_coordinator.state.judge import claims_on
from vfio_coordinator.state.model import ClaimHeld, Node, State
from vfio_coordinator.state.units_report import count_units, intended_states

RECENT = 10
"""Events on the status screen."""

ClaimKey = tuple[str, int]


class Mirror:
    """Keeps `feed` equal to the state that it was last shown. Starts with nothing."""

    def __init__(self, state: State) -> None:
        self.feed = Feed(
            incarnation=state.incarnation,
            epoch=state.epoch,
            event_floor=state.log_first - 1,
            events_kept=state.limits.events_kept,
        )
        self._shown: State | None = None
        self._under: dict[str, Node] = {}
        self._claims: dict[ClaimKey, ClaimHeld] = {}
        self._units: dict[str, Counter[tuple[str, str]]] = {}
        self._totals: Counter[tuple[str, str]] = Counter()
        self._summary_of: State | None = None

    def update(self, state: State, now: Now) -> None:
        """Nodes, VMs and events as they are now. The summary waits for `update_summary`."""
        before, self._shown = self._shown, state
        touched: set[ClaimKey] = set()
        if before is None or before.nodes is not state.nodes:
            touched = self._update_nodes(state, now)
        if before is None or before.claims is not state.claims:
            touched |= self._find_claims(state)
        for key in touched:
            self._update_claim(state, key, now)
        for event in events_after(state, self.feed.newest.event_seq):
            self.feed.append(event)

    def summary_is_old(self, state: State) -> bool:
        """True when the summary may be another one."""
        known = self._summary_of
        if known is None or state.clones:
            return True  # how long ago a clone was seen is said in its words
        return any(
            was is not now
            for was, now in (
                (known.nodes, state.nodes),
                (known.log, state.log),
                (known.clones, state.clones),
                (known.mutes, state.mutes),
                (known.rewound, state.rewound),
                (known.clock_doubt, state.clock_doubt),
                (known.cert_trouble, state.cert_trouble),
                (known.notify_trouble, state.notify_trouble),
                (known.intakes, state.intakes),
                (known.census.seen, state.census.seen),
            )
        )

    def update_summary(self, state: State, now: Now, *, coordinator: str) -> None:
        """Health, counts and the newest events: looks at every node."""
        self._summary_of = state
        items = find_health(state, now)
        summary = ClusterStatus(
            cluster=state.cluster_id,
            health=level_of(items),
            coordinator=coordinator,
            revision=state.revision,
            epoch=state.epoch,
            at=now.utc,
            items=items,
            nodes=(),
            units=count_units(self._totals.elements()),
            vms=(),
            recent=newest_events(state, RECENT),
            next=next_of(items),
        )
        known = self.feed.row(SUMMARY_KEY)
        if not isinstance(known, ClusterStatus) or replace(known, at=now.utc) != summary:
            self.feed.put(SUMMARY_KEY, summary)

    def _update_nodes(self, state: State, now: Now) -> set[ClaimKey]:
        """Rows of the nodes of which a value changed; the claims that stand on those."""
        touched: set[ClaimKey] = set()
        for name in self._under.keys() - state.nodes.keys():
            del self._under[name]
            self._count(name, Counter())
            self.feed.drop(RowKey(WatchKind.NODES, name))
        for name, node in state.nodes.items():
            if self._under.get(name) is node:
                continue
            self._under[name] = node
            self._count(name, Counter(intended_states(state, node)))
            self._put_node(report.node_view(state, name, now, detail=False))
            touched |= {(claim.vm, claim.generation) for claim in claims_on(state, name)}
        return touched

    def _count(self, name: str, units: Counter[tuple[str, str]]) -> None:
        # Counter's own `+` and `-` copy the whole; these change it in place.
        self._totals.subtract(self._units.get(name, Counter()))
        self._totals.update(units)
        self._units[name] = units

    def _put_node(self, view: NodeView) -> None:
        key = RowKey(WatchKind.NODES, view.name)
        known = self.feed.row(key)
        if not isinstance(known, NodeView) or not _same_but_for_age(known, view):
            self.feed.put(key, view)

    def _find_claims(self, state: State) -> set[ClaimKey]:
        known, present = self._claims, state.claims
        gone = known.keys() - present.keys()
        return {*gone, *(key for key, held in present.items() if known.get(key) is not held)}

    def _update_claim(self, state: State, key: ClaimKey, now: Now) -> None:
        held = state.claims.get(key)
        row = RowKey(WatchKind.VMS, *key)
        if held is None:
            self._claims.pop(key, None)
            self.feed.drop(row)
            return
        self._claims[key] = held
        view = report.vm_view(state, held.claim, now)
        if self.feed.row(row) != view:
            self.feed.put(row, view)


def events_after(state: State, seq: int) -> Iterable[Event]:
    """Committed rows of the log after a number, in order, up to the first that may still land.

    A row whose outcome is not known holds back the later ones: who has read those would pass over
    it for ever.
    """
    open_rows = chain.from_iterable(write.rows for write in state.pending.values())
    end = min((row.seq for row in open_rows), default=state.next_seq)
    numbers = range(max(seq + 1, state.log_first), end)
    return (state.log[number] for number in numbers if number in state.log)


def newest_events(state: State, count: int) -> tuple[Event, ...]:
    """The newest rows of the log, newest first."""
    numbers = range(state.next_seq - 1, state.log_first - 1, -1)
    found: list[Event] = []
    for number in numbers:
        if len(found) == count:
            break
        if number in state.log:
            found.append(state.log[number])
    return tuple(found)


def _same_but_for_age(known: NodeView, view: NodeView) -> bool:
    """Never heard and heard are not the same; how long ago is."""
    was, now = (known.heard_age_s, known.evidence_age_s), (view.heard_age_s, view.evidence_age_s)
    if any((a < 0) is not (b < 0) for a, b in zip(was, now, strict=True)):
        return False
    return replace(view, heard_age_s=was[0], evidence_age_s=was[1]) == known
