"""Every error that crosses the wire has a status and a text, and arrives as one readable line."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_contract.errors import CATALOGUE, ErrorCode
from vfio_coordinator.api.errors import message_of, status_of

ANY_TEXT = st.text(st.characters(codec=None))
"""Lone surrogates and control characters too: a detail may quote what a stranger sent."""

HEADER_BYTES = 8 * 1024
"""gRPC's default limit of a peer's metadata."""


def test_the_catalogue_is_total() -> None:
    assert set(CATALOGUE) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code_has_a_status_and_a_text_for_people(code: ErrorCode) -> None:
    assert code.value == code.name
    assert status_of(code) not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
    text = CATALOGUE[code].text
    assert text == text.strip()
    assert text.isprintable()
    assert len(text) > 20


def test_a_refusal_reads_as_code_detail_and_what_to_do() -> None:
    assert message_of(ErrorCode.UNKNOWN_NODE, "node 'pve9'.") == (
        "UNKNOWN_NODE: node 'pve9'. No node of that name has ever joined; see: vfioctl node list"
    )


def test_commands_in_a_refusal_are_about_the_node_that_was_named() -> None:
    said = message_of(ErrorCode.UNKNOWN_DEVICE, "no unit with it", node="pve07")
    assert said.endswith("see: vfioctl node show pve07")
    assert message_of(ErrorCode.UNKNOWN_DEVICE, "no unit with it").endswith("node show NODE")


def test_a_bad_request_is_told_by_its_detail_alone() -> None:
    assert message_of(ErrorCode.BAD_REQUEST, "until: it is empty.") == (
        "BAD_REQUEST: until: it is empty"
    )
    assert message_of(ErrorCode.BAD_REQUEST, " ").endswith("The request cannot be understood.")


@given(st.sampled_from(ErrorCode), ANY_TEXT)
def test_a_refusal_is_one_line_that_can_be_sent(code: ErrorCode, detail: str) -> None:
    message = message_of(code, detail)
    assert message.isprintable()
    assert message.startswith(f"{code.name}: ")
    assert message.endswith(CATALOGUE[code].text) or code is ErrorCode.BAD_REQUEST
    message.encode()


@pytest.mark.parametrize("letter", ["x", "\x00", "\U0001f984", "\U000f0000", "\ud800", "%"])
def test_the_longest_detail_fits_into_a_header(letter: str) -> None:
    message = message_of(ErrorCode.BAD_SNAPSHOT, letter * 1_000_000)
    # percent-encoded as gRPC does it: everything that is not printable ASCII, and the sign itself
    escaped = sum(1 if b" " <= bytes([b]) <= b"~" and b != 0x25 else 3 for b in message.encode())
    assert escaped < HEADER_BYTES
    assert "(1000000 characters)" in message
