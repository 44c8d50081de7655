"""What a node's evidence amounts to: its state, why, and what automation would cordon it for.

Pure over the state and the moment; `admin` writes what follows. The decisions, in one place:

- A cause is a harming change on an intended or claimed unit (GROUP_WIDENED, BINDING_LOST,
  RESET_LOST, ACS_CLEARED, DEVICE_VANISHED), a claimed function that is gone, or a regression: an
  intended unit that passed every gate at the baseline and FAILs one now under the same version of
  the checks. It is looked for only while the evidence is fresh, so that silence neither cordons
  nor lifts.
- PASS -> UNKNOWN is no regression: nothing proves that anything got worse. The node is revalidating
  while an intended unit that passed at the baseline cannot be judged: no new placements, never
  shown healthy, no cordon, and it returns by itself.
- Nor is a fact that the baseline knows and the inventory does not tell equal to it. Where that may
  hide harm to an intended or claimed unit, the node is revalidating until it is told or accepted.
- What a class of drift leads to is one table, `drift.CONSEQUENCES`: harms cordon, some wait for a
  person (`baseline accept`), all others are flags, nothing more.
- A claim that names an address which its device left (VM_ADDRESS_STALE) waits for its release, a
  line of the host's own VM configurations or mappings (MAPPING_STALE too) for its edit. Until then
  the node is revalidating.
- A machine that has another node name which stands before this one (`machines`) takes nothing
  under this one.
- A risk decision that ended under a claim is told, and changes nothing else: the VM runs on.
- BINDING_LOST does not count where the driver-binding gate passes now: the hypervisor binds there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfio_contract import codes
from vfio_contract.drift import CONSEQUENCES, Consequence, describe
from vfio_contract.findings import Verdict
from vfio_contract.views import Reason
from vfio_coordinator.scheduler.risk import name_end
from vfio_coordinator.state.events import Now
from vfio_coordinator.state.machines import twice_reason
from vfio_coordinator.state.model import Cause, Drift, Judgement, Node, Presence, State
from vfio_coordinator.state.presence import (
    AFTER_LOSS,
    AWAY,
    blindness_of,
    evidence_age,
    heard_age,
    is_fresh,
    is_stale,
    missing_evidence,
    presence_of,
    span,
)
from vfio_coordinator.state.records import Claim

_HOLDING = frozenset(code for code, what in CONSEQUENCES.items() if what is Consequence.HOLDS)
_AUTO = "auto:"
SPENT = "RESET_SPENT"
"""A one-shot device that was used in this boot: as expected, no regression."""


def judge(state: State, node: Node, now: Now) -> Judgement:
    """The node's judgement at this moment."""
    presence = presence_of(state, node, now)
    fresh = presence is Presence.HEARD and is_fresh(state, node, now)
    claims = claims_on(state, node.name)
    causes = tuple(_causes(node, claims)) if fresh else ()
    twice = twice_reason(state, node) if presence is not Presence.LOST else None
    holds = (*((twice,) if twice is not None else ()), *_holds(node, claims, fresh=fresh))
    silence = _silence(state, node, claims, now, presence)
    stale = presence is Presence.HEARD and not missing_evidence(node) and is_stale(state, node, now)
    blind = blindness_of(state, node) if presence is Presence.HEARD else ""
    if blind:
        code = codes.HOSTD_AWAY if blind == AWAY else codes.REVALIDATING
        silence = (_reason(code.name, blind),)
    elif stale:
        age = span(evidence_age(node, now))
        silence = (_reason(codes.REVALIDATING.name, f"its newest evidence is {age} old"),)
    cordons = node.admin.cordons if node.admin is not None else ()
    shown = tuple(
        Reason(c.code, c.owner, c.text, c.at)
        for c in sorted(cordons, key=lambda c: (c.owner, c.at))
    )
    if presence is Presence.LOST:
        name = "lost"
    elif cordons:
        name = "cordoned"
    elif silence or holds:
        name = "revalidating"
    else:
        name = "ready"
    stage, why = "", ""
    if silence:
        stage, why = "heard", silence[0].text
    elif name != "ready":
        first = (*shown, *holds)[0]
        stage, why = "admitted", f"{name} ({first.owner}): {first.text}"
    return Judgement(
        state=name,
        stage=stage,
        why=why,
        presence=presence,
        fresh=fresh,
        holds=holds,
        causes=causes,
        reasons=(*silence, *shown, *holds, *_flags(node), *_ended_risks(node, claims)),
        at_risk=tuple(_at_risk(node, claims, causes, silence)),
    )


def claims_on(state: State, node: str) -> list[Claim]:
    """The confirmed claims on a node, by VM and generation."""
    held = state.nodes[node].held.values() if node in state.nodes else ()
    wanted = sorted({(h.vm, h.generation) for h in held if not h.pending})
    return [state.claims[key].claim for key in wanted if key in state.claims]


def validated_boot(node: Node, judgement: Judgement) -> str:
    """The boot id that the durable record should name: this one once nothing speaks against it."""
    known = node.admin.boot_id if node.admin is not None else ""
    waived = node.admin.waived if node.admin is not None else ()
    open_causes = [c for c in judgement.causes if c.key not in waived]
    blocking = [r for r in judgement.holds if r.text not in (_BOOT_PENDING, _ADMIN_PENDING)]
    if not judgement.fresh or open_causes or blocking:
        return known
    return node.boot_id


_BOOT_PENDING = "this boot is not validated"
_ADMIN_PENDING = "its admin record is being written"


def _silence(
    state: State, node: Node, claims: list[Claim], now: Now, presence: Presence
) -> tuple[Reason, ...]:
    if presence is Presence.HEARD:
        return ()
    age = heard_age(state, node, now)
    said = "not heard since the coordinator's start" if age < 0 else f"heard {span(age)} ago"
    if presence is Presence.UNHEARD:
        return (_reason(codes.NODE_UNHEARD.name, said),)
    vms = "VM" if len(claims) == 1 else f"{len(claims)} VMs"
    running = f"; its {vms} may still run" if claims else ""
    return (_reason(codes.NODE_LOST.name, f"lost: {said}{running}"),)


def _holds(node: Node, claims: list[Claim], *, fresh: bool) -> Iterator[Reason]:
    """What keeps a node that is heard from taking placements, other than a cordon."""
    missing = missing_evidence(node)
    if missing and node.session is not None:
        lost = missing == AFTER_LOSS
        yield _reason(codes.EVENTS_LOST.name if lost else codes.REVALIDATING.name, missing)
    if fresh:
        yield from _objections(node, claims)
    if node.admin is None or node.admin_txn:
        yield _reason(codes.REVALIDATING.name, _ADMIN_PENDING)
    elif node.boot_id and node.admin.boot_id != node.boot_id:
        yield _reason(codes.REVALIDATING.name, _BOOT_PENDING)


def _objections(node: Node, claims: list[Claim]) -> Iterator[Reason]:
    """What complete and fresh evidence says against placements, short of a cordon."""
    if not _is_complete(node):
        text = "the list of its PCI functions could not be read; waits for: one that can be"
        yield _reason(codes.EVIDENCE_LOST.name, text)
    if node.doubt is not None:
        yield node.doubt
    yield from _stale_addresses(node, claims)
    yield from _stale_lines(node)
    held: dict[str, list[str]] = {}
    for drift in node.drift:
        if drift.change.code in _HOLDING and drift.units:
            text = f"{describe(drift.change)}{_affects(_vms_named(node, drift, claims))}"
            held.setdefault(drift.change.code, []).append(text)
    for code, texts in held.items():
        text = f"{list_texts(texts)}; waits for: vfioctl baseline accept {node.name}"
        yield _reason(code, text)
    unread = unread_facts(node)
    if unread:
        text = f"cannot be compared with the baseline: {list_texts(unread)}"
        text += f"; waits for: evidence (vfioctl check --node {node.name}),"
        text += f" or vfioctl baseline accept {node.name} --force"
        yield _reason(codes.EVIDENCE_LOST.name, text)
    unknown = sorted(_unjudged_units(node))
    if unknown:
        text = f"passed at the baseline and cannot be judged now: {' '.join(unknown)}"
        text += f"; waits for: evidence (vfioctl check --node {node.name})"
        yield _reason(codes.EVIDENCE_LOST.name, text)


def unread_facts(node: Node) -> tuple[str, ...]:
    """What may hide harm to an intended or claimed unit because it is not told now, in words."""
    rows = [row for row in node.unread if row.may_harm and row.units]
    return tuple(dict.fromkeys(f"{row.fact} of {row.address}" for row in rows))


def _stale_lines(node: Node) -> Iterator[Reason]:
    """One reason a code for the lines that a person has to edit."""
    for code in dict.fromkeys(reference.code for reference in node.stale):
        rows = [reference for reference in node.stale if reference.code == code]
        text = f"{list_texts(row.text for row in rows)}; waits for: the edit"
        if any(row.newer for row in rows):
            text += f", or where a line is right vfioctl baseline accept {node.name} --force"
        yield _reason(code, text)


def _stale_addresses(node: Node, claims: list[Claim]) -> Iterator[Reason]:
    found = addresses_of(node)
    for claim in claims:
        moved = [
            f"{address}; that device is {now} now"
            for identity, place, address in _places(claim)
            if (now := found.get(identity) or found.get(place)) is not None and now != address
        ]
        if moved:
            text = f"{claim.vm} names {list_texts(moved, most=1)}"
            text += f"; waits for: vfioctl vm release {claim.vm}"
            yield _reason(codes.VM_ADDRESS_STALE.name, text)


def _unjudged_units(node: Node) -> Iterator[str]:
    comparable = node.baseline is not None and node.doubt is None
    passed = node.baseline.record.passed if node.baseline is not None and comparable else ()
    for standing in node.standings:
        known = node.accepted_id(standing.layout.id) in passed
        if known and standing.verdict is Verdict.UNKNOWN:
            yield f"{standing.layout.id} ({standing.refusing[0].reason})"


def _causes(node: Node, claims: list[Claim]) -> Iterator[Cause]:
    seen: set[str] = set()
    drifted: set[str] = set()
    for drift in node.drift:
        if drift.change.harms and drift.units and not _is_deferred(node, drift):
            drifted.update(drift.units)
            cause = _drift_cause(node, drift, claims)
            if cause.key not in seen:
                seen.add(cause.key)
                yield cause
    found = addresses_of(node)
    for claim in claims if _is_complete(node) else ():
        for identity, place, address in _places(claim):
            key = f"{codes.DEVICE_VANISHED.name} {identity}"
            if identity not in found and place not in found and key not in seen:
                seen.add(key)
                text = f"{address}, claimed by {claim.vm}, is not in the inventory"
                yield Cause(codes.DEVICE_VANISHED.name, key, text, (claim.vm,))
    for cordon in node.admin.cordons if node.admin is not None else ():
        for key in cordon.causes:
            if key in node.undecided and key not in seen:
                seen.add(key)
                yield Cause(cordon.code, key, f"cannot be told now; before: {cordon.text}", ())
    yield from _regressions(node, claims, drifted)


def _regressions(node: Node, claims: list[Claim], drifted: set[str]) -> Iterator[Cause]:
    """Units that passed at the baseline and fail now; what already cordons stays until they pass.

    A change of the checks' version makes no new regression, and lifts none either.
    """
    baseline, observation = node.baseline, node.observation
    if baseline is None or observation is None or node.doubt is not None:
        return
    cordons = node.admin.cordons if node.admin is not None else ()
    known = {key for cordon in cordons for key in cordon.causes}
    same_checks = baseline.record.checks_version == observation.checks_version
    for standing in node.standings:
        unit, accepted = standing.layout.id, node.accepted_id(standing.layout.id)
        if not standing.refusing or accepted not in baseline.record.passed or unit in drifted:
            continue
        vms = vms_of(node, claims, (unit,))
        named: set[str] = set()
        for refusing in standing.refusing:
            key = f"{refusing.code} {accepted}"
            fails = refusing.verdict is Verdict.FAIL and same_checks and refusing.code != SPENT
            if key not in named and (fails or key in known):
                named.add(key)
                texts = (row.told for row in standing.refusing if row.code == refusing.code)
                yield Cause(refusing.code, key, f"{list_texts(texts)}{_affects(vms)}", vms, unit)
        if not named:
            # What failed may be unknown now: that does not lift the cordon.
            for key in sorted(k for k in known if k.endswith(f" {accepted}")):
                code = key.partition(" ")[0]
                text = f"{standing.refusing[0].reason}{_affects(vms)}"
                yield Cause(code, key, text, vms, unit)


def _is_deferred(node: Node, drift: Drift) -> bool:
    if drift.change.code != codes.BINDING_LOST.name:
        return False
    rows = [s for s in node.standings if s.layout.id in drift.units]
    return bool(rows) and not any(r.stage == "binding" for s in rows for r in s.refusing)


def _drift_cause(node: Node, drift: Drift, claims: list[Claim]) -> Cause:
    change = drift.change
    vms = vms_of(node, claims, drift.units)
    text = f"{describe(change)}{_affects(_vms_named(node, drift, claims))}"
    return Cause(change.code, f"{change.code} {change.identity}", text, vms)


def _flags(node: Node) -> Iterator[Reason]:
    """One line per code for what changed without harm, intended or not."""
    rows: dict[str, list[str]] = {}
    for drift in node.drift:
        change = drift.change
        if change.harms or (change.code in _HOLDING and drift.units):
            continue
        rows.setdefault(change.code, []).append(describe(change))
    for code, texts in rows.items():
        yield _reason(code, list_texts(texts))


def _ended_risks(node: Node, claims: list[Claim]) -> Iterator[Reason]:
    """Risk decisions that ended while claims stand on them: a line each, nothing is stopped."""
    rows: dict[str, list[str]] = {}
    for claim in claims:
        for code in claim.risks:
            rows.setdefault(code, []).append(claim.vm)
    for code, vms in sorted(rows.items()):
        ended = _ended_risk(node, code)
        if ended:
            named = " ".join(dict.fromkeys(vms))
            yield _reason(ended[0], f"{named} uses {code}: {ended[1]}")


def _ended_risk(node: Node, code: str) -> tuple[str, str] | None:
    held = node.risks.get(code)
    return name_end(held.decision if held is not None else None)


def _at_risk(
    node: Node, claims: list[Claim], causes: Iterable[Cause], silence: tuple[Reason, ...]
) -> Iterator[tuple[str, str]]:
    """By VM, the first reason why its node does not vouch for it."""
    found: dict[str, str] = {}
    for cause in causes:
        for vm in cause.vms:
            found.setdefault(vm, f"{cause.code}: {cause.text}")
    if silence:
        for claim in claims:
            found.setdefault(claim.vm, f"{silence[0].code}: {silence[0].text}")
    for standing in node.standings if claims else ():
        if standing.verdict is Verdict.FAIL:
            for vm in vms_of(node, claims, (standing.layout.id,)):
                found.setdefault(vm, standing.refusing[0].reason)
    for claim in claims:
        for code in claim.risks:
            ended = _ended_risk(node, code)
            if ended:
                found.setdefault(claim.vm, f"{ended[0]}: {code}: {ended[1]}")
    for reason in _stale_addresses(node, claims):
        found.setdefault(reason.text.partition(" ")[0], f"{reason.code}: {reason.text}")
    yield from sorted(found.items())


def addresses_of(node: Node) -> dict[str, str]:
    """Address of each identity and place in the present inventory."""
    units = node.inventory.units if node.inventory is not None else ()
    found: dict[str, str] = {}
    for unit in units:
        for identity, place, address in unit.places:
            found[identity] = address
            found.setdefault(place, address)
    return found


def _is_complete(node: Node) -> bool:
    return node.inventory is not None and node.inventory.complete


def _places(claim: Claim) -> Iterator[tuple[str, str, str]]:
    for unit in claim.units:
        yield from unit.places


def vms_of(node: Node, claims: list[Claim], units: tuple[str, ...]) -> tuple[str, ...]:
    """The VMs that have a claim on one of these units, under whatever id it had then: a serial
    number that is not told any more changes the id, and not what is claimed."""
    keys = {key for s in node.standings if s.layout.id in units for key in s.layout.keys}
    return tuple(
        c.vm for c in claims if any(u.unit in units or not keys.isdisjoint(u.keys) for u in c.units)
    )


def _vms_named(node: Node, drift: Drift, claims: list[Claim]) -> tuple[str, ...]:
    """The VMs that claim what changed, and the host's own that name it."""
    return tuple(dict.fromkeys((*vms_of(node, claims, drift.units), *drift.named_by)))


def _affects(vms: tuple[str, ...]) -> str:
    return f"; affects {' '.join(vms)}" if vms else ""


def list_texts(texts: Iterable[str], *, most: int = 3) -> str:
    """Different texts in one line, the first few named and the rest counted."""
    unique = list(dict.fromkeys(texts))
    more = f" and {len(unique) - most} more" if len(unique) > most else ""
    return "; ".join(unique[:most]) + more


def _reason(code: str, text: str) -> Reason:
    return Reason(code, f"{_AUTO}{code}", text)
