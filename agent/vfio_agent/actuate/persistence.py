"""How a binding outlives a reboot: driverctl, else modprobe.d, else a udev rule per address.

Pure: the host and the text of the files in question in, steps out. `options vfio-pci ids=` takes
every card of an id, also one that is put in later, and a second such line on the host replaces the
first: it is chosen only where the ids belong to the bound functions alone and nobody else has
written ids. This module must never touch a line that somebody else wrote.

Source: driverctl(8) and its udev rule, modprobe.d(5), Linux vfio_pci.c (`ids`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vfio_agent.actuate.steps import NO_DRIVER, VFIO_PCI, Kind, Step
from vfio_contract.address import Address, is_address
from vfio_contract.host import Host
from vfio_contract.intention import names_function
from vfio_contract.model import Intent, PciFunction

DRIVERCTL, MODPROBE, UDEV = "driverctl", "modprobe.d", "udev"

DRIVERCTL_FOLDER = "/etc/driverctl.d"
UDEV_FOLDER = "/etc/udev/rules.d"
UDEV_PREFIX = "05-vfioctl-"
"""Early: 80-drivers.rules loads what would take the function."""

MODPROBE_FILE = "/etc/modprobe.d/vfioctl.conf"
LOAD_FILE = "/etc/modules-load.d/vfioctl.conf"

_HEAD = "# Written by vfioctl device bind; vfioctl device unbind takes it back.\n"
_LOAD_TEXT = _HEAD + VFIO_PCI + "\n"
_ENTRY = re.compile(r"# (\S+) ([0-9a-f]{4}(?::[0-9a-f]{4}){3}) ([\w-]+)")
_NO_MODULE = "-"


@dataclass(frozen=True, slots=True)
class Written:
    """What stands on the host now: whether driverctl works there, and (path, text) of files.

    Of a path that is not in `files` there is no such file. All of `paths_for` were looked at, and
    all rules of ours.
    """

    driverctl: bool
    files: tuple[tuple[str, str], ...]

    def text(self, path: str) -> str | None:
        """The file's text, None for no file."""
        return dict(self.files).get(path)


@dataclass(frozen=True, slots=True)
class Persistence:
    """The steps on files, the method, why, and what is left to a person."""

    steps: tuple[Step, ...]
    method: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def paths_for(addresses: Iterable[Address]) -> list[str]:
    """Every file that a plan about these functions may read or write."""
    rows = [MODPROBE_FILE, LOAD_FILE]
    for address in addresses:
        rows += [driverctl_file(address), udev_file(address)]
    return rows


def driverctl_file(address: Address) -> str:
    """Where driverctl keeps an override."""
    return f"{DRIVERCTL_FOLDER}/pci-{address}"


def udev_file(address: Address) -> str:
    """Our rule about one function."""
    return f"{UDEV_FOLDER}/{UDEV_PREFIX}{address}.rules"


def is_ours(path: str) -> bool:
    """True for the only files that may ever be written."""
    if path in (MODPROBE_FILE, LOAD_FILE):
        return True
    driverctl = path.removeprefix(f"{DRIVERCTL_FOLDER}/pci-")
    rule = path.removeprefix(f"{UDEV_FOLDER}/{UDEV_PREFIX}").removesuffix(".rules")
    return is_address(driverctl) or (path.endswith(".rules") and is_address(rule))


# --- to last -------------------------------------------------------------------------------------


def persist(host: Host, targets: Mapping[Address, str], written: Written) -> Persistence:
    """Make these bindings last; `targets` is function -> driver, NO_DRIVER to keep all off."""
    missing = {a: d for a, d in targets.items() if not _is_written(host, a, d, written)}
    if not missing:
        return Persistence((), "", ("the configuration names every function already",), ())
    method, reason = _choose(host, missing, written)
    rows = [host.by_address[a] for a in missing]
    if method == DRIVERCTL:
        files = {driverctl_file(a): d + "\n" for a, d in missing.items()}
        notes = [
            "driverctl acts when udev sees the function: a driver that the initramfs loads has had "
            "it for a moment by then"
        ]
    elif method == MODPROBE:
        entries = _entries(written.text(MODPROBE_FILE) or "") or {}
        entries |= {f.address: (_long_ids(f), f.driver or _NO_MODULE) for f in rows}
        files = {MODPROBE_FILE: _render(entries), LOAD_FILE: _LOAD_TEXT}
        notes = [_image_note(host)]
    else:
        files = {udev_file(f.address): _rule(f, missing[f.address]) for f in rows}
        files[LOAD_FILE] = _LOAD_TEXT
        notes = [
            f"if the initramfs loads {driver}, it has {address} before the rule is read: keep "
            f"{driver} out of it, or install driverctl"
            for address, driver in ((f.address, f.driver) for f in rows)
            if driver
        ]
    steps = _file_steps(files, written, why=f"lasts ({method})")
    return Persistence(steps, method, (reason,), tuple(notes))


def _is_written(host: Host, address: Address, driver: str, written: Written) -> bool:
    function = host.by_address[address]
    if driver == VFIO_PCI and any(i.kind == "vfio-ids" for i in _naming(host, function)):
        return True
    if written.text(udev_file(address)) == _rule(function, driver):
        return True
    row = (written.text(driverctl_file(address)) or "").strip()
    return written.driverctl and row == driver


def _naming(host: Host, function: PciFunction) -> list[Intent]:
    return [i for i in host.facts.intents or () if names_function(i, function)]


def _choose(host: Host, targets: Mapping[Address, str], written: Written) -> tuple[str, str]:
    if written.driverctl:
        return DRIVERCTL, "driverctl is installed: its files are by address and known to operators"
    doubt = _why_not_ids(host, targets, written)
    if not doubt:
        return MODPROBE, "the ids belong to these functions alone, and nobody else has written ids"
    return UDEV, f"a rule by address and id, not vfio-pci ids: {doubt}"


def _why_not_ids(host: Host, targets: Mapping[Address, str], written: Written) -> str:
    """ "" when `options vfio-pci ids=` does exactly what is wanted."""
    if NO_DRIVER in targets.values():
        return "a bridge must have no driver at all"
    module = next((m for m in host.facts.modules or () if m.name == "vfio_pci"), None)
    if module is not None and module.builtin is not False:
        return "vfio-pci is built into the kernel, or may be"
    if host.facts.intents is None:
        return "whether somebody else has written ids could not be read"
    for intent in host.facts.intents:
        if intent.kind == "vfio-ids" and not _is_own(intent):
            return f"{intent.source} has ids already, and one line replaces the other"
    if _entries(written.text(MODPROBE_FILE) or "") is None:
        return f"{MODPROBE_FILE} was edited by hand"
    for address in targets:
        function = host.by_address[address]
        if function.physfn != "":
            return f"{address} is a virtual function: its ids are those of its siblings"
        if "?" in _long_ids(function):
            return f"the ids of {address} could not be read"
        for other in host.functions:
            if other.address not in targets and _may_share_ids(other, function):
                return f"{other.address} has the ids of {address}"
    return ""


def _is_own(intent: Intent) -> bool:
    return f"/etc/{intent.source.removeprefix('/etc/')}".startswith(f"{MODPROBE_FILE}:")


def _may_share_ids(one: PciFunction, other: PciFunction) -> bool:
    pairs = (
        (one.vendor, other.vendor),
        (one.device, other.device),
        (one.subsystem_vendor, other.subsystem_vendor),
        (one.subsystem_device, other.subsystem_device),
    )
    return all(a is None or b is None or a == b for a, b in pairs)


def _rule(function: PciFunction, driver: str) -> str:
    """With the ids: after a renumbering the address may be another device."""
    return (
        f'{_HEAD}ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{function.address}", '
        f'ATTR{{vendor}}=="0x{function.vendor or 0:04x}", '
        f'ATTR{{device}}=="0x{function.device or 0:04x}", ATTR{{driver_override}}="{driver}"\n'
    )


def _image_note(host: Host) -> str:
    command = "update-initramfs -u (or dracut -f)"
    path = host.facts.boot_path
    if path is not None and path.proxmox_boot:
        command = "update-initramfs -u, which refreshes the boot partitions too"
    return f"the initramfs has its own copy of modprobe.d; not done for you: {command}"


# --- to last no longer ---------------------------------------------------------------------------


def unpersist(host: Host, addresses: Iterable[Address], written: Written) -> Persistence:
    """Take back what we or driverctl wrote about these functions; name what others wrote."""
    gone = tuple(addresses)
    files: dict[str, str | None] = {}
    for address in gone:
        if (written.text(driverctl_file(address)) or "").strip() in (VFIO_PCI, NO_DRIVER):
            files[driverctl_file(address)] = None
        if written.text(udev_file(address)) is not None:
            files[udev_file(address)] = None
    entries = _entries(written.text(MODPROBE_FILE) or "")
    if entries is not None and set(entries) & set(gone):
        left = {a: row for a, row in entries.items() if a not in gone}
        files[MODPROBE_FILE] = _render(left) if left else None
    if files and written.text(LOAD_FILE) == _LOAD_TEXT and not _needs_load(files, written):
        files[LOAD_FILE] = None
    notes = tuple(dict.fromkeys(_foreign(host, gone, files)))
    if MODPROBE_FILE in files:
        notes = (*notes, _image_note(host))
    return Persistence(_file_steps(files, written, why="lasts no longer"), "", (), notes)


def _needs_load(files: Mapping[str, str | None], written: Written) -> bool:
    for path, _ in written.files:
        rule = path == MODPROBE_FILE or path.startswith(f"{UDEV_FOLDER}/{UDEV_PREFIX}")
        if rule and files.get(path, "") is not None:
            return True
    return False


def _foreign(host: Host, gone: Iterable[Address], files: Mapping[str, str | None]) -> Iterable[str]:
    for address in gone:
        for intent in _naming(host, host.by_address[address]):
            path = f"/etc/{intent.source.removeprefix('/etc/').rpartition(':')[0]}"
            own = _is_own(intent) or intent.kind == "driverctl"
            if not own or (own and intent.kind == "vfio-ids" and path not in files):
                yield (
                    f"{intent.source} names {address}: vfio-pci takes it again at the next boot; "
                    "edit that line"
                )


# --- our own files -------------------------------------------------------------------------------

Entries = dict[Address, tuple[str, str]]
"""Address -> (long ids, the host driver that vfio-pci must come before, `-` for none)."""


def _entries(text: str) -> Entries | None:
    """What our modprobe.d file holds; None when it is not as we write it."""
    found: Entries = {}
    for line in text.splitlines():
        match = _ENTRY.fullmatch(line)
        if match is not None and is_address(match[1]):
            found[Address(match[1])] = (match[2], match[3])
    return found if text in ("", _render(found)) else None


def _render(entries: Entries) -> str:
    rows = sorted(entries.items())
    lines = [f"# {address} {ids} {driver}\n" for address, (ids, driver) in rows]
    ids = sorted({ids for _, (ids, _) in rows})
    drivers = sorted({driver for _, (_, driver) in rows} - {_NO_MODULE})
    options = f"options {VFIO_PCI} ids={','.join(ids)}\n"
    softdeps = [f"softdep {driver} pre: {VFIO_PCI}\n" for driver in drivers]
    return "".join([_HEAD, *lines, options, *softdeps])


def _long_ids(function: PciFunction) -> str:
    parts = (
        function.vendor,
        function.device,
        function.subsystem_vendor,
        function.subsystem_device,
    )
    return ":".join("????" if p is None else f"{p:04x}" for p in parts)


def _file_steps(files: Mapping[str, str | None], written: Written, *, why: str) -> tuple[Step, ...]:
    rows = ((path, written.text(path), text) for path, text in sorted(files.items()))
    return tuple(Step(Kind.FILE, path, old, new, why) for path, old, new in rows if old != new)
