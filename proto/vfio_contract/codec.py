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
from importlib import import_module
from typing import Any, TypeVar

from google.protobuf.message import Message

from vfio_contract import durable
from vfio_contract.durable import DurableEvent, Spooled, Stamp, kind_of
from vfio_contract.findings import Verdict
from vfioctl.v1 import durable_pb2, findings_pb2

Value = TypeVar("Value")

_VERDICTS = {v: findings_pb2.Verdict.Value(f"VERDICT_{v.name}") for v in Verdict}
_NUMBERS = {number: verdict for verdict, number in _VERDICTS.items()}

_FILES = {
    "vfio_contract.action": "session_pb2",
    "vfio_contract.baseline_views": "views_pb2",
    "vfio_contract.command": "session_pb2",
    "vfio_contract.durable": "durable_pb2",
    "vfio_contract.findings": "findings_pb2",
    "vfio_contract.forecast_views": "views_pb2",
    "vfio_contract.incident_views": "views_pb2",
    "vfio_contract.ledger_views": "views_pb2",
    "vfio_contract.mute_views": "views_pb2",
    "vfio_contract.policy": "views_pb2",
    "vfio_contract.stale": "views_pb2",
    "vfio_contract.views": "views_pb2",
}
"""Which stubs have the messages of a module's values. They are looked up by the value and not
imported here: an agent would load all that a coordinator shows, a megabyte and a half."""


def to_message(value: Any) -> Any:
    """The message of a value from `views`, `findings` or `command`, or of an event's payload."""
    kind: type = type(value)
    message = _message_of(kind)
    if message is None:
        raise TypeError(f"{kind.__name__} has no message of its fields")
    return message(**{name: _plain(getattr(value, name)) for name in _hints(kind)})


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


def _plain(value: Any) -> Any:
    """What a message's field is made of; None leaves it out."""
    if isinstance(value, Verdict):
        return _VERDICTS[value]
    if isinstance(value, str):
        # protobuf strings must be valid UTF-8; evidence may hold bytes that are not
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    kind: type = type(value)
    return value if _message_of(kind) is None else to_message(value)


@cache
def _message_of(kind: type) -> type[Message] | None:
    """The message class of a value's class, by name; None for what is no value or has none."""
    file = _FILES.get(kind.__module__)
    if file is None or kind is DurableEvent:
        return None
    found: type[Message] | None = getattr(import_module(f"vfioctl.v1.{file}"), kind.__name__, None)
    return found


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
