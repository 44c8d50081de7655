"""Reports of actions: there and back, and never too long to be told."""

from __future__ import annotations

import random

import pytest

from vfio_contract.action import (
    MAX_PACKED_BYTES,
    SHORTENED,
    ActionReport,
    ActionStep,
    FunctionChanges,
    Outcome,
    ResetProof,
    decode_report,
    encode_report,
    ended_event,
    pack_report,
    unpack_report,
)
from vfio_contract.address import Address
from vfio_contract.artifact import ArtifactError, compress
from vfio_contract.durable import ActionEnded, Stamp, decode_event, encode_event
from vfio_contract.findings import Evidence, Finding, Missing, Verdict

ADDRESS = Address("0000:01:00.0")
RANDOM = random.Random(7)


def noise(length: int = 200) -> str:
    """Text that hardly gets smaller."""
    return RANDOM.randbytes(length // 2).hex()


def report(*, many: int, length: int = 200) -> ActionReport:
    finding = Finding(
        check="actuate",
        subject=f"function:{ADDRESS}",
        verdict=Verdict.FAIL,
        code="ACTION_HELD",
        evidence=tuple(Evidence(noise(length), noise(length)) for _ in range(many)),
        meaning="m",
        decision="d",
        missing=(Missing("e", "c"),),
    )
    proof = ResetProof(
        method="flr",
        ending="reset",
        outcome="failed",
        why=noise(length),
        seconds=0.25,
        changes=(FunctionChanges(ADDRESS, tuple(noise(length) for _ in range(many))),),
        lines=tuple(noise(length) for _ in range(many)),
    )
    step = ActionStep("bind", ADDRESS, "/sys/x", tuple(noise(length) for _ in range(many)), "done")
    return ActionReport(
        id="c1",
        verb="bind",
        address=ADDRESS,
        outcome=Outcome.FAILED,
        unit="nic-1",
        detail=noise(length),
        reasons=(finding,) * min(many, 10),
        steps=(step,) * min(many, 10),
        notes=tuple(noise(length) for _ in range(many)),
        reset=proof,
        looked_at_ms=7,
    )


def test_a_report_is_the_same_there_and_back() -> None:
    one = report(many=2)
    assert decode_report(encode_report(one)) == one
    assert unpack_report(pack_report(one)) == one
    assert encode_report(decode_report(encode_report(one))) == encode_report(one)


@pytest.mark.parametrize(("many", "length"), [(60, 400), (300, 100), (3, 200_000)])
def test_a_long_report_is_shortened_and_says_so(many: int, length: int) -> None:
    packed = pack_report(report(many=many, length=length))
    assert len(packed) <= MAX_PACKED_BYTES
    short = unpack_report(packed)
    assert (short.id, short.outcome, short.unit) == ("c1", Outcome.FAILED, "nic-1")
    assert short.notes.count(SHORTENED) == 1
    assert short.detail


def test_its_event_carries_it() -> None:
    one = report(many=1)
    event = ended_event(one, identity="dsn-1", at=Stamp("boot", 1, 2))
    assert decode_event(encode_event(event)) == event
    assert isinstance(event.payload, ActionEnded)
    assert unpack_report(event.payload.report) == one


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x" * (MAX_PACKED_BYTES + 1), "larger than"),
        (b"xxxxxxxx", "damaged"),
        (compress(b'{"schema":"vfioctl.action/v9"}'), "schema"),
        (compress(b'{"schema":"vfioctl.action/v1"}'), "missing"),
        (compress(bytes(17 * 1024 * 1024)), "when unpacked"),
    ],
)
def test_what_is_no_report_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        unpack_report(data)
