"""The human side of an artifact: the field guide's three artifacts as one Markdown page.

Kernel command line (running and pending), IOMMU groups with their members, driver bindings. The
same evidence gives the same page: nothing in it comes from a clock or from the machine that writes
it. Evidence is never markup: it stands in code blocks alone, cleaned of control characters, behind
fences longer than any that it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vfio_cli.screens.layout import clean
from vfio_cli.survey import name_of
from vfio_contract.artifact import digest_facts
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, Gap, PciFunction, Readings

MARK = "<!-- vfioctl.evidence/v1 -->"
"""First line of every page, by which a page of ours is known before it is replaced."""

_TICKS = re.compile("`+")
_UNKNOWN = "not known"


def render_page(host: Host, *, artifact: str) -> str:
    """The whole page. `artifact` is the name of the file that it is the human side of."""
    parts = [
        MARK,
        "# PCI passthrough evidence",
        _block(_head(host, artifact)),
        "## 1. Kernel command line",
        "Running:",
        _block([_or_unknown(host.facts.cmdline)]),
        "Pending, by what configures the next boot:",
        _block(_pending(host)),
        "## 2. IOMMU groups",
        _block(_groups(host)),
        "## 3. Driver bindings",
        _block(_bindings(host)),
        "## Not read",
        _block(_gaps(host.readings.gaps)),
    ]
    return "\n\n".join(parts) + "\n"


def is_page(head: bytes) -> bool:
    """True for the beginning of a file that `render_page` made."""
    return head.startswith(MARK.encode("ascii"))


def _block(lines: Iterable[str]) -> str:
    """A code block that its content cannot leave."""
    text = "\n".join(clean(line).rstrip() for line in lines)
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _or_unknown(text: str | None) -> str:
    return _UNKNOWN if text is None else text or "(empty)"


# --- parts ---------------------------------------------------------------------------------------


def _head(host: Host, artifact: str) -> list[str]:
    facts = host.facts
    firmware, kernel = facts.firmware, facts.kernel
    rows = [
        ("host", facts.host),
        ("system", _joined(firmware.system_vendor, firmware.product_name)),
        ("board", _joined(firmware.board_name)),
        ("BIOS", _joined(firmware.bios_vendor, firmware.bios_version, firmware.bios_date)),
        ("processor", _joined(facts.cpu.model)),
        ("kernel", _joined(kernel.release, kernel.build)),
        ("taken", _taken(host.readings)),
        ("collector", host.readings.collector),
        ("artifact", artifact),
        ("digest", digest_facts(facts)),
    ]
    if host.readings.redacted is not None:
        rows.append(("redacted", f"with pseudonyms of key {host.readings.redacted}"))
    return [f"{name:<10} {value}" for name, value in rows]


def _joined(*parts: str | None) -> str:
    known = " ".join(part for part in parts if part)
    return known or (_UNKNOWN if None in parts else "none")


def _taken(readings: Readings) -> str:
    """When, in terms of the evidence itself: which boot, and how long after its start."""
    how = "as root" if readings.privileged else "without root"
    boot = f"boot {readings.boot_id}" if readings.boot_id else f"boot {_UNKNOWN}"
    if readings.uptime_seconds is None:
        return f"{boot}, {how}"
    minutes = int(readings.uptime_seconds) // 60
    days, hours = divmod(minutes // 60, 24)
    age = f"{days}d {hours}h {minutes % 60}m" if days else f"{hours}h {minutes % 60}m"
    return f"{boot}, {age} after its start, {how}"


def _pending(host: Host) -> Sequence[str]:
    options = host.facts.boot_options
    if options is None:
        return [_UNKNOWN]
    if not options:
        return ["no configuration of a boot loader was found"]
    return [f"{row.source}: {row.options or '(empty)'}" for row in options]


def _groups(host: Host) -> Sequence[str]:
    groups = host.facts.groups
    if groups is None:
        return [_UNKNOWN]
    if not groups:
        return ["none: the IOMMU is off, or there is none"]
    rows = []
    for group in groups:
        kind = f"  {group.name}" if group.name else ""
        rows.append(f"group {group.number}{kind}")
        for member in group.members:
            function = next((f for f in host.functions if f.address == member), None)
            rows.append(f"  {member}" if function is None else f"  {_described(host, function)}")
        if not group.members:
            rows.append("  (no members)")
    outside = [f for f in host.functions if f.group == NO_GROUP]
    if outside:
        rows.append("without a group")
        rows += [f"  {_described(host, function)}" for function in outside]
    return rows


def _described(host: Host, function: PciFunction) -> str:
    code = "????" if function.class_code is None else f"{function.class_code >> 8:04x}"
    bridge = " (bridge)" if function.is_bridge else ""
    return f"{function.address} [{code}] {_named(host, function)}{bridge}"


def _named(host: Host, function: PciFunction) -> str:
    name = name_of(host, function)
    return name if function.ids in name else f"{name} [{function.ids}]"


def _bindings(host: Host) -> Sequence[str]:
    if host.facts.functions is None:
        return [_UNKNOWN]
    if not host.functions:
        return ["no PCI functions"]
    rows = [(f.address, _driver(f), _named(host, f)) for f in host.functions]
    width = max(len(address) for address, _, _ in rows)
    room = max(len(driver) for _, driver, _ in rows)
    return [f"{address:<{width}}  {driver:<{room}}  {name}" for address, driver, name in rows]


def _driver(function: PciFunction) -> str:
    if function.driver is None:
        return _UNKNOWN
    override = function.driver_override
    wanted = f" (override {override})" if override and override != function.driver else ""
    return (function.driver or "(no driver)") + wanted


def _gaps(gaps: Sequence[Gap]) -> Sequence[str]:
    if not gaps:
        return ["nothing: all that was looked for could be read"]
    return [f"{gap.path}: {gap.reason}{f'; {gap.remedy}' if gap.remedy else ''}" for gap in gaps]
