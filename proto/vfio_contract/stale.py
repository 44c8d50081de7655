"""VM configurations and mappings whose address or group number means another thing now.

A written address is judged by identity: what it meant at the baseline against where that device is
now. An entry that follows its device (its VM named the same device at the baseline, by whatever
address) is up to date; of one that nobody can tell to be newer than the move it is said that it is
stale, because the old address may be another device now. This module edits nothing, and must never
list an entry whose device did not move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vfio_contract import codes
from vfio_contract.address import Address, address_key, slot_of
from vfio_contract.fingerprint import fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import Pair, match
from vfio_contract.model import PciFunction
from vfio_contract.units import kind_of
from vfio_contract.vm import (
    LIBVIRT,
    MappingEntry,
    PciMapping,
    VmConfig,
    VmDevice,
    complete_address,
    covers,
    entries_for,
)


@dataclass(frozen=True, slots=True)
class StaleReference:
    """One line to edit. `code` is VM_ADDRESS_STALE or MAPPING_STALE.

    `owner` is `vm 101` or `mapping gpu`; `line` counts from 1, of a command line it is the place of
    the argument. `names` is what is written, `means_now` what stands there now, in words, and
    `edit` the change as it stands in the file: `hostpci0: 01:00 -> 04:00`.
    """

    code: str
    owner: str
    file: str
    line: int
    names: str
    means_now: str
    edit: str

    @property
    def text(self) -> str:
        """All of it in one line for people."""
        return f"{self.file}:{self.line}: {self.edit} ({self.means_now})"


def find_stale(before: Host, after: Host) -> tuple[StaleReference, ...]:
    """Every entry of the later host that names a device where it no longer is, by file and line."""
    work = _Work(before, after)
    found = [*_stale_vms(work), *_stale_mappings(work)]
    return tuple(sorted(found, key=lambda r: (r.file, r.line, r.edit)))


class _Work:
    """Both hosts, and which function of one is which of the other."""

    def __init__(self, before: Host, after: Host) -> None:
        self.before, self.after = before, after
        pairs = match(fingerprint(before), fingerprint(after)).pairs
        self.by_old: dict[Address, Pair] = {p.before.address: p for p in pairs if not p.is_bridge}

    def successors(self, written: Iterable[str]) -> set[Address]:
        """Where the functions are now that these meant at the baseline."""
        return {
            self.by_old[f.address].after.address
            for text in written
            for f in _covered(self.before, text)
            if f.address in self.by_old
        }

    def is_followed(self, written: str, earlier: Iterable[str]) -> bool:
        """True where this names, now, only what these named at the baseline."""
        current = {f.address for f in _covered(self.after, written)}
        return bool(current) and current <= self.successors(earlier)

    def moved_to(self, written: str) -> tuple[Address, ...]:
        """Where what this meant at the baseline is now, by address; () unless some of it moved."""
        pairs = [
            self.by_old[f.address]
            for f in _covered(self.before, written)
            if f.address in self.by_old
        ]
        if all(p.before.address == p.after.address for p in pairs):
            return ()
        return tuple(sorted((p.after.address for p in pairs), key=address_key))

    def describe_now(self, written: str) -> str:
        """What this means now, in words."""
        rows = _covered(self.after, written)
        if not rows:
            bridges = any(covers(written, f.address) for f in self.after.functions)
            return f"{'a bridge' if bridges else 'nothing'} is at {written} now"
        return f"{written} is {kind_of(rows[0]) or 'device'} {rows[0].ids} now"


def _covered(host: Host, written: str) -> list[PciFunction]:
    """The endpoints that this address or slot means."""
    return [f for f in host.functions if not f.is_bridge and covers(written, f.address)]


# --- virtual machines ----------------------------------------------------------------------------


def _stale_vms(work: _Work) -> Iterator[StaleReference]:
    earlier = {(vm.kind, vm.name): vm for vm in work.before.facts.vms or ()}
    for vm in work.after.facts.vms or ():
        was = earlier.get((vm.kind, vm.name))
        for device in vm.devices:
            for written in device.addresses:
                new = () if _follows(work, was, device, written) else work.moved_to(written)
                if new:
                    yield _report_device(work, vm, device, written, new)


def _follows(work: _Work, was: VmConfig | None, device: VmDevice, written: str) -> bool:
    """True where the VM's configuration was edited since, to the devices that it named before."""
    if was is None:
        return False
    same = [d for d in was.devices if d.key == device.key]
    named = [text for d in same or was.devices for text in d.addresses]
    return written not in named and work.is_followed(written, named)


def _report_device(
    work: _Work, vm: VmConfig, device: VmDevice, written: str, new: tuple[Address, ...]
) -> StaleReference:
    replacement = _in_form_of(written, new)
    if vm.kind == LIBVIRT and len(replacement) == 1:
        names, edit = _attribute_edit(written, replacement[0])
    else:
        names = _as_written(device, written)
        short = not names.startswith(written.partition(":")[0] + ":")
        edit = f"{names} -> {';'.join(_shorten(text) if short else text for text in replacement)}"
    return StaleReference(
        code=codes.VM_ADDRESS_STALE.name,
        owner=f"vm {vm.name}",
        file=vm.source,
        line=device.line,
        names=names,
        means_now=work.describe_now(written),
        edit=f"{device.key}: {edit}",
    )


def _in_form_of(written: str, new: tuple[Address, ...]) -> tuple[str, ...]:
    """The new addresses; as a slot where a slot was written and all of it stayed together."""
    slots = {slot_of(address) for address in new}
    return tuple(slots) if "." not in written and len(slots) == 1 else new


def _as_written(device: VmDevice, written: str) -> str:
    """The address as the file has it, with or without its domain."""
    for _, value in device.options:
        for token in value.split(";"):
            if complete_address(token) == written:
                return token.strip()
    return written


def _shorten(address: str) -> str:
    return address.removeprefix("0000:")


def _attribute_edit(written: str, new: str) -> tuple[str, str]:
    """`bus='0x01'` and `bus='0x01' -> bus='0x04'`: the attributes of <address> that differ."""
    old, now = _attributes(written), _attributes(new)
    differ = [name for name in now if old.get(name) != now[name]]
    names = " ".join(f"{name}='{old[name]}'" for name in differ if name in old)
    values = " ".join(f"{name}='{now[name]}'" for name in differ)
    return names, f"{names} -> {values}"


def _attributes(written: str) -> dict[str, str]:
    slot, _, function = written.partition(".")
    domain, bus, device = slot.split(":")
    found = {"domain": f"0x{domain}", "bus": f"0x{bus}", "slot": f"0x{device}"}
    return found | ({"function": f"0x{function}"} if function else {})


# --- mappings ------------------------------------------------------------------------------------


def _stale_mappings(work: _Work) -> Iterator[StaleReference]:
    earlier = {mapping.name: mapping for mapping in work.before.facts.mappings or ()}
    for mapping in work.after.facts.mappings or ():
        was = earlier.get(mapping.name)
        named = [
            text
            for entry in (entries_for(was, work.before.facts.host) if was is not None else ())
            for text in entry.addresses
        ]
        for entry in entries_for(mapping, work.after.facts.host):
            yield from _judge_entry(work, mapping, entry, named)


def _judge_entry(
    work: _Work, mapping: PciMapping, entry: MappingEntry, named: list[str]
) -> Iterator[StaleReference]:
    """One entry: its paths, and the group number of its first function, which Proxmox compares."""
    moved = {
        written: _in_form_of(written, new)
        for written in entry.addresses
        if (new := work.moved_to(written))
        and not (written not in named and work.is_followed(written, named))
    }
    names, edits, means = [], [], []
    if moved:
        old = ";".join(entry.addresses)
        paths = [text for w in entry.addresses for text in moved.get(w, (w,))]
        names.append(f"path={old}")
        edits.append(f"path={old} -> {';'.join(paths)}")
        means += [work.describe_now(written) for written in moved]
    group = _group_of(work, entry, moved)
    if group is not None and group != entry.group:
        names.append(f"iommugroup={entry.group}")
        edits.append(f"iommugroup={entry.group} -> {group}")
        means.append(f"its group is {group} now")
    if edits:
        yield StaleReference(
            code=codes.MAPPING_STALE.name,
            owner=f"mapping {mapping.name}",
            file=mapping.source,
            line=entry.line,
            names=", ".join(names),
            means_now="; ".join(means),
            edit=", ".join(edits),
        )


def _group_of(work: _Work, entry: MappingEntry, moved: dict[str, tuple[str, ...]]) -> int | None:
    """The group number that the entry should have, where it changed since the baseline."""
    if entry.group < 0 or not entry.addresses:
        return None
    first = entry.addresses[0]
    rows = _covered(work.after, moved[first][0] if first in moved else first)
    after = {p.after.address: p for p in work.by_old.values()}
    pair = after.get(rows[0].address) if rows else None
    if pair is None or pair.before.group is None or pair.before.group == pair.after.group:
        return None
    number = pair.after.group
    return None if number is None or number < 0 else number
