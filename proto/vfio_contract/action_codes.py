"""Why an action is refused, beside what the checks say: stable names with their texts.

The hands' guard gives them; the cluster and the command line show them. See `codes`: none is ever
renamed or reused.
"""

from __future__ import annotations

from vfio_contract.codes import Code
from vfio_contract.findings import Verdict

ACTION_NOT_PERMITTED = Code(
    "ACTION_NOT_PERMITTED",
    Verdict.FAIL,
    "/etc/vfioctl/actuate.toml does not name the verb or the device, or is not there.",
    "The owner of this host has not let vfioctl do that. Nobody else can.",
    "If it is meant: write the verb and the device into that file, as root.",
)
NO_UNIT = Code(
    "NO_UNIT",
    Verdict.FAIL,
    "The address is that of a bridge, of a function of the platform, or of nothing that is there.",
    "It belongs to no unit that a VM could get: there is nothing to bind or to reset.",
    "Choose a function from: vfioctl device list",
)
UNIT_CHANGED = Code(
    "UNIT_CHANGED",
    Verdict.FAIL,
    "The functions that belong together now are not those that were asked about.",
    "A device came, went or moved since: what would be done is not what somebody agreed to.",
    "Look again (vfioctl check), then ask again.",
)
ACTION_HELD = Code(
    "ACTION_HELD",
    Verdict.FAIL,
    "A process has a VFIO group or device node of one of the functions open.",
    "A VM uses it, or does not let go of it.",
    "Stop its VM first.",
)
ACTION_HOLDER_UNKNOWN = Code(
    "ACTION_HOLDER_UNKNOWN",
    Verdict.UNKNOWN,
    "Open files of all processes, or the functions' nodes, could not be read.",
    "A VM may be using it. Unknown is not free.",
    "Get the evidence that is missing, then ask again.",
)
ACTION_HOST_DRIVER = Code(
    "ACTION_HOST_DRIVER",
    Verdict.FAIL,
    "A function that the reset takes along has a driver of the host.",
    "The reset would take the device from under that driver.",
    "Give all of the reset domain to vfio first: vfioctl device bind ADDRESS",
)
ACTION_NOT_BOUND = Code(
    "ACTION_NOT_BOUND",
    Verdict.FAIL,
    "The function to be reset is not on a vfio driver.",
    "Only through VFIO is it certain that nobody else has the device during the reset.",
    "vfioctl device bind ADDRESS",
)
ACTION_NO_GROUP = Code(
    "ACTION_NO_GROUP",
    Verdict.FAIL,
    "The kernel gave a function no IOMMU group.",
    "No IOMMU translates for it: vfio-pci does not take it, and no VM should have it.",
    "vfioctl check tells why under iommu-active.",
)
ACTION_EVIDENCE_MISSING = Code(
    "ACTION_EVIDENCE_MISSING",
    Verdict.UNKNOWN,
    "Something that decides whether this is safe could not be read.",
    "Unknown is never consent.",
    "Get the evidence that is missing, then ask again.",
)
ACTION_UNFINISHED = Code(
    "ACTION_UNFINISHED",
    Verdict.FAIL,
    "An earlier action on one of the functions has not ended: the kernel has not answered it.",
    "Its effect may still come, so what is there now is not what will be there.",
    "Wait for it. If a VM holds the device, stop that VM; a reboot ends the action as well.",
)
ACTION_QUEUE_FULL = Code(
    "ACTION_QUEUE_FULL",
    Verdict.FAIL,
    "As many actions as may wait on this host wait already; one is done at a time.",
    "Nothing was done.",
    "Ask again when they have ended: vfioctl events",
)
ACTION_LIMIT = Code(
    "ACTION_LIMIT",
    Verdict.FAIL,
    "Commands of the cluster that acted on this host in the last hour, and per_hour in "
    "/etc/vfioctl/actuate.toml.",
    "Nothing was done. So many are more likely a mistake, or somebody else's, than work.",
    "See what was done (vfioctl events) before you ask again. Root on the host itself is not "
    "counted; its owner may raise per_hour.",
)
ACTION_CODES: tuple[Code, ...] = (
    ACTION_NOT_PERMITTED,
    NO_UNIT,
    UNIT_CHANGED,
    ACTION_HELD,
    ACTION_HOLDER_UNKNOWN,
    ACTION_HOST_DRIVER,
    ACTION_NOT_BOUND,
    ACTION_NO_GROUP,
    ACTION_EVIDENCE_MISSING,
    ACTION_UNFINISHED,
    ACTION_QUEUE_FULL,
    ACTION_LIMIT,
)
