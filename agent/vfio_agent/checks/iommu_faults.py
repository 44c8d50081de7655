"""Check `iommu-faults`: whether devices were caught at DMA they may not do, or reported errors.

One finding for each function with faults, and one about the node for what no function can be blamed
for. It must never take the lines that every boot prints (`AER: enabled`, `save config`, `vgaarb`)
for faults, nor a log that has lost lines for a quiet one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import DEVICES, describe, is_intended, subject_of
from vfio_contract.address import Address, address_key
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Verdict
from vfio_contract.host import Host
from vfio_contract.model import PciFunction

ID = "iommu-faults"

NO_FAULTS = Code(
    "NO_FAULTS",
    Verdict.PASS,
    "A complete kernel log without IOMMU faults, uncorrected PCIe errors, lost interrupts or "
    "hardware errors.",
    "No device was caught at DMA that it may not do.",
    "No action.",
)
DMA_FAULTS = Code(
    "DMA_FAULTS",
    Verdict.WARN,
    "DMAR fault, IO_PAGE_FAULT or SMMU event lines that name this function (about the node: a "
    "function that is not in the inventory).",
    "The IOMMU stopped DMA or interrupts of this device: its driver, firmware or guest is wrong, "
    "or it was reset in the middle of work.",
    "Look when they came (VM start, stop, load): sudo dmesg -T | grep -e DMAR -e IO_PAGE_FAULT; a "
    "few around a reset are common, a stream under load is not: update device and host firmware.",
)
PCIE_ERRORS = Code(
    "PCIE_ERRORS",
    Verdict.WARN,
    "Uncorrected PCIe errors (AER, DPC) that name this function or port.",
    "The link lost or broke a transaction. Fatal ones stop the device until it is reset.",
    "Reseat the card or riser, try another slot, look at power and cooling, update the firmware; "
    "then: vfioctl check",
)
PCIE_CORRECTED = Code(
    "PCIE_CORRECTED",
    Verdict.WARN,
    "A hundred or more corrected PCIe errors that name this function or port, and no worse ones.",
    "Nothing was lost yet, but the link repeats itself: a bad contact, riser, cable or slot.",
    "Reseat the card or riser, try another slot or a lower link speed; then: vfioctl check",
)
HARDWARE_ERRORS = Code(
    "HARDWARE_ERRORS",
    Verdict.WARN,
    "Machine check or APEI hardware error lines.",
    "The host itself has trouble; what looks like a passthrough problem may be this.",
    "Read them: sudo dmesg | grep -i -e 'hardware error' -e DMAR; look into the BMC's event log.",
)
IRQ_IGNORED = Code(
    "IRQ_IGNORED",
    Verdict.WARN,
    'The kernel switched an interrupt off because no driver handled it ("nobody cared").',
    "Every device that shares this interrupt stands still or is polled. With passthrough it is "
    "often a device without MSI, or one that was given to a VM while it still interrupted.",
    "See who shares it: cat /proc/interrupts; prefer MSI in the guest's driver, move the "
    "card to another slot, or load vfio-pci with nointxmask=1; reboot; vfioctl check",
)
IOMMU_STUCK = Code(
    "IOMMU_STUCK",
    Verdict.FAIL,
    "The IOMMU did not finish a command (Completion-Wait loop timed out, IOTLB_INV_TIMEOUT).",
    "The IOMMU or a device that it waits for hangs; host freezes follow.",
    "Stop the VMs, power-cycle the host, update its firmware; look which device was used then.",
)
FAULTS_UNKNOWN = Code(
    "FAULTS_UNKNOWN",
    Verdict.UNKNOWN,
    "The kernel log could not be read, or does not hold the whole boot.",
    "Faults may have been printed where nobody can see them now. Silence is not health.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    NO_FAULTS,
    DMA_FAULTS,
    PCIE_ERRORS,
    PCIE_CORRECTED,
    HARDWARE_ERRORS,
    IRQ_IGNORED,
    IOMMU_STUCK,
    FAULTS_UNKNOWN,
)

MANY_CORRECTED = 100
"""Corrected errors are what PCI Express is made for; this many are a sign."""

_ADDRESS = r"(?P<address>(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"

_UNCORRECTED = "Uncorrect(?:ed|able)"
_RECEIVED = "(?:received from|received:)"

_TARGET = re.compile(r"(?:fault addr |address=)(?:0x)?(?P<target>[0-9a-f]{1,16})\b", re.IGNORECASE)
"""What the device tried to reach (I/O virtual address), Intel and AMD."""

_SUPPRESSED = re.compile(
    r"\b(?:dmar|amd_iommu|iommu|arm_smmu|aer|pci)\w*: (?P<count>\d{1,12}) callbacks suppressed"
)
"""The kernel's rate limit (lib/ratelimit.c), by the function that would have printed."""

_INTERRUPTS = range(0xFEE00000, 0xFEF00000)
"""Where x86 devices write their interrupts to."""

_STUCK = re.compile(r"Completion-Wait loop timed out|IOTLB_INV_TIMEOUT", re.IGNORECASE)

_FAULTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(text, re.IGNORECASE), kind)
    for text, kind in (
        (rf"DMAR: ?\[[^\]]*\] Request device \[{_ADDRESS}\]", "dma"),
        (rf"AMD-Vi: Event logged \[\w+ device={_ADDRESS}", "dma"),
        (rf"{_ADDRESS}: AMD-Vi: Event logged \[\w+", "dma"),
        (r"AMD-Vi: Event logged \[\w+", "dma"),
        (rf"arm-smmu\S* \S+: event: [CF]_\w+ client: {_ADDRESS}", "dma"),
        (r"arm-smmu\S* \S+: event: [CF]_\w+ client:", "dma"),
        (r"arm-smmu\S* \S+: (?:event 0x[0-9a-f]+ received|Unhandled context fault)", "dma"),
        (rf"{_ADDRESS}: PCIe Bus Error: severity={_UNCORRECTED} \(Fatal\)", "fatal"),
        (rf"{_ADDRESS}: PCIe Bus Error: severity={_UNCORRECTED}", "non-fatal"),
        (rf"{_ADDRESS}: PCIe Bus Error: severity=Correct(?:ed|able)", "corrected"),
        (rf"AER: .*{_UNCORRECTED} \(Fatal\) .*{_RECEIVED} {_ADDRESS}", "fatal"),
        (rf"AER: .*{_UNCORRECTED} .*{_RECEIVED} {_ADDRESS}", "non-fatal"),
        (rf"AER: .*{_UNCORRECTED} \(Fatal\) .*error (?:message )?received", "fatal"),
        (rf"AER: .*{_UNCORRECTED} .*error (?:message )?received", "non-fatal"),
        (rf"{_ADDRESS}: DPC: containment event", "fatal"),
        (r"\[Hardware Error\]: (?:event severity|CPU \d+: Machine Check)", "hardware"),
        (r"\birq \d+: nobody cared", "irq"),
    )
)
"""The first that fits counts a line. Strings: drivers/iommu/intel/dmar.c, amd/iommu.c,
arm-smmu(-v3).c, drivers/pci/pcie/aer.c, dpc.c, drivers/firmware/efi/cper.c; 4.15 to 7.2."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """One line. `address` is "" when it names no function."""

    kind: str
    address: str
    line: str


def judge(host: Host) -> list[Finding]:
    """Did a device do DMA that it may not, or report errors?

    Evidence: DMAR faults, IO_PAGE_FAULT, SMMU events, uncorrected AER, DPC and hardware errors.
    Meaning:  Random freezes under load begin here, not in the VM's arguments.
    Source:   Linux drivers/iommu, drivers/pci/pcie (4.15 to 7.2); field guide step mistake 4.
    """
    faults = list(_find_faults(host))
    by_function, elsewhere = _attribute(host, faults)
    by_function = {a: rows for a, rows in by_function.items() if _matter(rows)}
    elsewhere = elsewhere if _matter(elsewhere) else []
    found = [_judge_function(host, host.by_address[a], rows) for a, rows in by_function.items()]
    stuck = [e for e in (log.find_line(host, _STUCK),) if e is not None]
    reach = log.describe_log(host)
    seen = (*stuck, *_show(host, elsewhere), *_show_suppressed(host))
    if stuck:
        return [make_finding(ID, NODE, IOMMU_STUCK, *seen), *found]
    if not log.is_complete(host):
        evidence = (*seen, *((reach,) if reach is not None else ()))
        missing = log.missing_log(host)
        return [make_finding(ID, NODE, FAULTS_UNKNOWN, *evidence, missing=missing), *found]
    if elsewhere:
        return [make_finding(ID, NODE, _code_of(elsewhere), *seen), *found]
    if found or reach is None:
        return _with_suppressed(host, found)
    return [make_finding(ID, NODE, NO_FAULTS, reach)]


def _find_faults(host: Host) -> Iterable[_Fault]:
    held = host.readings.kernel_log
    for line in held.lines if held is not None else ():
        for pattern, kind in _FAULTS:
            match = pattern.search(line.text)
            if match is not None:
                address = match.groupdict().get("address") or ""
                yield _Fault(kind, address.lower(), line.text)
                break


def _attribute(
    host: Host, faults: Sequence[_Fault]
) -> tuple[Mapping[Address, list[_Fault]], list[_Fault]]:
    """Faults by function, and those that name none of this host's."""
    found: dict[Address, list[_Fault]] = {}
    elsewhere = []
    for fault in faults:
        # Intel and old AMD lines leave the domain out
        rows = [a for a in host.by_address if a == fault.address or a.endswith(f":{fault.address}")]
        if fault.address and len(rows) == 1:
            found.setdefault(rows[0], []).append(fault)
        else:
            elsewhere.append(fault)
    return {a: found[a] for a in sorted(found, key=address_key)}, elsewhere


def _judge_function(host: Host, function: PciFunction, faults: list[_Fault]) -> Finding:
    code = _code_of(faults)
    below = host.by_address.below.get(function.address, ())
    return make_finding(
        ID,
        subject_of(function),
        code,
        Evidence(f"{DEVICES}/{function.address}", describe(function, host)),
        *_show(host, faults),
        intended=is_intended(host, (function.address, *below)),
    )


def _code_of(faults: Sequence[_Fault]) -> Code:
    """The code of the gravest of these faults."""
    kinds = {f.kind for f in faults}
    if "hardware" in kinds:
        return HARDWARE_ERRORS
    if kinds & {"fatal", "non-fatal"}:
        return PCIE_ERRORS
    if "dma" in kinds:
        return DMA_FAULTS
    return IRQ_IGNORED if "irq" in kinds else PCIE_CORRECTED


def _matter(faults: Sequence[_Fault]) -> bool:
    """False for nothing, and for a few errors that the hardware corrected."""
    corrected = sum(1 for f in faults if f.kind == "corrected")
    return corrected >= MANY_CORRECTED or corrected < len(faults)


def _show(host: Host, faults: Sequence[_Fault]) -> list[Evidence]:
    """The first and last line of each kind and device, with how many there are."""
    held = host.readings.kernel_log
    least = "at least " if held is not None and held.omitted_lines else ""
    found = []
    for key in dict.fromkeys((f.kind, f.address) for f in faults):
        rows = [f.line for f in faults if (f.kind, f.address) == key]
        found.append(Evidence(log.SOURCE, f"{rows[0]} ({least}{len(rows)} such lines)"))
        if len(rows) > 1:
            found.append(Evidence(log.SOURCE, f"{rows[-1]} (the last one)"))
    return [*found, *_show_targets(faults)]


def _show_targets(faults: Sequence[_Fault]) -> list[Evidence]:
    """The addresses that were refused, decoded where the address itself tells something."""
    matches = (_TARGET.search(f.line) for f in faults if f.kind == "dma")
    targets = sorted({int(m["target"], 16) for m in matches if m is not None})
    if not targets:
        return []
    text = f"0x{targets[0]:x}"
    if len(targets) > 1:
        text = f"{len(targets)} addresses from 0x{targets[0]:x} to 0x{targets[-1]:x}"
    if any(t in _INTERRUPTS for t in targets):
        text += " (0xfee00000 is where interrupts go: they were refused)"
    elif targets == [0]:
        text += " (a pointer that was never set: the device's driver or firmware)"
    return [Evidence("refused DMA", text)]


def _show_suppressed(host: Host) -> list[Evidence]:
    found = list(log.find_lines(host, _SUPPRESSED))
    if not found:
        return []
    count = sum(int(m["count"]) for m in found)
    text = f"{found[0].string} ({count} lines in all were not printed)"
    return [Evidence(log.SOURCE, text)]


def _with_suppressed(host: Host, findings: list[Finding]) -> list[Finding]:
    """The rate limit names no device, so each finding tells of it."""
    more = tuple(_show_suppressed(host))
    return [replace(f, evidence=(*f.evidence, *more)) for f in findings] if more else findings
