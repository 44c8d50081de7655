"""Check `reset-capability`: whether a device can be brought back to a clean state between two VMs.

Judged per assignable function. `bus` in `reset_method` is no reset of the function alone: the list
was made before its siblings appeared. It must never promise a reset from a list that the kernel
could not show, nor from a device that does not answer.
"""

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    attribute,
    describe,
    doubt_listing,
    group_of,
    is_intended,
    missing_attribute,
    missing_groups,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.fingerprint import reset_class
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.units import BROKEN_FLR, has_broken_bus_reset, reset_domain

ID = "reset-capability"

RESET_FUNCTION = Code(
    "RESET_FUNCTION",
    Verdict.PASS,
    "reset_method lists flr, af_flr, acpi or device_specific; on older kernels DevCap FLReset+ or "
    "AF FLR+; a VF always has FLR.",
    "The function can be reset alone. A good sign, not a promise: reset-history tells how it went.",
    "No action.",
)
RESET_SLOT = Code(
    "RESET_SLOT",
    Verdict.PASS,
    "reset_method lists pm, bus or nothing, and the kernel can reset the bridge above the function "
    "(VFIO hot reset).",
    "A reset takes along every function below that bridge: one VM must own all of them.",
    "Pass all functions of the reset domain to the same VM.",
)
RESET_SHARED = Code(
    "RESET_SHARED",
    Verdict.FAIL,
    "Only a bus reset is left, and below the bridge is something that no VM can own.",
    'The hot reset is refused ("depends on group N which is not owned"): the device may work once '
    "and stay wedged until the host reboots.",
    "Move the card to a slot of its own, or choose hardware with FLR.",
)
RESET_WEAK = Code(
    "RESET_WEAK",
    Verdict.WARN,
    "reset_method lists pm only (D3hot and back).",
    "Power management may clear less than the next VM needs.",
    "Test it: start, stop and start a VM without rebooting the host; if that fails, plan for a "
    "host reboot between assignments.",
)
RESET_NONE = Code(
    "RESET_NONE",
    Verdict.FAIL,
    "No reset method and no bridge above it that could be reset.",
    "It works once, then keeps whatever state the last VM left: wedged, or another tenant's data.",
    "Choose hardware with FLR, another slot, or a vendor reset module (vendor-reset); else accept "
    "a host reboot between assignments.",
)
RESET_DISABLED = Code(
    "RESET_DISABLED",
    Verdict.FAIL,
    "reset_method exists and is empty.",
    "Someone switched off every reset of this function: VFIO_DEVICE_RESET is refused.",
    "Switch the kernel's own choice back on.",
)
RESET_QUIRK = Code(
    "RESET_QUIRK",
    Verdict.WARN,
    "The id is on the kernel's list of devices that hang on FLR or do not survive a bus reset.",
    "Its FLR is broken and not used; what is left is the weaker way that the evidence names.",
    "Test it: start, stop and start a VM without rebooting the host, before you rely on it.",
)
RESET_UNKNOWN = Code(
    "RESET_UNKNOWN",
    Verdict.UNKNOWN,
    "reset_method or the capabilities could not be read, or the device does not answer.",
    "Whether it can be reset between two VMs is not known. Unknown is not resettable.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    RESET_FUNCTION,
    RESET_SLOT,
    RESET_SHARED,
    RESET_WEAK,
    RESET_NONE,
    RESET_DISABLED,
    RESET_QUIRK,
    RESET_UNKNOWN,
)

_LIST_SINCE = (5, 15)
"""First kernel with `reset_method` (facts/kernel: sysfs)."""


def judge(host: Host) -> list[Finding]:
    """Can this function be reset between two VMs, and what goes along?

    Evidence: reset_method in the kernel's order, DevCap and AF capabilities, the bridges above.
    Meaning:  What cannot be reset works once and then stays wedged until the host reboots.
    Source:   Linux drivers/pci/pci.c, vfio_pci_core.c (hot reset); field guide step 7.
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    return [_judge_function(host, f) for f in functions]


def _judge_function(host: Host, function: PciFunction) -> Finding:
    code, meaning, decision = _decide(host, function)
    missing: tuple[Missing, ...] = ()
    if code is RESET_UNKNOWN:
        missing = _list_missing(host, function)
    return make_finding(
        ID,
        subject_of(function),
        code,
        *_list_evidence(host, function, code),
        intended=is_intended(host, [function.address]),
        meaning=meaning,
        decision=decision,
        missing=missing,
    )


def _decide(host: Host, function: PciFunction) -> tuple[Code, str, str]:
    """(code, sharper meaning, sharper decision); "" leaves the code's own text."""
    if function.config is None:
        return RESET_UNKNOWN, "", ""
    if function.config.dead:
        dead = "Its config space reads all ones: the device has fallen off the bus."
        return RESET_UNKNOWN, dead, f"Look at it: sudo lspci -vvv -s {function.address}; sudo dmesg"
    if _is_emptied(function) and not _is_list_remade(host, function):
        path = f"{DEVICES}/{function.address}/reset_method"
        return (
            RESET_DISABLED,
            _describe_disabled(function),
            f"echo default | sudo tee {path}; vfioctl check",
        )
    code = _classify(host, function)
    if code is RESET_SLOT and (broken := _broken_on_bus(host, function)):
        return (
            RESET_QUIRK,
            f"A reset of the bus takes along {broken}, which may not survive it.",
            "",
        )
    if code in (RESET_SLOT, RESET_WEAK) and _has_broken_flr(function):
        return RESET_QUIRK, "", ""
    if code is RESET_FUNCTION and _uses_broken_flr(function):
        why = "This kernel does not know it yet and would use FLR, on which the device hangs."
        return RESET_QUIRK, why, f"{RESET_QUIRK.decision} Or use a newer kernel."
    if code is RESET_SLOT:
        return code, _describe_ways(host, function), ""
    return code, "", ""


def _classify(host: Host, function: PciFunction) -> Code:
    kind = reset_class(function, host.by_address)
    if function.reset_methods is None and not function.physfn:
        if _never_had_list(host, function):
            kind = kind or _class_on_old_kernel(host, function)
        elif kind == "function" and host.readings.live:
            # The kernel's list may lack what the device advertises: quirked, or switched off.
            kind = None
    if kind in (None, "none") and _is_list_remade(host, _first_on_bus(host, function)):
        kind = "slot"
    if kind != "slot":
        known = {"function": RESET_FUNCTION, "weak": RESET_WEAK, "none": RESET_NONE}
        return known.get(kind or "", RESET_UNKNOWN)
    blocked = _is_domain_blocked(host, function)
    if blocked is None or (not blocked and doubt_listing(host)):
        return RESET_UNKNOWN
    return RESET_SHARED if blocked else RESET_SLOT


def _never_had_list(host: Host, function: PciFunction) -> bool:
    """True on kernels before `reset_method`: capabilities and topology are all there is."""
    version = host.facts.kernel.version
    old = version is not None and version < _LIST_SINCE
    return old and function.reset_method_file is False


def _is_emptied(function: PciFunction) -> bool:
    return function.reset_methods == () and bool(function.reset_method_file)


def _is_list_remade(host: Host, function: PciFunction) -> bool:
    """True when the list is empty although nobody switched resets off.

    `echo default > reset_method` makes the list anew; where siblings have appeared meanwhile, `bus`
    is left out and nothing remains [lab]. The hot reset does not depend on the list. Only a whole
    log proves that the kernel did not say "All device reset methods disabled by user".
    """
    above = host.by_address.get(function.parent) if function.parent else None
    if not _is_emptied(function) or above is None or not above.is_bridge:
        return False
    siblings = [f for f in host.functions if f.parent == function.parent and f is not function]
    said = (m.string for m in log.find_lines(host, log.RESETS_DISABLED))
    by_hand = any(function.address in line for line in said)
    return bool(siblings) and log.is_complete(host) and not by_hand


def _first_on_bus(host: Host, function: PciFunction) -> PciFunction:
    """The function whose list tells whether the bus can be reset (see `units.hot_resets`)."""
    mates = (f for f in host.functions if f.parent == function.parent)
    return next(mates, function) if function.parent else function


def _class_on_old_kernel(host: Host, function: PciFunction) -> str | None:
    above = host.by_address.get(function.parent) if function.parent else None
    if above is not None and above.is_bridge and not _broken_on_bus(host, function):
        return "slot"
    config = function.config
    if function.parent is None or config is None or config.capabilities is None:
        return None
    if config.pm_no_soft_reset is False:
        return "weak"
    return "none" if function.reset_file is False else None


def _has_broken_flr(function: PciFunction) -> bool:
    return (function.vendor, function.device) in BROKEN_FLR


def _uses_broken_flr(function: PciFunction) -> bool:
    """True when FLR is the first way in the list of a kernel that does not know better."""
    return _has_broken_flr(function) and (function.reset_methods or ())[:1] == ("flr",)


def _broken_on_bus(host: Host, function: PciFunction) -> str:
    """The first function of the reset domain, or the port above it, with a broken bus reset."""
    above = host.by_address.get(function.parent) if function.parent else None
    members = [*_domain(host, function), *([above] if above is not None else [])]
    return next((f"{m.address} ({m.ids})" for m in members if has_broken_bus_reset(m)), "")


def _is_domain_blocked(host: Host, function: PciFunction) -> bool | None:
    """True when a reset takes along what no VM can own; None when that is not known."""
    if _blockers(host, function):
        return True
    domain = _domain(host, function)
    if len(domain) == 1:
        return False
    return None if any(m.is_bridge is None or group_of(host, m) is None for m in domain) else False


def _blockers(host: Host, function: PciFunction) -> list[PciFunction]:
    """Other members of the reset domain that no VM can own: they, or their group, are not assigned.

    Without any group the IOMMU is off, and who could own what is not discussed.
    """
    domain = _domain(host, function)
    if not host.members:
        return []
    owned = {group_of(host, m) for m in domain if m.is_bridge is False}
    return [
        m
        for m in domain
        if m is not function
        and (group_of(host, m) == NO_GROUP or (m.is_bridge and group_of(host, m) not in owned))
    ]


def _domain(host: Host, function: PciFunction) -> list[PciFunction]:
    return [host.by_address[a] for a in reset_domain(function, host.by_address)]


# --- texts ---------------------------------------------------------------------------------------


def _describe_ways(host: Host, function: PciFunction) -> str:
    """What VFIO_DEVICE_RESET does for the function alone, then what the hot reset does."""
    domain = reset_domain(function, host.by_address)
    alone = len(domain) == 1
    methods = function.reset_methods
    if methods is None:
        own = "This kernel does not list what VFIO_DEVICE_RESET would use."
    elif "pm" in methods:
        own = "VFIO_DEVICE_RESET uses pm (D3hot and back), which may clear less than a VM needs."
    elif "bus" in methods and alone:
        own = "VFIO_DEVICE_RESET resets its bus."
    else:
        own = "VFIO_DEVICE_RESET is refused: nothing listed works for this function alone."
    if alone:
        return f"{own} The hot reset of that bus takes nothing else along."
    names = " ".join(domain)
    return (
        f"{own} The hot reset takes along {names}: one VM can own them all, and must, or it is "
        "refused."
    )


def _describe_disabled(function: PciFunction) -> str:
    if function.parent is None:
        return RESET_DISABLED.meaning
    if not function.parent:
        return f"{RESET_DISABLED.meaning} Below a root bus nothing else can reset it."
    return (
        f"{RESET_DISABLED.meaning} QEMU then tries the hot reset of all below {function.parent}, "
        "which does not ask this list; whether the device survives it the empty list no longer "
        "tells."
    )


def _list_evidence(host: Host, function: PciFunction, code: Code) -> list[Evidence]:
    found = [Evidence(f"{DEVICES}/{function.address}", describe(function, host))]
    if function.reset_methods:
        found.append(attribute(function, "reset_method", " ".join(function.reset_methods)))
    elif function.reset_methods == ():
        text = "empty" if function.reset_method_file else "does not exist: no reset of its own"
        found.append(attribute(function, "reset_method", text))
    config = function.config
    if function.physfn:
        found.append(attribute(function, "physfn", f"VF of {function.physfn}: FLR is mandatory"))
    elif config is not None and config.pcie is not None:
        text = f"DevCap FLReset{'+' if config.pcie.flr else '-'}"
        found.append(attribute(function, "config", text))
    if config is not None and config.af_flr:
        found.append(attribute(function, "config", "AF FLR+"))
    if code in (RESET_SLOT, RESET_SHARED, RESET_QUIRK):
        domain = " ".join(reset_domain(function, host.by_address))
        found.append(Evidence("reset domain", f"below {function.parent or 'no bridge'}: {domain}"))
    if code is RESET_SHARED:
        found += [
            Evidence("not ownable", describe(member, host)) for member in _blockers(host, function)
        ]
    return found


def _list_missing(host: Host, function: PciFunction) -> tuple[Missing, ...]:
    """What was not read of the function and of those that a reset takes along."""
    found = list(doubt_listing(host))
    for member in dict.fromkeys((function, *_domain(host, function))):
        config = member.config
        if config is None or (member is function and (config.capabilities is None or config.dead)):
            found.append(missing_attribute(host, member, "config"))
        if member.reset_methods is None:
            found.append(missing_attribute(host, member, "reset_method"))
        if member.parent is None:
            found.append(Missing(f"{DEVICES}/{member.address}", "lspci -t"))
    above = host.by_address.get(function.parent) if function.parent else None
    if above is not None and above.is_bridge is None:
        found.append(missing_attribute(host, above, "config"))
    if any(group_of(host, m) is None for m in _domain(host, function)):
        found.append(missing_groups(host))
    return tuple(found)
