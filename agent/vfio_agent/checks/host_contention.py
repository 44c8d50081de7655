"""Check `host-contention`: whether the host itself is short of cpu, io or memory bandwidth.

A guest that waits for a disk looks like a stuttering GPU. It must never start a measurement of its
own: it reads what the kernel has averaged anyway, and an fsync measurement that somebody asked for.
"""

from vfio_agent.checks.inventory import find_remedy
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import DiskTime, Pressure

ID = "host-contention"
PRESSURE = "/proc/pressure"
STAT = "/proc/stat"
DISKSTATS = "/proc/diskstats"

HOST_AT_EASE = Code(
    "HOST_AT_EASE",
    Verdict.PASS,
    "Pressure of cpu, io and memory over the last five minutes, stolen time and disk latency are "
    "below what VMs notice.",
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
STORAGE_SLOW = Code(
    "STORAGE_SLOW",
    Verdict.WARN,
    "A measured fsync, or a disk's average request or flush since boot, takes longer than guests "
    "bear.",
    "It looks like passthrough trouble and is not: a guest whose disk stalls freezes as a whole.",
    "Stop tuning VFIO. Look at the disk: sudo smartctl -a /dev/DISK; iostat -x 1; consumer SSDs "
    "without power-loss protection are slow at fsync (pveperf DIR: FSYNCS/SECOND below 200).",
)
CPU_STOLEN = Code(
    "CPU_STOLEN",
    Verdict.WARN,
    "The hypervisor below this host took a part of its processors' time (steal in /proc/stat).",
    "This host is a virtual machine that does not get the processors it sees: its guests stutter.",
    "Give the VM dedicated processors on its own host, or run the VMs on the physical host.",
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
    "/proc/pressure, /proc/stat or /proc/diskstats could not be read, or a measurement that was "
    "asked for failed.",
    "Whether the host is overloaded is not known.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    HOST_AT_EASE,
    HOST_CONTENDED,
    STORAGE_SLOW,
    CPU_STOLEN,
    PRESSURE_NOT_MEASURED,
    PRESSURE_UNKNOWN,
)

LIMITS = {"cpu": ("some", 60.0), "io": ("full", 10.0), "memory": ("full", 5.0)}
"""Percent of the last 300 s. `full` stalls everybody at once; for cpu only `some` is counted on the
whole host (psi.rst). The limits are ours: what a guest's users begin to notice."""


def judge(host: Host) -> list[Finding]:
    """Is the host itself short of cpu, io or memory?

    Evidence: 300 s averages of /proc/pressure/cpu, io and memory; stolen time and average disk
              latency since boot; an fsync measurement, if one was asked for (--active).
    Meaning:  Contention on the host looks like flaky passthrough.
    Source:   Linux Documentation/accounting/psi.rst, admin-guide/iostats.rst; field guide step 11.
    """
    rows = host.readings.pressure
    evidence = [Evidence(f"{PRESSURE}/{r.resource}", _describe(r)) for r in rows or ()]
    if rows == ():
        evidence = [Evidence(PRESSURE, "does not exist")]
    evidence += [*_describe_fsync(host), *_describe_disks(host), *_describe_steal(host)]
    missing = _list_missing(host)
    if missing:
        return [make_finding(ID, NODE, PRESSURE_UNKNOWN, *evidence, missing=missing)]
    return [make_finding(ID, NODE, _decide(host), *evidence)]


def _decide(host: Host) -> Code:
    rows, fsync = host.readings.pressure or (), host.readings.fsync
    if any(_is_high(r) for r in rows):
        return HOST_CONTENDED
    if fsync is not None and (fsync.median_ms > FSYNC_MS or fsync.worst_ms > WORST_MS):
        return STORAGE_SLOW
    if any(_is_slow(d) for d in host.readings.disks or ()):
        return STORAGE_SLOW
    if _steal(host) > STEAL_PERCENT:
        return CPU_STOLEN
    return HOST_AT_EASE if rows else PRESSURE_NOT_MEASURED


def _list_missing(host: Host) -> tuple[Missing, ...]:
    readings = host.readings
    found = []
    if readings.pressure is None:
        command = find_remedy(host, PRESSURE) or f"grep . {PRESSURE}/*"
        found.append(Missing(PRESSURE, command))
    if readings.cpu_time is None:
        found.append(Missing(STAT, find_remedy(host, STAT) or f"head -1 {STAT}"))
    if readings.disks is None:
        found.append(Missing(DISKSTATS, find_remedy(host, DISKSTATS) or f"cat {DISKSTATS}"))
    if readings.fsync is not None and readings.fsync.error:
        where = f"fsync in {readings.fsync.directory}"
        found.append(Missing(where, "sudo vfioctl check --active --active-dir DIR"))
    return tuple(found)


# --- storage and stolen time ---------------------------------------------------------------------

FSYNC_MS = 20.0
"""Median of one fsync above which databases and guests' journals crawl: 50 a second."""

WORST_MS = 1000.0
REQUEST_MS = 50.0
"""Average of all requests of one kind since boot; a busy hard disk has 10 to 20 ms."""

LEAST_REQUESTS = 1000
STEAL_PERCENT = 5.0


def _averages(disk: DiskTime) -> dict[str, float]:
    """Milliseconds a request, of the kinds that there were enough of."""
    kinds = {
        "read": (disk.reads, disk.read_ms),
        "write": (disk.writes, disk.write_ms),
        "flush": (disk.flushes or 0, disk.flush_ms or 0),
    }
    return {k: time / count for k, (count, time) in kinds.items() if count >= LEAST_REQUESTS}


def _is_slow(disk: DiskTime) -> bool:
    return any(value > REQUEST_MS for value in _averages(disk).values())


def _describe_disks(host: Host) -> list[Evidence]:
    """The slowest disk, and every slow one."""
    rows = [(d, _averages(d)) for d in host.readings.disks or ()]
    busy = sorted(((d, a) for d, a in rows if a), key=lambda row: -max(row[1].values()))
    shown = [row for row in busy if _is_slow(row[0])] or busy[:1]
    return [
        Evidence(
            DISKSTATS,
            f"{disk.name} since boot: "
            + ", ".join(f"{kind} {value:.1f} ms" for kind, value in averages.items())
            + (f" (limit {REQUEST_MS:.0f})" if _is_slow(disk) else ""),
        )
        for disk, averages in shown
    ]


def _describe_fsync(host: Host) -> list[Evidence]:
    fsync = host.readings.fsync
    if fsync is None:
        return []
    text = f"{fsync.count} times: median {fsync.median_ms:.1f} ms, worst {fsync.worst_ms:.1f} ms"
    return [Evidence(f"fsync in {fsync.directory}", fsync.error or text)]


def _steal(host: Host) -> float:
    """Percent of all processor time since boot."""
    time = host.readings.cpu_time
    return 100 * time.steal / time.total if time is not None and time.total else 0.0


def _describe_steal(host: Host) -> list[Evidence]:
    if not _steal(host):
        return []
    return [Evidence(STAT, f"steal {_steal(host):.1f} % since boot (limit {STEAL_PERCENT:.0f})")]


# --- pressure ------------------------------------------------------------------------------------


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
