"""The canonical artifact: a host's facts as sorted JSON with a digest, compared for ever.

    {"schema": "vfioctl.artifact/v1", "digest": "sha256:...", "facts": {...}, "readings": {...}}

The digest covers the canonical bytes of `facts` alone, so that the same host twice gives the same
digest. Values are converted by their dataclass fields; a key that this version does not know is
ignored, a key that is absent takes the field's default or None ("not known"), so that N and N-1
read each other. This module must never accept what does not match its own digest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
import zlib
from collections.abc import Mapping
from enum import Enum
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar

from vfio_contract.address import Address, is_address
from vfio_contract.model import SCHEMA, Facts, Readings, Snapshot

Value = TypeVar("Value")

MAX_BYTES = 64 * 1024 * 1024
"""Largest artifact that is decompressed or parsed; a 256-function host is about 0.5 MB."""


MIN_INT, MAX_INT = -(1 << 63), (1 << 64) - 1
"""What a number of a host can be: sysfs and the wire have 64 bits, signed or not."""


class ArtifactError(ValueError):
    """The artifact cannot be read; the text names the field and what was expected."""


def to_plain(value: object) -> Any:
    """Dataclasses, enums and tuples as JSON values."""
    kind: type = type(value)
    if value is None or kind in _PLAIN:
        return value
    names = _field_names(kind)
    if names is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
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
    value = _convert(kind, plain, where or kind.__name__)
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
        raise ArtifactError(f"schema is {schema!r}, this version reads {SCHEMA!r}")
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
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_float)
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


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(kind: Any, plain: object, where: str) -> object:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        options = [a for a in typing.get_args(kind) if a is not type(None)]
        return _convert(options[0], plain, where)
    if origin is tuple:
        return _convert_tuple(typing.get_args(kind), plain, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _convert_dataclass(kind, plain, where)
    if kind is Address:
        return _convert_address(plain, where)
    if hasattr(kind, "__supertype__"):
        return _convert(kind.__supertype__, plain, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(plain)
        except ValueError as error:
            raise ArtifactError(f"{where}: {plain!r} is not a {kind.__name__}") from error
    if isinstance(plain, int) and not MIN_INT <= plain <= MAX_INT:
        raise ArtifactError(f"{where}: a number beyond 64 bits")
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if not isinstance(plain, kind) or (kind is int and isinstance(plain, bool)):
        raise ArtifactError(f"{where}: expected {kind.__name__}, got {type(plain).__name__}")
    return plain


def _convert_address(plain: object, where: str) -> str:
    """An address; "" where a field uses it for none."""
    if not isinstance(plain, str):
        raise ArtifactError(f"{where}: expected a PCI address, got {type(plain).__name__}")
    if plain and not is_address(plain):
        raise ArtifactError(f"{where}: {plain[:40]!r} is no PCI address")
    return plain


def _convert_tuple(kinds: tuple[Any, ...], plain: object, where: str) -> tuple[object, ...]:
    if not isinstance(plain, list):
        raise ArtifactError(f"{where}: expected a list, got {type(plain).__name__}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_convert(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(plain))
    if len(kinds) != len(plain):
        raise ArtifactError(f"{where}: expected {len(kinds)} items, got {len(plain)}")
    return tuple(
        _convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, plain, strict=True))
    )


def _convert_dataclass(kind: type, plain: object, where: str) -> object:
    if not isinstance(plain, dict):
        raise ArtifactError(f"{where}: expected an object, got {type(plain).__name__}")
    hints = _hints(kind)
    values: dict[str, object] = {}
    for field in dataclasses.fields(kind):
        if field.name in plain:
            values[field.name] = _convert(
                hints[field.name], plain[field.name], f"{where}.{field.name}"
            )
        elif field.default is dataclasses.MISSING:
            if type(None) not in typing.get_args(hints[field.name]):
                raise ArtifactError(f"{where}.{field.name}: missing")
            values[field.name] = None
    return kind(**values)
