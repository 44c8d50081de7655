"""The kernel modules that matter for passthrough, loaded or built in, with their parameters.

/proc/modules has the loaded ones, /sys/module also those built in that have parameters, and
modules.builtin all that are built in. Only parameters that some check reads are read. A module that
is not in the result is not in the kernel, so a listing that may be incomplete yields None; where
a part of VFIO is missing and modules.builtin was not read, a gap says so.
"""

from __future__ import annotations

from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import Module

BUILTIN = "/lib/modules/*/modules.builtin"
_REMEDY = "grep -e vfio -e iommufd /lib/modules/$(uname -r)/modules.builtin"
_NEEDED = frozenset({"vfio", "vfio_pci"})
_BACKENDS = frozenset({"vfio_iommu_type1", "vfio_iommu_spapr_tce", "iommufd"})

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
    builtin = _collect_builtin(reader)
    names = {n for n in (*(loaded or ()), *(shown or ()), *(builtin or ())) if _matters(n)}
    if builtin is None and not (names >= _NEEDED and names & _BACKENDS):
        reader.gap(BUILTIN, "not read, so a module that is not listed may be built in", _REMEDY)
    return tuple(_collect_module(reader, name, builtin) for name in sorted(names))


def _matters(name: str) -> bool:
    return name in _MODULES or name.startswith(("kvm", "vfio")) or name.endswith("vfio_pci")


def _collect_loaded(reader: Reader) -> tuple[str, ...] | None:
    """Names in /proc/modules; None where it is missing (a kernel without modules has none)."""
    try:
        text = decode(reader.root.read("/proc/modules"))
    except OSError:
        return None
    return tuple(line.split()[0].replace("-", "_") for line in text.split("\n") if line.split())


def _collect_builtin(reader: Reader) -> frozenset[str] | None:
    """Names in the running kernel's modules.builtin; none where there is no such file.

    The file belongs to the kernel's modules (Linux Documentation/kbuild/kbuild.rst); a kernel
    without modules comes without it.
    """
    try:
        release = decode(reader.root.read("/proc/sys/kernel/osrelease"))
    except OSError:
        release = ""
    path = f"/lib/modules/{release}/modules.builtin"
    if not release or "/" in release:
        return None
    try:
        text = decode(reader.root.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError:
        return None
    names = (line.rpartition("/")[2].partition(".ko")[0] for line in text.split("\n"))
    return frozenset(name.strip().replace("-", "_") for name in names if name.strip())


def _quiet_names(reader: Reader, path: str) -> list[str] | None:
    try:
        return reader.root.list(path)
    except OSError:
        return None


def _collect_module(reader: Reader, name: str, builtin: frozenset[str] | None) -> Module:
    folder = f"/sys/module/{name}/parameters"
    wanted = [n for n in reader.optional_names(folder) or () if n in _PARAMETERS]
    values = reader.texts([f"{folder}/{n}" for n in wanted])
    return Module(
        name=name,
        parameters=tuple((n, v) for n, v in zip(wanted, values, strict=True) if v is not None),
        builtin=None if builtin is None else name in builtin,
    )
