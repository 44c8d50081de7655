"""What of a node's conditions makes an incident, and what had changed on the node before.

Of all conditions those matter that somebody must act on: harm, holds that wait for a person, reset
histories that refuse, and silence. A finding that was there at the baseline too makes none: health
tells it. Of a node that was never accepted everything is news that fails a gate of a device which
somebody wants to pass through. What merely follows is told with what it follows from: addresses to
edit with the harm that came with the same change, a narrower silence with a wider one. Silence is a
matter of its own, of which nothing on the host is suspected: what a node said before it fell silent
proves nothing about why. Pure over one node; nothing here decides what belongs together.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from vfio_contract import codes
from vfio_contract.drift import CONSEQUENCES, Consequence
from vfio_contract.findings import Verdict
from vfio_coordinator.state.acceptance import wanted_standings
from vfio_coordinator.state.cohorts import AGENT, CHECKS
from vfio_coordinator.state.conditions import CHANGED, ERR, WARN, Condition, conditions_of
from vfio_coordinator.state.incident_records import Suspect
from vfio_coordinator.state.judge import SPENT, claims_on, list_texts
from vfio_coordinator.state.model import Judgement, Node, Presence, State

SILENCE = frozenset(
    {
        codes.NODE_LOST.name,
        codes.HOSTD_AWAY.name,
        codes.JOURNAL_FAILED.name,
        codes.SPOOL_FULL.name,
    }
)
"""What says that we do not see enough, not what is wrong with the host's passthrough."""

_WIDER = {
    codes.HOSTD_AWAY.name: (codes.NODE_LOST.name,),
    codes.JOURNAL_FAILED.name: (codes.NODE_LOST.name, codes.HOSTD_AWAY.name),
    codes.SPOOL_FULL.name: (codes.NODE_LOST.name, codes.HOSTD_AWAY.name),
}
"""Silences in which a narrower one is contained: nobody can say more than the wider one does."""

_HARMS = tuple(code for code, what in CONSEQUENCES.items() if what is Consequence.CORDONS)

_STALE = (codes.VM_ADDRESS_STALE.name, codes.MAPPING_STALE.name)
"""What follows from the change that did the harm, where there is harm."""

NEVER_ACCEPTED = Suspect("baseline", "", "none")
"""What stands for what changed on a node of which nothing was ever known as good."""

_PASSING = frozenset({codes.REVALIDATING.name, codes.EVENTS_LOST.name})
"""Holds that end by themselves."""

_RESETS = frozenset({"RESET_FAILED", "RESET_WEDGED"})
"""What the reset-history check says of a device that must not be given away."""

MAX_TEXT = 200
"""Characters of what was seen, in a record; the node itself says all of it."""

MAX_VALUE = 200
"""Bytes of a suspect's value as a record holds it; a longer one stands as its digest. A control
character is six there."""

_DIGEST = "sha256:"

_ON = " ..."

_MAX_VMS = 32
"""VMs in one node's record."""


@dataclass(frozen=True, slots=True)
class Matter:
    """What a node shows under one code; `also` are codes that are told with it."""

    level: str
    text: str
    also: tuple[str, ...] = ()


def matters_of(state: State, node: Node) -> dict[str, Matter]:
    """By code, what makes incidents on this node as far as is known now.

    What rests on evidence is there only while the evidence is fresh.
    """
    judgement = node.judgement
    if judgement is None:
        return {}
    found = _shown(state, node, judgement)
    if node.baseline is None:
        for code, text in _unaccepted(node, judgement).items():
            found.setdefault(code, Matter(ERR, _cut(text)))
    if not found:
        return found
    known = state.incidents.membership_of(node.name)
    for code in found.keys() & _WIDER.keys():
        if is_contained(judgement, code, {*found, *known}):
            del found[code]
    return _with_stale(found, known)


def is_contained(judgement: Judgement, code: str, shown: Collection[str]) -> bool:
    """True for a silence of which a wider one says all that can be said: the node shows that, or
    showed it and nothing vouches for its end."""
    wider = (w for w in _WIDER.get(code, ()) if w in shown)
    return any(not can_tell(judgement, w) for w in wider)


def _with_stale(found: dict[str, Matter], known: Collection[str]) -> dict[str, Matter]:
    """Lines to edit are told with the harm, unless the node is in an incident of them already."""
    also = tuple([code for code in _STALE if code in found and code not in known])
    harm = next((code for code in _HARMS if code in found), "") if also else ""
    if harm:
        found = {code: matter for code, matter in found.items() if code not in also}
        found[harm] = replace(found[harm], text=add_codes(found[harm].text, also), also=also)
    return found


def told_with(state: State, node: Node, code: str) -> tuple[str, ...]:
    """The codes that are told with this one on the node. Cheap where there is none."""
    holds = node.judgement.holds if node.judgement is not None else ()
    if not any(hold.code in _STALE for hold in holds):
        return ()
    matter = matters_of(state, node).get(code)
    return matter.also if matter is not None else ()


def add_codes(text: str, also: Sequence[str]) -> str:
    """What was seen, and the codes that are told with it."""
    more = f"; with it {' '.join(also)}" if also else ""
    return _cut(text, MAX_TEXT - len(more)) + more


def _cut(text: str, most: int = MAX_TEXT) -> str:
    """No longer than that; one that goes on says so."""
    return text if len(text) <= most else f"{text[: most - len(_ON)]}{_ON}"


def _unaccepted(node: Node, judgement: Judgement) -> dict[str, str]:
    """By code, what fails a gate of an intended or claimed unit of a node without a baseline."""
    if node.baseline is not None or not judgement.fresh:
        return {}
    rows: dict[str, list[str]] = {}
    for standing in wanted_standings(node):
        for refusing in standing.refusing:
            if refusing.verdict is Verdict.FAIL and refusing.code != SPENT:
                rows.setdefault(refusing.code, []).append(refusing.told)
    return {code: list_texts(texts) for code, texts in rows.items()}


def _shown(state: State, node: Node, judgement: Judgement) -> dict[str, Matter]:
    """What matters of its conditions, by code."""
    waits = {hold.code for hold in judgement.holds} - _PASSING
    lifted = _lifted(node, judgement) - waits
    found: dict[str, Matter] = {}
    for condition in conditions_of(node):
        known = found.get(condition.code)
        over = condition.rank == CHANGED and condition.code in lifted
        if over or not _matters(condition, waits) or (known is not None and known.level == ERR):
            continue
        vouched = judgement.fresh or condition.code in SILENCE
        if vouched and (known is None or condition.level == ERR):
            found[condition.code] = Matter(condition.level, _cut(_lasting(condition)))
    intake = state.intakes.get(node.name)
    if intake is not None and intake.status.code in SILENCE:
        found.setdefault(intake.status.code, Matter(ERR, _cut(intake.status.text)))
    return found


def _lifted(node: Node, judgement: Judgement) -> set[str]:
    """Codes of cordons whose causes are gone: they are being lifted and say nothing of now."""
    cordons = node.admin.cordons if node.admin is not None else ()
    own = {cordon.code for cordon in cordons if cordon.owner.startswith("auto:")}
    return own - {cause.code for cause in judgement.causes} if judgement.fresh else set()


def _lasting(condition: Condition) -> str:
    """What was seen, in words that stay true: a record is read much later."""
    if condition.code != codes.NODE_LOST.name:
        return condition.text
    _, mark, rest = condition.text.partition("; ")
    return f"its agent is silent{mark}{rest}"


def _matters(condition: Condition, waits: set[str]) -> bool:
    if condition.code in _RESETS or condition.code in SILENCE:
        return True
    if condition.rank != CHANGED:
        return False
    return condition.level == ERR or (condition.level == WARN and condition.code in waits)


def can_tell(judgement: Judgement, code: str) -> bool:
    """True where the node's not showing this code now proves that it is over."""
    if code == codes.NODE_LOST.name:
        return judgement.presence is Presence.HEARD
    return judgement.fresh


def suspects_of(node: Node, code: str) -> tuple[Suspect, ...]:
    """What changed on the node since its baseline in force; () where nothing did, where that is
    not known, and for silence. In the order of the firmware tuple, versions of ours last. Of what a
    node came with, that nobody ever accepted it."""
    baseline = node.baseline
    if code in SILENCE or node.judgement is None:
        return ()
    if baseline is None:
        # a reset that failed is an event of its moment, not what the node came with
        new = code not in _RESETS and code in _unaccepted(node, node.judgement)
        return (NEVER_ACCEPTED,) if new else ()
    found = {
        d.change.detail: (d.change.before, d.change.after)
        for d in node.drift
        if d.change.code == codes.FIRMWARE_CHANGED.name
    }
    known, session, observation = baseline.record, node.session, node.observation
    if session is not None and known.agent_version not in ("", session.agent_version):
        found[AGENT] = (known.agent_version, session.agent_version)
    if observation is not None and known.checks_version != observation.checks_version:
        found[CHECKS] = (known.checks_version, observation.checks_version)
    return tuple(
        Suspect(part, shorten(before), shorten(after)) for part, (before, after) in found.items()
    )


def shorten(value: str) -> str:
    """A value as suspects hold it: a host may say anything, at any length."""
    if len(value) <= MAX_VALUE and len(json.dumps(value)) <= MAX_VALUE + 2:  # its quotes
        return value
    return _DIGEST + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def is_shortened(value: str) -> bool:
    """True where only the digest of a value is kept."""
    return value.startswith(_DIGEST)


def vms_of(state: State, node: Node, code: str, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The VMs with a claim on the node that these codes concern, all of them for silence; and the
    host's own whose configuration is to be edited."""
    judgement = node.judgement
    if judgement is None or not (node.held or node.stale):
        return ()
    if code in SILENCE:
        found = {claim.vm for claim in claims_on(state, node.name)}
    else:
        told = (code, *also)
        found = {vm for cause in judgement.causes if cause.code in told for vm in cause.vms}
        found |= {vm for vm, why in judgement.at_risk if why.partition(": ")[0] in told}
        lines = (line for line in node.stale if line.code in told)
        found |= {line.owner[3:] for line in lines if line.owner.startswith("vm ")}
    return tuple(sorted(found)[:_MAX_VMS])
