"""Check `device-health`: whether the device answers, with its whole link and without errors.

Judged per assignable function. One look cannot tell whether a counter rises; it says how high it
is. It must never call a sleeping function dead, nor a virtual function, whose ids alone read ffff,
nor a card in a narrow slot degraded, nor an idle graphics card slow.
"""

import re

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
from vfio_contract.address import slot_of
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import FunctionReading, PciFunction

ID = "device-health"

DEVICE_HEALTHY = Code(
    "DEVICE_HEALTHY",
    Verdict.PASS,
    "The config space answers, the link has the width and speed that card and slot allow, no "
    "uncorrected errors are counted.",
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
LINK_SLOW = Code(
    "LINK_SLOW",
    Verdict.WARN,
    "current_link_speed is below what both the function and its slot can do, and it is no display "
    "or accelerator, which slow down by themselves when idle.",
    "The link trained at a lower speed, as after errors on a bad riser or in a dirty slot, or "
    "because the firmware setup limits it. Performance suffers although passthrough works.",
    "Reseat the card, look at the firmware's link speed setting for the slot; cold start.",
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
    LINK_SLOW,
    DEVICE_COLD,
    HEALTH_UNKNOWN,
)

MANY_CORRECTABLE = 1000
"""Corrected errors since boot from which on they are told: single ones are normal on PCIe."""

_SAVING = frozenset({0x03, 0x0B, 0x12})
"""Displays, processors and accelerators change their link's speed with their load."""

_WITHIN_ROOT_COMPLEX = frozenset({9, 10})
"""PCI Express port types without link registers (PCI Express 7.5.3.2)."""

_GIGATRANSFERS = re.compile(r"([0-9]{1,3}(?:\.[0-9])?) ?GT/s")
_ASLEEP = frozenset({"D1", "D2", "D3hot", "D3cold"})
_COUNTERS = ("aer_dev_fatal", "aer_dev_nonfatal", "aer_dev_correctable")


def judge(host: Host) -> list[Finding]:
    """Does the device answer, with its whole link and without errors?

    Evidence: config space, power_state, current and maximum link width and speed, AER counters in
              sysfs.
    Meaning:  A device that is dying fails in ways that look like passthrough.
    Source:   Linux Documentation/PCI/pcieaer-howto.rst; field guide step - (none).
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    return [_judge_function(host, f, host.reading_of.get(f.address)) for f in functions]


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
    if _has_link(function, reading) and _is_slow(host, function, reading):
        return LINK_SLOW
    return DEVICE_HEALTHY


def _is_asleep(reading: FunctionReading) -> bool:
    return reading.power_state in _ASLEEP or reading.runtime_status == "suspended"


def _has_link(function: PciFunction, reading: FunctionReading) -> bool:
    """False for what sleeps, and for functions without a link of their own: VFs, and endpoints
    within the root complex, for which sysfs shows a width of 255.
    """
    pcie = None if function.config is None else function.config.pcie
    inside = pcie is not None and pcie.port_type in _WITHIN_ROOT_COMPLEX
    own = not function.physfn and not inside and function.max_link_width != 0
    return own and not _is_asleep(reading)


def _best_width(host: Host, function: PciFunction) -> int:
    """Lanes that both ends have; a narrow slot is no fault of the link."""
    above = host.by_address.get(function.parent) if function.parent else None
    ends = [function.max_link_width or 0]
    if above is not None and above.max_link_width:
        ends.append(above.max_link_width)
    return min(ends)


def _is_slow(host: Host, function: PciFunction, reading: FunctionReading) -> bool:
    """A lower speed has a reason: displays and accelerators save power that way."""
    now = _speed(reading.link_speed)
    return 0 < now < _best_speed(host, function) and not _saves_power(host, function)


def _saves_power(host: Host, function: PciFunction) -> bool:
    slot = host.by_address.slots.get(slot_of(function.address), ())
    return any(mate.base_class in _SAVING for mate in slot)


def _best_speed(host: Host, function: PciFunction) -> float:
    """GT/s that both ends have."""
    above = host.by_address.get(function.parent) if function.parent else None
    ends = [_speed(function.max_link_speed)]
    if above is not None and _speed(above.max_link_speed):
        ends.append(_speed(above.max_link_speed))
    return min(ends)


def _speed(text: str | None) -> float:
    """`8.0 GT/s PCIe` as 8.0; 0 for what is no speed."""
    match = _GIGATRANSFERS.match(text or "")
    return float(match[1]) if match is not None else 0.0


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
        limits = f"x{best}"
        if _speed(reading.link_speed) < _best_speed(host, function):
            limits = f"{_best_speed(host, function):.1f} GT/s {limits}"
        link = f"{reading.link_speed or '?'} x{reading.link_width}, card and slot: {limits}"
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
        unread["max_link_speed"] = function.max_link_speed is None
        unread["current_link_speed"] = not _speed(reading.link_speed) and reading.link_speed != ""
        slot = host.by_address.slots.get(slot_of(function.address), ())
        unread["class"] = any(mate.class_code is None for mate in slot)
    gaps = {gap.path for gap in host.readings.gaps}
    # a counter that is None without a gap: the function has no AER, nobody counts
    unread |= {n: f"{DEVICES}/{function.address}/{n}" in gaps for n in _COUNTERS}
    return tuple(missing_attribute(host, function, n) for n, gone in unread.items() if gone)
