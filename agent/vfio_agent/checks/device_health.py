"""Check `device-health`: whether the device answers, with its whole link and without errors.

Judged per assignable function. One look cannot tell whether a counter rises; it says how high it
is. It must never call a sleeping function dead, nor a virtual function, whose ids alone read ffff,
nor a card in a narrow slot degraded.
"""

from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    attribute,
    describe,
    is_intended,
    missing_attribute,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import FunctionReading, PciFunction

ID = "device-health"

DEVICE_HEALTHY = Code(
    "DEVICE_HEALTHY",
    Verdict.PASS,
    "The config space answers, the link has the width that card and slot allow, no uncorrected "
    "errors are counted.",
    "Nothing that can be read without disturbing it speaks against the device.",
    "No action.",
)
DEVICE_DEAD = Code(
    "DEVICE_DEAD",
    Verdict.FAIL,
    "Every byte of the config space reads ff, twice, while the function is awake.",
    "The device has left the bus: it fell off, lost power, or hangs after a reset.",
    "Power the host off and on (a warm reboot may not do); if it stays dead, reseat or replace it.",
)
AER_FATAL = Code(
    "AER_FATAL",
    Verdict.FAIL,
    "aer_dev_fatal counts uncorrected fatal errors since boot.",
    "The link to the device failed: it was reset or is unusable since.",
    "Reseat the card or riser, look at power and cooling, try another slot; then cold start the "
    "host and watch the counter.",
)
AER_NONFATAL = Code(
    "AER_NONFATAL",
    Verdict.WARN,
    "aer_dev_nonfatal counts uncorrected errors since boot.",
    "Transactions of this device were lost. A few while a driver probes are common.",
    "Note the number and look again under load: vfioctl device show ADDRESS",
)
AER_CORRECTABLE = Code(
    "AER_CORRECTABLE",
    Verdict.WARN,
    "aer_dev_correctable counts a thousand errors or more since boot.",
    "The link repairs many transmissions: marginal signal, riser, slot or power.",
    "Reseat the card, change riser or slot, lower the link speed in the firmware setup; then watch "
    "the counter.",
)
LINK_NARROW = Code(
    "LINK_NARROW",
    Verdict.WARN,
    "current_link_width is below what both the function and its slot can do.",
    "The link trained with fewer lanes: a dirty contact, a bad riser, or lanes shared with another "
    "slot. Performance suffers although passthrough works.",
    "Reseat the card, look at the board's lane sharing (bifurcation, M.2 slots); cold start.",
)
DEVICE_COLD = Code(
    "DEVICE_COLD",
    Verdict.WARN,
    "power_state is D3cold.",
    "The function is switched off to save power. Some devices do not come back for a VM.",
    "If its VM does not start: echo 'options vfio-pci disable_idle_d3=1' | sudo tee -a "
    "/etc/modprobe.d/vfio.conf; sudo update-initramfs -u; reboot",
)
HEALTH_UNKNOWN = Code(
    "HEALTH_UNKNOWN",
    Verdict.UNKNOWN,
    "The config space, power state, link or error counters could not be read.",
    "Whether the device is well is not known. Unknown is not healthy.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    DEVICE_HEALTHY,
    DEVICE_DEAD,
    AER_FATAL,
    AER_NONFATAL,
    AER_CORRECTABLE,
    LINK_NARROW,
    DEVICE_COLD,
    HEALTH_UNKNOWN,
)

MANY_CORRECTABLE = 1000
"""Corrected errors since boot from which on they are told: single ones are normal on PCIe."""

_ASLEEP = frozenset({"D1", "D2", "D3hot", "D3cold"})
_COUNTERS = ("aer_dev_fatal", "aer_dev_nonfatal", "aer_dev_correctable")


def judge(host: Host) -> list[Finding]:
    """Does the device answer, with its whole link and without errors?

    Evidence: config space, power_state, current and maximum link width, AER counters in sysfs.
    Meaning:  A device that is dying fails in ways that look like passthrough.
    Source:   Linux Documentation/PCI/pcieaer-howto.rst; field guide step - (none).
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    readings = {r.address: r for r in host.readings.functions}
    return [_judge_function(host, f, readings.get(f.address)) for f in functions]


def _judge_function(host: Host, function: PciFunction, reading: FunctionReading | None) -> Finding:
    missing = _list_missing(host, function, reading)
    code = _decide(host, function, reading, unread=bool(missing))
    return make_finding(
        ID,
        subject_of(function),
        code,
        Evidence(f"{DEVICES}/{function.address}", describe(function, host)),
        *_list_evidence(host, function, reading),
        intended=is_intended(host, [function.address]),
        decision=code.decision.replace("ADDRESS", function.address),
        missing=missing if code is HEALTH_UNKNOWN else (),
    )


def _decide(
    host: Host, function: PciFunction, reading: FunctionReading | None, *, unread: bool
) -> Code:
    if function.config is not None and function.config.dead:
        return DEVICE_DEAD
    if reading is not None and reading.aer_fatal:
        return AER_FATAL
    if reading is None or unread:
        return HEALTH_UNKNOWN
    if reading.aer_nonfatal:
        return AER_NONFATAL
    if (reading.aer_correctable or 0) >= MANY_CORRECTABLE:
        return AER_CORRECTABLE
    if reading.power_state == "D3cold":
        return DEVICE_COLD
    best = _best_width(host, function)
    if _has_link(function, reading) and best and (reading.link_width or 0) < best:
        return LINK_NARROW
    return DEVICE_HEALTHY


def _is_asleep(reading: FunctionReading) -> bool:
    return reading.power_state in _ASLEEP or reading.runtime_status == "suspended"


def _has_link(function: PciFunction, reading: FunctionReading) -> bool:
    """False for virtual functions, which have none of their own, and for what sleeps."""
    return not function.physfn and not _is_asleep(reading) and function.max_link_width != 0


def _best_width(host: Host, function: PciFunction) -> int:
    """Lanes that both ends have; a narrow slot is no fault of the link."""
    above = host.by_address.get(function.parent) if function.parent else None
    ends = [function.max_link_width or 0]
    if above is not None and above.max_link_width:
        ends.append(above.max_link_width)
    return min(ends)


def _list_evidence(
    host: Host, function: PciFunction, reading: FunctionReading | None
) -> list[Evidence]:
    found = []
    if function.config is not None and function.config.dead:
        text = f"all {function.config.length} bytes read ff"
        found.append(attribute(function, "config", f"{function.address}: {text}"))
    if reading is None:
        return found
    if reading.power_state is not None:
        found.append(attribute(function, "power_state", reading.power_state))
    if _has_link(function, reading) and reading.link_width:
        best = _best_width(host, function)
        link = f"{reading.link_speed or '?'} x{reading.link_width}, card and slot: x{best}"
        found.append(attribute(function, "current_link_width", link))
    counts = (reading.aer_fatal, reading.aer_nonfatal, reading.aer_correctable)
    if any(counts):
        words = zip(("fatal", "nonfatal", "correctable"), counts, strict=True)
        text = ", ".join(f"{n or 0} {word}" for word, n in words)
        found.append(attribute(function, "aer_dev_*", f"{text} errors since boot"))
    return found


def _list_missing(
    host: Host, function: PciFunction, reading: FunctionReading | None
) -> tuple[Missing, ...]:
    unread = {
        "config": function.config is None,
        "power_state": reading is None or reading.power_state is None,
        "physfn": function.physfn is None,
    }
    if reading is not None and not unread["power_state"] and _has_link(function, reading):
        unread["max_link_width"] = function.max_link_width is None
        unread["current_link_width"] = reading.link_width is None
    gaps = {gap.path for gap in host.readings.gaps}
    # a counter that is None without a gap: the function has no AER, nobody counts
    unread |= {n: f"{DEVICES}/{function.address}/{n}" in gaps for n in _COUNTERS}
    return tuple(missing_attribute(host, function, n) for n, gone in unread.items() if gone)
