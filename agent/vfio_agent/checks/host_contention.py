"""Check `host-contention`: whether the host itself is short of cpu, io or memory bandwidth.

A guest that waits for a disk looks like a stuttering GPU. It must never start a measurement of its
own: it reads what the kernel has averaged anyway.
"""

from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import Pressure

ID = "host-contention"
PRESSURE = "/proc/pressure"

HOST_AT_EASE = Code(
    "HOST_AT_EASE",
    Verdict.PASS,
    "Pressure of cpu, io and memory over the last five minutes is below what VMs notice.",
    "If a VM stutters, it is not because the host had no time for it.",
    "No action.",
)
HOST_CONTENDED = Code(
    "HOST_CONTENDED",
    Verdict.WARN,
    "Tasks waited long for cpu, io or memory in the last five minutes (/proc/pressure).",
    "It looks like passthrough trouble and is not: stutter, latency and timeouts come from here.",
    "Stop tuning VFIO. cpu: fewer vCPUs or pinning; io: faster or less loaded storage; memory: "
    "fewer VMs.",
)
PRESSURE_NOT_MEASURED = Code(
    "PRESSURE_NOT_MEASURED",
    Verdict.NOT_APPLICABLE,
    "The kernel has no /proc/pressure (before 4.20, or psi=0).",
    "This kernel does not say how long tasks wait.",
    "To measure it: add psi=1 to the kernel command line and reboot; until then: vmstat 1, iostat "
    "-x 1",
)
PRESSURE_UNKNOWN = Code(
    "PRESSURE_UNKNOWN",
    Verdict.UNKNOWN,
    "/proc/pressure could not be read.",
    "Whether the host is overloaded is not known.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (HOST_AT_EASE, HOST_CONTENDED, PRESSURE_NOT_MEASURED, PRESSURE_UNKNOWN)

LIMITS = {"cpu": ("some", 60.0), "io": ("full", 10.0), "memory": ("full", 5.0)}
"""Percent of the last 300 s. `full` stalls everybody at once; for cpu only `some` is counted on the
whole host (psi.rst). The limits are ours: what a guest's users begin to notice."""


def judge(host: Host) -> list[Finding]:
    """Is the host itself short of cpu, io or memory?

    Evidence: 300 s averages of /proc/pressure/cpu, io and memory.
    Meaning:  Contention on the host looks like flaky passthrough.
    Source:   Linux Documentation/accounting/psi.rst; field guide step 11.
    """
    rows = host.readings.pressure
    if rows is None:
        missing = (Missing(PRESSURE, find_remedy(host, PRESSURE) or f"grep . {PRESSURE}/*"),)
        return [make_finding(ID, NODE, PRESSURE_UNKNOWN, missing=missing)]
    if not rows:
        shown = Evidence(PRESSURE, "does not exist")
        return [make_finding(ID, NODE, PRESSURE_NOT_MEASURED, shown)]
    evidence = [Evidence(f"{PRESSURE}/{r.resource}", _describe(r)) for r in rows]
    code = HOST_CONTENDED if any(_is_high(r) for r in rows) else HOST_AT_EASE
    return [make_finding(ID, NODE, code, *evidence)]


def _measured(row: Pressure) -> tuple[str, float]:
    kind, _ = LIMITS[row.resource]
    values = row.full if kind == "full" and row.full is not None else row.some
    return ("full" if values is row.full else "some"), values[2]


def _is_high(row: Pressure) -> bool:
    return row.resource in LIMITS and _measured(row)[1] > LIMITS[row.resource][1]


def _describe(row: Pressure) -> str:
    kind, value = _measured(row)
    text = f"{kind} avg300={value:.2f}"
    return f"{text} (limit {LIMITS[row.resource][1]:.0f})" if _is_high(row) else text
