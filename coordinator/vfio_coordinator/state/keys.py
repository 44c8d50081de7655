"""The names of durable keys. Nothing else may spell one.

    meta/cluster                       ClusterRecord
    meta/epoch                         EpochRecord; the fence of the embedded store
    nodes/<node>                       AdminRecord
    baselines/<node>/<number, 10 digits>  BaselineRecord: one acceptance (number 0: no such part)
    chunks/<node>/<sha256>/<nnnn>      raw: parts of the compressed facts of a baseline
    claims/<vm>/<generation, 10 digits>  Claim
    units/<node>/<identity>            UnitRecord: which claim holds this function
    vms/<vm>                           VmRecord: owner and last generation
    events/<seq, 16 digits>            views.Event
    ledger/<node>/<identity>           LedgerRecord
    risks/<node>/<code>                RiskRecord: the last decision about that risk
    spools/<node>                      SpoolRecord: how far the node's durable events are applied
    attempts/<node>/<sha256>           AttemptsRecord: resets of one function under one firmware
    commands/<node>/<id>               CommandRecord: what the node was told to do
    incidents/<number, 10 digits>      IncidentRecord
    incidents/<number>/<node>          IncidentNodeRecord: a node that it affects
    policies/<name>                    PolicyRecord: what a setting was set to
    health/<code>                      CodeRecord: since when some node shows this health code
    mutes/<code>/<node or *>           MuteRecord: who does not want to hear of it, and how long

Values are canonical JSON (`vfio_contract.artifact.encode`) except chunks. An identity comes from a
host and may hold anything: one that is not short plain text stands as its hash, so no host can make
a key that the store refuses. Records name their identity themselves; nobody parses it from a key.
"""

import re
from hashlib import sha256

META_CLUSTER = "meta/cluster"
META_EPOCH = "meta/epoch"
NODES = "nodes/"
BASELINES = "baselines/"
CHUNKS = "chunks/"
CLAIMS = "claims/"
UNITS = "units/"
VMS = "vms/"
EVENTS = "events/"
LEDGER = "ledger/"
RISKS = "risks/"
SPOOLS = "spools/"
ATTEMPTS = "attempts/"
COMMANDS = "commands/"
INCIDENTS = "incidents/"
POLICIES = "policies/"
HEALTH = "health/"
MUTES = "mutes/"

PREFIXES = (
    *("meta/", NODES, BASELINES, CHUNKS, CLAIMS, UNITS, VMS, EVENTS, LEDGER, RISKS),
    *(SPOOLS, ATTEMPTS, COMMANDS, INCIDENTS, POLICIES),
    *(HEALTH, MUTES),
)
"""Everything that `Restored.items` must hold."""


_PLAIN = re.compile(r"[!-~]{1,400}")


def node_key(node: str) -> str:
    """The node's durable admin state."""
    return f"{NODES}{node}"


def baseline_key(node: str, number: int) -> str:
    """One acceptance of a node, without its facts."""
    return f"{BASELINES}{node}/{number:010}" if number else f"{BASELINES}{node}"


def chunk_key(node: str, digest: str, number: int) -> str:
    """One part of a baseline's compressed facts; `digest` is `sha256:<hex>`."""
    return f"{CHUNKS}{node}/{digest.removeprefix('sha256:')}/{number:04}"


def claim_key(vm: str, generation: int) -> str:
    """One claim."""
    return f"{CLAIMS}{vm}/{generation:010}"


def unit_key(node: str, identity: str) -> str:
    """One claimed function."""
    return f"{UNITS}{node}/{_part(identity)}"


def vm_key(vm: str) -> str:
    """The VM's owner record."""
    return f"{VMS}{vm}"


def event_key(seq: int) -> str:
    """One row of the event log."""
    return f"{EVENTS}{seq:016}"


def ledger_key(node: str, identity: str) -> str:
    """What the reset ledger says of one function."""
    return f"{LEDGER}{node}/{_part(identity)}"


def risk_key(node: str, code: str) -> str:
    """The last decision about one risk of a node."""
    return f"{RISKS}{node}/{code}"


def spool_key(node: str) -> str:
    """How far the node's durable events are applied."""
    return f"{SPOOLS}{node}"


def attempts_key(node: str, identity: str, firmware: str) -> str:
    """The resets of one function under one firmware tuple; both come from a host."""
    of = f"{identity}\n{firmware}".encode("utf-8", "surrogatepass")
    return f"{ATTEMPTS}{node}/{sha256(of).hexdigest()}"


def policy_key(name: str) -> str:
    """One setting; the name is our own."""
    return f"{POLICIES}{name}"


def command_key(node: str, id: str) -> str:
    """One command; the id is our own."""
    return f"{COMMANDS}{node}/{id}"


def health_key(code: str) -> str:
    """Since when a health code is shown; the code is short plain text."""
    return f"{HEALTH}{code}"


def mute_key(code: str, node: str) -> str:
    """A mute of a code, on one node or with "" on all."""
    return f"{MUTES}{code}/{node or '*'}"


def incident_key(number: int) -> str:
    """One incident, without its nodes."""
    return f"{INCIDENTS}{number:010}"


def incident_node_key(number: int, node: str) -> str:
    """One node that an incident affects."""
    return f"{INCIDENTS}{number:010}/{node}"


def _part(identity: str) -> str:
    if _PLAIN.fullmatch(identity) and not identity.startswith("sha256:"):
        return identity
    return "sha256:" + sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
