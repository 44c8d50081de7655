"""The kernel modules that matter for passthrough, loaded or built in, with their parameters.

/sys/module shows both sorts; /proc/modules is there where only it was captured. Only parameters
that some check reads are read. A module that is not in the result is not in the kernel, so a
listing that may be incomplete yields None.
"""

from __future__ import annotations

from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import Module

_MODULES = frozenset({"iommufd", "irqbypass", "mdev", "pci_stub", "xen_pciback"})

_PARAMETERS = frozenset(
    {
        "allow_unsafe_interrupts",
        "disable_denylist",
        "disable_hugepages",
        "disable_idle_d3",
        "disable_vga",
        "dma_entry_limit",
        "enable_sriov",
        "enable_unsafe_noiommu_mode",
        "ids",
        "nested",
        "nointxmask",
    }
)


def collect_modules(reader: Reader) -> tuple[Module, ...] | None:
    """By name; parameters of a module whose folder was not readable are absent, with a gap."""
    loaded = _collect_loaded(reader)
    shown = _quiet_names(reader, "/sys/module")
    whole = shown is not None and reader.root.authoritative("/sys/module")
    if loaded is None and not whole:
        reader.gap(
            "/proc/modules", "not captured, and /sys/module is not whole", "cat /proc/modules"
        )
        return None
    names = {name for name in (*(loaded or ()), *(shown or ())) if _matters(name)}
    return tuple(_collect_module(reader, name) for name in sorted(names))


def _matters(name: str) -> bool:
    return name in _MODULES or name.startswith(("kvm", "vfio")) or name.endswith("vfio_pci")


def _collect_loaded(reader: Reader) -> tuple[str, ...] | None:
    """Names in /proc/modules; None where it is missing (a kernel without modules has none)."""
    try:
        text = decode(reader.root.read("/proc/modules"))
    except OSError:
        return None
    return tuple(line.split()[0].replace("-", "_") for line in text.split("\n") if line.split())


def _quiet_names(reader: Reader, path: str) -> list[str] | None:
    try:
        return reader.root.list(path)
    except OSError:
        return None


def _collect_module(reader: Reader, name: str) -> Module:
    folder = f"/sys/module/{name}/parameters"
    wanted = [n for n in reader.optional_names(folder) or () if n in _PARAMETERS]
    values = reader.texts([f"{folder}/{n}" for n in wanted])
    return Module(
        name=name,
        parameters=tuple((n, v) for n, v in zip(wanted, values, strict=True) if v is not None),
    )
