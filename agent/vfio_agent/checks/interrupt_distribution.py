"""Check `interrupt-distribution`: whether the interrupts of passed devices drown one processor.

It looks at where they arrived since boot, not at how somebody meant to tune them. It must never
blame a device with one queue, whose interrupts can only go to one processor at a time, nor an
interrupt that somebody bound to an isolated processor on purpose.
"""

import re
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
INTERRUPTS_ON_ISOLATED = Code(
    "INTERRUPTS_ON_ISOLATED",
    Verdict.WARN,
    "Most interrupts of VFIO devices arrived on processors set aside by isolcpus or nohz_full, "
    "though their affinity allows others.",
    "Processors that were meant to be quiet do the interrupt work: jitter where it hurts most.",
    "Give each queue an affinity that was measured (/proc/irq/N/smp_affinity_list), or take "
    "isolcpus and nohz_full back; then look at the counts again: vfioctl check",
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
    "/proc/interrupts, or which processors are isolated, could not be read.",
    "Where the interrupts of passed devices go is not known.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    INTERRUPTS_SPREAD,
    INTERRUPTS_ON_ONE_CPU,
    INTERRUPTS_ON_ISOLATED,
    NO_DEVICE_INTERRUPTS,
    DISTRIBUTION_UNKNOWN,
)

MANY = 1_000_000
"""Interrupts since boot below which nobody drowns."""

QUEUES = 4
NEARLY_ALL = 0.9
MOST = 0.5
ISOLATED = "/sys/devices/system/cpu/isolated"
NOHZ_FULL = "/sys/devices/system/cpu/nohz_full"
_SHOWN = 4
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def judge(host: Host) -> list[Finding]:
    """Do the interrupts of passed devices drown one processor?

    Evidence: counts per CPU of VFIO lines in /proc/interrupts, smp_affinity_list, isolcpus and
              nohz_full, whether irqbalance runs.
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
    evidence = [
        Evidence(INTERRUPTS, share),
        *map(_describe, _busiest(rows)),
        *_describe_tuning(host),
    ]
    if drowns:
        decision = _advise(host)
        return [make_finding(ID, NODE, INTERRUPTS_ON_ONE_CPU, *evidence, decision=decision)]
    unread = _list_missing(host) if whole >= MANY else ()
    if unread:
        return [make_finding(ID, NODE, DISTRIBUTION_UNKNOWN, *evidence, missing=unread)]
    strayed = whole >= MANY and _count_strays(host, rows) > whole * MOST
    code = INTERRUPTS_ON_ISOLATED if strayed else INTERRUPTS_SPREAD
    return [make_finding(ID, NODE, code, *evidence)]


def _list_missing(host: Host) -> tuple[Missing, ...]:
    found = host.readings.cpu_isolation
    lists = {
        ISOLATED: None if found is None else found.isolated,
        NOHZ_FULL: None if found is None else found.nohz_full,
    }
    return tuple(
        Missing(path, find_remedy(host, path) or f"cat {path}")
        for path, text in lists.items()
        if text is None
    )


def _count_strays(host: Host, rows: tuple[DeviceInterrupt, ...]) -> int:
    """Interrupts on isolated processors of lines that were allowed on others."""
    found = host.readings.cpu_isolation
    if found is None:
        return 0
    isolated = parse_cpus(found.isolated or "") | parse_cpus(found.nohz_full or "")
    free = (row for row in rows if parse_cpus(row.cpus or "") - isolated)
    return sum(count for row in free for cpu, count in row.counts if cpu in isolated)


def parse_cpus(text: str) -> frozenset[int]:
    """`0-3,8` as numbers; parts that are none are left out."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is not None:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def _describe_tuning(host: Host) -> list[Evidence]:
    found = host.readings.cpu_isolation
    if found is None:
        return []
    lists = ((ISOLATED, found.isolated), (NOHZ_FULL, found.nohz_full))
    rows = [Evidence(path, text) for path, text in lists if text]
    if found.irqbalance is not None:
        rows.append(Evidence("irqbalance", "runs" if found.irqbalance else "does not run"))
    return rows


def _advise(host: Host) -> str:
    """What to do about one busy processor; "" for the code's own words."""
    found = host.readings.cpu_isolation
    if found is None or found.irqbalance is None:
        return ""
    if not found.irqbalance:
        return (
            "irqbalance does not run, and nothing else spreads them: sudo systemctl enable --now "
            "irqbalance, or set /proc/irq/N/smp_affinity_list for each queue; take back isolcpus "
            "and nohz_full that nobody measured."
        )
    return (
        "irqbalance runs and leaves them there: it keeps off isolated processors and banned "
        "interrupts. Take back isolcpus, nohz_full and --banirq that nobody measured, or set "
        "/proc/irq/N/smp_affinity_list for each queue and ban just those (IRQBALANCE_ARGS)."
    )


def _busiest(rows: tuple[DeviceInterrupt, ...]) -> list[DeviceInterrupt]:
    return sorted(rows, key=lambda r: -sum(n for _, n in r.counts))[:_SHOWN]


def _describe(row: DeviceInterrupt) -> Evidence:
    where = " ".join(f"CPU{cpu}={count}" for cpu, count in row.counts[:_SHOWN]) or "none arrived"
    return Evidence(f"/proc/irq/{row.number}", f"{row.name}: {where}, allowed {row.cpus or '?'}")
