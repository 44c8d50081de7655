"""The only place where values become protobuf messages and back.

A value and its message have the same name and the same field names (`vfio_contract.views`,
`vfio_contract.findings`, `vfio_contract.durable`, `vfio_contract.command`), so one conversion
driven by the dataclass serves them all; only a durable event, whose payload is one of many, has its
own. An enum number that this version does not know reads as UNKNOWN, never as good. Nothing here
does input or output.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import Message

from vfio_contract import (
    action,
    baseline_views,
    command,
    durable,
    findings,
    forecast_views,
    incident_views,
    ledger_views,
    mute_views,
    policy,
    views,
)
from vfio_contract.durable import DurableEvent, Spooled, Stamp, kind_of
from vfio_contract.findings import Verdict
from vfioctl.v1 import durable_pb2, findings_pb2, session_pb2, views_pb2

Value = TypeVar("Value")

_VERDICTS = {v: findings_pb2.Verdict.Value(f"VERDICT_{v.name}") for v in Verdict}
_NUMBERS = {number: verdict for verdict, number in _VERDICTS.items()}

_MESSAGES: dict[type, type[Message]] = {
    kind: getattr(module, kind.__name__)
    for source, module in (
        (findings, findings_pb2),
        (views, views_pb2),
        (baseline_views, views_pb2),
        (policy, views_pb2),
        (incident_views, views_pb2),
        (ledger_views, views_pb2),
        (mute_views, views_pb2),
        (forecast_views, views_pb2),
        (durable, durable_pb2),
        (command, session_pb2),
        (action, session_pb2),
    )
    for kind in vars(source).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(module, kind.__name__)
    if kind is not DurableEvent
}
"""Value class -> message class, by name."""


def to_message(value: Any) -> Any:
    """The message of a value from `views`, `findings` or `command`, or of an event's payload."""
    message = _MESSAGES[type(value)]()
    for field in dataclasses.fields(value):
        _put(message, field.name, getattr(value, field.name))
    return message


def from_message(kind: type[Value], message: Any) -> Value:
    """The value of a message; absent optional fields become None."""
    hints = _hints(typing.cast(type, kind))
    values = {name: _get(hint, message, name) for name, hint in hints.items()}
    return kind(**values)


def event_to_message(spooled: Spooled) -> durable_pb2.DurableEvent:
    """The message of a numbered durable event."""
    event = spooled.event
    message = durable_pb2.DurableEvent(
        seq=spooled.seq,
        boot_id=event.at.boot_id,
        boottime_ms=event.at.boottime_ms,
        wall_ms=event.at.wall_ms,
        identity=event.identity,
        address=event.address,
    )
    if event.payload is not None:
        getattr(message, kind_of(event.payload)).CopyFrom(to_message(event.payload))
    return message


def event_from_message(message: durable_pb2.DurableEvent) -> Spooled:
    """The numbered event of a message; a payload of a newer version is None."""
    name = message.WhichOneof("payload")
    held = None if name is None else getattr(message, name)
    kind = None if held is None else getattr(durable, held.DESCRIPTOR.name)
    return Spooled(
        seq=message.seq,
        event=DurableEvent(
            at=Stamp(message.boot_id, message.boottime_ms, message.wall_ms),
            identity=message.identity,
            address=message.address,
            payload=None if kind is None else from_message(kind, held),
        ),
    )


def _put(message: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, tuple):
        getattr(message, name).extend(_plain(item) for item in value)
    elif dataclasses.is_dataclass(value):
        getattr(message, name).CopyFrom(to_message(value))
    else:
        setattr(message, name, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Verdict):
        return _VERDICTS[value]
    if dataclasses.is_dataclass(value):
        return to_message(value)
    if isinstance(value, str):
        # protobuf strings must be valid UTF-8; evidence may hold bytes that are not
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _get(hint: Any, message: Any, name: str) -> Any:
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item) for item in getattr(message, name))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if not message.HasField(name):
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return _value(hint, getattr(message, name))


def _value(hint: Any, plain: Any) -> Any:
    if hint is Verdict:
        return _NUMBERS.get(plain, Verdict.UNKNOWN)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_message(hint, plain)
    return plain
