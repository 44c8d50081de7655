"""Health codes: stable upper-case names, and what each one means and asks for.

A check declares the codes that it can give; the cluster's own codes are declared here. The same
texts serve the finding, `vfioctl explain` and the documentation, so they cannot disagree. A code is
never renamed or reused.
"""

from dataclasses import dataclass

from vfio_contract.findings import Evidence, Finding, Missing, Verdict


@dataclass(frozen=True, slots=True)
class Code:
    """One stable name: the verdict it comes with, what proves it, what it means, what to do."""

    name: str
    verdict: Verdict
    evidence: str
    meaning: str
    decision: str


def make_finding(
    check: str,
    subject: str,
    code: Code,
    *evidence: Evidence,
    intended: bool | None = None,
    meaning: str = "",
    decision: str = "",
    missing: tuple[Missing, ...] = (),
) -> Finding:
    """A finding with the code's own texts, or sharper ones for this case."""
    return Finding(
        check=check,
        subject=subject,
        verdict=code.verdict,
        code=code.name,
        evidence=evidence,
        meaning=meaning or code.meaning,
        decision=decision or code.decision,
        intended=intended,
        missing=missing,
    )


FIRMWARE_CHANGED = Code(
    "FIRMWARE_CHANGED",
    Verdict.WARN,
    "The firmware tuple (BIOS, BMC, microcode, kernel, cmdline, ACPI tables) of two artifacts.",
    "Groups, addresses and resets may have changed with it; the old proof is not proof now.",
    "Read the differences; when they are as you want them: vfioctl baseline accept NODE",
)
GROUP_RENUMBERED = Code(
    "GROUP_RENUMBERED",
    Verdict.PASS,
    "The same endpoints share a group in both artifacts; only its number differs.",
    "Nothing changed for isolation. Configurations that name the old number must be edited.",
    "No action, unless a mapping names the group number.",
)
DEVICE_MOVED = Code(
    "DEVICE_MOVED",
    Verdict.WARN,
    "The same identity has another PCI address.",
    "Firmware or slots renumbered the buses. The old address may be another device now.",
    "Edit every VM configuration that names the old address.",
)
GROUP_WIDENED = Code(
    "GROUP_WIDENED",
    Verdict.FAIL,
    "The group of this identity gained endpoints that it did not have at the baseline.",
    "Isolation was lost: the new neighbours can reach this device's DMA, and must travel with it.",
    "Restore the firmware settings or move the card; do not start VMs on it before that.",
)
GROUP_NARROWED = Code(
    "GROUP_NARROWED",
    Verdict.WARN,
    "Endpoints left the group of this identity and nothing joined it.",
    "Isolation looks better than at the baseline; make sure that it is real (ACS override?).",
    "Check acs-override, then: vfioctl baseline accept NODE",
)
GROUP_SPLIT = Code(
    "GROUP_SPLIT",
    Verdict.WARN,
    "Endpoints that shared one group at the baseline are in several now.",
    "Isolation looks better than at the baseline; make sure that it is real (ACS override?).",
    "Check acs-override, then: vfioctl baseline accept NODE",
)
DEVICE_VANISHED = Code(
    "DEVICE_VANISHED",
    Verdict.FAIL,
    "An identity of the baseline is not in the inventory.",
    "The device is gone from the bus: unplugged, disabled in firmware, or dead.",
    "Look at the slot and the kernel log; if it is meant to be gone: vfioctl baseline accept NODE",
)
DEVICE_APPEARED = Code(
    "DEVICE_APPEARED",
    Verdict.WARN,
    "An identity is in the inventory that the baseline does not know.",
    "New hardware, or a device whose identity changed.",
    "Read the group it joined; then: vfioctl baseline accept NODE",
)
BINDING_LOST = Code(
    "BINDING_LOST",
    Verdict.FAIL,
    "The function was vfio-bound at the baseline and is not now.",
    "A host driver or no driver has it: a VM that needs it will not start.",
    "Find what took it (modprobe.d, initramfs, driver_override does not survive a reboot); rebind.",
)
RESET_LOST = Code(
    "RESET_LOST",
    Verdict.FAIL,
    "The function could be reset at the baseline and offers no such reset now.",
    "It may work once and then stay wedged until the host reboots.",
    "Compare kernel and firmware with the baseline before you give it to a VM again.",
)
ACS_CLEARED = Code(
    "ACS_CLEARED",
    Verdict.FAIL,
    "ACS control bits (SV, RR, CR, UF) of a hop are off that were set at the baseline, or that a "
    "group below it relies on.",
    "The group still looks clean, but peer traffic is no longer sent up to the IOMMU.",
    "Find what rewrote ACSCtl (setpci, a fabric tool) and undo it.",
)
VM_ADDRESS_STALE = Code(
    "VM_ADDRESS_STALE",
    Verdict.FAIL,
    "A claim names a PCI address at which its device no longer is.",
    "Starting the VM now may give it another device.",
    "Release and place the VM again, or edit its configuration to the new address.",
)
NODE_LOST = Code(
    "NODE_LOST",
    Verdict.FAIL,
    "No heartbeat within the node's deadline.",
    "Nothing is known about the node; its VMs may still run.",
    "Wait for it, or look at it by hand. Unknown is never free.",
)
NODE_UNHEARD = Code(
    "NODE_UNHEARD",
    Verdict.UNKNOWN,
    "The coordinator knows the node and does not hear it, not long after its own start.",
    "Nothing is known about the node yet.",
    "Wait one reconnect window; then look at the agent.",
)
NODE_CLONED = Code(
    "NODE_CLONED",
    Verdict.FAIL,
    "Two hosts say the same node name: their DMI UUIDs differ, or a boot comes back that the one "
    "heard now has replaced, or a second agent's database speaks for one boot.",
    "One of them is a copy of the other's disk, or a certificate was copied.",
    "Look which of them is the real one; give the other its own name and certificate. The newcomer "
    "was refused.",
)
NODE_CORDONED = Code(
    "NODE_CORDONED",
    Verdict.WARN,
    "The node's admin state.",
    "No new VM is placed there.",
    "vfioctl node show NODE tells why; vfioctl node uncordon NODE lifts it.",
)
REVALIDATING = Code(
    "REVALIDATING",
    Verdict.WARN,
    "A new boot id, and no complete fresh inventory of this boot yet.",
    "A reboot may have changed anything; no new placements until it is read again.",
    "Wait; the node returns by itself when nothing it relies on changed.",
)
RISK_EXPIRED = Code(
    "RISK_EXPIRED",
    Verdict.WARN,
    "A claim that was placed on a risk decision, and that decision's end.",
    "The VM runs on, but nobody carries its risk any more; no new VM gets such a device there.",
    "Decide again (vfioctl risk accept), or move the VM and release its claim.",
)
RISK_REVOKED = Code(
    "RISK_REVOKED",
    Verdict.WARN,
    "A claim that was placed on a risk decision, and who revoked that since.",
    "The VM runs on, but nobody carries its risk any more; no new VM gets such a device there.",
    "Stop the VM and release its claim, or decide again (vfioctl risk accept).",
)
STORE_REWOUND = Code(
    "STORE_REWOUND",
    Verdict.FAIL,
    "An agent knows a higher fence than its coordinator.",
    "The coordinator's store is older than what the fleet has already done.",
    "Do not place anything. Restore the newest store.",
)
CLOCK_JUMP = Code(
    "CLOCK_JUMP",
    Verdict.WARN,
    "The coordinator's wall clock against the time that passed, by a clock that nobody can set; at "
    "its start against the newest record of its store.",
    "Somebody set the clock, or it was wrong before. What ends at a date (risk decisions, the "
    "certificates of calls) goes by the time from before the jump.",
    "Set the coordinator's clock right, and this ends by itself. If it is right now, restart the "
    "coordinator: it takes the clock as it is, or once it has passed the store's newest record.",
)

EVENTS_LOST = Code(
    "EVENTS_LOST",
    Verdict.WARN,
    "A gap in the numbers of a node's durable events: its spool was full and said so, or its "
    "journal or this store was replaced.",
    "Something happened on the host that nobody will tell any more. The node takes no VM until its "
    "agent has looked at everything again.",
    "Wait for the agent's look. If gaps come back: vfioctl events --node NODE, for what floods it.",
)
JOURNAL_FAILED = Code(
    "JOURNAL_FAILED",
    Verdict.FAIL,
    "The agent's database refuses to write: the disk is full, or SQLite reports an error.",
    "What happens on the host is not recorded: resets are forgotten, and no action is allowed.",
    "Free space in the agent's state directory, or read its log for the file and the error.",
)
HOSTD_AWAY = Code(
    "HOSTD_AWAY",
    Verdict.FAIL,
    "The network process of the agent is heard, and it does not reach hostd on its own host.",
    "Nobody looks at the host: it takes no VM until hostd is back and has looked.",
    "On the host: systemctl status vfioctl-hostd, or the log of `vfioctl agent run`.",
)
SPOOL_FULL = Code(
    "SPOOL_FULL",
    Verdict.FAIL,
    "Events that must not be dropped fill their share of the agent's spool.",
    "The coordinator has not taken them for long; until it does, the agent refuses to act.",
    "Look why the node's events are not acknowledged: vfioctl node show NODE.",
)

CLUSTER_CODES: tuple[Code, ...] = (
    FIRMWARE_CHANGED,
    GROUP_RENUMBERED,
    DEVICE_MOVED,
    GROUP_WIDENED,
    GROUP_NARROWED,
    GROUP_SPLIT,
    DEVICE_VANISHED,
    DEVICE_APPEARED,
    BINDING_LOST,
    RESET_LOST,
    ACS_CLEARED,
    VM_ADDRESS_STALE,
    NODE_LOST,
    NODE_UNHEARD,
    NODE_CLONED,
    NODE_CORDONED,
    REVALIDATING,
    RISK_EXPIRED,
    RISK_REVOKED,
    STORE_REWOUND,
    CLOCK_JUMP,
    EVENTS_LOST,
    JOURNAL_FAILED,
    HOSTD_AWAY,
    SPOOL_FULL,
)
"""Codes that no single-host check gives: drift and node states."""
