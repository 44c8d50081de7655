"""Reset: what is listed, what works, what takes neighbours along, and what history remembers.

The wide machine's resets all work or are refused; the other one's slots lose their link at every
bus reset, for ever. Durations are the kernel's business: what it says of one is compared with what
the history tells of it, never with a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Observation, Row, check, observe
from tests.lab.prediction import Report
from vfio_coordinator.pki import Authority

# Reports, and two waits for a look of the agent; a machine itself lives 900 s at the most.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

NIC, GPU, AUDIO = "0000:01:00.0", "0000:0b:00.0", "0000:0b:00.1"
# Behind the PCI bridge: the NIC's list says `bus`, made before its neighbour was seen.
OLD_NIC, NEIGHBOUR, BRIDGE = "0000:09:01.0", "0000:09:02.0", "0000:08:00.0"
ON_ROOT_BUS = "0000:00:08.0"
# These have an FLR of their own: the report says nothing of a hot reset of their buses.
RESET_ALONE = {(a, "hot reset") for a in ("0000:02:00.0", "0000:03:00.0", "0000:0c:00.0")}
DEVICES = "/sys/bus/pci/devices"
LINK_LOST = re.compile(r"pcieport (\S+): Data Link Layer Link Active not set")
# The same with its time stamp, and how long the kernel says that it waited.
LINK_LINE = re.compile(
    r"\[ *(\d+\.\d{6})\] pcieport (\S+): Data Link Layer Link Active not set in (\d+) msec"
)

Tried = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def wide(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.RESETS) as guest:
        # All endpoints that the host can spare, and a bridge that does not spoil its group.
        for address in ("0000:06:00.0", "0000:0a:00.0", "0000:0c:00.0", ON_ROOT_BUS):
            assert guest.call("host.bind", address=address) == "vfio-pci"
        assert guest.call("host.bind", address=BRIDGE, driver="") == ""
        yield guest


@pytest.fixture(scope="module")
def tried(wide: Guest) -> Tried:
    """Every listed method of every endpoint, each alone, through sysfs."""
    return {a: wide.call("reset.each", address=a) for a in wide.call("host.endpoints")}


@pytest.fixture(scope="module")
def after(wide: Guest, tried: Tried, table: list[Row]) -> Observation:
    """The report after all of them, and VFIO's resets by the same functions."""
    assert tried
    found = observe(wide, "after resets")
    table.extend(found.rows)
    return found


def test_a_listed_method_works_unless_it_is_bus_beside_a_neighbour(
    after: Observation, tried: Tried
) -> None:
    outcomes = {(a, row["method"]): row["errno"] for a, rows in tried.items() for row in rows}
    refused = {key for key, error in outcomes.items() if error}

    assert {outcomes[key] for key in refused} == {"ENOTTY"}
    assert refused == {(OLD_NIC, "bus"), (GPU, "bus")}
    # And those are the ones whose reset the report does not call their own.
    for address, method in outcomes:
        if (address, method) in refused:
            assert len(domain(after.report, address)) > 1
    assert {method for _, method in outcomes} == {"flr", "pm", "bus"}


def test_the_report_lists_the_methods_that_were_tried(after: Observation, tried: Tried) -> None:
    for address in after.report.functions():
        text = after.report.text("reset-capability", f"function:{address}", "/reset_method")
        listed = [row["method"] for row in tried[address]]
        assert text.split() == listed or (not listed and text.startswith("does not exist"))
        # The kernel lists `flr` for what the capability says; no emulated device is quirked.
        capability = after.report.text("reset-capability", f"function:{address}", "/config")
        assert capability in ("", f"DevCap FLReset{'+' if 'flr' in listed else '-'}")


def test_vfio_resets_as_predicted(after: Observation) -> None:
    assert after.disagreements == []
    assert after.unclaimed == RESET_ALONE
    answers = {after.answer(a, "reset") for a in after.predictions}
    assert {"ok", "EINVAL"} <= answers


def test_a_hot_reset_takes_along_what_the_report_says(wide: Guest, after: Observation) -> None:
    asked = []
    for address in after.report.functions():
        if after.answer(address) != "opened" or not (expected := domain(after.report, address)):
            continue
        got = wide.call("vfio.hot_reset_domain", address=address)
        assert (got["errno"], [row[0] for row in got["functions"]]) == ("", expected)
        asked.append(address)

    assert {NIC, GPU, AUDIO, OLD_NIC, NEIGHBOUR} <= set(asked)


def test_gpu_and_audio_are_reset_together_only(after: Observation) -> None:
    for address in (GPU, AUDIO):
        assert after.report.code("reset-capability", f"function:{address}") == "RESET_SLOT"
        assert domain(after.report, address) == [GPU, AUDIO]
        assert (after.answer(address, "reset"), after.answer(address, "hot reset")) == (
            "EINVAL",
            "ok",
        )


def test_nothing_resets_a_device_on_the_root_bus(wide: Guest, after: Observation) -> None:
    assert after.report.code("reset-capability", f"function:{ON_ROOT_BUS}") == "RESET_NONE"
    assert after.answer(ON_ROOT_BUS, "hot reset") == "ENODEV"

    started = wide.call("nested.start", name="unresettable", addresses=[ON_ROOT_BUS])
    said = wide.call("nested.stop", name="unresettable")

    assert started["started"]
    assert f"Cannot reset device {ON_ROOT_BUS}, no available reset mechanism" in said


def test_history_blames_nobody_where_the_kernel_complained_of_nothing(
    wide: Guest, after: Observation
) -> None:
    log = wide.call("host.kernel_log")
    complaints = [line for line in log if "not ready" in line or LINK_LOST.search(line)]

    assert complaints == []
    # No agent keeps a ledger in there: that this boot's log complains of nothing is no success.
    assert set(after.report.codes("reset-history").values()) == {"RESET_UNOBSERVED"}


def test_a_sleeping_device_is_judged_and_reset_as_it_is(wide: Guest) -> None:
    """In D3hot, whose configuration space answers; deeper sleep no emulated device knows."""
    before = wide.call("reset.power_state", address=NIC)
    report = check(wide, "asleep")

    assert (before, wide.call("reset.power_state", address=NIC)) == ("D3hot", "D3hot")
    assert report.code("device-health", f"function:{NIC}") == "DEVICE_HEALTHY"
    assert wide.call("reset.once", address=NIC)["errno"] == ""
    assert wide.call("reset.power_state", address=NIC) == "D3hot"


def test_sysfs_resets_a_held_device_and_vfio_does_not(wide: Guest) -> None:
    holder = wide.call("nested.start", name="holder", addresses=[NIC])
    try:
        assert holder["started"]
        # The kernel does not mind that a VM has the device: only VFIO closes that race.
        assert wide.call("reset.once", address=NIC)["step"] == "done"
        assert wide.call("vfio.attempt", address=NIC, then="reset")["errno"] == "EBUSY"
        report = check(wide, "held")
        assert report.code("device-holders", f"function:{NIC}") == "DEVICE_HELD"
        assert wide.call("nested.status", name="holder") == "prelaunch"
    finally:
        wide.call("nested.stop", name="holder")
    assert wide.call("vfio.attempt", address=NIC, then="reset")["errno"] == ""


def test_resets_switched_off_and_a_list_that_was_remade(wide: Guest, table: list[Row]) -> None:
    off, remade = f"{DEVICES}/{NIC}/reset_method", f"{DEVICES}/{GPU}/reset_method"
    assert wide.call("host.write", path=off, text="\n") == ""
    assert wide.call("host.write", path=remade, text="default") == ""
    try:
        seen = observe(wide, "lists changed")
        table.extend(seen.rows)
        # The remade list is as empty as the other one; nobody switched that off.
        assert wide.call("reset.methods", address=GPU) == []
        assert seen.report.code("reset-capability", f"function:{NIC}") == "RESET_DISABLED"
        assert seen.report.code("reset-capability", f"function:{GPU}") == "RESET_SLOT"
        assert seen.answer(NIC, "reset") == "EINVAL"
        assert (seen.answer(GPU, "reset"), seen.answer(GPU, "hot reset")) == ("EINVAL", "ok")
        assert seen.disagreements == []
        assert seen.unclaimed == {*RESET_ALONE, (NIC, "hot reset")}
    finally:
        wide.call("host.write", path=off, text="default")


def domain(report: Report, address: str) -> list[str]:
    """The reset domain that the report gives, [] where it gives none."""
    text = report.text("reset-capability", f"function:{address}", "reset domain")
    return text.rpartition(": ")[2].split()


# --- slots whose link does not come back ---------------------------------------------------------

BROKEN = {"0000:01:00.0": "0000:00:02.0", "0000:02:00.0": "0000:00:02.1"}
SPARED = ("0000:03:00.0", "0000:03:00.1")
NODE = "gpubox"
# In there: a coordinator that is never found.
NOWHERE = "127.0.0.1:1"
# An interval of 60 s, then a look at the host, which takes up to 40 s, three times that when busy.
LOOK_LIMIT_S = 240


@pytest.fixture(scope="module")
def broken(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.BROKEN_BUS_RESET) as guest:
        yield guest


@pytest.fixture(scope="module")
def bundle(broken: Guest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The agent's certificates, of an authority that no coordinator speaks for."""
    authority = Authority.open_or_create(
        tmp_path_factory.mktemp("authority") / "ca", now=datetime.now(UTC)
    )
    authority.ensure_node_bundle(NODE, broken.out / "bundle")
    return f"{broken.out_inside}/bundle"


def test_the_agent_remembers_what_the_kernel_reported(broken: Guest, bundle: str) -> None:
    """Without a coordinator, and every failure once, however often its line is read.

    What no ledger can know: resets that succeed. The kernel logs none of them, so those by `pm`,
    `flr` and VFIO in here are in no row, and no row is no proof that nothing was reset.
    """
    first = check(broken, "before")
    assert set(first.codes("reset-history").values()) == {"RESET_UNOBSERVED"}
    broken.call(
        "agent.start",
        node=NODE,
        endpoint=NOWHERE,
        bundle=bundle,
        journal="",
        log=f"{broken.out_inside}/agent.log",
    )
    assert await_ledger(broken, count=0) == []

    tried = {a: broken.call("reset.each", address=a) for a in BROKEN}
    # The kernel's own record: the method before `bus` worked, `bus` did not and says so once.
    for address, port in BROKEN.items():
        outcomes = {row["method"]: row["errno"] for row in tried[address]}
        assert outcomes.pop("bus") == "ENOTTY"
        assert set(outcomes.values()) == {""}
        assert len(losses(broken)[port]) == 1
    assert_true_ledger(broken, await_ledger(broken, count=2))
    assert_true_history(broken, check(broken, "once"))

    # A second failure, this time through VFIO, is a second attempt. The look that finds it reads
    # the first lines again.
    for address in BROKEN:
        assert broken.call("vfio.attempt", address=address, then="hot-reset")["errno"] == "ENOTTY"
    assert {len(lines) for lines in losses(broken).values()} == {2}
    assert_true_ledger(broken, await_ledger(broken, count=4))
    assert_true_history(broken, check(broken, "twice"))

    assert broken.call("agent.is_running")
    statuses = broken.call("agent.stop", journal=f"{broken.out_inside}/journal")
    assert set(statuses.values()) == {0}
    assert "session ended" in (broken.out / "agent.log").read_text()


def test_a_failed_reset_is_told_apart_from_a_wedged_device(broken: Guest) -> None:
    """The kernel gave up on the link, not on the device: it still answers."""
    report = check(broken, "later")
    for address in BROKEN:
        assert report.code("reset-history", f"function:{address}") == "RESET_FAILED"
        assert report.code("device-health", f"function:{address}") == "DEVICE_HEALTHY"
        assert broken.call("vfio.attempt", address=address, then="reset")["errno"] == ""


def await_ledger(guest: Guest, *, count: int) -> list[dict[str, str]]:
    """The agent's rows, as soon as it has looked and there are so many."""
    rows: list[dict[str, str]] = guest.call(
        "reset.ledger", count=count, within_s=LOOK_LIMIT_S, limit_s=LOOK_LIMIT_S + 30
    )
    return rows


def assert_true_ledger(guest: Guest, rows: list[dict[str, str]]) -> None:
    """One row a line of the kernel, about the function below the port that it names."""
    boot = guest.call("host.read", path="/proc/sys/kernel/random/boot_id")
    assert {(row["boot_id"], row["method"], row["outcome"]) for row in rows} == {
        (boot, "bus", "failed")
    }
    lost = losses(guest)
    # A place ends with the path below its root bus: port, function.
    assert sorted((row["place"].partition("/")[2], row["evidence"]) for row in rows) == sorted(
        (f"{port.rpartition(':')[2]}/00.0", match[0])
        for port in BROKEN.values()
        for match in lost[port]
    )


def assert_true_history(guest: Guest, report: Report) -> None:
    """The report tells of every line: which reset, how it ended, how long it took, and when."""
    lost = losses(guest)
    for address, port in BROKEN.items():
        subject, lines = f"function:{address}", lost[port]
        assert report.code("reset-history", subject) == "RESET_FAILED"
        told = report.text("reset-history", subject, "reset ledger")
        assert told == f"failing: {len(lines)} attempts, {len(lines)} failed, last failed"
        assert report.text("reset-history", subject, "kernel log") == lines[-1][0]
        attempts = [
            row["text"]
            for row in report.finding("reset-history", address)["evidence"]
            if row["source"] == "reset attempt"
        ]
        assert attempts == [
            f"bus: failed, the kernel waited {line[3]} ms, {line[1]} s after boot" for line in lines
        ]
    for address in SPARED:
        subject = f"function:{address}"
        assert report.code("reset-history", subject) == "RESET_CLEAN"
        assert report.text("reset-history", subject, "reset ledger") == "no attempt recorded"


def losses(guest: Guest) -> dict[str, list[re.Match[str]]]:
    """What the kernel said of each port whose link did not come back, in its order."""
    found: dict[str, list[re.Match[str]]] = {}
    for line in guest.call("host.kernel_lines"):
        if match := LINK_LINE.fullmatch(line):
            found.setdefault(match[2], []).append(match)
    return found
