"""Values and messages are the same thing twice: no field is lost on the way, and no byte moves.

`wire_v1.txt` pins one example of each message with every field set. A message that gains a field
gets its line again, longer; bytes that stood there before never change.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract import (
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
from vfio_contract.address import Address, Identity
from vfio_contract.codec import (
    event_from_message,
    event_to_message,
    from_message,
    to_message,
)
from vfio_contract.durable import DurableEvent, Payload, Spooled, Stamp, kind_of
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfioctl.v1 import cluster_pb2, durable_pb2, findings_pb2, session_pb2, views_pb2

PINNED = Path(__file__).with_name("wire_v1.txt")
FILES = (findings_pb2, views_pb2, durable_pb2, session_pb2, cluster_pb2)


def _dataclasses(module: types.ModuleType) -> Iterator[type]:
    for kind in vars(module).values():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield kind


def _messages(file: types.ModuleType) -> dict[str, Any]:
    names: Any = file.DESCRIPTOR.message_types_by_name
    return {name: getattr(file, name) for name in names}


KINDS = {
    k.__name__: k
    for m in (
        views,
        policy,
        baseline_views,
        forecast_views,
        incident_views,
        ledger_views,
        mute_views,
        findings,
        durable,
        command,
    )
    for k in _dataclasses(m)
}
MESSAGES: dict[str, Any] = {n: m for file in FILES for n, m in _messages(file).items()}

LOCAL = {
    "Report",
    "DurableEvent",
    "Spooled",
    "Stamp",
    "Mark",
    "JournalStatus",
    "BaselineRefusal",
    "Setting",
    "PolicyView",
}
"""Values without a message of their fields: a report is printed, and its findings travel; what
belongs to a durable event is converted by hand (below), and what the state answers with, or what a
setting is, never travels whole."""

OF_SESSION = {"Command", "AskedUnit", "CommandAnswer"}
"""The values among the messages of a session; the others are made by hand."""


# --- the same fields -----------------------------------------------------------------------------


def test_every_value_has_its_message_and_no_message_is_left_over() -> None:
    twins = {*_messages(findings_pb2), *_messages(views_pb2), *_messages(durable_pb2)}
    assert set(KINDS) - LOCAL == (twins | OF_SESSION) - LOCAL


def _is_nullable(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _expected(hint: Any) -> tuple[str, bool, bool]:
    """(type, repeated, knows whether it is set) of the field for this annotation."""
    if typing.get_origin(hint) is tuple:
        inner, dots = typing.get_args(hint)
        assert dots is Ellipsis
        return (*_expected(inner)[:1], True, False)
    if _is_nullable(hint):
        (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
        return (*_expected(inner)[:1], False, True)
    plain: dict[Any, str] = {str: "string", bytes: "bytes", bool: "bool", int: "int64"}
    plain |= {Address: "string", Identity: "string"}
    plain |= {float: "double", Verdict: "Verdict"}
    if hint in plain:
        return plain[hint], False, False
    return hint.__name__, False, True


def _found(field: FieldDescriptor) -> tuple[str, bool, bool]:
    names = {
        FieldDescriptor.TYPE_STRING: "string",
        FieldDescriptor.TYPE_BYTES: "bytes",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_INT64: "int64",
        FieldDescriptor.TYPE_DOUBLE: "double",
    }
    if field.message_type is not None:
        name = field.message_type.name
    elif field.enum_type is not None:
        name = field.enum_type.name
    else:
        name = names.get(field.type, f"type {field.type}")
    return name, field.is_repeated, field.has_presence


@pytest.mark.parametrize("name", sorted(set(KINDS) - LOCAL))
def test_a_value_and_its_message_have_the_same_fields(name: str) -> None:
    hints = typing.get_type_hints(KINDS[name])
    descriptor: Descriptor = MESSAGES[name].DESCRIPTOR
    assert {f.name: _found(f) for f in descriptor.fields} == {
        field: _expected(hint) for field, hint in hints.items()
    }


def test_every_verdict_has_its_number() -> None:
    numbers = {name.removeprefix("VERDICT_") for name in findings_pb2.Verdict.keys()}  # noqa: SIM118
    assert numbers - {"UNSPECIFIED"} == {verdict.name for verdict in Verdict}


# --- there and back ------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    Address: TEXT,
    Identity: TEXT,
    bytes: st.binary(max_size=12),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    Verdict: st.sampled_from(Verdict),
}


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(_values(typing.get_args(hint)[0]), max_size=2).map(tuple)
    if _is_nullable(hint):
        (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
        return st.none() | _values(inner)
    if hint in PLAIN:
        return PLAIN[hint]
    fields = typing.get_type_hints(hint)
    return st.builds(hint, **{name: _values(inner) for name, inner in fields.items()})


@pytest.mark.parametrize("name", sorted(set(KINDS) - LOCAL))
@given(data=st.data())
def test_a_value_comes_back_from_its_bytes_as_it_was(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    value = data.draw(_values(kind))
    received = MESSAGES[name].FromString(to_message(value).SerializeToString())
    assert from_message(kind, received) == value


@given(data=st.data())
def test_a_durable_event_comes_back_from_its_bytes_as_it_was(data: st.DataObject) -> None:
    kinds = [st.none(), *map(_values, typing.get_args(Payload))]
    event = st.builds(
        DurableEvent,
        at=_values(Stamp),
        identity=TEXT,
        address=TEXT,
        payload=st.one_of(kinds),
    )
    spooled = Spooled(data.draw(PLAIN[int]), data.draw(event))
    message = durable_pb2.DurableEvent.FromString(event_to_message(spooled).SerializeToString())
    assert event_from_message(message) == spooled


def test_every_payload_has_its_field() -> None:
    fields = durable_pb2.DurableEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    kinds = typing.get_args(Payload)
    assert {f.name: f.message_type.name for f in fields if f.message_type is not None} == {
        kind_of(object.__new__(kind)): kind.__name__ for kind in kinds
    }


def test_a_payload_of_a_newer_version_is_none() -> None:
    newer = durable_pb2.DurableEvent(seq=7).SerializeToString() + b"\xf2\x3f\x03new"
    received = event_from_message(durable_pb2.DurableEvent.FromString(newer))
    assert (received.seq, received.event.payload) == (7, None)


def _finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "check": "iommu-active",
        "subject": "node",
        "verdict": Verdict.PASS,
        "code": "IOMMU_ON",
        "evidence": (),
        "meaning": "",
        "decision": "",
    }
    return Finding(**(values | changes))


@pytest.mark.parametrize("number", [0, 7, 99, 2**31 - 1])
def test_a_verdict_that_this_version_does_not_know_is_unknown(number: int) -> None:
    message = to_message(_finding())
    message.verdict = number
    received = findings_pb2.Finding.FromString(message.SerializeToString())
    assert received.verdict == number
    assert from_message(Finding, received).verdict is Verdict.UNKNOWN


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    newer = to_message(_finding()).SerializeToString() + b"\xf2\x3f\x03new"  # field 1022, a string
    assert from_message(Finding, findings_pb2.Finding.FromString(newer)) == _finding()


@pytest.mark.parametrize("intended", [None, False, True])
def test_not_known_whether_intended_is_not_the_same_as_no(intended: bool | None) -> None:
    received = from_message(Finding, to_message(_finding(intended=intended)))
    assert received.intended is intended


@pytest.mark.parametrize("text", ["\ud800", "caf\udce9", "ok \ud83d"])
def test_text_that_is_no_unicode_arrives_readable(text: str) -> None:
    evidence = (Evidence("/etc/hostname", text),)
    message = to_message(_finding(evidence=evidence, missing=(Missing(text, ""),)))
    received = from_message(Finding, findings_pb2.Finding.FromString(message.SerializeToString()))
    assert received.evidence[0].text == text.encode("utf-8", "backslashreplace").decode()
    assert received.missing[0].evidence == received.evidence[0].text


# --- bytes that never move -----------------------------------------------------------------------


def _fill(message: Message, *, chosen: str = "", depth: int = 0) -> Message:
    """Every field set to something that follows from its name and number; of a oneof, `chosen`."""
    descriptor: Any = message.DESCRIPTOR
    for field in descriptor.fields:
        if _is_choice(field) and field.name != chosen:
            continue
        _set(message, field, depth)
    return message


def _is_choice(field: FieldDescriptor) -> bool:
    """Optional fields are oneofs of one to protobuf."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


def _set(message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None:
        if depth > 2:
            return
        held: Any = getattr(message, field.name)
        part = held.add() if field.is_repeated else held
        part.SetInParent()
        _fill(part, depth=depth + 1)
        return
    value = _example(field)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _example(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return field.name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return field.name.encode()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.enum_type is not None:
        return 1 + field.number % (len(field.enum_type.values) - 1)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return field.number + 0.5
    return 1000 + field.number


def _examples() -> dict[str, Message]:
    found: dict[str, Message] = {}
    for name, message in MESSAGES.items():
        bodies = [o for o in message.DESCRIPTOR.oneofs if len(o.fields) > 1]
        if not bodies:
            found[name] = _fill(message())
        for body in bodies:
            for field in body.fields:
                found[f"{name}.{field.name}"] = _fill(message(), chosen=field.name)
    return found


EXAMPLES = _examples()


def _pinned() -> dict[str, bytes]:
    rows = [line.split() for line in PINNED.read_text().splitlines()]
    return {name: bytes.fromhex(data.strip("-")) for name, data in rows}


def test_every_message_is_pinned() -> None:
    assert set(_pinned()) == set(EXAMPLES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_bytes_of_a_message_stay_what_they_were(name: str) -> None:
    example = EXAMPLES[name]
    data = example.SerializeToString(deterministic=True)
    assert data == _pinned()[name], f"now: {name} {data.hex() or '-'}"


@pytest.mark.parametrize("name", sorted(set(KINDS) - LOCAL))
def test_pinned_bytes_pass_through_the_value_unchanged(name: str) -> None:
    received = MESSAGES[name].FromString(_pinned()[name])
    again = to_message(from_message(KINDS[name], received))
    assert again.SerializeToString(deterministic=True) == _pinned()[name]
