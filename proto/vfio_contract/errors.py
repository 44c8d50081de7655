"""Errors that cross the wire: one catalogue of code -> (status, public text).

Domain code raises `ClusterError(code, detail)` and nothing else; only the servicer knows gRPC. A
placement that finds nothing is an answer with reasons, never an error. The catalogue is total over
`ErrorCode` (tested).
"""

from dataclasses import dataclass
from enum import StrEnum

CURSOR_METADATA = "vfioctl-cursor"
"""Beside COMPACTED: the oldest place of a watch that is still kept."""

RETRY_METADATA = "vfioctl-retry-after-ms"
"""Beside BUSY: when an agent that was sent away is expected, in milliseconds from now."""


class ErrorCode(StrEnum):
    """Stable names, sent as the first word of a status message."""

    BAD_REQUEST = "BAD_REQUEST"
    UNKNOWN_NODE = "UNKNOWN_NODE"
    UNKNOWN_VM = "UNKNOWN_VM"
    VM_EXISTS = "VM_EXISTS"
    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"
    UNKNOWN_COMMAND = "UNKNOWN_COMMAND"
    NODE_UNHEARD = "NODE_UNHEARD"
    HOSTD_AWAY = "HOSTD_AWAY"
    NODE_BUSY = "NODE_BUSY"
    DEVICE_CLAIMED = "DEVICE_CLAIMED"
    AGENT_TOO_OLD = "AGENT_TOO_OLD"
    NO_ARTIFACT = "NO_ARTIFACT"
    NO_BASELINE = "NO_BASELINE"
    UNKNOWN_RISK = "UNKNOWN_RISK"
    UNKNOWN_MUTE = "UNKNOWN_MUTE"
    UNKNOWN_INCIDENT = "UNKNOWN_INCIDENT"
    NO_INVENTORY = "NO_INVENTORY"
    NODE_MISMATCH = "NODE_MISMATCH"
    NODE_CLONED = "NODE_CLONED"
    SESSION_REPLACED = "SESSION_REPLACED"
    PROTOCOL_UNSUPPORTED = "PROTOCOL_UNSUPPORTED"
    BAD_SNAPSHOT = "BAD_SNAPSHOT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    CONFLICT = "CONFLICT"
    STORE_REWOUND = "STORE_REWOUND"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    COMPACTED = "COMPACTED"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    BUSY = "BUSY"
    FLOODING = "FLOODING"
    SILENT = "SILENT"
    TOO_MANY_WATCHERS = "TOO_MANY_WATCHERS"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class ErrorText:
    """`status` is a gRPC status name; `text` says what it means and what to do, for anyone."""

    status: str
    text: str


CATALOGUE: dict[ErrorCode, ErrorText] = {
    ErrorCode.BAD_REQUEST: ErrorText("INVALID_ARGUMENT", "The request cannot be understood."),
    ErrorCode.UNKNOWN_NODE: ErrorText(
        "NOT_FOUND", "No node of that name has ever joined; see: vfioctl node list"
    ),
    ErrorCode.UNKNOWN_VM: ErrorText(
        "NOT_FOUND", "No VM of that name holds a claim; see: vfioctl vm list"
    ),
    ErrorCode.VM_EXISTS: ErrorText(
        "ALREADY_EXISTS", "The VM already holds a claim; release it first: vfioctl vm release VM"
    ),
    ErrorCode.UNKNOWN_DEVICE: ErrorText(
        "NOT_FOUND", "The node has no such device to give away; see: vfioctl node show NODE"
    ),
    ErrorCode.UNKNOWN_COMMAND: ErrorText(
        "NOT_FOUND", "No such command is kept; see: vfioctl node show NODE"
    ),
    ErrorCode.NODE_UNHEARD: ErrorText(
        "UNAVAILABLE", "Nothing was sent. On that host: systemctl status vfioctl-agent"
    ),
    ErrorCode.HOSTD_AWAY: ErrorText(
        "UNAVAILABLE", "Nothing was sent. On that host: systemctl status vfioctl-hostd"
    ),
    ErrorCode.NODE_BUSY: ErrorText(
        "ABORTED", "Nothing was sent. Wait for what is under way: vfioctl node show NODE"
    ),
    ErrorCode.DEVICE_CLAIMED: ErrorText(
        "FAILED_PRECONDITION", "Nothing was sent. Free it first: vfioctl vm release VM"
    ),
    ErrorCode.AGENT_TOO_OLD: ErrorText(
        "FAILED_PRECONDITION", "Nothing was sent. Upgrade vfioctl on that node."
    ),
    ErrorCode.NO_ARTIFACT: ErrorText(
        "NOT_FOUND", "What that look saw is no longer kept; look again."
    ),
    ErrorCode.NO_BASELINE: ErrorText(
        "NOT_FOUND", "The node has no accepted baseline; make one: vfioctl baseline accept NODE"
    ),
    ErrorCode.UNKNOWN_RISK: ErrorText(
        "NOT_FOUND", "No such risk decision is in force; see: vfioctl risk list"
    ),
    ErrorCode.UNKNOWN_INCIDENT: ErrorText(
        "NOT_FOUND", "No such incident is kept; see: vfioctl incident list --all"
    ),
    ErrorCode.UNKNOWN_MUTE: ErrorText(
        "NOT_FOUND", "No such mute is in force; see: vfioctl mute list"
    ),
    ErrorCode.NO_INVENTORY: ErrorText(
        "FAILED_PRECONDITION", "The node has sent no inventory of this boot; wait for its agent."
    ),
    ErrorCode.NODE_MISMATCH: ErrorText(
        "PERMISSION_DENIED", "A certificate lets its node speak for itself only."
    ),
    ErrorCode.NODE_CLONED: ErrorText(
        "ALREADY_EXISTS", "Another machine already holds this node name; the newcomer is refused."
    ),
    ErrorCode.SESSION_REPLACED: ErrorText(
        "ABORTED", "A newer session of the same node took over; this one is closed."
    ),
    ErrorCode.PROTOCOL_UNSUPPORTED: ErrorText(
        "FAILED_PRECONDITION", "No protocol version in common; upgrade the older side."
    ),
    ErrorCode.BAD_SNAPSHOT: ErrorText(
        "INVALID_ARGUMENT", "The inventory cannot be read or does not match its digest."
    ),
    ErrorCode.UNAUTHENTICATED: ErrorText(
        "UNAUTHENTICATED", "The client certificate names neither a node nor a user."
    ),
    ErrorCode.PERMISSION_DENIED: ErrorText(
        "PERMISSION_DENIED", "The certificate's role does not allow this."
    ),
    ErrorCode.CONFLICT: ErrorText(
        "ABORTED", "Others kept taking what this request chose; nothing was reserved. Try again."
    ),
    ErrorCode.STORE_REWOUND: ErrorText(
        "FAILED_PRECONDITION", "The agent has seen a newer coordinator than this store knows."
    ),
    ErrorCode.STORE_UNAVAILABLE: ErrorText(
        "UNAVAILABLE", "The store does not answer; nothing was changed."
    ),
    ErrorCode.OUTCOME_UNKNOWN: ErrorText(
        "UNKNOWN", "The write may or may not have happened; look before you try again."
    ),
    ErrorCode.COMPACTED: ErrorText(
        "OUT_OF_RANGE", "What came after that cursor is no longer kept; what is there still is."
    ),
    ErrorCode.SLOW_CONSUMER: ErrorText(
        "RESOURCE_EXHAUSTED", "Nobody read this stream; open it again after the last cursor."
    ),
    ErrorCode.BUSY: ErrorText(
        "UNAVAILABLE", "Many agents came at once; each is told when to come back, and does."
    ),
    ErrorCode.FLOODING: ErrorText(
        "RESOURCE_EXHAUSTED", "This peer says more than its share; it may come back later."
    ),
    ErrorCode.SILENT: ErrorText(
        "ABORTED", "The agent said nothing for too long; a live one reconnects."
    ),
    ErrorCode.TOO_MANY_WATCHERS: ErrorText(
        "RESOURCE_EXHAUSTED", "As many streams are open as may be; end one that nobody needs."
    ),
    ErrorCode.SHUTTING_DOWN: ErrorText("UNAVAILABLE", "The coordinator is stopping."),
    ErrorCode.INTERNAL: ErrorText(
        "INTERNAL",
        "The coordinator failed on this, which is its own fault; its log says where. Look at what "
        "is there before you try again.",
    ),
}


class ClusterError(Exception):
    """A refusal with a stable code; `detail` names the field or thing and what was wrong."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
