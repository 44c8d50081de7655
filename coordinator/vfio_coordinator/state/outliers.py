"""Nodes that are isolated unlike their peers: one machine in twelve with other firmware settings.

Peers are nodes of one cohort: the same board, BIOS, kernel and cards in the same places. Only there
should groups, resets and ACS be the same, so only there a difference says anything: with other
cards in the slots, other groups are as they should be. A claim needs three in four that agree, of
those of which the aspect is known, and so four nodes at least: of three, the one that differs may
as well be right. A cohort of one or an even split claims nothing, and which side is right is not
decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vfio_contract.address import Address
from vfio_contract.codes import PEER_OUTLIER
from vfio_contract.host import Host
from vfio_contract.views import Reason
from vfio_coordinator.scheduler.names import Names
from vfio_coordinator.state.cohorts import COHORT, Cohorts
from vfio_coordinator.state.drift import host_of, unpack_facts
from vfio_coordinator.state.isolation import (
    ACS,
    ASPECTS,
    GROUPS,
    NO_GROUP_AT_ALL,
    RESETS,
    Isolation,
    isolation_of,
)
from vfio_coordinator.state.judge import list_texts
from vfio_coordinator.state.model import Presence, State

_MOST = 4
"""Differences named in a line."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """`node` differs in these aspects from `peers` nodes that agree; `like` is one of them."""

    node: str
    aspects: tuple[str, ...]
    peers: int
    like: str

    @property
    def text(self) -> str:
        """In a few words; `describe` says what differs."""
        return f"{' and '.join(self.aspects)} not as on {self.peers} peers such as {self.like}"


def find_outliers(state: State) -> tuple[Outlier, ...]:
    """Every outlier whose evidence vouches for it now, by name."""
    found: dict[str, list[tuple[str, Names]]] = {}
    for key in sorted(state.cohorts.uneven):
        agreed = _majority(state.cohorts, key)
        if agreed is None:
            continue
        digest, peers = agreed
        for other, names in state.cohorts.alike[key].items():
            for name in names if other != digest else ():
                found.setdefault(name, []).append((key[1], peers))
    rows = (_made(name, rows) for name, rows in sorted(found.items()) if _vouched(state, name))
    return tuple(rows)


def find_outlier(state: State, name: str) -> Outlier | None:
    """The node as an outlier, None where it is none or nothing can be claimed."""
    traits = state.cohorts.traits_of(name)
    cohort = traits.value(COHORT) if traits is not None else None
    if traits is None or cohort is None or not _vouched(state, name):
        return None
    rows = []
    for aspect in ASPECTS:
        agreed = _majority(state.cohorts, (cohort, aspect))
        own = traits.value(aspect)
        if agreed is not None and own is not None and own != agreed[0]:
            rows.append((aspect, agreed[1]))
    return _made(name, rows) if rows else None


def _majority(cohorts: Cohorts, key: tuple[str, str]) -> tuple[str, Names] | None:
    """The digest that at least three in four have, with its nodes; None where there is none."""
    if key not in cohorts.uneven:
        return None
    inner = cohorts.alike[key]
    total = sum(names.size for names in inner.values())
    digest = max(inner, key=lambda one: (inner[one].size, one))
    names = inner[digest]
    return (digest, names) if names.size * 4 >= total * 3 else None


def _made(name: str, rows: list[tuple[str, Names]]) -> Outlier:
    order = sorted(rows, key=lambda row: ASPECTS.index(row[0]))
    fewest = min((names for _, names in order), key=lambda names: names.size)
    return Outlier(name, tuple(aspect for aspect, _ in order), fewest.size, fewest.first)


def _vouched(state: State, name: str) -> bool:
    judgement = state.nodes[name].judgement
    return judgement is not None and judgement.presence is Presence.HEARD and judgement.fresh


# --- what differs, in words ----------------------------------------------------------------------


def describe(state: State, outlier: Outlier) -> tuple[str, ...]:
    """A line for each aspect: which devices differ, and how they are on the peer.

    Works on both inventories: only on demand.
    """
    here, there = _host_of(state, outlier.node), _host_of(state, outlier.like)
    if here is None or there is None:
        return ()
    own, other = isolation_of(here), isolation_of(there)
    lines = []
    for aspect in outlier.aspects:
        texts = tuple(_differences(aspect, _Side(here, own), _Side(there, other)))
        if texts:
            listed = list_texts(texts, most=_MOST)
            lines.append(f"{aspect} differ from {outlier.peers} peers ({outlier.like}): {listed}")
    return tuple(lines)


def _host_of(state: State, name: str) -> Host | None:
    inventory = state.nodes[name].inventory
    return host_of(unpack_facts(inventory.facts_zlib)) if inventory is not None else None


def outlier_reasons(state: State, name: str) -> tuple[Reason, ...]:
    """For the node's own screen, after what else is said of it; () for no outlier."""
    found = find_outlier(state, name)
    lines = describe(state, found) if found is not None else ()
    code = PEER_OUTLIER.name
    return tuple(Reason(code, f"auto:{code}", line) for line in lines)


class _Side:
    """A host's tables, and its addresses by place."""

    def __init__(self, host: Host, isolation: Isolation) -> None:
        self.isolation = isolation
        self._addresses: dict[str, Address] = {
            host.identities[f.address].place: f.address for f in host.functions
        }

    def address(self, place: str) -> str:
        return self._addresses.get(place, place)


def _differences(aspect: str, here: _Side, there: _Side) -> Iterator[str]:
    own, other = here.isolation[aspect], there.isolation[aspect]
    if own is None or other is None:
        return
    for place in sorted(own.keys() & other.keys(), key=here.address):
        if own[place] != other[place]:
            words = _WORDS[aspect]
            was, is_now = words(other[place], there), words(own[place], here)
            yield f"{here.address(place)} {is_now}, there {was}"


def _group_words(members: tuple[str, ...], side: _Side) -> str:
    if members == NO_GROUP_AT_ALL:
        return "in no group"
    listed = " ".join(sorted(side.address(place) for place in members))
    return f"with {listed}" if listed else "alone"


def _reset_words(found: tuple[str, ...], _side: _Side) -> str:
    return f"reset {' '.join(found)}"


def _acs_words(hops: tuple[str, ...], _side: _Side) -> str:
    return f"ACS {' '.join(hop or 'none' for hop in hops)}"


_WORDS = {GROUPS: _group_words, RESETS: _reset_words, ACS: _acs_words}
