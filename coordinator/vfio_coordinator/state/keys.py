"""The names of durable keys. Nothing else may spell one.

    meta/cluster                       ClusterRecord
    meta/epoch                         EpochRecord; the fence of the embedded store
    nodes/<node>                       AdminRecord
    baselines/<node>                   BaselineRecord
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

PREFIXES = (
    *("meta/", NODES, BASELINES, CHUNKS, CLAIMS, UNITS, VMS, EVENTS, LEDGER, RISKS),
    *(SPOOLS, ATTEMPTS, COMMANDS),
)
"""Everything that `Restored.items` must hold."""


_PLAIN = re.compile(r"[!-~]{1,400}")


def node_key(node: str) -> str:
    """The node's durable admin state."""
    return f"{NODES}{node}"


def baseline_key(node: str) -> str:
    """The node's accepted baseline, without its facts."""
    return f"{BASELINES}{node}"


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


def command_key(node: str, id: str) -> str:
    """One command; the id is our own."""
    return f"{COMMANDS}{node}/{id}"


def _part(identity: str) -> str:
    if _PLAIN.fullmatch(identity) and not identity.startswith("sha256:"):
        return identity
    return "sha256:" + sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
