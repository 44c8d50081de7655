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
from vfio_contract.model import Intent, Module, ModuleRule, PciFunction

ID = "vfio-modules"
MODULES = "/sys/module"
RULES = "/etc/modprobe.d"
BUILTIN = "/lib/modules/*/modules.builtin"
IMAGE = "/boot/initrd.img"

VFIO_READY = Code(
    "VFIO_READY",
    Verdict.PASS,
    "vfio, vfio_pci and vfio_iommu_type1 or iommufd are loaded or built in, and come before the "
    "host drivers of devices that are bound by id, from an initramfs that is not outdated.",
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
    "modprobe.d or the kernel command line blacklists a VFIO module, or modprobe.d replaces its "
    "loading by another command.",
    "VFIO may be missing after the next boot.",
    "Remove the line, then: sudo update-initramfs -u; vfioctl check",
)
VFIO_NOIOMMU = Code(
    "VFIO_NOIOMMU",
    Verdict.WARN,
    "enable_unsafe_noiommu_mode is on for vfio, or configured to be.",
    "VFIO then also hands out devices that are behind no IOMMU: whoever gets one can read and "
    "write all of the host's memory. VMs cannot use such devices.",
    "Remove enable_unsafe_noiommu_mode from /etc/modprobe.d and the kernel command line; sudo "
    "update-initramfs -u; reboot; vfioctl check",
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
INITRAMFS_STALE = Code(
    "INITRAMFS_STALE",
    Verdict.WARN,
    "A modprobe.d file or initramfs module list that names VFIO is newer than the running kernel's "
    "initramfs.",
    "At boot the copy inside the initramfs decides who gets the device, and it is older than what "
    "is written: the next boot may bind the device otherwise.",
    "sudo update-initramfs -u -k all (Fedora: sudo dracut -f --regenerate-all; Arch: sudo "
    "mkinitcpio -P); to see what it holds: lsinitramfs /boot/initrd.img-$(uname -r) | grep vfio",
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
    "The kernel's modules, their configuration, the initramfs's age or the devices' drivers could "
    "not be read.",
    "Whether VFIO is there in time is not known. Unknown is not ready.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    VFIO_READY,
    VFIO_MISSING,
    VFIO_FORBIDDEN,
    VFIO_NOIOMMU,
    VFIO_RACE,
    INITRAMFS_STALE,
    VFIO_NOT_NEEDED,
    VFIO_UNKNOWN,
)

_BLACKLISTS = ("modprobe.blacklist", "module_blacklist")
_DISPLAY = 0x03
_CLASS_DRIVERS = {0x0403: frozenset({"snd_hda_intel"}), 0x0108: frozenset({"nvme"})}
_GPU_DRIVERS = {
    0x10DE: frozenset({"nouveau", "nvidia"}),
    0x1002: frozenset({"amdgpu", "radeon"}),
    0x8086: frozenset({"i915", "xe"}),
}
"""By vendor: every one of them must be kept out before none can be first."""

_NOIOMMU = "enable_unsafe_noiommu_mode"
_ON = ("", "Y", "y", "1")
"""Values of a module parameter that is on; none at all means on, too."""

_DEAF = (
    "vfio-pci is built into this kernel: options in modprobe.d never reach it, so the host's "
    "drivers take the devices.",
    "Name the ids on the kernel command line instead (vfio-pci.ids=VVVV:DDDD,...); update-grub or "
    "proxmox-boot-tool refresh; reboot; vfioctl check",
)
"""Meaning and decision where only modprobe.d names the ids of a built-in vfio-pci."""


def judge(host: Host) -> list[Finding]:
    """Are VFIO's modules there, and early enough?

    Evidence: /sys/module, modules.builtin, modprobe.d (softdep, blacklist), modules-load.d,
              initramfs modules and the age of the image.
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
    if any(is_vfio_bound(f) for f in endpoints(host)):
        names |= {"vfio", "vfio_pci"}  # built in without parameters they show nowhere else
    lacking = _find_lacking(names)
    intended = [f for f in endpoints(host) if f.address in host.intentions]
    if lacking:
        return _judge_lacking(host, shown, lacking, intended=bool(intended))
    rules = host.facts.module_rules
    if rules is None:
        missing = Missing(RULES, find_remedy(host, RULES) or f"grep -rn vfio {RULES}")
        return _unknown(missing, shown)
    forbidden = [*_list_forbidden(rules), *_forbidden_at_boot(host)]
    if forbidden:
        return make_finding(ID, NODE, VFIO_FORBIDDEN, shown, *forbidden)
    unread = _list_unread(host)
    if unread:
        return _unknown(unread[0], shown, *unread[1:])
    unsafe = _find_noiommu(host, rules)
    if unsafe is not None:
        return make_finding(ID, NODE, VFIO_NOIOMMU, unsafe, shown)
    deaf = [f for f in intended if _is_deaf(host, f)]
    late = deaf or [f for f in intended if _may_be_late(host, f, rules)]
    rivals = frozenset().union(*map(_rivals, intended))
    early = [
        Evidence(r.source, _describe(r)) for r in rules if not _forbids(r) or r.module in rivals
    ]
    by_id = [i for i in dict.fromkeys(_ids_of(host, f) for f in late or intended) if i is not None]
    if late:
        rows = [Evidence(i.source, f"{i.kind} {i.value}") for i in by_id]
        meaning, decision = _DEAF if deaf else ("", "")
        return make_finding(
            ID, NODE, VFIO_RACE, shown, *rows, *early, meaning=meaning, decision=decision
        )
    return (
        _judge_image(host, (shown, *early))
        if by_id
        else make_finding(ID, NODE, VFIO_READY, shown, *early)
    )


def _judge_image(host: Host, evidence: tuple[Evidence, ...]) -> Finding:
    """What is written comes in time; whether the initramfs has it is another question."""
    image = host.readings.initramfs
    if image is None:
        command = "ls -l /boot/initrd.img-$(uname -r) /etc/modprobe.d /etc/initramfs-tools/modules"
        missing = Missing("age of the initramfs", find_remedy(host, IMAGE) or command)
        return _unknown(missing, *evidence)
    if image.newer:
        rows = [Evidence(path, f"changed after {image.path} was made") for path in image.newer]
        return make_finding(ID, NODE, INITRAMFS_STALE, *rows, *evidence)
    text = "newer than all that it copies" if image.path else "no initramfs of this kernel"
    shown = Evidence(image.path or "/boot", text)
    return make_finding(ID, NODE, VFIO_READY, *evidence, shown)


def _judge_lacking(host: Host, shown: Evidence, lacking: str, *, intended: bool) -> Finding:
    remedy = find_remedy(host, BUILTIN)
    if intended and remedy:
        return _unknown(Missing(f"whether {lacking} is built in", remedy), shown)
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


def _list_forbidden(rules: tuple[ModuleRule, ...]) -> list[Evidence]:
    found = (r for r in rules if _is_part(r.module) and _forbids(r))
    return [Evidence(r.source, f"{r.kind} {r.module} {r.value}".strip()) for r in found]


def _forbidden_at_boot(host: Host) -> list[Evidence]:
    """`modprobe.blacklist=` (kmod) and `module_blacklist=` (kernel) of this boot."""
    found = (log.find_parameter(host, n) for n in _BLACKLISTS)
    return [
        row[0]
        for row in found
        if row is not None and any(_is_part(n.replace("-", "_")) for n in row[1].split(","))
    ]


def _find_noiommu(host: Host, rules: tuple[ModuleRule, ...]) -> Evidence | None:
    for module in _modules(host):
        value = dict(module.parameters).get(_NOIOMMU)
        if module.name == "vfio" and value in _ON:
            return Evidence(f"{MODULES}/vfio/parameters/{_NOIOMMU}", value or "set")
    found = log.find_parameter(host, f"vfio.{_NOIOMMU}")
    if found is not None and found[1] in _ON:
        return found[0]
    for rule in rules:
        for word in rule.value.split() if rule.kind == "options" else ():
            name, _, value = word.partition("=")
            if name.replace("-", "_") == _NOIOMMU and value in _ON:
                return Evidence(rule.source, f"options {rule.module} {rule.value}")
    return None


def _is_deaf(host: Host, function: PciFunction) -> bool:
    """True when a built-in vfio-pci would have to learn its id from modprobe.d, and did not."""
    builtin = any(m.name == "vfio_pci" and m.builtin for m in _modules(host))
    if not builtin or is_vfio_bound(function):
        return False
    intents = [i for i in _written_ids(host) if names_function(i, function)]
    return bool(intents) and all("modprobe.d" in i.source for i in intents)


def _may_be_late(host: Host, function: PciFunction, rules: tuple[ModuleRule, ...]) -> bool:
    """True when it is bound by id, and nothing loads vfio-pci before other drivers."""
    if _ids_of(host, function) is None:
        return False  # driverctl and hypervisors bind by address, whoever came first
    named = {r.kind for r in rules if r.module.endswith("vfio_pci")}
    if "initramfs" in named or any(m.name == "vfio_pci" and m.builtin for m in _modules(host)):
        return False
    rivals = _rivals(function)
    if rivals and all(_is_kept_out(host, name, rules) for name in rivals):
        return False
    before = {r.module for r in rules if r.kind == "softdep" and "vfio_pci" in r.value.split()}
    if is_vfio_bound(function) is False and function.driver:
        # this driver was faster just now, so loading vfio-pci at boot is not early enough
        return function.driver.replace("-", "_") not in before
    if before or "load" in named:
        return False
    early = ("rd.driver.pre", "modules_load", "rd.modules_load")
    words = [log.find_parameter(host, name) for name in early]
    return not any(w is not None and "vfio" in w[1] for w in words)


def _rivals(function: PciFunction) -> frozenset[str]:
    """The modules that may take it before vfio-pci: its driver, or what its class is known for.

    Empty where that is not known.
    """
    if function.driver and is_vfio_bound(function) is False:
        return frozenset({function.driver.replace("-", "_")})
    if function.sub_class in _CLASS_DRIVERS:
        return _CLASS_DRIVERS[function.sub_class]
    return _GPU_DRIVERS.get(function.vendor or 0, frozenset()) if _is_gpu(function) else frozenset()


def _is_gpu(function: PciFunction) -> bool:
    return function.base_class == _DISPLAY


def _is_kept_out(host: Host, name: str, rules: tuple[ModuleRule, ...]) -> bool:
    """True when nothing loads this module by itself; what is built in heeds no such line."""
    if any(m.name == name and m.builtin for m in _modules(host)):
        return False
    if any(r.module == name and _forbids(r) for r in rules):
        return True
    words = (log.find_parameter(host, n) for n in _BLACKLISTS)
    return any(w is not None and name in w[1].replace("-", "_").split(",") for w in words)


def _ids_of(host: Host, function: PciFunction) -> Intent | None:
    """The vfio-pci ids that bind it at boot; what /sys shows is this boot's state only."""
    return next((i for i in _written_ids(host) if names_function(i, function)), None)


def _written_ids(host: Host) -> list[Intent]:
    return [
        i
        for i in host.facts.intents or ()
        if i.kind == "vfio-ids" and not i.source.startswith("/sys/")
    ]


def _modules(host: Host) -> tuple[Module, ...]:
    return host.facts.modules or ()


def _describe(rule: ModuleRule) -> str:
    if rule.kind == "softdep":
        return f"softdep {rule.module} pre: {rule.value}"
    if rule.kind == "options":
        return f"options {rule.module} {rule.value}"
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
