"""VM configurations and mappings whose address or group number means another thing now.

A written address is judged by identity: what it meant at the baseline against where that device is
now. An entry that follows its device (its VM named the same device at the baseline, by whatever
address) is up to date; of one that nobody can tell to be newer than the move it is said that it is
stale, because the old address may be another device now. Where the baseline does not have the entry
at all it may be newer, and is marked so: no evidence tells when a line was written (the time of a
file is of all its lines, and copies keep it). An entry that was changed since and may mean a device
that is gone is not listed: no edit leads to its device, and that it is gone is told by itself. This
module edits nothing, and must never list an entry whose device did not move, nor lead one to a
device that it may not mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vfio_contract import codes
from vfio_contract.address import Address, address_key, slot_of
from vfio_contract.fingerprint import fingerprint
from vfio_contract.host import Host
from vfio_contract.matching import Pair, match
from vfio_contract.model import PciFunction
from vfio_contract.units import kind_of
from vfio_contract.vm import (
    LIBVIRT,
    SOURCE_ADDRESS,
    MappingEntry,
    PciMapping,
    VmConfig,
    VmDevice,
    choices,
    complete_address,
    covers,
    entries_for,
)


@dataclass(frozen=True, slots=True)
class StaleReference:
    """One line to edit. `code` is VM_ADDRESS_STALE or MAPPING_STALE.

    `owner` is `vm 101` or `mapping gpu`; `line` counts from 1, of a command line it is the place of
    the argument. `names` is what is written, `means_now` what stands there now, in words, and
    `edit` the change as it stands in the file: `hostpci0: 01:00 -> 04:00`, of libvirt the
    attributes of <address>. `newer` is True where the baseline does not have the line: if it means
    what is there now, it is the line that is right.
    """

    code: str
    owner: str
    file: str
    line: int
    names: str
    means_now: str
    edit: str
    newer: bool = False

    @property
    def text(self) -> str:
        """All of it in one line for people."""
        doubt = "; the baseline does not have this line" if self.newer else ""
        return f"{self.file}:{self.line}: {self.edit} ({self.means_now}{doubt})"


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

    def may_be_gone(
        self, written: str, *, earlier: Iterable[str], others: Iterable[str], new: Iterable[Address]
    ) -> bool:
        """True where this was written since, and nobody can tell that it means what is at `new`.

        `earlier` is what its entry named at the baseline, `others` are all that may be meant: one
        of them is found no more, and `new` is none of what the entry named.
        """
        earlier = list(earlier)
        lost = any(
            f.address not in self.by_old
            for text in (*earlier, *others)
            for f in _covered(self.before, text)
        )
        return lost and written not in earlier and not self.successors(earlier).issuperset(new)

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
                new = _find_move(work, was, device, written)
                if new:
                    found = _report_device(work, vm, device, written, new)
                    yield replace(found, newer=_is_newer(work, was, written))


def _is_newer(work: _Work, was: VmConfig | None, written: str) -> bool:
    """True where the baseline's list of configurations was read, and this VM's has no such line."""
    if work.before.facts.vms is None:
        return False
    return was is None or all(written not in device.addresses for device in was.devices)


def _find_move(
    work: _Work, was: VmConfig | None, device: VmDevice, written: str
) -> tuple[Address, ...]:
    """Where this should lead; () where the VM's configuration was edited since, to the devices that
    it named before, and where one of those is gone and this may mean it."""
    new = work.moved_to(written)
    if was is None or not new:
        return new
    same = [d for d in was.devices if d.key == device.key]
    ours = _named(work.before, was.devices)
    named = _named(work.before, same) if same else ours
    # a line moves up in the file too: libvirt's entries have no names, only places
    if any(written not in texts and work.is_followed(written, texts) for texts in (named, ours)):
        return ()
    return () if work.may_be_gone(written, earlier=named, others=ours, new=new) else new


def _named(host: Host, devices: Iterable[VmDevice]) -> list[str]:
    """What these entries name, those of a mapping by all that it may stand for."""
    facts = host.facts
    return [
        text
        for device in devices
        for alternative in choices(device, facts.mappings, facts.host) or ()
        for text in alternative
    ]


def _report_device(
    work: _Work, vm: VmConfig, device: VmDevice, written: str, new: tuple[Address, ...]
) -> StaleReference:
    replacement = _in_form_of(written, new)
    text = _text_of(device, written)
    if vm.kind == LIBVIRT and not text and len(replacement) == 1:
        names, edit = _attribute_edit(device, written, replacement[0])
    else:
        names = text or written
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


def _text_of(device: VmDevice, written: str) -> str:
    """The address as the file has it, with or without its domain; "" where no option is one."""
    for _, value in device.options:
        for token in value.split(";"):
            text = token.strip().rstrip("/").rpartition("/")[2]
            if complete_address(text) == written:
                return text
    return ""


def _shorten(address: str) -> str:
    return address.removeprefix("0000:")


_DIGITS = {"domain": 4, "bus": 2, "slot": 2, "function": 1}
"""The parts of an address in libvirt's <address>, and how many digits libvirt gives them."""


def _attribute_edit(device: VmDevice, written: str, new: str) -> tuple[str, str]:
    """`bus='0x01'` and `bus='0x01' -> bus='0x04'`: the attributes of <address> that differ."""
    old, now = _numbers_of(written), _numbers_of(new)
    texts = {
        name.removeprefix(SOURCE_ADDRESS): value
        for name, value in device.options
        if name.startswith(SOURCE_ADDRESS)
    }
    # an agent that does not tell the text read what libvirt itself wrote
    texts = texts or {name: _hexadecimal(name, number) for name, number in old.items()}
    differ = [name for name in now if old[name] != now[name]]
    names = " ".join(f"{name}='{texts[name]}'" for name in differ if name in texts)
    values = " ".join(f"{name}='{_number_like(texts, name, now[name])}'" for name in differ)
    return names, f"{names or 'no ' + differ[0]} -> {values}"


def _numbers_of(address: str) -> dict[str, int]:
    """The parts of a whole address, by the names that libvirt has for them."""
    return {
        name: int(part, 16)
        for name, part in zip(_DIGITS, address.replace(".", ":").split(":"), strict=True)
    }


def _number_like(texts: Mapping[str, str], name: str, number: int) -> str:
    """The number in the form that the attribute has: hexadecimal with 0x, decimal without."""
    known = texts.get(name, "0x").strip().lower()
    return _hexadecimal(name, number) if known.startswith("0x") else str(number)


def _hexadecimal(name: str, number: int) -> str:
    return f"0x{number:0{_DIGITS[name]}x}"


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
        and not work.may_be_gone(written, earlier=named, others=(), new=new)
    }
    names, edits, means = [], [], []
    if moved:
        old = ";".join(entry.addresses)
        paths = [text for w in entry.addresses for text in moved.get(w, (w,))]
        names.append(f"path={old}")
        edits.append(f"path={old} -> {';'.join(paths)}")
        means += [work.describe_now(written) for written in moved]
    group = _group_of(work, entry, moved, named)
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
            newer=work.before.facts.mappings is not None
            and bool(moved)
            and all(written not in named for written in moved),
        )


def _group_of(
    work: _Work, entry: MappingEntry, moved: dict[str, tuple[str, ...]], named: list[str]
) -> int | None:
    """The group number that the entry should have, where that of its device changed since the
    baseline."""
    if entry.group < 0 or not entry.addresses:
        return None
    first = entry.addresses[0]
    rows = _covered(work.after, moved[first][0] if first in moved else first)
    after = {p.after.address: p for p in work.by_old.values()}
    pair = after.get(rows[0].address) if rows else None
    if pair is None or pair.before.group is None or pair.before.group == pair.after.group:
        return None
    new = (pair.after.address,)
    meant = work.successors([first, *named]).issuperset(new)
    if not meant or work.may_be_gone(first, earlier=named, others=(), new=new):
        return None
    number = pair.after.group
    return None if number is None or number < 0 else number
