"""The canonical artifact: a host's facts as sorted JSON with a digest, compared for ever.

    {"schema": "vfioctl.artifact/v1", "digest": "sha256:...", "facts": {...}, "readings": {...}}

The digest covers the canonical bytes of `facts` alone, so that the same host twice gives the same
digest. Values are converted by their dataclass fields; a key that this version does not know is
ignored, a key that is absent takes the field's default or None ("not known"), so that N and N-1
read each other. This module must never accept what does not match its own digest.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import typing
import zlib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar

from vfio_contract.model import SCHEMA, Facts, Readings, Snapshot
from vfio_contract.plain_values import Misfit, reader_of

Value = TypeVar("Value")

MAX_BYTES = 64 * 1024 * 1024
"""Largest artifact that is decompressed or parsed; a 256-function host is about 0.5 MB."""


class ArtifactError(ValueError):
    """The artifact cannot be read; the text names the field and what was expected."""

    fix = "Make one: vfioctl collect -o FILE"


class OtherSchema(ArtifactError):
    """An artifact of another version, which nothing is wrong with."""

    fix = "Read it with the version of vfioctl that wrote it"


def to_plain(value: object) -> Any:
    """Dataclasses, enums, tuples and bytes (base64, RFC 4648 section 4) as JSON values."""
    kind: type = type(value)
    if value is None or kind in _PLAIN:
        return value
    names = _field_names(kind)
    if names is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


_PLAIN = frozenset({str, int, float, bool})
"""Exactly these types are JSON values already; an enum's member is of another type."""


@cache
def _field_names(kind: type) -> tuple[str, ...] | None:
    """Field names of a dataclass, None for any other type."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(f.name for f in dataclasses.fields(kind))


def from_plain(kind: type[Value], plain: object, where: str = "") -> Value:
    """A dataclass from JSON values; ArtifactError names the field that does not fit."""
    try:
        value = reader_of(typing.cast(Any, kind))(plain)
    except Misfit as error:
        raise ArtifactError(f"{where or kind.__name__}{error}") from None
    if isinstance(value, Facts):
        _check_functions(value)
    return typing.cast(Value, value)


def _check_functions(facts: Facts) -> None:
    """Each function has an address, and no two the same: one would hide the other."""
    seen: set[str] = set()
    for index, function in enumerate(facts.functions or ()):
        if not function.address or function.address in seen:
            problem = "there twice" if function.address else "empty"
            where = f"functions[{index}].address"
            raise ArtifactError(f"{where}: {function.address or 'the address'} is {problem}")
        seen.add(function.address)


def encode(value: object) -> bytes:
    """Canonical bytes: sorted keys, no spaces, ASCII, a newline at the end."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def decode(kind: type[Value], data: bytes) -> Value:
    """The value of these canonical (or merely valid) JSON bytes."""
    return from_plain(kind, _parse(data))


def compress(data: bytes) -> bytes:
    """zlib, for the wire and the store."""
    return zlib.compress(data, 6)


def decompress(data: bytes, *, limit: int = MAX_BYTES) -> bytes:
    """At most `limit` bytes; ArtifactError for more, or for a stream that is not exactly whole."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise ArtifactError(f"compressed data is damaged: {error}") from error
    if len(plain) > limit:
        raise ArtifactError(f"larger than {limit} bytes when unpacked")
    if not unpacker.eof:
        raise ArtifactError("compressed data is cut short")
    if unpacker.unused_data:
        raise ArtifactError(f"compressed data is followed by {len(unpacker.unused_data)} others")
    return plain


def digest_bytes(data: bytes) -> str:
    """`sha256:` and the hex digest."""
    return "sha256:" + sha256(data).hexdigest()


def digest_facts(facts: Facts) -> str:
    """The content address of a host's facts."""
    return digest_bytes(encode(facts))


def encode_artifact(snapshot: Snapshot) -> bytes:
    """The artifact file's bytes: indented for people, sorted for diffs."""
    document = {
        "schema": SCHEMA,
        "digest": digest_facts(snapshot.facts),
        "facts": to_plain(snapshot.facts),
        "readings": to_plain(snapshot.readings),
    }
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()


def decode_artifact(data: bytes) -> Snapshot:
    """The snapshot in an artifact file; ArtifactError names what is wrong with it."""
    document = _parse(data)
    if not isinstance(document, dict):
        raise ArtifactError("not an artifact: expected a JSON object")
    schema = document.get("schema")
    if schema != SCHEMA:
        known = isinstance(schema, str) and schema.startswith(SCHEMA.rstrip("0123456789"))
        error = OtherSchema if known else ArtifactError
        raise error(f"schema is {schema!r}, this version reads {SCHEMA!r}")
    plain = document.get("facts")
    try:
        found = digest_bytes(encode(plain))
    except RecursionError as error:
        raise ArtifactError("facts: nested too deeply") from error
    if found != document.get("digest"):
        raise ArtifactError(
            f"digest does not match its facts: {document.get('digest')!r} != {found}"
        )
    return Snapshot(
        facts=from_plain(Facts, plain, "facts"),
        readings=from_plain(Readings, document.get("readings"), "readings"),
    )


def _parse(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"larger than {MAX_BYTES} bytes")
    try:
        return _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON: {error}") from error


def _refuse_constant(text: str) -> typing.NoReturn:
    # Python's parser takes NaN and Infinity, which are no JSON and cannot be written back
    raise ValueError(f"{text} is no JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_float)
"""Made once: an observation is 50 small documents, and making one costs as much as reading one."""
