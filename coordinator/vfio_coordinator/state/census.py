"""How many nodes show each health code, at which level and since when: kept as nodes change.

Values and counting alone: `standing_codes` says when they change and what of it is durable. One
node is counted once under a code, at the worst level that it shows. What concerns no single node's
evidence (a refused clone, the store, the clock) is counted under a mark of its own, which can be no
node's name. Nothing here may cost time in proportion to the cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from immutables import Map

Shown = tuple[tuple[str, str], ...]
"""(code, level) of one node, each code once, by code."""


@dataclass(frozen=True, slots=True)
class CodeCount:
    """Nodes that show a code as ERR, and those that show it as WARN at worst."""

    err: int = 0
    warn: int = 0

    @property
    def nodes(self) -> int:
        """All of them."""
        return self.err + self.warn


@dataclass(frozen=True, slots=True)
class Seen:
    """A code that is shown, or was until lately.

    `since` is when it was first seen, UTC. `began_s` is when this process saw it first and
    `gone_s` when the last node stopped to show it (inf while one does), both monotonic. `durable`
    says that the store holds it; `txn` is the write in flight, 0 for none.
    """

    since: str
    began_s: float
    gone_s: float = math.inf
    durable: bool = False
    txn: int = 0


@dataclass(frozen=True, slots=True)
class Census:
    """What every node shows, the counts that follow, and since when."""

    shown: Map[str, Shown] = field(default_factory=Map)
    counts: Map[str, CodeCount] = field(default_factory=Map)
    seen: Map[str, Seen] = field(default_factory=Map)
    marks: frozenset[str] = frozenset()

    def count(self, code: str) -> CodeCount:
        """How many show it; none is a count like any other."""
        return self.counts.get(code, CodeCount())

    def level(self, code: str, node: str = "") -> str:
        """ERR, WARN or "" where nobody shows it; of all, or of what concerns one node."""
        if not node:
            count = self.count(code)
            return "ERR" if count.err else "WARN" if count.warn else ""
        rows = (*self.shown.get(node, ()), *self.shown.get(mark_of(node), ()))
        return min((level for shown, level in rows if shown == code), default="")


def mark_of(scope: str) -> str:
    """The name under which something is counted that is no node's evidence."""
    return f"+{scope}"


def worst_of(rows: Iterable[tuple[str, str]]) -> Shown:
    """Each code once, at its worst level: ERR sorts before WARN."""
    worst: dict[str, str] = {}
    for code, level in rows:
        worst[code] = min(level, worst.get(code, level))
    return tuple(sorted(worst.items()))


def count_shown(census: Census, name: str, shown: Shown) -> tuple[Census, tuple[str, ...]]:
    """The census with what this node shows now, and the codes that changed for it."""
    before = census.shown.get(name, ())
    if shown == before:
        return census, ()
    was, now = dict(before), dict(shown)
    changed = tuple(code for code in {**was, **now} if was.get(code) != now.get(code))
    counts = census.counts
    for code in changed:
        count = counts.get(code, CodeCount())
        count = _add(_add(count, was.get(code, ""), -1), now.get(code, ""), 1)
        counts = counts.set(code, count) if count.nodes else counts.delete(code)
    kept = census.shown.set(name, shown) if shown else census.shown.delete(name)
    return replace(census, shown=kept, counts=counts), changed


def _add(count: CodeCount, level: str, step: int) -> CodeCount:
    if not level:
        return count
    if level == "ERR":
        return replace(count, err=count.err + step)
    return replace(count, warn=count.warn + step)
