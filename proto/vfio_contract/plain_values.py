"""JSON values as the values of this program: each type's reader is made once, then used for all.

A reader takes a JSON value and gives a value of its type, or raises `Misfit` with where and what it
expected. A key that is not known is ignored, a key that is absent takes the field's default or None
("not known"). It must never take one type for another: True is no number, and 1 is no text.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any

from vfio_contract.address import Address, is_address

MIN_INT, MAX_INT = -(1 << 63), (1 << 64) - 1
"""What a number of a host can be: sysfs and the wire have 64 bits, signed or not."""

Reader = Callable[[object], Any]


class Misfit(ValueError):
    """What does not fit; the path grows on the way out, so that it costs only who fails."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path = ""

    def within(self, step: str) -> Misfit:
        """The same, one step further out."""
        self.path = step + self.path
        return self

    def __str__(self) -> str:
        return f"{self.path}: {self.args[0]}"


@cache
def reader_of(kind: Any) -> Reader:
    """The reader of a type: a dataclass, tuple, enum, plain JSON type, or one of these or None."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(kind) if a is not type(None)]
        return _optional(reader_of(options[0]))
    if origin is tuple:
        kinds = typing.get_args(kind)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return _many(reader_of(kinds[0]))
        return _row(tuple(reader_of(kind) for kind in kinds))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind)
    if kind is Address:
        return _read_address
    if kind is bytes:
        return _read_bytes
    if hasattr(kind, "__supertype__"):
        return reader_of(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    return _plain(kind)


def _optional(read: Reader) -> Reader:
    return lambda plain: None if plain is None else read(plain)


def _many(read: Reader) -> Reader:
    def convert(plain: object) -> object:
        items, found = _list_of(plain), []
        try:
            for item in items:
                found.append(read(item))
        except Misfit as misfit:
            raise misfit.within(f"[{len(found)}]") from None
        return tuple(found)

    return convert


def _row(readers: tuple[Reader, ...]) -> Reader:
    def convert(plain: object) -> object:
        items, found = _list_of(plain), []
        if len(items) != len(readers):
            raise Misfit(f"expected {len(readers)} items, got {len(items)}")
        try:
            for read, item in zip(readers, items, strict=True):
                found.append(read(item))
        except Misfit as misfit:
            raise misfit.within(f"[{len(found)}]") from None
        return tuple(found)

    return convert


def _list_of(plain: object) -> list[object]:
    if not isinstance(plain, list):
        raise Misfit(f"expected a list, got {type(plain).__name__}")
    return plain


_ABSENT = object()
"""No JSON value is this."""


def _dataclass(kind: type) -> Reader:
    hints = typing.get_type_hints(kind)
    rows = [(field, hints[field.name]) for field in dataclasses.fields(kind)]
    readers = [(field.name, reader_of(hint)) for field, hint in rows]
    required = [field.name for field, hint in rows if field.default is dataclasses.MISSING]
    optional = {field.name for field, hint in rows if type(None) in typing.get_args(hint)}

    def convert(plain: object) -> object:
        if not isinstance(plain, dict):
            raise Misfit(f"expected an object, got {type(plain).__name__}")
        values: dict[str, object] = {}
        name = ""
        try:
            for name, read in readers:
                value = plain.get(name, _ABSENT)
                if value is not _ABSENT:
                    values[name] = read(value)
        except Misfit as misfit:
            raise misfit.within(f".{name}") from None
        for name in required:
            if name not in values:
                if name not in optional:
                    raise Misfit("missing").within(f".{name}")
                values[name] = None
        return kind(**values)

    return convert


def _enum(kind: type[Enum]) -> Reader:
    members = {member.value: member for member in kind}

    def convert(plain: object) -> object:
        try:
            return members[plain]
        except (KeyError, TypeError):
            raise Misfit(f"{plain!r} is not a {kind.__name__}") from None

    return convert


def _plain(kind: type) -> Reader:
    def convert(plain: object) -> object:
        if type(plain) is kind and kind is not int:
            return plain
        if isinstance(plain, int) and not MIN_INT <= plain <= MAX_INT:
            raise Misfit("a number beyond 64 bits")
        if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
            return float(plain)
        if not isinstance(plain, kind) or (kind is int and isinstance(plain, bool)):
            raise Misfit(f"expected {kind.__name__}, got {type(plain).__name__}")
        return plain

    return convert


def _read_address(plain: object) -> str:
    """An address; "" where a field uses it for none."""
    if not isinstance(plain, str):
        raise Misfit(f"expected a PCI address, got {type(plain).__name__}")
    if plain and not is_address(plain):
        raise Misfit(f"{plain[:40]!r} is no PCI address")
    return plain


def _read_bytes(plain: object) -> bytes:
    try:
        if isinstance(plain, str):
            return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Misfit(f"expected base64, got {plain!r:.40}")
