"""What crosses hostd's socket: whatever the bytes, either a whole message or a reason by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import make_snapshot, nic
from vfio_agent.checks import judge
from vfio_agent.fence import Fence
from vfio_agent.hostd.frames import FrameError, FrameReader, to_frame
from vfio_agent.hostd.messages import (
    ANSWERS,
    MAX_ID,
    REQUESTS,
    Acknowledge,
    Acknowledged,
    Act,
    Acted,
    BundleProblem,
    CommandTaken,
    Credentials,
    Done,
    Envelope,
    Events,
    GetBundle,
    GetEvents,
    GetFence,
    GetLedger,
    Greet,
    Greeting,
    Ledger,
    MessageError,
    Obeyed,
    ObeyFence,
    Observe,
    PackedEvent,
    Ping,
    Refused,
    Rescan,
    SetPace,
    SpoolState,
    TakeCommand,
    read_message,
    write_message,
)
from vfio_agent.hostd.packing import (
    pack_bundle,
    pack_events,
    pack_observed,
    unpack_bundle,
    unpack_events,
    unpack_observed,
)
from vfio_agent.session.outbox import Packer
from vfio_contract.action import ActionReport, AskedUnit
from vfio_contract.action import Outcome as ActionOutcome
from vfio_contract.address import Address, Identity
from vfio_contract.bundle import Bundle, BundleError
from vfio_contract.command import Command, CommandAnswer
from vfio_contract.durable import (
    ActionEnded,
    BindingChanged,
    DurableEvent,
    JournalStatus,
    Mark,
    Spooled,
    Stamp,
)
from vfio_contract.host import Host
from vfio_contract.ledger import Outcome, ResetAttempt

ATTEMPT = ResetAttempt("k", "i", "f", "b", "flr", Outcome.WEDGED, "\udcff gave up", "p")
OBSERVED = Packer().pack(
    (snapshot := make_snapshot(nic("0000:01:00.0"))),
    judge(Host(snapshot)).findings,
    checks_version="c",
    at_s=12.25,
)
SPOOLED = Spooled(
    7,
    DurableEvent(Stamp("b", 1, 2), "i", "0000:01:00.0", BindingChanged("nvidia", "vfio-pci")),
)
COMMAND = Command(
    id="c1",
    verb="bind",
    node="pve07",
    product_uuid="u",
    boot_id="b",
    agent_state_id="s",
    sequence=1 << 33,
    deadline_boottime_ms=7,
    cluster_id="c",
    incarnation=1,
    epoch=2,
    address="0000:01:00.0",
    unit=AskedUnit("nic-1", (Identity("dsn"),), (Address("0000:01:00.0"),), ()),
)
SAMPLES: dict[str, list[object]] = {
    "requests": [
        *(Greet(1), Ping(), Observe(), GetFence(), ObeyFence(Fence("c", 1, 2)), SetPace(1.5)),
        *(Rescan(), GetLedger(), GetBundle(), GetEvents(3, 64)),
        Acknowledge(Mark("s", 7, Stamp("b", 1, 2))),
        Act("0" * 32, "bind", Address("0000:01:00.0")),
        TakeCommand(COMMAND),
    ],
    "answers": [
        *(Greeting(1, "0.1.0", "s"), Done(), Refused("no"), Obeyed(Fence("", 0, 0))),
        *(Ledger((ATTEMPT,), 3), pack_observed(OBSERVED)),
        *(pack_events([SPOOLED]), Acknowledged(True), SpoolState("s", 7, JournalStatus())),
        CommandTaken(CommandAnswer("c1", "refused", "COMMAND_STALE", "it is old"), ""),
        CommandTaken(None, "not yet"),
        CommandTaken(
            CommandAnswer("c1", "ended", ended=ActionEnded("c1", "bind", "done", "", b"z")),
            "",
        ),
        Acted(ActionReport("c1", "bind", Address("0000:01:00.0"), ActionOutcome.DONE)),
        Credentials("a", "b", "c", "d", None),
        Credentials("", "", "", "", BundleProblem("key.pem", "is open", "close it")),
    ],
}


def test_every_kind_has_a_sample() -> None:
    assert {type(m) for m in SAMPLES["requests"]} == set(REQUESTS.values())
    assert {type(m) for m in SAMPLES["answers"]} == set(ANSWERS.values())


@pytest.mark.parametrize("message", SAMPLES["requests"] + SAMPLES["answers"])
def test_a_message_comes_back_as_it_was(message: object) -> None:
    data = write_message(7, message)
    assert read_message(data, {**REQUESTS, **ANSWERS}) == Envelope(7, message)


def test_an_observation_crosses_whole() -> None:
    assert unpack_observed(pack_observed(OBSERVED)) == OBSERVED


def test_durable_events_cross_whole() -> None:
    assert unpack_events(pack_events([SPOOLED])) == [SPOOLED]
    with pytest.raises(MessageError, match="events: kind: None is not known"):
        unpack_events(Events((PackedEvent(1, "{}"),)))


def test_a_bundle_crosses_whole_and_its_key_is_never_shown() -> None:
    bundle = Bundle(b"ca", b"cert", b"-----\xff-----", "co1:7443")
    message = pack_bundle(bundle)
    assert unpack_bundle(message) == bundle
    assert "-----" not in repr(message)


def test_a_bundle_that_cannot_be_used_says_why() -> None:
    message = Credentials("", "", "", "", BundleProblem("key.pem", "is open", "close it"))
    with pytest.raises(BundleError, match=r"key\.pem is open: close it"):
        unpack_bundle(message)


def changed(message: object, **body: Any) -> bytes:
    plain = json.loads(write_message(3, message))
    plain["body"].update(body)
    return json.dumps(plain).encode()


OBEY = ObeyFence(Fence("c", 1, 2))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON: "),
        (b"\xff\xfe", "not JSON: "),
        (b"[" * 60_000, "not JSON: "),
        (b'{"a": NaN}', "not JSON: NaN"),
        (b"[1]", "message: expected an object, got list"),
        (b'{"id": 1, "kind": "ping"}', "message.body: missing"),
        (b'{"id": 1, "kind": "ping", "body": {}, "x": 1}', "message.x: not known here"),
        (b'{"id": "1", "kind": "ping", "body": {}}', "message.id: expected 0 to "),
        (b'{"id": true, "kind": "ping", "body": {}}', "message.id: expected 0 to "),
        (b'{"id": -1, "kind": "ping", "body": {}}', "message.id: expected 0 to "),
        (b'{"id": %d, "kind": "ping", "body": {}}' % (MAX_ID + 1), "message.id: expected 0 to "),
        (b'{"id": 1, "kind": "exec", "body": {}}', "message.kind: exec is not known here"),
        (b'{"id": 1, "kind": ["ping"], "body": {}}', "message.kind: "),
        (b'{"id": 1, "kind": "ping", "body": {"path": "/"}}', "ping.path: not known here"),
        (b'{"id": 1, "kind": "ping", "body": 5}', "ping: expected an object, got int"),
        (changed(OBEY, fence=None), "fence.obey.fence: "),
        (changed(OBEY, fence={}), "fence.obey.fence.cluster_id: missing"),
        (
            changed(OBEY, fence={"cluster_id": "c", "incarnation": 1, "epoch": True}),
            "fence.obey.fence.epoch: expected int",
        ),
        (
            changed(OBEY, fence={"cluster_id": "c", "incarnation": 1 << 70, "epoch": 1}),
            "fence.obey.fence.incarnation: a number beyond 64 bits",
        ),
        (changed(SetPace(1.0), interval_s="1"), "pace.interval_s: expected float"),
    ],
)
def test_what_does_not_fit_is_named(data: bytes, words: str) -> None:
    with pytest.raises(MessageError) as caught:
        read_message(data, REQUESTS)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_a_peer_wrote_is_shown_shortened_and_without_control_characters() -> None:
    data = json.dumps({"id": 1, "kind": "\x1b[2J" + "x" * 9_999, "body": {}}).encode()
    with pytest.raises(MessageError) as caught:
        read_message(data, REQUESTS)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120
    assert caught.value.id == 1


def reason_against(data: bytes) -> str:
    """Why it is no request, "" if it is one; any other exception is a bug."""
    try:
        read_message(data, REQUESTS)
    except MessageError as error:
        return str(error)
    return ""


@given(st.binary(max_size=300))
def test_no_random_bytes_are_a_request(data: bytes) -> None:
    assert reason_against(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(st.sampled_from(sorted(REQUESTS)), JSON)
def test_any_body_is_a_message_or_a_reason(kind: str, body: object) -> None:
    why = reason_against(json.dumps({"id": 1, "kind": kind, "body": body}).encode())
    assert kind in why or "JSON" in why or body == {}


# --- frames --------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 60))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    bodies: list[bytes], size: int
) -> None:
    reader, found = FrameReader(50), []
    stream = b"".join(map(to_frame, bodies))
    for at in range(0, len(stream), size):
        reader.feed(stream[at : at + size])
        assert reader.partial
        while reader.whole:
            body = reader.take()
            assert body is not None
            found.append(body)
        assert reader.take() is None
    assert found == bodies
    assert not reader.partial


@pytest.mark.parametrize("length", [0, 51, 0xFFFF_FFFF])
def test_a_length_that_may_not_be_is_refused_before_its_body_comes(length: int) -> None:
    reader = FrameReader(50)
    reader.feed(length.to_bytes(4, "big"))
    assert reader.whole
    with pytest.raises(FrameError, match=f"a frame of {length} bytes, expected 1 to 50"):
        reader.take()
