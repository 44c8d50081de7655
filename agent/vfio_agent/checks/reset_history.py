"""Check `reset-history`: how resets of a device went on this firmware and kernel.

Judged per assignable function from the ledger's summary of its identity. Capability is a promise,
history is the proof. It must never take the absence of an error line for a successful reset.
"""

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.holding import find_holders
from vfio_agent.checks.inventory import (
    DEVICES,
    assignable,
    describe,
    is_intended,
    report_nothing,
    subject_of,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.ledger import ResetState, read_state
from vfio_contract.model import PciFunction, ResetEvent, ResetSummary

ID = "reset-history"
LEDGER = "reset ledger"
ATTEMPT = "reset attempt"

RESET_PROVEN = Code(
    "RESET_PROVEN",
    Verdict.PASS,
    "Observed start/stop/start cycles on this firmware and kernel, all successful.",
    "This device came back clean every time it was watched.",
    "No action.",
)
RESET_CLEAN = Code(
    "RESET_CLEAN",
    Verdict.PASS,
    "The ledger and a complete kernel log hold no failed reset of this device.",
    "No failure is recorded. Unobserved is not proven.",
    "No action; start, stop and start a VM once to prove it.",
)
RESET_UNOBSERVED = Code(
    "RESET_UNOBSERVED",
    Verdict.WARN,
    "No attempt is known: the ledger holds none and this boot's kernel log is incomplete, or there "
    "is no ledger, because no agent keeps one or the evidence came without it.",
    "A failed reset may have gone with the log or with earlier boots. No error line is not "
    "success.",
    "Start, stop and start a VM once without rebooting the host, before you rely on it.",
)
RESET_PROBATION = Code(
    "RESET_PROBATION",
    Verdict.WARN,
    "A reset failed before, in an earlier boot or with only a reset or only a start that succeeded "
    "since.",
    "The reboot may have cleared it, or only hidden it: a warm reboot may not reset a card.",
    "Start, stop and start a VM once and watch the kernel log: sudo dmesg -w; then: vfioctl check",
)
RESET_ONE_SHOT = Code(
    "RESET_ONE_SHOT",
    Verdict.WARN,
    "In two boots of this firmware and kernel the first VM got the device and then a reset failed; "
    "or the kernel knows no reset of it, and a VM has had it.",
    "The device can be given to one VM in each boot of the host: the next one finds it wedged, or "
    "as the last one left it.",
    "Reboot the host between two VMs. To place on it, somebody accepts the risk (vfioctl risk "
    "accept --node NODE --code RESET_ONE_SHOT) and the request says --allow one-shot-reset.",
)
RESET_SPENT = Code(
    "RESET_SPENT",
    Verdict.FAIL,
    "The device works once in each boot of the host, a VM has had it in this one, and none has it "
    "now.",
    "The next VM would find it wedged, or as the last one left it.",
    "Reboot the host before the next VM gets it.",
)
RESET_FAILED = Code(
    "RESET_FAILED",
    Verdict.FAIL,
    "A reset failed in this boot, and no reset and no start succeeded since.",
    "The device is in an unknown state: the next VM start may fail or hang the host.",
    "Treat reset as the root problem: power the host off and on (a warm reboot may not do), then "
    "start, stop and start a VM once before production use.",
)
RESET_WEDGED = Code(
    "RESET_WEDGED",
    Verdict.FAIL,
    "The device did not come back after a reset in this boot.",
    "It is wedged until the host is power-cycled.",
    "Move its VM away, power the host off and on, then: vfioctl check. If it happens again, choose "
    "other hardware or a vendor reset module.",
)
HISTORY_UNKNOWN = Code(
    "HISTORY_UNKNOWN",
    Verdict.UNKNOWN,
    "The reset ledger could not be read, or its rows cannot be matched to this device.",
    "Whether resets failed before is not known. Unknown is not clean.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    RESET_PROVEN,
    RESET_CLEAN,
    RESET_UNOBSERVED,
    RESET_PROBATION,
    RESET_ONE_SHOT,
    RESET_SPENT,
    RESET_FAILED,
    RESET_WEDGED,
    HISTORY_UNKNOWN,
)

_BY_STATE: dict[ResetState, Code] = {
    ResetState.PROVEN: RESET_PROVEN,
    ResetState.PROBATION: RESET_PROBATION,
    ResetState.FAILING: RESET_FAILED,
    ResetState.WEDGED: RESET_WEDGED,
}


def judge(host: Host) -> list[Finding]:
    """How did resets of this function go on this firmware and kernel?

    Evidence: the reset ledger, by identity; the kernel lines that fed it; how far the log reaches.
    Meaning:  A device that failed to reset is not given to the next VM before it is proved again.
    Source:   Linux drivers/pci/pci.c ("not ready ... giving up"); field guide step 7, mistake 3.
    """
    functions = assignable(host)
    if not functions:
        return report_nothing(ID, host)
    rows = {row.identity: row for row in host.readings.ledger or ()}
    lost = _has_lost_rows(host, rows)
    return [_judge_function(host, f, rows, lost) for f in functions]


def _judge_function(
    host: Host, function: PciFunction, rows: dict[str, ResetSummary], lost: bool
) -> Finding:
    identified = host.identities[function.address]
    row = rows.get(identified.identity) or _known_bad(rows.get(identified.place))
    code = _decide(host, function, row, lost)
    evidence = [Evidence(f"{DEVICES}/{function.address}", describe(function, host))]
    if row is not None:
        counts = f"{row.attempts} attempts, {row.failures} failed, last {row.last_outcome or '-'}"
        evidence.append(Evidence(LEDGER, f"{row.state}: {counts}"))
        evidence += [Evidence(ATTEMPT, _describe_attempt(attempt)) for attempt in row.recent]
        if row.last_evidence:
            evidence.append(Evidence(log.SOURCE, row.last_evidence))
    elif host.readings.ledger is not None:
        evidence.append(Evidence(LEDGER, _describe_silence(host)))
    reach = log.describe_log(host)
    if code in (RESET_UNOBSERVED, RESET_CLEAN) and reach is not None:
        evidence.append(reach)
    decision = code.decision.replace("ADDRESS", function.address)
    return make_finding(
        ID,
        subject_of(function),
        code,
        *evidence,
        intended=is_intended(host, [function.address]),
        decision=decision,
        missing=_list_missing(host) if code is HISTORY_UNKNOWN else (),
    )


def _decide(host: Host, function: PciFunction, row: ResetSummary | None, lost: bool) -> Code:
    if host.readings.ledger is None:
        return HISTORY_UNKNOWN
    if row is None:
        if lost:
            return HISTORY_UNKNOWN
        return RESET_CLEAN if _is_silence_telling(host) else RESET_UNOBSERVED
    state = read_state(row.state)
    if state is ResetState.CAPABLE:
        seen = row.attempts > 0 or _is_silence_telling(host)
        return RESET_CLEAN if seen else RESET_UNOBSERVED
    if state is ResetState.ONE_SHOT:
        # whoever has it now has it for the one time that it works
        return RESET_SPENT if row.used and not find_holders(host, function) else RESET_ONE_SHOT
    return HISTORY_UNKNOWN if state is None else _BY_STATE[state]


def _is_silence_telling(host: Host) -> bool:
    """True when a failure would be known.

    Without a ledger one boot's log is all there is: what failed in earlier boots nobody knows.
    """
    return host.readings.ledger_kept and log.is_complete(host)


def _describe_silence(host: Host) -> str:
    if host.readings.ledger_kept:
        return "no attempt recorded"
    return "there is none; only the kernel log of this boot was looked at for failures"


def _describe_attempt(attempt: ResetEvent) -> str:
    """`bus: failed, the kernel waited 1000 ms, 81.250000 s after boot`."""
    text = f"{attempt.method or 'method not told'}: {attempt.outcome}"
    if attempt.waited_ms is not None:
        text += f", the kernel waited {attempt.waited_ms} ms"
    if attempt.seconds is not None:
        text += f", {attempt.seconds:.6f} s after boot"
    return text if attempt.this_boot is not False else f"{text}, in an earlier boot"


def _has_lost_rows(host: Host, rows: dict[str, ResetSummary]) -> bool:
    """True when a bad row fits no function while some identity is not fully known.

    The row may then belong to any function whose serial number, ids or place could not be read.
    """
    known = {i.identity for i in host.identities.values()}
    known |= {i.place for i in host.identities.values()}
    bad = [r for r in rows.values() if r.identity not in known and not _is_good(r)]
    return bool(bad) and any(not _is_identity_known(f) for f in host.functions)


def _is_good(row: ResetSummary) -> bool:
    return read_state(row.state) in (ResetState.CAPABLE, ResetState.PROVEN)


def _known_bad(row: ResetSummary | None) -> ResetSummary | None:
    """What is told of a place speaks against who is there, and for nobody with a serial number."""
    return None if row is None or _is_good(row) else row


def _is_identity_known(function: PciFunction) -> bool:
    if None in (function.vendor, function.device, function.parent, function.root_path):
        return False
    if None in (function.subsystem_vendor, function.subsystem_device, function.physfn):
        return False
    return function.config is not None and function.config.extended is not None


def _list_missing(host: Host) -> tuple[Missing, ...]:
    missing = log.missing_log(host)
    if host.readings.ledger is None:
        return (Missing(LEDGER, "sudo vfioctl check"), *missing)
    return (Missing("serial numbers of all functions", "sudo lspci -vvv"), *missing)
