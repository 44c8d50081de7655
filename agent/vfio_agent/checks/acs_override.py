"""Check `acs-override`: whether the isolation that groups show is the hardware's, and still on.

Two ways to lose it: `pcie_acs_override` makes the kernel believe in isolation that is not there,
and tools clear ACS control bits after boot while the groups keep looking clean. It must never call
a hop isolating whose ACS control could not be read.
"""

from collections.abc import Iterator

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.boot import find_configured, missing_configured
from vfio_agent.checks.group_isolation import ACS_OVERRIDE
from vfio_agent.checks.inventory import (
    DEVICES,
    attribute,
    describe,
    endpoints,
    find_remedy,
    group_of,
    is_intended,
    missing_attribute,
    subject_of,
)
from vfio_agent.checks.isolation import find_override, is_override_known
from vfio_contract.address import Address, address_key
from vfio_contract.codes import ACS_CLEARED, Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.isolation import find_unproven
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.quirks import has_wide_acs

ID = "acs-override"

ACS_NATIVE = Code(
    "ACS_NATIVE",
    Verdict.PASS,
    "No pcie_acs_override on the running command line, nor where the boot loader is configured.",
    "The kernel's groups are what the hardware says.",
    "No action.",
)
ACS_OVERRIDE_IDLE = Code(
    "ACS_OVERRIDE_IDLE",
    Verdict.WARN,
    "pcie_acs_override is active, but every hop of every group has an ACS capability of its own.",
    "It changes nothing here, and would hide it if a device without ACS were plugged in.",
    "Remove pcie_acs_override from the kernel command line; reboot; vfioctl check",
)
ACS_OVERRIDE_PENDING = Code(
    "ACS_OVERRIDE_PENDING",
    Verdict.WARN,
    "The boot loader is configured with pcie_acs_override; this boot runs without.",
    "After a reboot groups may split that the hardware does not isolate.",
    "Decide now: remove it, or record who accepts the risk, why and until when.",
)
ACS_UNKNOWN = Code(
    "ACS_UNKNOWN",
    Verdict.UNKNOWN,
    "The command line, the boot loader's configuration or the ACS capability of a hop could not be "
    "read.",
    "Whether isolation is real and still on is not known. Unknown is not isolated.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    ACS_NATIVE,
    ACS_OVERRIDE,
    ACS_OVERRIDE_IDLE,
    ACS_OVERRIDE_PENDING,
    ACS_CLEARED,
    ACS_UNKNOWN,
)

_NAMES = {0x01: "SV", 0x04: "RR", 0x08: "CR", 0x10: "UF"}
_PORTS = frozenset({4, 6})
"""Root and downstream ports need ACS even when alone (pci_acs_enabled())."""

_BY_FUNCTION = frozenset({0, 1, 5, 9})


def judge(host: Host) -> list[Finding]:
    """Is the isolation that groups show the hardware's, and still switched on?

    Evidence: pcie_acs_override running and configured, the kernel's warning, ACSCtl of every hop.
    Meaning:  Artificial isolation is a risk somebody must accept; cleared ACS is isolation lost.
    Source:   Linux pci_acs_enabled() (drivers/pci/pci.c), ACS override patch; field guide step 13.
    """
    return [_judge_node(host), *_judge_hops(host)]


def _judge_node(host: Host) -> Finding:
    override = find_override(host)
    if override is not None:
        unproven = [
            Evidence(f"{DEVICES}/{r.function.address}/config", f"{r.function.address}: {r.why}")
            for r in find_unproven(host, _grouped(host))
        ]
        code = ACS_OVERRIDE if unproven else ACS_OVERRIDE_IDLE
        if not unproven and (host.facts.functions is None or _has_ungrouped(host)):
            unread = Missing(DEVICES, find_remedy(host, DEVICES) or "sudo lspci -vvv")
            return make_finding(ID, NODE, ACS_UNKNOWN, override, missing=(unread,))
        return make_finding(ID, NODE, code, override, *unproven)
    configured = find_configured(host)
    rows = [e for c in configured or () if "pcie_acs_override=" in c.options for e in c.evidence]
    missing: tuple[Missing, ...] = ()
    if not is_override_known(host):
        missing = (Missing("/proc/cmdline", "cat /proc/cmdline"),)
    elif configured is None:
        missing = (missing_configured(host),)
    known = log.read_cmdline(host)
    evidence = [] if known is None else [Evidence(known[0], "no pcie_acs_override")]
    if missing:
        return make_finding(ID, NODE, ACS_UNKNOWN, *evidence, missing=missing)
    if rows:
        return make_finding(ID, NODE, ACS_OVERRIDE_PENDING, *evidence, *rows)
    sources = [Evidence(c.evidence[0].source, "no pcie_acs_override") for c in configured or ()]
    return make_finding(ID, NODE, ACS_NATIVE, *evidence, *sources)


def _grouped(host: Host) -> list[PciFunction]:
    return [f for f in endpoints(host) if group_of(host, f) not in (None, NO_GROUP)]


def _has_ungrouped(host: Host) -> bool:
    return any(group_of(host, f) is None for f in endpoints(host))


# --- hops ----------------------------------------------------------------------------------------


def _judge_hops(host: Host) -> Iterator[Finding]:
    """One finding for each hop that a group relies on and that does not isolate, or may not."""
    relied: dict[Address, bool] = {}
    found: dict[Address, Finding] = {}
    for function in _grouped(host):
        chain = host.ancestors(function)
        top = chain[-1] if chain else function
        if top.parent is None or (top.parent and top.parent not in host.by_address):
            why = "its way to the root is not known"
            found[function.address] = _report_unread(host, function, why)
        if _relies_on_itself(host, function):
            relied[function.address] = True
        if not chain or group_of(host, chain[0]) == group_of(host, function):
            continue
        for hop in chain:
            sure = group_of(host, chain[0]) is not None
            relied[hop.address] = relied.get(hop.address, False) or sure
    for address in sorted(relied, key=address_key):
        finding = _judge_hop(host, host.by_address[address], sure=relied[address])
        other = found.get(address)
        # of a bridge whose header was not read both may be known: that it is one, and what it lacks
        if finding is not None and (other is None or finding.verdict is not Verdict.UNKNOWN):
            found[address] = finding
    yield from found.values()


def _relies_on_itself(host: Host, function: PciFunction) -> bool:
    """True for one of several functions of a slot that has a group without all of them."""
    if function.physfn or function.config is None or not function.config.multifunction:
        return False
    slot = function.address.rpartition(".")[0]
    mates = host.by_address.slots.get(slot, ())
    own = group_of(host, function)
    return any(group_of(host, m) not in (own, None, NO_GROUP) and not m.physfn for m in mates)


def _judge_hop(host: Host, hop: PciFunction, *, sure: bool) -> Finding | None:
    config = hop.config
    if config is None or config.capabilities is None:
        return _report_unread(host, hop, "its capabilities could not be read")
    if config.pcie is None:
        return None
    kind = config.pcie.port_type
    if kind not in _PORTS and not (kind in _BY_FUNCTION and config.multifunction is not False):
        return None
    if config.acs is None:
        unread = config.extended is None
        return _report_unread(host, hop, "its ACS could not be read") if unread else None
    if has_wide_acs(hop.vendor, hop.device) and not config.acs.wide:
        return _report_unread(host, hop, "its ACS registers were read from the wrong place")
    # what the capability lacks is hard-wired on (pci_acs_flags_enabled())
    off = [n for bit, n in _NAMES.items() if config.acs.capability & bit & ~config.acs.control]
    if not off:
        return None
    if not sure:
        return _report_unread(host, hop, "its group is not known, and ACS is off")
    control = f"ACSCtl 0x{config.acs.control:02x} of 0x{config.acs.capability:02x}"
    return make_finding(
        ID,
        subject_of(hop),
        ACS_CLEARED,
        attribute(hop, "config", f"{hop.address}: {control}, off: {' '.join(off)}"),
        Evidence(f"{DEVICES}/{hop.address}", describe(hop, host)),
        intended=_is_intended(host, hop),
        decision=f"{ACS_CLEARED.decision} To see it: sudo lspci -vv -s {hop.address} | grep ACSCtl",
    )


def _report_unread(host: Host, function: PciFunction, why: str) -> Finding:
    return make_finding(
        ID,
        subject_of(function),
        ACS_UNKNOWN,
        attribute(function, "config", f"{function.address}: {why}"),
        intended=_is_intended(host, function),
        missing=(missing_attribute(host, function, "config"),),
    )


def _is_intended(host: Host, function: PciFunction) -> bool:
    below = host.by_address.below.get(function.address, ())
    return is_intended(host, (function.address, *below))
