"""Check `host-critical`: whether the host would lose its disk, its address or its console.

It judges every endpoint, bound or not, because what it clears may be offered, bound and reset. It
must never clear a function while something that the host uses could not be traced to its end.
"""

from vfio_agent.checks.host_use import Use, find_uses
from vfio_agent.checks.inventory import (
    DEVICES,
    describe,
    doubt_listing,
    endpoints,
    is_intended,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import PciFunction

ID = "host-critical"

NOT_HOST_CRITICAL = Code(
    "NOT_HOST_CRITICAL",
    Verdict.PASS,
    "Mounts, swap, interfaces with addresses, console and keyboard were traced to their functions; "
    "this one is not among them, nor tied to one that is.",
    "The host does not need it: it may be given to a VM.",
    "No action.",
)
HOST_CRITICAL = Code(
    "HOST_CRITICAL",
    Verdict.FAIL,
    "A mounted filesystem, swap, an address, bridge or bond, the console or the keyboard stands on "
    "this function, or on one that goes wherever it goes.",
    "The host needs it: given to a VM, bound or reset, the host loses what the evidence names.",
    "Do not bind, pass or reset it. To free it, move what the evidence names to another device "
    "first, then: vfioctl check",
)
HOST_CRITICAL_UNKNOWN = Code(
    "HOST_CRITICAL_UNKNOWN",
    Verdict.UNKNOWN,
    "Something that the host uses could not be traced to the device under it.",
    "The host may need this function. Unknown counts as needed.",
    "Do not bind, pass or reset it before the missing evidence below is there: vfioctl check",
)
CODES = (NOT_HOST_CRITICAL, HOST_CRITICAL, HOST_CRITICAL_UNKNOWN)

_SHOWN = 6
"""Uses listed in one finding; a system disk has dozens of mounts."""


def judge(host: Host) -> list[Finding]:
    """Would the host lose something it needs if a VM had this function?

    Evidence: mounts and swap down to disks, interfaces with addresses and what they stand on, the
              console's display, the keyboard's controller; group mates, reset domain, PF and VF.
    Meaning:  Such a function is never offered, bound or reset.
    Source:   Linux sysfs and /proc; DESIGN, vocabulary (host-critical); field guide step 6.
    """
    uses = find_uses(host)
    if not uses:
        return report_nothing(ID, host)
    return [_judge_function(host, f, uses[f.address]) for f in endpoints(host)]


def _judge_function(host: Host, function: PciFunction, use: Use) -> Finding:
    evidence = [Evidence(f"{DEVICES}/{function.address}", describe(function, host))]
    evidence += [Evidence("needed by the host", text) for text in use.needs[:_SHOWN]]
    if len(use.needs) > _SHOWN:
        evidence.append(Evidence("needed by the host", f"and {len(use.needs) - _SHOWN} more"))
    meaning = ""
    missing: tuple[Missing, ...] = ()
    if use.needs:
        code = HOST_CRITICAL
    elif use.doubts:
        code = HOST_CRITICAL_UNKNOWN
        evidence += [Evidence("not resolved", doubt.why) for doubt in use.doubts[:_SHOWN]]
        missing = tuple(dict.fromkeys(doubt.missing for doubt in use.doubts))
    elif missing := doubt_listing(host):
        code = HOST_CRITICAL_UNKNOWN
        text = "the list may be an excerpt, and what shares its group or reset may be left out"
        evidence.append(Evidence("not resolved", text))
    else:
        code = NOT_HOST_CRITICAL
        if function.boot_vga and is_vfio_bound(function):
            meaning = "It is the boot display, but vfio has it already: the host has no console."
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, [function.address]),
        meaning=meaning,
        missing=missing,
    )
