"""The VMs that this host's configurations describe, and QEMU processes that none describes.

Proxmox's files, libvirt's files, then running QEMU processes of other names. What could not be read
leaves a gap below one of `SOURCES`, so that a check can tell "no such VM" from "not known". It must
never read the arguments of a process that is no QEMU, and what it keeps holds no secret (the
parsers redact).
"""

from __future__ import annotations

from collections.abc import Mapping

from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import LIMIT_BYTES, NotCaptured
from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import parse_qemu, split_cmdline
from vfio_contract.vm import PciMapping, VmConfig

PROXMOX_FOLDER = "/etc/pve/qemu-server"
PROXMOX_MAPPINGS = "/etc/pve/mapping/pci.cfg"
LIBVIRT_FOLDER = "/etc/libvirt/qemu"
LIBVIRT_AUTOSTART = f"{LIBVIRT_FOLDER}/autostart"
PROC = "/proc"

MAX_VMS = 4096
"""Files read of one kind; a host runs a few hundred VMs at most."""


def collect_vms(
    reader: Reader, running: Mapping[int, VmConfig] | None
) -> tuple[VmConfig, ...] | None:
    """By kind and name; None when nothing was found and a source could not be read.

    `running` are the QEMU processes (`read_qemus`).
    """
    found: dict[str, VmConfig] = {}
    sources = (_from_proxmox(reader), _from_libvirt(reader))
    for rows in sources:
        for vm in rows or ():
            found.setdefault(vm.name, vm)
    for vm in (running or {}).values():
        found.setdefault(vm.name, vm)
    if not found and None in sources:
        return None
    return tuple(sorted(found.values(), key=lambda vm: (vm.kind, vm.name)))


def collect_mappings(reader: Reader) -> tuple[PciMapping, ...] | None:
    """Proxmox resource mappings; () where there is no such file."""
    try:
        data = reader.root.read(PROXMOX_MAPPINGS)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        remedy = f"cat {PROXMOX_MAPPINGS}" if isinstance(error, NotCaptured) else ""
        reader.gap(PROXMOX_MAPPINGS, error, remedy)
        return None
    return parse_mappings(_whole(reader, PROXMOX_MAPPINGS, data), source=PROXMOX_MAPPINGS)


def _from_proxmox(reader: Reader) -> list[VmConfig] | None:
    names = reader.optional_names(PROXMOX_FOLDER)
    if names is None:
        return None
    ids = [name.removesuffix(".conf") for name in names if name.endswith(".conf")]
    wanted = _cap(reader, PROXMOX_FOLDER, [i for i in ids if i.isascii() and i.isdecimal()])
    paths = [f"{PROXMOX_FOLDER}/{number}.conf" for number in wanted]
    return [
        parse_proxmox(_whole(reader, path, data), name=number, source=path)
        for number, path, data in zip(wanted, paths, reader.contents(paths), strict=True)
        if data is not None
    ]


def _from_libvirt(reader: Reader) -> list[VmConfig] | None:
    names = reader.optional_names(LIBVIRT_FOLDER)
    if names is None:
        return None
    files = _cap(reader, LIBVIRT_FOLDER, [name for name in names if name.endswith(".xml")])
    if not files:
        return []
    starting: tuple[str, ...] | None = ()
    if "autostart" in names or not reader.root.authoritative(LIBVIRT_AUTOSTART):
        starting = reader.optional_names(LIBVIRT_AUTOSTART)
    found = []
    paths = [f"{LIBVIRT_FOLDER}/{name}" for name in files]
    for name, path, data in zip(files, paths, reader.contents(paths), strict=True):
        if data is None:
            continue
        autostart = None if starting is None else name in starting
        vm = parse_libvirt(data, source=path, autostart=autostart)
        if isinstance(vm, str):
            reader.gap(path, vm)
        else:
            found.append(vm)
    return found


def read_qemus(reader: Reader) -> dict[int, VmConfig] | None:
    """QEMU processes by pid, as far as /proc shows them; what it hides, no error tells.

    None where processes cannot be listed, as in a capture without them.
    """
    try:
        listed = reader.root.list(PROC)
    except OSError:
        return None
    pids = [name for name in listed if name.isascii() and name.isdecimal()]
    commands = reader.root.read_many([f"{PROC}/{pid}/comm" for pid in pids])
    wanted = [
        pid
        for pid, comm in zip(pids, commands, strict=True)
        if isinstance(comm, bytes) and is_qemu_command(decode(comm))
    ]
    paths = [f"{PROC}/{pid}/cmdline" for pid in wanted]
    found = {}
    for pid, path, data in zip(wanted, paths, reader.root.read_many(paths), strict=True):
        if isinstance(data, bytes):
            vm = parse_qemu(split_cmdline(data), source=path, fallback_name=f"pid-{pid}")
            if vm is not None:
                found[int(pid)] = vm
        elif not isinstance(data, FileNotFoundError | ProcessLookupError):
            reader.gap(path, data)
    return found


def is_qemu_command(comm: str) -> bool:
    """True for a process name (15 characters at most) that a QEMU may have."""
    return comm == "kvm" or comm.startswith("qemu")


def _cap(reader: Reader, folder: str, names: list[str]) -> list[str]:
    if len(names) > MAX_VMS:
        reader.gap(folder, f"{len(names)} files, only the first {MAX_VMS} were read")
    return names[:MAX_VMS]


def _whole(reader: Reader, path: str, data: bytes) -> str:
    """The text, not stripped (lines are counted from the first); a cut file leaves a gap."""
    if len(data) >= LIMIT_BYTES:
        reader.gap(path, f"larger than {LIMIT_BYTES} bytes: the rest was not read")
    return data.decode("utf-8", "backslashreplace")
