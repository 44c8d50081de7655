"""`host-contention` and `interrupt-distribution`: trouble that only looks like passthrough's."""

import pytest

from tests.fakes.snapshots import make_host, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks import host_contention, interrupt_distribution
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import DeviceInterrupt, Pressure


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
    assert (finding.verdict, commands(finding)) == (Verdict.UNKNOWN, ["grep . /proc/pressure/*"])


def queue(number: int, *counts: tuple[int, int]) -> DeviceInterrupt:
    return DeviceInterrupt(number, f"vfio-msix[{number}](0000:01:00.0)", "0-7", counts)


def test_one_processor_drowns() -> None:
    finding = spread(*(queue(n, (3, 400_000), (0, 10)) for n in range(4)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "INTERRUPTS_ON_ONE_CPU")
    assert "CPU3 took 1600000 of 1600040 interrupts of 4 queues" in texts(finding)


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
