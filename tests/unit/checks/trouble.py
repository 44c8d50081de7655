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
    Holder,
    HugePages,
    KernelLog,
    LogLine,
    PciFunction,
    ReservedRegion,
)


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
        bad: dict[str, Any] = draw(
            st.sampled_from([{"aer_fatal": 2}, {"link_width": 1}, {"power_state": "D3cold"}])
        )
        readings = [replace(r, **bad) if r.address == one.address else r for r in readings]
    held = Holder(f"/dev/vfio/{one.group}", 7, "kvm", None, 1.0, "D", 99 << 20, 100 << 20, False)
    changes: dict[str, Any] = {
        "kernel_log": replace(log, lines=(*log.lines, *extra)),
        "holders": draw(st.sampled_from([(), (held,)])),
        "boot_options": draw(st.sampled_from([_boot(""), _boot("intel_iommu=on iommu=pt")])),
        "sriov_rules": draw(st.sampled_from([(), (ConfigLine("rc.local:2", f"{one.address}"),)])),
        "module_rules": (),
        "hugepages": (HugePages(1 << 30, -1, 4, draw(st.integers(0, 4)), 0),),
        "readings_of_functions": tuple(readings),
    }
    if draw(st.booleans()):
        changes["regions"] = (one.group, direct)
    return changes


def _boot(options: str) -> tuple[BootOptions, ...]:
    return (BootOptions("grub", "/etc/default/grub:6", options),)
