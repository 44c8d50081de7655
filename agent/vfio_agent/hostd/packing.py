"""What the larger messages hold: the values of this agent as text that JSON can carry.

Bytes that hostd packed stay as they are; whoever unpacks adds nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from vfio_agent.hostd.messages import (
    ANSWER_LIMIT_BYTES,
    Base64,
    Credentials,
    Events,
    MessageError,
    Observation,
    PackedEvent,
    show,
)
from vfio_agent.session.outbox import Observed
from vfio_contract.artifact import ArtifactError
from vfio_contract.bundle import Bundle, BundleError
from vfio_contract.durable import Spooled, decode_event, encode_event
from vfio_contract.parts import read_lines


def pack_observed(observed: Observed) -> Observation:
    """The message of an observation."""
    return Observation(
        digest=observed.digest,
        facts_zlib=_to_base64(observed.facts_zlib),
        parts_zlib=_to_base64(observed.parts_zlib),
        boot_id=observed.boot_id,
        product_uuid=observed.product_uuid,
        checks_version=observed.checks_version,
        at_s=observed.at_s,
    )


def unpack_observed(message: Observation) -> Observed:
    """The observation, its packed bytes untouched; MessageError for what cannot be unpacked."""
    parts = _from_base64(message.parts_zlib, "observation.parts_zlib")
    try:
        read_lines(parts, limit=ANSWER_LIMIT_BYTES)
    except ArtifactError as error:
        raise MessageError(f"observation.parts_zlib: {show(str(error), 200)}") from None
    return Observed(
        digest=message.digest,
        facts_zlib=_from_base64(message.facts_zlib, "observation.facts_zlib"),
        parts_zlib=parts,
        boot_id=message.boot_id,
        product_uuid=message.product_uuid,
        checks_version=message.checks_version,
        at_s=message.at_s,
    )


def pack_events(spooled: Sequence[Spooled]) -> Events:
    """The message of durable events."""
    return Events(tuple(PackedEvent(s.seq, encode_event(s.event).decode("ascii")) for s in spooled))


def unpack_events(message: Events) -> list[Spooled]:
    """The durable events; MessageError for what is none."""
    try:
        return [Spooled(e.seq, decode_event(e.body.encode("utf-8"))) for e in message.events]
    except (ArtifactError, UnicodeEncodeError) as error:
        raise MessageError(f"events.events: {show(str(error), 200)}") from None


def pack_bundle(bundle: Bundle) -> Credentials:
    """The message of a bundle."""
    return Credentials(
        ca=bundle.ca.decode("latin-1"),
        certificate=bundle.certificate.decode("latin-1"),
        key=bundle.key.decode("latin-1"),
        endpoint=bundle.endpoint,
        problem=None,
    )


def unpack_bundle(message: Credentials) -> Bundle:
    """The bundle; BundleError where the message says why there is none."""
    if message.problem is not None:
        raise BundleError(message.problem.field, message.problem.problem, message.problem.fix)
    return Bundle(
        ca=message.ca.encode("latin-1"),
        certificate=message.certificate.encode("latin-1"),
        key=message.key.encode("latin-1"),
        endpoint=message.endpoint,
    )


def _to_base64(data: bytes) -> Base64:
    return Base64(base64.b64encode(data).decode("ascii"))


def _from_base64(text: Base64, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{where}: {error}") from None
