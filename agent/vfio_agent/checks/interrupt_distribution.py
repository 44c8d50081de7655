"""Check `interrupt-distribution`: whether the interrupts of passed devices drown one processor.

It looks at where they arrived since boot, not at how somebody meant to tune them. It must never
blame a device with one queue, whose interrupts can only go to one processor at a time.
"""

from collections import Counter

from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import DeviceInterrupt

ID = "interrupt-distribution"
INTERRUPTS = "/proc/interrupts"

INTERRUPTS_SPREAD = Code(
    "INTERRUPTS_SPREAD",
    Verdict.PASS,
    "Interrupts of VFIO devices arrived on several processors, or were few.",
    "No processor drowns in them.",
    "No action.",
)
INTERRUPTS_ON_ONE_CPU = Code(
    "INTERRUPTS_ON_ONE_CPU",
    Verdict.WARN,
    "Nearly all interrupts of several queues of VFIO devices arrived on one processor.",
    "One processor does the work of all queues: jitter and lost packets under load.",
    "Let irqbalance spread them, or set /proc/irq/N/smp_affinity_list for each queue; take back "
    "isolcpus and nohz_full that nobody measured.",
)
NO_DEVICE_INTERRUPTS = Code(
    "NO_DEVICE_INTERRUPTS",
    Verdict.NOT_APPLICABLE,
    "/proc/interrupts names no VFIO device.",
    "No passed device uses interrupts now.",
    "No action; look again while the VM runs.",
)
DISTRIBUTION_UNKNOWN = Code(
    "DISTRIBUTION_UNKNOWN",
    Verdict.UNKNOWN,
    "/proc/interrupts could not be read.",
    "Where the interrupts of passed devices go is not known.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (INTERRUPTS_SPREAD, INTERRUPTS_ON_ONE_CPU, NO_DEVICE_INTERRUPTS, DISTRIBUTION_UNKNOWN)

MANY = 1_000_000
"""Interrupts since boot below which nobody drowns."""

QUEUES = 4
NEARLY_ALL = 0.9
_SHOWN = 4


def judge(host: Host) -> list[Finding]:
    """Do the interrupts of passed devices drown one processor?

    Evidence: counts per CPU of VFIO lines in /proc/interrupts, smp_affinity_list.
    Meaning:  Tuning without measurement puts all of them on one processor.
    Source:   Linux Documentation/core-api/irq/irq-affinity.rst; field guide step story 2.
    """
    rows = host.readings.interrupts
    if rows is None:
        missing = (Missing(INTERRUPTS, find_remedy(host, INTERRUPTS) or f"cat {INTERRUPTS}"),)
        return [make_finding(ID, NODE, DISTRIBUTION_UNKNOWN, missing=missing)]
    if not rows:
        shown = Evidence(INTERRUPTS, "no vfio line")
        return [make_finding(ID, NODE, NO_DEVICE_INTERRUPTS, shown)]
    totals: Counter[int] = Counter()
    for row in rows:
        totals.update(dict(row.counts))
    busiest, most = max(totals.items(), key=lambda item: item[1], default=(0, 0))
    whole = sum(totals.values())
    queues = sum(1 for row in rows if row.counts)
    drowns = whole >= MANY and queues >= QUEUES and most > whole * NEARLY_ALL
    share = f"CPU{busiest} took {most} of {whole} interrupts of {queues} queues"
    evidence = [Evidence(INTERRUPTS, share), *map(_describe, _busiest(rows))]
    code = INTERRUPTS_ON_ONE_CPU if drowns else INTERRUPTS_SPREAD
    return [make_finding(ID, NODE, code, *evidence)]


def _busiest(rows: tuple[DeviceInterrupt, ...]) -> list[DeviceInterrupt]:
    return sorted(rows, key=lambda r: -sum(n for _, n in r.counts))[:_SHOWN]


def _describe(row: DeviceInterrupt) -> Evidence:
    where = " ".join(f"CPU{cpu}={count}" for cpu, count in row.counts[:_SHOWN]) or "none arrived"
    return Evidence(f"/proc/irq/{row.number}", f"{row.name}: {where}, allowed {row.cpus or '?'}")
