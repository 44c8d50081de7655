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
    bare = _bare(kind)
    if bare is not kind:
        return _optional(reader_of(bare))
    origin = typing.get_origin(kind)
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
    return _read_int if kind is int else _plain(kind)


def _bare(kind: Any) -> Any:
    """The type itself, or that of which it is "this or None"."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    return next(a for a in typing.get_args(kind) if a is not type(None))


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
    rows = [_row_of(field, hints[field.name]) for field in dataclasses.fields(kind)]
    by_name = any(field.kw_only for field in dataclasses.fields(kind))

    def convert(plain: object) -> object:
        if not isinstance(plain, dict):
            raise Misfit(f"expected an object, got {type(plain).__name__}")
        values = []
        for name, read, as_is, default in rows:
            value = plain.get(name, default)
            if value is _ABSENT:
                raise Misfit("missing").within(f".{name}")
            if value is not default and type(value) not in as_is:
                try:
                    value = read(value)
                except Misfit as misfit:
                    raise misfit.within(f".{name}") from None
            values.append(value)
        if by_name:
            return kind(**{row[0]: value for row, value in zip(rows, values, strict=True)})
        return kind(*values)

    return convert


def _row_of(
    field: dataclasses.Field[Any], hint: Any
) -> tuple[str, Reader, frozenset[type], object]:
    """A field's name, the reader of what is not None, the types of JSON values that need none
    because they are values of the field as they are, and what stands for a value that is absent."""
    bare = _bare(hint)
    optional = bare is not hint
    as_is = {kind for kind in (str, bool, float) if kind is bare}
    if optional:
        as_is.add(type(None))
    default = field.default
    if default is dataclasses.MISSING:
        default = None if optional else _ABSENT
    return field.name, reader_of(bare), frozenset(as_is), default


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
        if isinstance(plain, kind):
            return plain
        if kind is float and type(plain) is int:
            return float(_read_int(plain))
        raise Misfit(f"expected {kind.__name__}, got {type(plain).__name__}")

    return convert


def _read_int(plain: object) -> int:
    if type(plain) is not int:
        raise Misfit(f"expected int, got {type(plain).__name__}")
    if not MIN_INT <= plain <= MAX_INT:
        raise Misfit("a number beyond 64 bits")
    return plain


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
