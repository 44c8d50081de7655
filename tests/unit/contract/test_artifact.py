"""Artifacts are canonical, content-addressed, and read by N-1 and N+1."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import make_snapshot, nic
from vfio_contract.artifact import (
    ArtifactError,
    compress,
    decode,
    decode_artifact,
    decompress,
    digest_facts,
    encode,
    encode_artifact,
)
from vfio_contract.model import Facts


def test_round_trip() -> None:
    snapshot = make_snapshot(nic("0000:01:00.0"))
    assert decode_artifact(encode_artifact(snapshot)) == snapshot
    assert decode(Facts, encode(snapshot.facts)) == snapshot.facts


def test_readings_do_not_move_the_digest() -> None:
    snapshot = make_snapshot(nic("0000:01:00.0"))
    later = replace(snapshot, readings=replace(snapshot.readings, uptime_seconds=99.0))
    assert digest_facts(later.facts) == digest_facts(snapshot.facts)
    assert encode_artifact(later) != encode_artifact(snapshot)


def test_tampered_facts_are_refused() -> None:
    document = json.loads(encode_artifact(make_snapshot()))
    document["facts"]["cmdline"] = "iommu=off"
    with pytest.raises(ArtifactError, match="digest does not match"):
        decode_artifact(json.dumps(document).encode())


def test_a_field_from_the_future_is_ignored_and_one_from_the_past_is_unknown() -> None:
    plain = json.loads(encode(make_snapshot().facts))
    plain["colour"] = "blue"
    del plain["cmdline"]
    facts = decode(Facts, json.dumps(plain).encode())
    assert facts.cmdline is None


@pytest.mark.parametrize(
    ("field", "value"), [("host", 7), ("groups", {}), ("kvm_device", "yes"), ("cpu", [])]
)
def test_a_wrong_type_names_its_field(field: str, value: object) -> None:
    plain = json.loads(encode(make_snapshot().facts))
    plain[field] = value
    with pytest.raises(ArtifactError, match=rf"Facts\.{field}"):
        decode(Facts, json.dumps(plain).encode())


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_words(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        decode_artifact(data)
    with pytest.raises(ArtifactError):
        decompress(b"\x00" + data)


def test_truncated_stream_is_refused() -> None:
    with pytest.raises(ArtifactError, match="cut short"):
        decompress(compress(b"x" * 10_000)[:-4])
