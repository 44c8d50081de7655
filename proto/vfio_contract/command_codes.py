"""Codes of commands: why a host refused one, and that nobody knows what became of one.

A refused command was not begun and never will be. The texts serve `vfioctl explain` and the
documentation; see `codes`.
"""

from __future__ import annotations

from vfio_contract.codes import Code
from vfio_contract.findings import Verdict

_NOTHING_DONE = "Nothing was done. "

COMMAND_MISDIRECTED = Code(
    "COMMAND_MISDIRECTED",
    Verdict.FAIL,
    "The node's name and the DMI product UUID in the command, and those of the host.",
    _NOTHING_DONE + "It was meant for another machine: this one may be a copy of it.",
    "See which machine holds the name: vfioctl node show NODE",
)
COMMAND_OTHER_BOOT = Code(
    "COMMAND_OTHER_BOOT",
    Verdict.FAIL,
    "The boot id in the command and the kernel's.",
    _NOTHING_DONE + "The host has booted since somebody looked at it and asked.",
    "Look at the host as it is now, and ask again.",
)
COMMAND_OTHER_STATE = Code(
    "COMMAND_OTHER_STATE",
    Verdict.FAIL,
    "The id of the agent's database in the command and on the host.",
    _NOTHING_DONE + "The agent was reinstalled, or its state was moved away: whether the command "
    "was carried out before is written there.",
    "Look at the host as it is now, and ask again.",
)
COMMAND_STALE = Code(
    "COMMAND_STALE",
    Verdict.FAIL,
    "The command's number and the highest that this host has taken.",
    _NOTHING_DONE + "A later command was taken already, so this one is old or was sent twice under "
    "another id.",
    "Look at the host as it is now, and ask again.",
)
COMMAND_EXPIRED = Code(
    "COMMAND_EXPIRED",
    Verdict.FAIL,
    "The command's deadline in the host's own clock since boot, and that clock.",
    _NOTHING_DONE + "It arrived after the time in which somebody waited for it.",
    "Ask again.",
)
COMMAND_FENCED = Code(
    "COMMAND_FENCED",
    Verdict.FAIL,
    "Cluster, incarnation and epoch in the command, and the highest that this host has obeyed.",
    _NOTHING_DONE + "It was sent under another rule than the one that this host obeys: a "
    "coordinator that was replaced, or one of another cluster.",
    "See which coordinator leads: vfioctl status --cluster",
)
COMMAND_UNKNOWN = Code(
    "COMMAND_UNKNOWN",
    Verdict.FAIL,
    "The command's verb and its parts.",
    _NOTHING_DONE + "The agent does not know the verb, the command lacks what the verb needs, or "
    "its parts do not fit each other.",
    "Upgrade vfioctl on that node, then ask again.",
)
COMMAND_NOT_PERMITTED = Code(
    "COMMAND_NOT_PERMITTED",
    Verdict.FAIL,
    "What the host's owner permits, which a coordinator has no say in: /etc/vfioctl/actuate.toml",
    _NOTHING_DONE + "This host only looks: its hands were not given to anybody, or it is a replay.",
    "To permit it, let root write that file on the host: vfioctl explain ACTION_NOT_PERMITTED",
)
COMMAND_NOT_RECORDED = Code(
    "COMMAND_NOT_RECORDED",
    Verdict.UNKNOWN,
    "The agent's journal: a full disk, or a spool without room for the result.",
    _NOTHING_DONE + "An action whose intent and end cannot be made durable is not begun.",
    "Make room on the host, or bring the coordinator back to take what is spooled.",
)
COMMAND_LOST = Code(
    "COMMAND_LOST",
    Verdict.UNKNOWN,
    "The boot id and the id of the agent's database now and when the command was sent, and whether "
    "the host had taken it.",
    "The host has booted, or its agent has a new database or an old copy of it: nobody knows "
    "whether the command was carried out. A result that still comes is recorded.",
    "Look at the host: vfioctl check --node NODE",
)

REFUSALS: tuple[Code, ...] = (
    COMMAND_MISDIRECTED,
    COMMAND_OTHER_BOOT,
    COMMAND_OTHER_STATE,
    COMMAND_STALE,
    COMMAND_EXPIRED,
    COMMAND_FENCED,
    COMMAND_UNKNOWN,
    COMMAND_NOT_PERMITTED,
    COMMAND_NOT_RECORDED,
)
"""Why a host refuses a command."""

COMMAND_CODES: tuple[Code, ...] = (*REFUSALS, COMMAND_LOST)
