"""Health codes: stable upper-case names, and what each one means and asks for.

A check declares the codes that it can give; the cluster's own codes are declared here. The same
texts serve the finding, `vfioctl explain` and the documentation, so they cannot disagree. A code is
never renamed or reused.

Length: one table of all codes of the cluster, each with its texts.
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
    "Look at the slot and the kernel log; if it is meant to be gone: vfioctl baseline accept NODE "
    "--force --reason TEXT",
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
NEXT_BOOT_CHANGED = Code(
    "NEXT_BOOT_CHANGED",
    Verdict.WARN,
    "The boot loader's configuration of two artifacts, in the parameters that bear on passthrough, "
    "where it is not what the running kernel was told.",
    "This boot is as it was; the next one will isolate devices otherwise.",
    "Read the difference; undo it, or reboot when it suits and look again: vfioctl check",
)
BINDING_GAINED = Code(
    "BINDING_GAINED",
    Verdict.PASS,
    "The function was not vfio-bound at the baseline and is now.",
    "It can be given to a VM; the host does not use it any more.",
    "If it is as you want it: vfioctl baseline accept NODE",
)
RESET_GAINED = Code(
    "RESET_GAINED",
    Verdict.PASS,
    "The function offers a better reset than at the baseline.",
    "It takes fewer functions along, or works where none did.",
    "If it is as you want it: vfioctl baseline accept NODE",
)
VF_COUNT_CHANGED = Code(
    "VF_COUNT_CHANGED",
    Verdict.WARN,
    "sriov_numvfs or sriov_totalvfs of a physical function.",
    "VMs that were given virtual functions may not find them, or find others under their number.",
    "Look what sets sriov_numvfs at boot; restore it, or: vfioctl baseline accept NODE",
)
BAR_CHANGED = Code(
    "BAR_CHANGED",
    Verdict.WARN,
    "The size of a BAR, whether the kernel found an address for it, or the size that a resizable "
    "BAR was set to.",
    "The guest sees another device: without an address it cannot be mapped at all.",
    "Compare the firmware's settings (Above 4G decoding, Resizable BAR) with the baseline; if they "
    "are as you want them: vfioctl baseline accept NODE",
)
LINK_DEGRADED = Code(
    "LINK_DEGRADED",
    Verdict.WARN,
    "max_link_speed and max_link_width of the function and of the port above it.",
    "The slot gives the device less than at the baseline: bifurcation, another slot, a riser.",
    "Look at the slot and the firmware's setting for it; or: vfioctl baseline accept NODE",
)
LINK_IMPROVED = Code(
    "LINK_IMPROVED",
    Verdict.PASS,
    "max_link_speed and max_link_width of the function and of the port above it.",
    "The slot gives the device more than at the baseline.",
    "If it is as you want it: vfioctl baseline accept NODE",
)
ACS_CLEARED = Code(
    "ACS_CLEARED",
    Verdict.FAIL,
    "ACS control bits (SV, RR, CR, UF) of a hop are off that were set at the baseline, or that a "
    "group below it relies on.",
    "The group still looks clean, but peer traffic is no longer sent up to the IOMMU.",
    "Find what rewrote ACSCtl (setpci, a fabric tool) and undo it.",
)
BASELINE_FOREIGN = Code(
    "BASELINE_FOREIGN",
    Verdict.WARN,
    "The product UUID, board or product of the accepted facts is not that of the node now.",
    "The baseline is of another machine: a board was replaced, or a name was given to another "
    "host. Nothing of it is compared, and the node takes no VM.",
    "Look what the node is now (vfioctl check --node NODE), then: vfioctl baseline accept NODE",
)
BASELINE_UNREADABLE = Code(
    "BASELINE_UNREADABLE",
    Verdict.WARN,
    "The store holds facts of the baseline that this version cannot read; the line says where.",
    "Drift cannot be judged: that nothing is shown proves nothing. The node takes no VM.",
    "If a newer vfioctl wrote it, start that one; else: vfioctl baseline accept NODE",
)
ACS_RESTORED = Code(
    "ACS_RESTORED",
    Verdict.PASS,
    "ACS control bits (SV, RR, CR, UF) of a hop are on that were off at the baseline.",
    "Peer traffic is sent up to the IOMMU again.",
    "If it is as you want it: vfioctl baseline accept NODE",
)
ISOLATION_ARTIFICIAL = Code(
    "ISOLATION_ARTIFICIAL",
    Verdict.WARN,
    "pcie_acs_override is on the command line, and a hop that the function's group relies on has "
    "no ACS capability of its own; at the baseline the group was the hardware's.",
    "The kernel only believes that the group is isolated: neighbours may reach its DMA.",
    "Remove pcie_acs_override and reboot, or record who accepts the risk (vfioctl risk accept) and "
    "then: vfioctl baseline accept NODE",
)
ISOLATION_NATIVE = Code(
    "ISOLATION_NATIVE",
    Verdict.PASS,
    "The function's group relied on pcie_acs_override at the baseline and does not now.",
    "The group is what the hardware says; it may be wider than it was.",
    "If it is as you want it: vfioctl baseline accept NODE",
)
VM_ADDRESS_STALE = Code(
    "VM_ADDRESS_STALE",
    Verdict.FAIL,
    "A claim or a VM's configuration names a PCI address at which its device no longer is.",
    "Starting the VM now may give it another device.",
    "Edit its configuration to the new address, or release and place the VM again.",
)
MAPPING_STALE = Code(
    "MAPPING_STALE",
    Verdict.FAIL,
    "A mapping's group number, ids or address against the host's.",
    "Proxmox compares them at start and refuses, though nothing may be wrong with the device.",
    "Edit the line that the evidence names.",
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
MACHINE_TWICE = Code(
    "MACHINE_TWICE",
    Verdict.FAIL,
    "Two node names say the same boot id, and no DMI UUIDs that differ; or a name comes with the "
    "DMI UUID of another one that holds units and was not heard beside it.",
    "Each of the host's units is there under both names and could be given away twice. This name "
    "takes no VM; the other one stands for the machine, as it holds units or was there first.",
    "Stop the agent that has the wrong name. If the host was renamed: vfioctl vm release for the "
    "VMs of the old name, and vfioctl vm claim under the new one.",
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
EVIDENCE_LOST = Code(
    "EVIDENCE_LOST",
    Verdict.WARN,
    "What the host shows of intended devices, or of its list of functions, cannot be read now.",
    "It could be read at the baseline. What is not read proves nothing: no new placements.",
    "vfioctl check --node NODE says what cannot be read; repair that, or accept it as it is now.",
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
PEER_OUTLIER = Code(
    "PEER_OUTLIER",
    Verdict.WARN,
    "Groups, reset classes and ACS by place of at least four nodes with the same board, BIOS, "
    "kernel and cards: at least three in four agree, and this one does not.",
    "A firmware setting, or hardware, is not as on its peers: its devices are isolated or reset "
    "in another way.",
    "vfioctl node show NODE says what differs; compare its firmware settings with a peer's.",
)

NOTIFY_FAILED = Code(
    "NOTIFY_FAILED",
    Verdict.WARN,
    "The outcome of the last notification, for each target of the coordinator's notify.toml.",
    "Somebody who relies on being told of incidents was not. They stand here all the same.",
    "Read the coordinator's log, mend the target. What reached nobody is told again by itself.",
)

CERT_NOT_RENEWED = Code(
    "CERT_NOT_RENEWED",
    Verdict.WARN,
    "The coordinator's hourly look at the certificates that it keeps: its own, and the users' and "
    "nodes' in its state directory.",
    "One that has lived two thirds of its 90 days could not be renewed. Past its end its owner is "
    "let in no more; if it is the coordinator's, nobody is.",
    "Mend what the line names: it is tried again within an hour, and at a start.",
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
    NEXT_BOOT_CHANGED,
    BINDING_GAINED,
    RESET_GAINED,
    VF_COUNT_CHANGED,
    BAR_CHANGED,
    LINK_DEGRADED,
    LINK_IMPROVED,
    ACS_CLEARED,
    ACS_RESTORED,
    ISOLATION_ARTIFICIAL,
    ISOLATION_NATIVE,
    BASELINE_FOREIGN,
    BASELINE_UNREADABLE,
    VM_ADDRESS_STALE,
    MAPPING_STALE,
    NODE_LOST,
    NODE_UNHEARD,
    NODE_CLONED,
    MACHINE_TWICE,
    NODE_CORDONED,
    REVALIDATING,
    EVIDENCE_LOST,
    RISK_EXPIRED,
    RISK_REVOKED,
    STORE_REWOUND,
    CLOCK_JUMP,
    EVENTS_LOST,
    JOURNAL_FAILED,
    HOSTD_AWAY,
    SPOOL_FULL,
    NOTIFY_FAILED,
    CERT_NOT_RENEWED,
    PEER_OUTLIER,
)
"""Codes that no single-host check gives: drift and node states."""
