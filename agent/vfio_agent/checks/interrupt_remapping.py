"""Check `interrupt-remapping`: whether a device in a VM can be kept from forging interrupts.

It must never conclude from the "x2apic: IRQ remapping doesn't support X2APIC mode" line, which real
hosts print both ways, nor from DMA remapping: the two are switched apart.
"""

import re

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.architecture import ARM, OTHER, describe_machine, family_of
from vfio_agent.checks.hypervisor import find_hypervisor
from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host

ID = "interrupt-remapping"
INTERRUPTS = "/proc/interrupts"
_RULES = "/etc/modprobe.d"

IRQ_REMAP_ON = Code(
    "IRQ_REMAP_ON",
    Verdict.PASS,
    "A chip named IR-... in /proc/interrupts, the kernel's line that it enabled interrupt "
    "remapping, or on Arm an initialised GIC ITS.",
    "A device in a VM cannot send interrupts that are not its own.",
    "No action.",
)
IRQ_REMAP_OFF = Code(
    "IRQ_REMAP_OFF",
    Verdict.FAIL,
    "IO-APIC without the prefix IR- in /proc/interrupts, or the kernel's line that it failed.",
    "VFIO refuses the container (Operation not permitted): without it a guest could forge "
    "interrupts for the host.",
    "Remove intremap=off from the command line, enable VT-d with Interrupt Remapping (Intel) or "
    "IOMMU (AMD) in the firmware setup, update the firmware if it is on already; reboot; "
    "vfioctl check",
)
IRQ_REMAP_WEAK = Code(
    "IRQ_REMAP_WEAK",
    Verdict.WARN,
    "intremap=nosid on the kernel command line.",
    "Interrupts are remapped without checking who sent them: one device can forge another's.",
    "Remove intremap=nosid from the kernel command line unless the firmware's tables are broken; "
    "reboot; vfioctl check",
)
UNSAFE_INTERRUPTS = Code(
    "UNSAFE_INTERRUPTS",
    Verdict.WARN,
    "allow_unsafe_interrupts is on for vfio_iommu_type1 or iommufd, or configured to be.",
    "VFIO will start VMs without interrupt remapping: a guest can then forge interrupts and take "
    "over the host. Not for tenants who do not trust each other.",
    "Remove allow_unsafe_interrupts from /etc/modprobe.d and the command line (grep -r "
    "allow_unsafe_interrupts /etc/modprobe.d /proc/cmdline), then update-initramfs -u and reboot; "
    "or record who carries the risk (vfioctl risk accept); a request then needs --allow "
    "unsafe-interrupts",
)
IRQ_REMAP_UNKNOWN = Code(
    "IRQ_REMAP_UNKNOWN",
    Verdict.UNKNOWN,
    "Neither /proc/interrupts nor the kernel log tells.",
    "Whether a guest could forge interrupts is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
IRQ_REMAP_NOT_APPLICABLE = Code(
    "IRQ_REMAP_NOT_APPLICABLE",
    Verdict.NOT_APPLICABLE,
    "This platform prints nothing about interrupt remapping.",
    "VFIO itself refuses a group whose interrupts are not isolated.",
    "No action.",
)
CODES = (
    IRQ_REMAP_ON,
    IRQ_REMAP_OFF,
    IRQ_REMAP_WEAK,
    UNSAFE_INTERRUPTS,
    IRQ_REMAP_UNKNOWN,
    IRQ_REMAP_NOT_APPLICABLE,
)

_ON = ("", "Y", "y", "1")
"""Values of a module parameter that is on; none at all means on, too."""

_REMAPPED = re.compile(r"v?IR-")

_UNSAFE_BUT_ON = (
    "Interrupts are remapped now; if that were lost, VFIO would go on without a word, and a guest "
    "could forge interrupts for the host."
)


def judge(host: Host) -> list[Finding]:
    """Are interrupts of devices remapped?

    Evidence: chip names in /proc/interrupts, the kernel log, the command line, module parameters.
    Meaning:  Without it VFIO refuses devices, or lets a guest forge interrupts.
    Source:   Linux drivers/iommu, vfio_iommu_type1.c, irq-gic-v3-its.c; field guide step 5.
    """
    family = family_of(host)
    if family == ARM:
        return [_judge_arm(host)]
    if family == OTHER:
        return [make_finding(ID, NODE, IRQ_REMAP_NOT_APPLICABLE, describe_machine(host))]
    return [_judge_x86(host)]


# --- x86 -----------------------------------------------------------------------------------------


def _judge_x86(host: Host) -> Finding:
    remapped, evidence = _read_chips(host)
    if remapped is None:
        remapped, evidence = _read_log(host)
    if remapped is None:
        return make_finding(ID, NODE, IRQ_REMAP_UNKNOWN, *evidence, missing=_list_missing(host))
    unsafe = _find_unsafe(host)
    if unsafe is not None:
        meaning = _UNSAFE_BUT_ON if remapped else ""
        return make_finding(ID, NODE, UNSAFE_INTERRUPTS, unsafe, *evidence, meaning=meaning)
    if not remapped:
        guest = "hypervisor" in (host.facts.cpu.flags or ())
        maker = find_hypervisor(host)
        decision = f"This is a virtual machine. {maker.viommu}" if guest else ""
        return make_finding(ID, NODE, IRQ_REMAP_OFF, *evidence, decision=decision)
    weak = log.find_parameter(host, "intremap")
    if weak is not None and "nosid" in weak[1].split(","):
        return make_finding(ID, NODE, IRQ_REMAP_WEAK, weak[0], *evidence)
    unread = _list_unread_switches(host)
    if unread:
        return make_finding(ID, NODE, IRQ_REMAP_UNKNOWN, *evidence, missing=unread)
    return make_finding(ID, NODE, IRQ_REMAP_ON, *evidence)


def _read_chips(host: Host) -> tuple[bool | None, tuple[Evidence, ...]]:
    chips = host.readings.interrupt_chips
    if chips is None:
        return None, ()
    remapped = sorted(c for c in chips if _REMAPPED.match(c))
    if remapped:
        return True, (Evidence(INTERRUPTS, " ".join(remapped)),)
    plain = sorted(c for c in chips if c == "IO-APIC" or c.startswith("IO-APIC-"))
    if plain:
        return False, (Evidence(INTERRUPTS, f"{plain[0]}, not IR-{plain[0]}"),)
    # DMAR-MSI and AMD's own PCI-MSI never carry the prefix: they say nothing.
    return None, (Evidence(INTERRUPTS, f"no IO-APIC ({' '.join(sorted(chips)) or 'no chip'})"),)


def _read_log(host: Host) -> tuple[bool | None, tuple[Evidence, ...]]:
    refused = log.find_line(host, log.IRQ_REMAP_OFF)
    if refused is not None:
        return False, (refused,)
    switched = log.find_parameter(host, "intremap")
    if switched is not None and "off" in switched[1].split(","):
        return False, (switched[0],)
    enabled = log.find_line(host, log.IRQ_REMAP_ON)
    if enabled is not None:
        return True, (enabled,)
    reach = log.describe_log(host)
    return None, () if reach is None else (reach,)


def _find_unsafe(host: Host) -> Evidence | None:
    for module in host.facts.modules or ():
        value = dict(module.parameters).get("allow_unsafe_interrupts")
        if value in _ON:
            source = f"/sys/module/{module.name}/parameters/allow_unsafe_interrupts"
            return Evidence(source, value)
    shown = {m.name for m in host.facts.modules or () if m.parameters}
    for name in ("vfio_iommu_type1", "iommufd"):
        if name in shown:
            continue  # what /sys shows is what counts; these only say what loading it would set
        found = log.find_parameter(host, f"{name}.allow_unsafe_interrupts")
        if found is not None and found[1] in _ON:
            return found[0]
    for rule in host.facts.module_rules or ():
        if rule.kind == "options" and any(_sets(w) for w in rule.value.split()):
            return Evidence(rule.source, f"options {rule.module} {rule.value}")
    return None


def _sets(word: str) -> bool:
    name, _, value = word.partition("=")
    return name.replace("-", "_") == "allow_unsafe_interrupts" and value in _ON


def _list_unread_switches(host: Host) -> tuple[Missing, ...]:
    """The switches that weaken remapping and could not be read on a running host.

    A bare boot log shows the remapping itself; that it lacks the switches is no gap.
    """
    if not host.readings.live:
        return ()
    found = []
    if host.facts.modules is None:
        path = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        found.append(Missing(path, find_remedy(host, "/sys/module") or f"cat {path}"))
    if host.facts.module_rules is None:
        command = "grep -rn allow_unsafe_interrupts /etc/modprobe.d"
        found.append(Missing(_RULES, find_remedy(host, _RULES) or command))
    if log.read_cmdline(host) is None:
        found.append(Missing("/proc/cmdline", "cat /proc/cmdline"))
    return tuple(found)


def _list_missing(host: Host) -> tuple[Missing, ...]:
    found: tuple[Missing, ...] = ()
    if host.readings.interrupt_chips is None:
        command = find_remedy(host, INTERRUPTS) or f"grep -e IR- -e IO-APIC {INTERRUPTS}"
        found = (Missing(INTERRUPTS, command),)
    return (*found, *log.missing_log(host))


# --- Arm -----------------------------------------------------------------------------------------


def _judge_arm(host: Host) -> Finding:
    unsafe = _find_unsafe(host)
    if unsafe is not None:
        return make_finding(ID, NODE, UNSAFE_INTERRUPTS, unsafe)
    chips = host.readings.interrupt_chips
    ready = [c for c in chips or () if c.startswith("ITS-")]
    if ready:
        return make_finding(ID, NODE, IRQ_REMAP_ON, Evidence(INTERRUPTS, " ".join(sorted(ready))))
    started = log.find_line(host, log.ITS_READY)
    if started is not None:
        return make_finding(ID, NODE, IRQ_REMAP_ON, started)
    frames = [c for c in chips or () if "v2m" in c.lower()]
    frame = log.find_line(host, log.GIC_V2M)
    if frames or frame is not None:
        evidence = frame or Evidence(INTERRUPTS, " ".join(sorted(frames)))
        return make_finding(
            ID,
            NODE,
            IRQ_REMAP_OFF,
            evidence,
            meaning="A GICv2m frame takes an interrupt from any device: VFIO refuses the group, "
            "because its interrupts are not isolated.",
            decision="Enable the GIC ITS in the firmware, or use a machine that has one; GICv2m "
            "cannot isolate interrupts.",
        )
    if log.is_complete(host):
        reach = log.describe_log(host)
        evidence = reach if reach is not None else describe_machine(host)
        return make_finding(ID, NODE, IRQ_REMAP_NOT_APPLICABLE, evidence)
    missing = _list_missing(host)
    return make_finding(ID, NODE, IRQ_REMAP_UNKNOWN, describe_machine(host), missing=missing)
