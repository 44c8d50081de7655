"""Check `vfio-modules`: whether VFIO is in the kernel, and early enough to win the race.

A host driver that loads first takes the device, and vfio-pci's ids come too late. It must never
miss `vfio_virqfd`, which is part of vfio since Linux 6.2, nor ask a host for modules that has no
device to pass.
"""

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import endpoints, find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound, names_function
from vfio_contract.model import Intent, ModuleRule, PciFunction

ID = "vfio-modules"
MODULES = "/sys/module"
RULES = "/etc/modprobe.d"

VFIO_READY = Code(
    "VFIO_READY",
    Verdict.PASS,
    "vfio, vfio_pci and vfio_iommu_type1 or iommufd are loaded or built in, and come before the "
    "host drivers of devices that are bound by id.",
    "VFIO can take the devices that are meant for it.",
    "No action.",
)
VFIO_MISSING = Code(
    "VFIO_MISSING",
    Verdict.FAIL,
    "Devices are meant for passthrough, but a part of VFIO is neither loaded nor built in.",
    "No VM can get a device before it is loaded.",
    "sudo modprobe vfio-pci vfio_iommu_type1; to keep it: printf 'vfio\\nvfio_iommu_type1\\n"
    "vfio_pci\\n' | sudo tee /etc/modules-load.d/vfio.conf; vfioctl check",
)
VFIO_FORBIDDEN = Code(
    "VFIO_FORBIDDEN",
    Verdict.WARN,
    "modprobe.d blacklists a VFIO module, or replaces its loading by another command.",
    "VFIO may be missing after the next boot.",
    "Remove the line, then: sudo update-initramfs -u; vfioctl check",
)
VFIO_RACE = Code(
    "VFIO_RACE",
    Verdict.WARN,
    "Devices are bound by vfio-pci ids, and nothing loads vfio-pci before their host drivers.",
    "Whoever loads first gets the device: it may be vfio-pci today and the host driver after the "
    "next update.",
    "Name vfio_pci in /etc/initramfs-tools/modules (dracut: force_drivers), or add 'softdep DRIVER "
    "pre: vfio-pci' to /etc/modprobe.d/vfio.conf; sudo update-initramfs -u; reboot; vfioctl check",
)
VFIO_NOT_NEEDED = Code(
    "VFIO_NOT_NEEDED",
    Verdict.NOT_APPLICABLE,
    "No device is meant for passthrough, and VFIO is not loaded.",
    "Hypervisors load it when a VM first needs it.",
    "No action.",
)
VFIO_UNKNOWN = Code(
    "VFIO_UNKNOWN",
    Verdict.UNKNOWN,
    "The kernel's modules, their configuration or the devices' drivers could not be read.",
    "Whether VFIO is there in time is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (VFIO_READY, VFIO_MISSING, VFIO_FORBIDDEN, VFIO_RACE, VFIO_NOT_NEEDED, VFIO_UNKNOWN)


def judge(host: Host) -> list[Finding]:
    """Are VFIO's modules there, and early enough?

    Evidence: /sys/module, modprobe.d (softdep, blacklist), modules-load.d, initramfs modules.
    Meaning:  Without them nothing can be bound; if they come late, a host driver was faster.
    Source:   Linux Documentation/driver-api/vfio.rst, modprobe.d(5); field guide step 9.
    """
    return [_judge_node(host)]


def _judge_node(host: Host) -> Finding:
    modules = host.facts.modules
    if modules is None:
        return _unknown(Missing(MODULES, find_remedy(host, MODULES) or "lsmod | grep vfio"))
    names = {m.name for m in modules}
    shown = Evidence(MODULES, " ".join(sorted(n for n in names if _is_part(n))) or "no vfio module")
    lacking = _find_lacking(names)
    intended = [f for f in endpoints(host) if f.address in host.intentions]
    if lacking:
        return _judge_lacking(host, shown, lacking, intended=bool(intended))
    rules = host.facts.module_rules
    if rules is None:
        missing = Missing(RULES, find_remedy(host, RULES) or f"grep -rn vfio {RULES}")
        return _unknown(missing, shown)
    forbidden = [r for r in rules if _is_part(r.module) and _forbids(r)]
    if forbidden:
        rows = [Evidence(r.source, f"{r.kind} {r.module} {r.value}".strip()) for r in forbidden]
        return make_finding(ID, NODE, VFIO_FORBIDDEN, shown, *rows)
    unread = _list_unread(host)
    if unread:
        return _unknown(unread[0], shown, *unread[1:])
    late = [f for f in intended if _may_be_late(host, f, rules)]
    early = [Evidence(r.source, _describe(r)) for r in rules if not _forbids(r)]
    if late:
        rows = [
            Evidence(i.source, f"{i.kind} {i.value}")
            for i in dict.fromkeys(_ids_of(host, f) for f in late)
            if i is not None
        ]
        return make_finding(ID, NODE, VFIO_RACE, shown, *rows, *early)
    return make_finding(ID, NODE, VFIO_READY, shown, *early)


def _judge_lacking(host: Host, shown: Evidence, lacking: str, *, intended: bool) -> Finding:
    if intended:
        lack = Evidence(MODULES, f"lacks {lacking}")
        return make_finding(ID, NODE, VFIO_MISSING, shown, lack)
    unread = _list_unread(host)
    if unread:
        return _unknown(unread[0], shown, *unread[1:])
    return make_finding(ID, NODE, VFIO_NOT_NEEDED, shown)


def _find_lacking(names: set[str]) -> str:
    if "vfio" not in names:
        return "vfio"
    if not any(n == "vfio_pci" or n.endswith("vfio_pci") for n in names):
        return "vfio_pci"
    # POWER has its own backend
    backends = {"vfio_iommu_type1", "iommufd", "vfio_iommu_spapr_tce"}
    return "" if backends & names else "vfio_iommu_type1 and iommufd"


def _is_part(name: str) -> bool:
    return name.startswith("vfio") or name == "iommufd" or name.endswith("vfio_pci")


def _forbids(rule: ModuleRule) -> bool:
    return rule.kind == "blacklist" or (rule.kind == "install" and "modprobe" not in rule.value)


def _may_be_late(host: Host, function: PciFunction, rules: tuple[ModuleRule, ...]) -> bool:
    """True when it is bound by id, and nothing loads vfio-pci before other drivers."""
    if _ids_of(host, function) is None:
        return False  # driverctl and hypervisors bind by address, whoever came first
    if any(r.kind in ("initramfs", "load") and r.module.endswith("vfio_pci") for r in rules):
        return False
    before = {r.module for r in rules if r.kind == "softdep" and "vfio_pci" in r.value.split()}
    if is_vfio_bound(function) is False and function.driver:
        return function.driver.replace("-", "_") not in before  # this driver was faster just now
    if before:
        return False
    early = ("rd.driver.pre", "modules_load", "rd.modules_load")
    words = [log.find_parameter(host, name) for name in early]
    return not any(w is not None and "vfio" in w[1] for w in words)


def _ids_of(host: Host, function: PciFunction) -> Intent | None:
    """The vfio-pci ids that bind it at boot; what /sys shows is this boot's state only."""
    for intent in host.facts.intents or ():
        written = intent.kind == "vfio-ids" and not intent.source.startswith("/sys/")
        if written and names_function(intent, function):
            return intent
    return None


def _describe(rule: ModuleRule) -> str:
    if rule.kind == "softdep":
        return f"softdep {rule.module} pre: {rule.value}"
    return f"{rule.kind} {rule.module}"


def _list_unread(host: Host) -> list[Missing]:
    """What keeps it from being known whether a device is intended."""
    found = []
    if host.facts.functions is None:
        found.append(Missing("/sys/bus/pci/devices", "lspci -nnk"))
    if host.facts.intents is None:
        found.append(Missing(RULES, f"grep -rn vfio {RULES} /proc/cmdline"))
    unread = [f for f in endpoints(host) if is_vfio_bound(f) is None or _has_unread(f)]
    if unread:
        found.append(Missing(f"drivers of {len(unread)} functions", "lspci -nnk"))
    return found


def _has_unread(function: PciFunction) -> bool:
    ids = (function.vendor, function.device, function.subsystem_vendor, function.subsystem_device)
    return None in (*ids, function.driver_override)


def _unknown(missing: Missing, *rest: Evidence | Missing) -> Finding:
    evidence = tuple(r for r in rest if isinstance(r, Evidence))
    more = tuple(r for r in rest if isinstance(r, Missing))
    return make_finding(ID, NODE, VFIO_UNKNOWN, *evidence, missing=(missing, *more))
