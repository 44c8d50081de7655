"""Whether two sets of facts are of one machine, from what its firmware says of it.

A DMI product UUID is unique unless nobody filled it in: board makers ship all zeros, all ones and
well-known examples, and such a text identifies nothing, however many hosts have it. Without UUIDs
on both sides, the names of board and product can only tell two machines apart, never say that they
are one. What one side could not read decides nothing.

Source: DMTF SMBIOS 3.7, 7.2.1 (system UUID; all zeros: not set, all ones: not settable).
"""

from __future__ import annotations

from vfio_contract.model import Facts

_EXAMPLES = frozenset(
    {
        "03000200040005000006000700080009",
        "00020003000400050006000700080009",
        "12345678123456781234567812345678",
        "12345678123456789012123456789abc",
        "12345678123456781234123456789abc",
        "0123456789abcdef0123456789abcdef",
    }
)
"""UUIDs, without dashes, that boards were shipped with by the thousand."""

_BLANK = frozenset(
    {
        "",
        "0",
        "none",
        "default string",
        "not applicable",
        "not available",
        "not present",
        "not settable",
        "not specified",
        "n/a",
        "o.e.m.",
        "system manufacturer",
        "system product name",
        "to be filled by o.e.m.",
        "undefined",
        "unknown",
    }
)
"""What stands where a maker wrote no name."""


def telling_uuid(text: str | None) -> str:
    """A product UUID as firmware gave it; "" for one that nobody set, which tells no two apart."""
    plain = (text or "").strip().lower().replace("-", "")
    blank = not plain or len(set(plain)) == 1 or plain in _EXAMPLES
    return "" if blank or given_name(text) == "" else (text or "").strip()


def given_name(text: str | None) -> str:
    """What a maker called a thing; "" for one that is not known or was never filled in."""
    plain = " ".join((text or "").split())
    return "" if plain.lower() in _BLANK else plain


def find_other_machine(before: Facts, after: Facts) -> str:
    """What shows that these are two machines, in words; "" where nothing does."""
    old, now = before.firmware, after.firmware
    was, is_now = telling_uuid(old.product_uuid), telling_uuid(now.product_uuid)
    if was and is_now:
        return "" if was.lower() == is_now.lower() else f"product UUID {was} -> {is_now}"
    for what, one, other in (
        ("board", old.board_name, now.board_name),
        ("product", old.product_name, now.product_name),
    ):
        first, second = given_name(one), given_name(other)
        if first and second and first != second:
            return f"{what} {first} -> {second}"
    return ""
