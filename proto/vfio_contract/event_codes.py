"""What the other codes say that vfioctl prints: rows of the event log, ends of a command.

A health code asks for something (`codes`); these only tell what happened, or how a command ended.
None is ever renamed or reused. The texts serve `vfioctl explain` and decide nothing.
"""

from __future__ import annotations

EVENT_WORDS = {
    "COORDINATOR_STARTED": "A coordinator opened this store and leads; its epoch is in the row.",
    "NODE_JOINED": "The coordinator heard a node of this name for the first time.",
    "NODE_IDENTIFIED": "The node's DMI product UUID is known now; another machine that takes its "
    "name is refused from here on.",
    "NODE_BOOTED": "The node came with another boot id: nothing that was seen before vouches for "
    "it. No new VM goes there until this boot is read.",
    "NODE_VALIDATED": "This boot of the node was read and nothing speaks against it: it takes VMs "
    "again.",
    "MACHINE_ALONE": "No other node name stands for the node's machine before it any more.",
    "NODE_RETURNED": "A node that was lost is heard again.",
    "NODE_UNCORDONED": "Cordons of the node were lifted: by a user, or because their cause is "
    "gone. The row names both.",
    "WAIVER_ENDED": "A user had lifted a cordon whose cause stayed. That cause is gone now; if it "
    "comes back, it cordons the node again.",
    "BASELINE_ACCEPTED": "A user, or the policy, accepted the node as it is: drift is judged "
    "against that. A forced one says why.",
    "BASELINE_RECHECKED": "The node's baseline was read again by another version of vfioctl, which "
    "compares it anew.",
    "POLICY_SET": "A user changed what the cluster does by itself; the row has both values.",
    "RISK_ACCEPTED": "A user carries a risk of the node, for the reason and the time in the row.",
    "HEALTH_BEGAN": "A health code stands in the cluster that was not there before; the row says "
    "since when.",
    "HEALTH_ENDED": "No node that is heard has shown this health code for five minutes.",
    "MUTE_ADDED": "A user does not want to hear of a health code, for the reason and the time in "
    "the row. Placement and cordons are the same as without.",
    "MUTE_REMOVED": "A user ended a mute before its time.",
    "MUTE_EXPIRED": "A mute came to its end: the code counts again.",
    "MUTE_BROKEN": "It got worse than a mute covers, so it ended: the level rose, more nodes show "
    "the code, or another VM is at risk.",
    "VM_PLACED": "A VM was given units on a node; they are claimed until vfioctl vm release.",
    "VM_CLAIMED": "Units in use by a VM that vfioctl did not place were recorded as claimed.",
    "VM_RELEASED": "A VM's claim was given back: its units are free again if they qualify.",
    "VM_STARTED": "A hypervisor of the host runs this VM now; the agent saw its process.",
    "VM_STOPPED": "The process of this VM is gone; the agent saw that.",
    "DEVICE_ADDED": "A PCI function came to the bus (hotplug, rescan, a VF that was made).",
    "DEVICE_REMOVED": "A PCI function left the bus. A VM that had it may have died of it.",
    "BINDING_CHANGED": "A PCI function has another driver than before; the row names both.",
    "HOLDER_CHANGED": "A process opened a function's VFIO node, or let go of it.",
    "KERNEL_LINE": "A line of the host's kernel log that bears on passthrough: IOMMU faults, AER, "
    "resets. What such a line means: vfioctl diagnose --error 'LINE'",
    "RESET_ATTEMPT": "A reset of a function was seen, and how it ended. Its history decides "
    "whether the function may be placed: vfioctl explain reset-history",
    "RESET_CLEAN": "The reset history of a function knows no failure that counts now.",
    "RESET_PROVEN": "The reset history of a function holds successes under this firmware.",
    "RESET_PROBATION": "A function failed to reset before, and has done so properly since.",
    "ACTION_ENDED": "A bind, unbind or reset test on the host has ended: done, failed, undone or "
    "refused. The row says how.",
    "COMMAND_SENT": "A user asked for something on a node. That is durable, and not yet heard of "
    "the node.",
    "COMMAND_TAKEN": "The node has taken the command and will end it, even if the coordinator "
    "goes away.",
    "COMMAND_REFUSED": "The node did not begin the command, and never will; the row has the code "
    "that says why.",
    "COMMAND_ENDED": "The node told how the command ended.",
    "INCIDENT_OPENED": "The first node showed something that somebody must act on, or that is "
    "another cause than those of the open incidents: vfioctl incident show ID",
    "INCIDENT_NARROWED": "One more node shows the same without a change that the others had in "
    "common: that change is not the cause.",
    "INCIDENT_WORSE": "An incident that somebody had acknowledged got worse: it is to be "
    "acknowledged again.",
    "INCIDENT_ACKED": "A user has seen the incident as it is; it tells nobody any more unless it "
    "gets worse.",
    "INCIDENT_CLOSED": "The last node of the incident shows it no more.",
    "INCIDENT_REOPENED": "The same trouble came back within a day of its end.",
    "EVENT_UNREADABLE": "The node told an event that this version does not know: upgrade the "
    "coordinator.",
}
"""Code of a row of `vfioctl events` -> what happened. Rows also have health codes (`codes`)."""

OTHER_WORDS = {
    "USAGE": "What was typed cannot be done: an option, a value, or a name that does not exist. "
    "The message says which; exit code 64.",
    "NO_ANSWER": "The answer could not be had: nobody answered, or not in time. Nothing is known "
    "from that; exit code 3.",
    "FAILED": "What was asked for failed, was refused or may not be done; the message says why. "
    "Exit code 2.",
    "NO_HOST": "What was named is no host's evidence: neither a captured root, an artifact nor "
    "output that is recognised. Exit code 64.",
    "NEEDS_ROOT": "Only root may change this host; the message has the command. Exit code 2.",
    "EVIDENCE_MISSING": "A gate has no finding about a unit: nothing says that it may be given "
    "away, so it is not.",
    "UNIT_HELD": "A process has the unit's VFIO node open: somebody uses it.",
    "UNIT_BUSY": "It is not known that nobody uses the unit, so it is not free.",
}
"""Codes of early ends (`vfioctl.error/v1`) and of placement -> what they say."""
