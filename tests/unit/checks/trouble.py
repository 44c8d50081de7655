"""What the checks beside the gates look at, drawn for a random host.

Faults in the log, links and counters, holders, the boot loader, VF rules, huge pages and reserved
regions, so that "less evidence never looks better" is tried on their bad states too.
"""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.fakes.snapshots import function_reading
from vfio_contract.model import (
    BootOptions,
    ConfigLine,
    CpuIsolation,
    CpuTime,
    DeviceInterrupt,
    DiskTime,
    Holder,
    HugePages,
    Initramfs,
    KernelLog,
    LogLine,
    ModuleRule,
    PciFunction,
    ReservedRegion,
)

_BAD_READINGS: list[dict[str, Any]] = [
    {"aer_fatal": 2},
    {"link_width": 1},
    {"link_speed": "2.5 GT/s PCIe"},
    {"power_state": "D3cold"},
]


def draw_trouble(draw: st.DrawFn, rows: list[PciFunction], log: KernelLog) -> dict[str, Any]:
    """What the checks beside the gates look at: faults, holders, configuration, memory."""
    known = [f for f in rows if f.is_bridge is False]
    one = draw(st.sampled_from(known))
    fault = f"{one.driver} {one.address}: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x1]"
    lines = draw(st.sampled_from([(), (fault,), (fault, "AMD-Vi: Completion-Wait loop timed out")]))
    extra = tuple(LogLine(900 + n, 900.0 + n, text) for n, text in enumerate(lines))
    direct = (ReservedRegion(0xBC000000, 0xBC0FFFFF, "direct"),)
    readings = [function_reading(f) for f in rows]
    if draw(st.booleans()):
        bad: dict[str, Any] = draw(st.sampled_from(_BAD_READINGS))
        readings = [replace(r, **bad) if r.address == one.address else r for r in readings]
    held = Holder(f"/dev/vfio/{one.group}", 7, "kvm", None, 1.0, "D", 99 << 20, 100 << 20, False)
    changes: dict[str, Any] = {
        "kernel_log": replace(log, lines=(*log.lines, *extra)),
        "holders": draw(st.sampled_from([(), (held,)])),
        "boot_options": draw(st.sampled_from([_boot(""), _boot("intel_iommu=on iommu=pt")])),
        "sriov_rules": draw(st.sampled_from([(), (ConfigLine("rc.local:2", f"{one.address}"),)])),
        "module_rules": draw(st.sampled_from([(), _EARLY, (*_EARLY, _UNSAFE)])),
        "hugepages": (HugePages(1 << 30, -1, 4, draw(st.integers(0, 4)), 0),),
        "readings_of_functions": tuple(readings),
    }
    changes |= _draw_host_state(draw)
    if draw(st.booleans()):
        changes["regions"] = (one.group, direct)
    return changes


_EARLY = (ModuleRule("initramfs", "vfio_pci", "", "/etc/initramfs-tools/modules:1"),)
_UNSAFE = ModuleRule("options", "iommufd", "allow_unsafe_interrupts=1", "/etc/modprobe.d/x.conf:1")


def _draw_host_state(draw: st.DrawFn) -> dict[str, Any]:
    """What moves by itself beside the devices: KVM's answer, time that was lost, interrupts."""
    queues = tuple(
        DeviceInterrupt(n, f"vfio-msix[{n}](0000:01:00.0)", "0-7", ((n, 400_000),))
        for n in range(4)
    )
    isolation = CpuIsolation(draw(st.sampled_from(["", "1-3"])), "", draw(st.booleans()))
    return {
        "kvm": draw(st.sampled_from(["", "KVM_CREATE_VM: Device or resource busy"])),
        "initramfs": Initramfs(
            "/boot/initrd.img-6.12.0-1-amd64",
            draw(st.sampled_from([(), ("/etc/modprobe.d/vfio.conf",)])),
        ),
        "cpu_time": CpuTime(1000, draw(st.sampled_from([0, 90]))),
        "disks": (DiskTime("sda", 2000, draw(st.sampled_from([1000, 900_000])), 0, 0, 0, 0),),
        "interrupts": draw(st.sampled_from([(), queues])),
        "cpu_isolation": isolation,
    }


def _boot(options: str) -> tuple[BootOptions, ...]:
    return (BootOptions("grub", "/etc/default/grub:6", options),)
