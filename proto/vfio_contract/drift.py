"""What changed between a baseline and now, in the terms that matter for passthrough.

Compares the fingerprints of two hosts by function identity, never by address or group number. Only
facts that both sides know are compared: a field that one of them could not read, or that its schema
did not have, is neither equal nor changed, so that upgrading vfioctl alone yields no drift. What a
class of change leads to is one table, `CONSEQUENCES`; whom it concerns is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from vfio_contract import codes
from vfio_contract.address import Address
from vfio_contract.codes import Code
from vfio_contract.fingerprint import (
    HOST,
    RESETS,
    VFIO,
    BarPrint,
    Fingerprint,
    FunctionPrint,
    Link,
    fingerprint,
)
from vfio_contract.firmware import shorten
from vfio_contract.host import Host
from vfio_contract.matching import Matching, Pair, match


class Consequence(StrEnum):
    """What a change of an intended or claimed unit leads to.

    RETURNS: the node takes placements again by itself. HOLDS: it waits for a person. CORDONS: harm,
    isolation or function was taken away.
    """

    RETURNS = "returns"
    HOLDS = "holds"
    CORDONS = "cordons"


CONSEQUENCES: Mapping[str, Consequence] = MappingProxyType(
    {
        codes.FIRMWARE_CHANGED.name: Consequence.RETURNS,
        codes.NEXT_BOOT_CHANGED.name: Consequence.RETURNS,
        codes.GROUP_RENUMBERED.name: Consequence.RETURNS,
        codes.DEVICE_MOVED.name: Consequence.RETURNS,
        codes.DEVICE_APPEARED.name: Consequence.RETURNS,
        codes.BINDING_GAINED.name: Consequence.RETURNS,
        codes.RESET_GAINED.name: Consequence.RETURNS,
        codes.LINK_IMPROVED.name: Consequence.RETURNS,
        codes.ACS_RESTORED.name: Consequence.RETURNS,
        codes.ISOLATION_NATIVE.name: Consequence.RETURNS,
        codes.GROUP_SPLIT.name: Consequence.HOLDS,
        codes.GROUP_NARROWED.name: Consequence.HOLDS,
        codes.VF_COUNT_CHANGED.name: Consequence.HOLDS,
        codes.BAR_CHANGED.name: Consequence.HOLDS,
        codes.LINK_DEGRADED.name: Consequence.HOLDS,
        codes.ISOLATION_ARTIFICIAL.name: Consequence.HOLDS,
        codes.GROUP_WIDENED.name: Consequence.CORDONS,
        codes.DEVICE_VANISHED.name: Consequence.CORDONS,
        codes.BINDING_LOST.name: Consequence.CORDONS,
        codes.RESET_LOST.name: Consequence.CORDONS,
        codes.ACS_CLEARED.name: Consequence.CORDONS,
    }
)
"""Every class of drift, and what it leads to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `identity` is "" for the node; addresses are "" where there is none.

    `detail` sharpens the code: `merged` or `foreign member` for GROUP_WIDENED. `before` and `after`
    are the values as people read them. `harms` is True when isolation or function was taken away:
    exactly for codes that cordon, whose verdict is FAIL. `confidence` is "" where both sides are
    one device for certain, else how it was recognised, in words.
    """

    code: str
    identity: str
    address_before: str
    address_after: str
    detail: str
    before: str
    after: str
    harms: bool
    confidence: str = ""


def describe(change: Change) -> str:
    """One change in one line for people; what two functions share reads the same for both."""
    where = change.address_after or change.address_before
    before, after = shorten(change.before), shorten(change.after)
    match change.code:
        case codes.GROUP_WIDENED.name:
            members = " + ".join(after.partition(": ")[2].split())
            return f"widened ({change.detail}): {members}"
        case codes.FIRMWARE_CHANGED.name:
            return f"{change.detail} {before} -> {after}"
        case codes.NEXT_BOOT_CHANGED.name:
            return f"next boot: {before or 'no parameters'} -> {after or 'no parameters'}"
        case codes.DEVICE_MOVED.name:
            return f"{before} -> {after}"
        case codes.DEVICE_VANISHED.name:
            return f"{where} {before} is gone"
        case codes.DEVICE_APPEARED.name:
            return f"{where} {after} is new"
    return f"{where}: {before} -> {after}"


def compare(before: Host, after: Host) -> tuple[Change, ...]:
    """All changes of the facts of two hosts, as `diff` of their fingerprints."""
    return diff(fingerprint(before), fingerprint(after))


def diff(before: Fingerprint, after: Fingerprint) -> tuple[Change, ...]:
    """All changes: node first, then by address of the function now."""
    changes = list(_node_changes(before, after))
    if before.functions is None or after.functions is None:
        return tuple(changes)
    found = match(before, after)
    groups = _Groups(found)
    translated = has_groups(before) and has_groups(after)
    for pair in found.pairs:
        if not pair.is_bridge:
            changes.extend(_place_changes(pair))
            changes.extend(groups.compare(pair))
            changes.extend(_use_changes(pair))
        if translated:
            changes.extend(_acs_changes(pair))
    changes.extend(
        _change(codes.DEVICE_VANISHED, f, None, f.ids, "") for f in found.gone if not f.bridge
    )
    changes.extend(
        _change(codes.DEVICE_APPEARED, None, f, "", f.ids) for f in found.new if not f.bridge
    )
    return tuple(changes)


def has_groups(side: Fingerprint) -> bool:
    """True where some function is known to be in a group.

    Without an IOMMU the kernel makes no group and sets no ACS bit: nobody took one away. Where no
    group was read nobody can tell.
    """
    return any(f.group is not None and f.group >= 0 for f in side.functions or ())


def lost_group(old: FunctionPrint, now: FunctionPrint) -> bool:
    """True where it was in a group and is known to be in none: no VFIO driver can have it."""
    return old.group is not None and now.group is not None and old.group >= 0 > now.group


def _node_changes(before: Fingerprint, after: Fingerprint) -> Iterator[Change]:
    parts = dict(after.firmware)
    for name, old in before.firmware:
        now = parts.get(name)
        if old is not None and now is not None and old != now:
            yield _change(codes.FIRMWARE_CHANGED, None, None, old, now, name)
    was, is_now = before.next_boot, after.next_boot
    if was is None or is_now is None or was == is_now:
        return
    # where each side runs what its loader says, the command line itself has told it already
    if (was, is_now) != (before.running, after.running):
        yield _change(codes.NEXT_BOOT_CHANGED, None, None, was, is_now, "cmdline pending")


def _place_changes(pair: Pair) -> Iterator[Change]:
    old, now = pair.before.address, pair.after.address
    if old != now:
        yield _change_of(codes.DEVICE_MOVED, pair, old, now)


# --- groups --------------------------------------------------------------------------------------


class _Groups:
    """The endpoints of each group on both sides, the same ones under one key.

    Left out is what is a bridge on either side, and what nobody can tell from another.
    """

    def __init__(self, found: Matching) -> None:
        self._before: dict[int, dict[object, Address]] = {}
        self._after: dict[int, dict[object, Address]] = {}
        self._group_before: dict[object, int | None] = {}
        self._group_after: dict[object, int | None] = {}
        for number, pair in enumerate(found.pairs):
            if not pair.is_bridge:
                self._put(number, pair.before, self._before, self._group_before)
                self._put(number, pair.after, self._after, self._group_after)
        for function in found.gone:
            if not function.bridge:
                self._put(("gone", function.address), function, self._before, self._group_before)
        for function in found.new:
            if not function.bridge:
                self._put(("new", function.address), function, self._after, self._group_after)

    @staticmethod
    def _put(
        key: object,
        function: FunctionPrint,
        members: dict[int, dict[object, Address]],
        groups: dict[object, int | None],
    ) -> None:
        groups[key] = function.group
        if function.group is not None and function.group >= 0:
            members.setdefault(function.group, {})[key] = function.address

    def compare(self, pair: Pair) -> Iterator[Change]:
        """What became of the group of this function; nothing where either side has none."""
        old, now = pair.before.group, pair.after.group
        if old is None or now is None or old < 0 or now < 0:
            return
        had, has = self._before[old], self._after[now]
        # whose group is not known on the other side neither came nor left
        gained = {k for k in has.keys() - had.keys() if self._group_before.get(k, -1) is not None}
        lost = {k for k in had.keys() - has.keys() if self._group_after.get(k, -1) is not None}
        was, is_now = f"group {old}: {_list(had.values())}", f"group {now}: {_list(has.values())}"
        if gained:
            merged = all(self._group_before.get(k, -1) != -1 for k in gained)
            detail = "merged" if merged else "foreign member"
            yield _change_of(codes.GROUP_WIDENED, pair, was, is_now, detail)
        elif lost:
            split = any(k in self._group_after for k in lost)
            code = codes.GROUP_SPLIT if split else codes.GROUP_NARROWED
            yield _change_of(code, pair, was, is_now)
        elif old != now:
            yield _change_of(codes.GROUP_RENUMBERED, pair, was, is_now)


# --- use -----------------------------------------------------------------------------------------


def _use_changes(pair: Pair) -> Iterator[Change]:
    yield from _binding_changes(pair)
    yield from _reset_changes(pair)
    yield from _vf_changes(pair)
    yield from _bar_changes(pair)
    yield from _link_changes(pair)
    was, is_now = pair.before.artificial, pair.after.artificial
    if was is not None and is_now is not None and was != is_now:
        code = codes.ISOLATION_ARTIFICIAL if is_now else codes.ISOLATION_NATIVE
        words = {True: "by pcie_acs_override", False: "by the hardware"}
        yield _change_of(code, pair, words[was], words[is_now])


def _binding_changes(pair: Pair) -> Iterator[Change]:
    """What a hypervisor binds for its VM comes and goes with that, and is no drift; nor is what
    comes and goes with the function's group."""
    if lost_group(pair.before, pair.after) or lost_group(pair.after, pair.before):
        return
    found = {(VFIO, HOST): codes.BINDING_LOST, (HOST, VFIO): codes.BINDING_GAINED}
    was, is_now = pair.before.binding, pair.after.binding
    if was is not None and is_now is not None and (was, is_now) in found:
        drivers = [
            side.driver or ("vfio" if side.binding == VFIO else "no driver")
            for side in (pair.before, pair.after)
        ]
        yield _change_of(found[was, is_now], pair, *drivers)


def _reset_changes(pair: Pair) -> Iterator[Change]:
    was, is_now = pair.before.reset, pair.after.reset
    if was is None or is_now is None or was == is_now:
        return
    lost = RESETS.index(is_now) < RESETS.index(was)
    yield _change_of(codes.RESET_LOST if lost else codes.RESET_GAINED, pair, was, is_now)


def _vf_changes(pair: Pair) -> Iterator[Change]:
    old, now = pair.before, pair.after
    differs = [
        (was, is_now, word)
        for was, is_now, word in (
            (old.vfs, now.vfs, "enabled"),
            (old.total_vfs, now.total_vfs, "possible"),
        )
        if was is not None and is_now is not None and was != is_now
    ]
    if differs:
        before = ", ".join(f"{was} VFs {word}" for was, _, word in differs)
        after = ", ".join(f"{is_now} VFs {word}" for _, is_now, word in differs)
        yield _change_of(codes.VF_COUNT_CHANGED, pair, before, after)


def _bar_changes(pair: Pair) -> Iterator[Change]:
    """BARs by number: their sizes, whether they have an address, and what resizable ones are set
    to."""
    old, now = pair.before, pair.after
    before: list[str] = []
    after: list[str] = []
    if old.bars is not None and now.bars is not None:
        was, is_now = ({b.index: _show_bar(b) for b in bars} for bars in (old.bars, now.bars))
        for index in sorted(was.keys() | is_now.keys()):
            if was.get(index) != is_now.get(index):
                before.append(f"BAR {index}: {was.get(index, 'none')}")
                after.append(f"BAR {index}: {is_now.get(index, 'none')}")
    had, has = dict(old.resizable or ()), dict(now.resizable or ())
    for index in sorted(had.keys() & has.keys()):
        if had[index] != has[index]:
            before.append(f"BAR {index} set to {_size(had[index])}")
            after.append(f"BAR {index} set to {_size(has[index])}")
    if before:
        yield _change_of(codes.BAR_CHANGED, pair, "; ".join(before), "; ".join(after))


def _show_bar(bar: BarPrint) -> str:
    return f"{_size(bar.size_bytes)}{'' if bar.assigned else ', no address'}"


def _link_changes(pair: Pair) -> Iterator[Change]:
    """What the slot gives: the weaker of both ends, the function's own where that is all known."""
    was, is_now = pair.before.link, pair.after.link
    if was is None or is_now is None:
        return
    port_was, port_now = pair.before.port_link, pair.after.port_link
    if port_was is not None and port_now is not None:
        was, is_now = _weaker(was, port_was), _weaker(is_now, port_now)
    if was == is_now:
        return
    worse = is_now.speed < was.speed or is_now.width < was.width
    code = codes.LINK_DEGRADED if worse else codes.LINK_IMPROVED
    yield _change_of(code, pair, _show_link(was), _show_link(is_now))


def _weaker(one: Link, other: Link) -> Link:
    return Link(min(one.speed, other.speed), min(one.width, other.width))


def _show_link(link: Link) -> str:
    return f"{link.speed:g} GT/s x{link.width}"


def _acs_changes(pair: Pair) -> Iterator[Change]:
    was, is_now = pair.before.acs, pair.after.acs
    if was is None or is_now is None:
        return
    texts = f"ACSCtl 0x{was:02x}", f"ACSCtl 0x{is_now:02x}"
    if was & ~is_now:
        yield _change_of(codes.ACS_CLEARED, pair, *texts)
    if is_now & ~was:
        yield _change_of(codes.ACS_RESTORED, pair, *texts)


def _change_of(code: Code, pair: Pair, before: str, after: str, detail: str = "") -> Change:
    return _change(code, pair.before, pair.after, before, after, detail, pair.confidence)


def _change(
    code: Code,
    old: FunctionPrint | None,
    now: FunctionPrint | None,
    before: str,
    after: str,
    detail: str = "",
    confidence: str = "",
) -> Change:
    function = now or old
    return Change(
        code=code.name,
        identity=function.identity if function is not None else "",
        address_before=old.address if old is not None else "",
        address_after=now.address if now is not None else "",
        detail=detail,
        before=before,
        after=after,
        harms=CONSEQUENCES[code.name] is Consequence.CORDONS,
        confidence=confidence,
    )


def _list(addresses: Iterable[str]) -> str:
    return " ".join(sorted(addresses)) or "empty"


_UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


def _size(size: int) -> str:
    return next((f"{size >> s} {u}" for s, u in _UNITS if size >> s), f"{size} B")
