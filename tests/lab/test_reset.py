"""Reset: what is listed, what works, what takes neighbours along, and what history remembers.

The wide machine's resets all work or are refused; the other one's slots lose their link at every
bus reset, for ever. Durations are the kernel's business: only outcomes are asserted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Observation, Row, check, observe
from tests.lab.prediction import Report

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NIC, GPU, AUDIO = "0000:01:00.0", "0000:0b:00.0", "0000:0b:00.1"
# Behind the PCI bridge: the NIC's list says `bus`, made before its neighbour was seen.
OLD_NIC, NEIGHBOUR, BRIDGE = "0000:09:01.0", "0000:09:02.0", "0000:08:00.0"
ON_ROOT_BUS = "0000:00:08.0"
DEVICES = "/sys/bus/pci/devices"
LINK_LOST = re.compile(r"pcieport (\S+): Data Link Layer Link Active not set")
ATTEMPT = re.compile(r"bus: failed, the kernel waited 1000 ms, \d+\.\d{6} s after boot")

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
    endpoints = [
        a for a in wide.call("host.functions") if not wide.call("reset.is_bridge", address=a)
    ]
    return {a: wide.call("reset.each", address=a) for a in endpoints}


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


def test_looking_at_a_sleeping_device_does_not_wake_it(wide: Guest) -> None:
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
    finally:
        wide.call("host.write", path=off, text="default")


def domain(report: Report, address: str) -> list[str]:
    """The reset domain that the report gives, [] where it gives none."""
    text = report.text("reset-capability", f"function:{address}", "reset domain")
    return text.rpartition(": ")[2].split()


# --- slots whose link does not come back ---------------------------------------------------------

BROKEN = {"0000:01:00.0": "0000:00:02.0", "0000:02:00.0": "0000:00:02.1"}
SPARED = ("0000:03:00.0", "0000:03:00.1")


@pytest.fixture(scope="module")
def broken(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.BROKEN_BUS_RESET) as guest:
        yield guest


def test_history_counts_what_the_kernel_reported(broken: Guest) -> None:
    first = check(broken, "before")
    assert set(first.codes("reset-history").values()) == {"RESET_UNOBSERVED"}

    rows = {a: broken.call("reset.each", address=a) for a in BROKEN}
    lost = losses(broken)

    # The kernel's own record: the method before `bus` worked, `bus` did not and says so once.
    for address, port in BROKEN.items():
        outcomes = {row["method"]: row["errno"] for row in rows[address]}
        assert outcomes.pop("bus") == "ENOTTY"
        assert set(outcomes.values()) == {""}
        assert lost[port] == 1
    assert_true_history(broken, check(broken, "once"))

    # A second failure, this time through VFIO, is a second attempt.
    for address in BROKEN:
        assert broken.call("vfio.attempt", address=address, then="hot-reset")["errno"] == "ENOTTY"
    assert set(losses(broken).values()) == {2}
    assert_true_history(broken, check(broken, "twice"))


def test_a_failed_reset_is_told_apart_from_a_wedged_device(broken: Guest) -> None:
    """The kernel gave up on the link, not on the device: it still answers."""
    report = check(broken, "later")
    for address in BROKEN:
        assert report.code("reset-history", f"function:{address}") == "RESET_FAILED"
        assert report.code("device-health", f"function:{address}") == "DEVICE_HEALTHY"
        assert broken.call("vfio.attempt", address=address, then="reset")["errno"] == ""


def assert_true_history(guest: Guest, report: Report) -> None:
    lost = losses(guest)
    last = {m[1]: line for line in guest.call("host.kernel_log") if (m := LINK_LOST.search(line))}
    for address, port in BROKEN.items():
        subject = f"function:{address}"
        assert report.code("reset-history", subject) == "RESET_FAILED"
        count = lost[port]
        told = report.text("reset-history", subject, "reset ledger")
        assert told == f"failing: {count} attempts, {count} failed, last failed"
        assert report.text("reset-history", subject, "kernel log").endswith(last[port])
        # What the line proves: which reset, how it ended, how long the kernel waited, and when.
        attempts = [
            row["text"]
            for row in report.finding("reset-history", address)["evidence"]
            if row["source"] == "reset attempt"
        ]
        assert len(attempts) == count
        for attempt in attempts:
            assert ATTEMPT.fullmatch(attempt), attempt
    for address in SPARED:
        assert report.code("reset-history", f"function:{address}") == "RESET_UNOBSERVED"
        told = report.text("reset-history", f"function:{address}", "reset ledger")
        assert told.startswith("there is none; only the kernel log of this boot")


def losses(guest: Guest) -> Counter[str]:
    """How often the kernel said of each port that its link did not come back."""
    found = (LINK_LOST.search(line) for line in guest.call("host.kernel_log"))
    return Counter(match[1] for match in found if match)
