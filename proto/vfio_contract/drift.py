"""What changed between a baseline and now, in the terms that matter for passthrough.

Compares two hosts by function identity, never by address or group number. Only facts that both
sides know are compared: a field that one of them could not read, or that its schema did not have,
is neither equal nor changed, so that upgrading vfioctl alone yields no drift. What follows from a
change (block, cordon, wait for a person) is not decided here; a change only says whether it takes
isolation or function away (`harms`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vfio_contract import codes
from vfio_contract.address import Address, Identity, address_key
from vfio_contract.codes import Code
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import Facts, PciFunction
from vfio_contract.units import hot_resets, resets_alone

_DIGEST = re.compile(r"[0-9a-f]{64}")

_ISOLATING = 0x01 | 0x04 | 0x08 | 0x10
"""ACSCtl SV, RR, CR, UF: the bits that a group relies on (facts: Isolation beyond groups)."""

_PARAMETERS = frozenset(
    {
        "intel_iommu",
        "amd_iommu",
        "iommu",
        "intremap",
        "pcie_acs_override",
        "pci",
        "vfio",
        "vfio_pci",
        "vfio_iommu_type1",
        "iommufd",
        "arm_smmu",
        "arm_smmu_v3",
        "efi",
    }
)
"""Names before the first `=` or `.` of kernel parameters that bear on passthrough."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `identity` is "" for the node; addresses are "" where there is none.

    `detail` sharpens the code: `merged` or `foreign member` for GROUP_WIDENED. `before` and `after`
    are the values as people read them. `harms` is True when isolation or function was taken away:
    exactly for codes whose verdict is FAIL.
    """

    code: str
    identity: str
    address_before: str
    address_after: str
    detail: str
    before: str
    after: str
    harms: bool


def describe(change: Change) -> str:
    """One change in one line for people; what two functions share reads the same for both."""
    where = change.address_after or change.address_before
    before, after = _short(change.before), _short(change.after)
    match change.code:
        case codes.GROUP_WIDENED.name:
            members = " + ".join(after.partition(": ")[2].split())
            return f"widened ({change.detail}): {members}"
        case codes.FIRMWARE_CHANGED.name:
            return f"{change.detail} {before} -> {after}"
        case codes.DEVICE_MOVED.name:
            return f"{before} -> {after}"
        case codes.DEVICE_VANISHED.name:
            return f"{where} {before} is gone"
        case codes.DEVICE_APPEARED.name:
            return f"{where} {after} is new"
    return f"{where}: {before} -> {after}"


def _short(value: str) -> str:
    """A digest by its first 12 digits, as git shows them; anything else as it is."""
    return value[:12] if _DIGEST.fullmatch(value) else value


def firmware_tuple(facts: Facts) -> tuple[tuple[str, str | None], ...]:
    """The named parts of the firmware tuple, in DESIGN's order; None where a part is not known."""
    firmware = facts.firmware
    attributes = firmware.attributes
    joined = None if attributes is None else ", ".join(f"{k}={v}" for k, v in attributes)
    return (
        ("BIOS", _joined(firmware.bios_version, firmware.bios_date)),
        ("BMC", firmware.bmc_revision),
        ("microcode", firmware.microcode),
        ("kernel", facts.kernel.release),
        ("kernel build", facts.kernel.build),
        ("cmdline", None if facts.cmdline is None else iommu_parameters(facts.cmdline)),
        ("ACPI DMAR", firmware.dmar_sha256),
        ("ACPI IVRS", firmware.ivrs_sha256),
        ("firmware attributes", joined),
    )


def iommu_parameters(cmdline: str) -> str:
    """The kernel parameters that bear on passthrough, in their order."""
    return " ".join(word for word in cmdline.split() if _parameter_head(word) in _PARAMETERS)


def _parameter_head(word: str) -> str:
    return word.partition("=")[0].partition(".")[0].replace("-", "_")


def compare(before: Host, after: Host) -> tuple[Change, ...]:
    """All changes: node first, then by address of the function now."""
    changes = list(_firmware_changes(before.facts, after.facts))
    if before.facts.functions is None or after.facts.functions is None:
        return tuple(changes)
    pairs, gone, new = match_functions(before, after)
    same = {_id(after, now): _id(before, old) for old, now in pairs}
    for old, now in pairs:
        identity = _id(after, now)
        if not now.is_bridge:
            changes.extend(_place_changes(identity, old, now))
            changes.extend(_group_changes(before, after, old, now, same))
            changes.extend(_use_changes(before, after, old, now))
        changes.extend(_acs_changes(identity, old, now))
    changes.extend(_change(codes.DEVICE_VANISHED, _id(before, f), f, None, f.ids, "") for f in gone)
    changes.extend(_change(codes.DEVICE_APPEARED, _id(after, f), None, f, "", f.ids) for f in new)
    return tuple(changes)


Pairs = Sequence[tuple[PciFunction, PciFunction]]


def match_functions(
    before: Host, after: Host
) -> tuple[Pairs, Sequence[PciFunction], Sequence[PciFunction]]:
    """(same function in both, endpoints only before, endpoints only after).

    By identity first; then by place and ids for those of which one side could read no serial.
    """
    pairs: list[tuple[PciFunction, PciFunction]] = []
    left = {before.identities[f.address].identity: f for f in before.functions}
    rest: list[PciFunction] = []
    for function in after.functions:
        old = left.pop(after.identities[function.address].identity, None)
        if old is None:
            rest.append(function)
        else:
            pairs.append((old, function))
    places = {before.identities[f.address].place: f for f in left.values()}
    new: list[PciFunction] = []
    for function in rest:
        found = after.identities[function.address]
        old = places.get(found.place)
        if old is None or {found.method, before.identities[old.address].method} == {"dsn"}:
            new.append(function)
        else:
            del places[found.place]
            pairs.append((old, function))
    pairs.sort(key=lambda pair: address_key(pair[1].address))
    return (
        pairs,
        [f for f in places.values() if not f.is_bridge],
        [f for f in new if not f.is_bridge],
    )


def _place_changes(identity: Identity, old: PciFunction, now: PciFunction) -> Iterable[Change]:
    if old.address != now.address:
        yield _change(codes.DEVICE_MOVED, identity, old, now, old.address, now.address)


def _group_changes(
    before: Host,
    after: Host,
    old: PciFunction,
    now: PciFunction,
    same: Mapping[Identity, Identity],
) -> Iterable[Change]:
    if old.group is None or now.group is None or old.group < 0 or now.group < 0:
        return
    had = _group_identities(before, old.group)
    has = {same.get(i, i): a for i, a in _group_identities(after, now.group).items()}
    gained, lost = has.keys() - had.keys(), had.keys() - has.keys()
    identity = _id(after, now)
    was = f"group {old.group}: {_list(had.values())}"
    is_now = f"group {now.group}: {_list(has.values())}"
    if gained:
        known = {i for number in before.members for i in _group_identities(before, number)}
        detail = "merged" if gained <= known else "foreign member"
        yield _change(codes.GROUP_WIDENED, identity, old, now, was, is_now, detail)
    elif lost:
        code = codes.GROUP_SPLIT if lost & set(same.values()) else codes.GROUP_NARROWED
        yield _change(code, identity, old, now, was, is_now)
    elif old.group != now.group:
        yield _change(codes.GROUP_RENUMBERED, identity, old, now, was, is_now)


def _group_identities(host: Host, number: int) -> dict[Identity, Address]:
    return {
        host.identities[f.address].identity: f.address
        for f in host.members.get(number, ())
        if not f.is_bridge
    }


def _use_changes(before: Host, after: Host, old: PciFunction, now: PciFunction) -> Iterable[Change]:
    identity = _id(after, now)
    if (is_vfio_bound(old), is_vfio_bound(now)) == (True, False):
        driver = now.driver or "no driver"
        yield _change(codes.BINDING_LOST, identity, old, now, old.driver or "vfio", driver)
    had, has = reset_class(old, before.by_address), reset_class(now, after.by_address)
    rank = ("none", "weak", "slot", "function")
    if had is not None and has is not None and rank.index(has) < rank.index(had):
        yield _change(codes.RESET_LOST, identity, old, now, had, has)


def reset_class(function: PciFunction, by_address: Mapping[Address, PciFunction]) -> str | None:
    """`function`, `slot` (VFIO hot reset), `weak` (power management only), `none`; None unknown."""
    if resets_alone(function):
        return "function"
    hot = hot_resets(function, by_address)
    if hot is None or function.reset_methods is None:
        return "slot" if hot else None
    if hot:
        return "slot"
    return "weak" if "pm" in function.reset_methods else "none"


def _acs_changes(identity: Identity, old: PciFunction, now: PciFunction) -> Iterable[Change]:
    had = None if old.config is None else old.config.acs
    has = None if now.config is None else now.config.acs
    if had is None or has is None:
        return
    if had.control & ~has.control & _ISOLATING:
        was, is_now = f"ACSCtl 0x{had.control:02x}", f"ACSCtl 0x{has.control:02x}"
        yield _change(codes.ACS_CLEARED, identity, old, now, was, is_now)


def _firmware_changes(before: Facts, after: Facts) -> Iterable[Change]:
    for (name, old), (_, now) in zip(firmware_tuple(before), firmware_tuple(after), strict=True):
        if old is not None and now is not None and old != now:
            yield _change(codes.FIRMWARE_CHANGED, "", None, None, old, now, name)


def _change(
    code: Code,
    identity: str,
    old: PciFunction | None,
    now: PciFunction | None,
    before: str,
    after: str,
    detail: str = "",
) -> Change:
    return Change(
        code=code.name,
        identity=identity,
        address_before=old.address if old is not None else "",
        address_after=now.address if now is not None else "",
        detail=detail,
        before=before,
        after=after,
        harms=code.verdict is Verdict.FAIL,
    )


def _id(host: Host, function: PciFunction) -> Identity:
    return host.identities[function.address].identity


def _joined(*parts: str | None) -> str | None:
    known = [p for p in parts if p]
    return None if None in parts else " ".join(known)


def _list(addresses: Iterable[str]) -> str:
    return " ".join(sorted(addresses)) or "empty"
