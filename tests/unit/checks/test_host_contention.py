"""`host-contention` and `interrupt-distribution`: trouble that only looks like passthrough's."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import make_host, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks import host_contention, interrupt_distribution
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import (
    CpuIsolation,
    CpuTime,
    DeviceInterrupt,
    DiskTime,
    Pressure,
    SyncTimes,
)


def pressed(*rows: Pressure) -> Finding:
    return find(host_contention.judge(make_host(pressure=rows)))


def spread(*rows: DeviceInterrupt) -> Finding:
    return find(interrupt_distribution.judge(make_host(interrupts=rows)))


def test_at_ease() -> None:
    burst = Pressure("io", (90.0, 30.0, 2.0), (80.0, 20.0, 1.0))
    finding = pressed(burst)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "HOST_AT_EASE")
    assert "full avg300=1.00" in texts(finding)


@pytest.mark.parametrize(
    "row",
    [
        Pressure("cpu", (0.0, 0.0, 61.0), None),
        Pressure("io", (0.0, 0.0, 30.0), (0.0, 0.0, 10.5)),
        Pressure("memory", (0.0, 0.0, 9.0), (0.0, 0.0, 5.5)),
    ],
)
def test_contended(row: Pressure) -> None:
    finding = pressed(row)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "HOST_CONTENDED")
    assert "(limit " in texts(finding)


def test_pressure_not_measured_and_not_read() -> None:
    assert pressed().code == "PRESSURE_NOT_MEASURED"
    finding = find(host_contention.judge(silent_host()))
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == [
        "grep . /proc/pressure/*",
        "head -1 /proc/stat",
        "cat /proc/diskstats",
    ]


def eased(**changes: Any) -> Finding:
    return find(host_contention.judge(make_host(**changes)))


def test_stolen_time() -> None:
    finding = eased(cpu_time=CpuTime(1000, 60))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CPU_STOLEN")
    assert "/proc/stat: steal 6.0 % since boot" in texts(finding)
    for fine in (CpuTime(1000, 50), CpuTime(0, 0)):
        assert eased(cpu_time=fine).code == "HOST_AT_EASE"
    assert eased(cpu_time=None).verdict is Verdict.UNKNOWN


def test_a_slow_disk() -> None:
    slow = DiskTime("sdb", 10, 1, 5000, 400_000, None, None)
    finding = eased(disks=(slow,))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "STORAGE_SLOW")
    assert "sdb since boot: write 80.0 ms (limit 50)" in texts(finding)
    flushes = DiskTime("sdc", 0, 0, 5000, 100, 2000, 200_000)
    assert eased(disks=(flushes,)).code == "STORAGE_SLOW"
    few = DiskTime("sdb", 0, 0, 900, 400_000, 0, 0)
    assert eased(disks=(few,)).code == "HOST_AT_EASE"
    assert eased(disks=None).verdict is Verdict.UNKNOWN


def test_an_fsync_measurement_that_was_asked_for() -> None:
    fast = SyncTimes("/var/tmp", 256, 0.4, 9.0, "")
    finding = eased(fsync=fast)
    assert finding.code == "HOST_AT_EASE"
    assert "fsync in /var/tmp: 256 times: median 0.4 ms, worst 9.0 ms" in texts(finding)
    for slow in (replace(fast, median_ms=21.0), replace(fast, worst_ms=1500.0)):
        assert eased(fsync=slow).code == "STORAGE_SLOW"
    failed = replace(fast, count=0, error="No space left on device")
    finding = eased(fsync=failed)
    assert finding.verdict is Verdict.UNKNOWN
    assert "fsync in /var/tmp: No space left on device" in texts(finding)
    assert commands(finding) == ["sudo vfioctl check --active --active-dir DIR"]


def queue(number: int, *counts: tuple[int, int]) -> DeviceInterrupt:
    return DeviceInterrupt(number, f"vfio-msix[{number}](0000:01:00.0)", "0-7", counts)


def test_one_processor_drowns() -> None:
    finding = spread(*(queue(n, (3, 400_000), (0, 10)) for n in range(4)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "INTERRUPTS_ON_ONE_CPU")
    assert "CPU3 took 1600000 of 1600040 interrupts of 4 queues" in texts(finding)


def tuned(*rows: DeviceInterrupt, **changes: Any) -> Finding:
    isolation = replace(CpuIsolation("", "", irqbalance=True), **changes)
    host = make_host(interrupts=rows, cpu_isolation=isolation)
    return find(interrupt_distribution.judge(host))


def test_the_advice_depends_on_irqbalance() -> None:
    rows = [queue(n, (3, 400_000)) for n in range(4)]
    finding = tuned(*rows, irqbalance=False)
    assert "irqbalance: does not run" in texts(finding)
    assert "systemctl enable --now irqbalance" in finding.decision
    assert "--banirq" in tuned(*rows).decision
    assert "Let irqbalance" in tuned(*rows, irqbalance=None).decision


def test_interrupts_on_processors_that_were_set_aside() -> None:
    rows = [queue(n, (n, 400_000)) for n in range(4)]
    for changes in ({"isolated": "1-3"}, {"nohz_full": "2,3,1"}):
        finding = tuned(*rows, **changes)
        assert (finding.verdict, finding.code) == (Verdict.WARN, "INTERRUPTS_ON_ISOLATED")
    assert tuned(*rows, isolated="3").code == "INTERRUPTS_SPREAD"
    # bound there on purpose
    bound = [replace(row, cpus="1-3") for row in rows]
    assert tuned(*bound, isolated="1-3").code == "INTERRUPTS_SPREAD"


def test_isolation_that_was_not_read_matters_only_to_busy_devices() -> None:
    rows = [queue(n, (n, 400_000)) for n in range(4)]
    finding = tuned(*rows, isolated=None)
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == ["cat /sys/devices/system/cpu/isolated"]
    assert tuned(queue(1, (1, 7)), isolated=None).code == "INTERRUPTS_SPREAD"


@pytest.mark.parametrize(("text", "cpus"), [("0-2,8", {0, 1, 2, 8}), ("", set()), ("x,5-4,7", {7})])
def test_lists_of_processors(text: str, cpus: set[int]) -> None:
    assert interrupt_distribution.parse_cpus(text) == cpus


@pytest.mark.parametrize(
    "rows",
    [
        [queue(n, (n, 400_000)) for n in range(4)],
        [queue(n, (3, 1000)) for n in range(4)],
        [queue(1, (3, 9_000_000))],
        [queue(1)],
    ],
)
def test_spread_few_or_a_single_queue(rows: list[DeviceInterrupt]) -> None:
    assert spread(*rows).code == "INTERRUPTS_SPREAD"


def test_no_device_interrupts_and_not_read() -> None:
    assert spread().code == "NO_DEVICE_INTERRUPTS"
    finding = find(interrupt_distribution.judge(silent_host()))
    assert (finding.verdict, commands(finding)) == (Verdict.UNKNOWN, ["cat /proc/interrupts"])
