"""The cluster's settings: what a person set, durable, and in force from the next evidence on.

A value that this version does not know counts as the default, which always leaves more to people.
Setting something is judged whole: one name or value that is none refuses all of the request.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.artifact import encode
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.policy import SETTINGS, PolicySetting, PolicyView, Setting
from vfio_coordinator.state import keys
from vfio_coordinator.state.events import CommitOutcome, Outcome, PolicySetRequested
from vfio_coordinator.state.model import PolicyHeld, PolicyWrite, State
from vfio_coordinator.state.records import PolicyRecord
from vfio_coordinator.state.turn import Note, Turn
from vfio_coordinator.store.interface import ModRevisionIs, Put

_MAX_SHOWN = 40


def policy_value(state: State, setting: Setting) -> str:
    """What holds now."""
    held = state.policies.get(setting.name)
    known = held is not None and bool(setting.meaning_of(held.record.value))
    return held.record.value if held is not None and known else setting.default


def policy_view(state: State) -> PolicyView:
    """Every setting, by name."""
    return PolicyView(tuple(_shown(state, SETTINGS[name]) for name in sorted(SETTINGS)))


def _shown(state: State, setting: Setting) -> PolicySetting:
    held = state.policies.get(setting.name)
    value = policy_value(state, setting)
    return PolicySetting(
        name=setting.name,
        value=value,
        values=tuple(value for value, _ in setting.values),
        by=held.record.by if held is not None else "",
        at=held.record.at if held is not None else "",
        meaning=setting.meaning_of(value),
    )


def request_policy(turn: Turn, event: PolicySetRequested, *, attempt: int = 1) -> None:
    """Set for a person. Raises ClusterError."""
    records: list[PolicyRecord] = []
    notes: list[Note] = []
    given = [name for name, _ in event.changes]
    for name, value in event.changes:
        setting = _find(name, value)
        if given.count(name) > 1:
            raise ClusterError(ErrorCode.BAD_REQUEST, f"{name}: it is there twice")
        before = policy_value(turn.state, setting)
        if before == value:
            continue
        records.append(PolicyRecord(name, value, event.actor, turn.now.utc))
        text = f"{name}={value} (was {before})"
        notes.append(Note("cluster", "POLICY_SET", text, f"user:{event.actor}"))
    if not records:
        turn.reply((event.ticket,), policy_view(turn.state))
        return
    write = PolicyWrite(
        txn_id=turn.next_txn(),
        rows=turn.number_rows(notes),
        tickets=(event.ticket,),
        attempt=attempt,
        records=tuple(records),
        request=event,
    )
    turn.commit(
        write,
        compares=[
            ModRevisionIs(keys.policy_key(r.name), _revision(turn.state, r.name)) for r in records
        ],
        ops=[Put(keys.policy_key(record.name), encode(record)) for record in records],
    )


def _find(name: str, value: str) -> Setting:
    setting = SETTINGS.get(name)
    if setting is None:
        known = " ".join(sorted(SETTINGS))
        detail = f"no setting is called {name[:_MAX_SHOWN]!r}; there are: {known}"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    if not setting.meaning_of(value):
        possible = " or ".join(value for value, _ in setting.values)
        detail = f"{name}: it is {possible}, not {value[:_MAX_SHOWN]!r}"
        raise ClusterError(ErrorCode.BAD_REQUEST, detail)
    return setting


def _revision(state: State, name: str) -> int:
    held = state.policies.get(name)
    return held.revision if held is not None else 0


def finish_policy(turn: Turn, write: PolicyWrite, event: CommitOutcome) -> None:
    """Believe the outcome, or decide again on what the store holds. Raises ClusterError."""
    if event.outcome is Outcome.OK:
        for record in write.records:
            keep_policy(turn, record, event.revision)
        turn.reply(write.tickets, policy_view(turn.state))
    elif write.attempt < turn.state.limits.place_attempts:
        request_policy(turn, write.request, attempt=write.attempt + 1)
    else:
        turn.fail(write.tickets, ErrorCode.CONFLICT, "the policy kept changing")


def keep_policy(turn: Turn, record: PolicyRecord, revision: int) -> None:
    """The store holds this setting."""
    policies = turn.state.policies.set(record.name, PolicyHeld(record, revision))
    turn.state = replace(turn.state, policies=policies)


def forget_policy(turn: Turn, name: str) -> None:
    """The store holds no such setting."""
    if name in turn.state.policies:
        turn.state = replace(turn.state, policies=turn.state.policies.delete(name))
