"""SR-IOV: virtual functions made, held, taken away while held, and written into the configuration.

The physical function stays with its host driver. While the kernel waits for a VF's holder it lets
nobody read the PF's SR-IOV files: `vfioctl check` must end all the same, and not guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Observation, Row, check, observe, start_nested, try_check
from tests.lab.prediction import Report

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

PF = "0000:03:00.0"
BLOCKED = ("Relaying device request to user", "No device request channel registered, blocked")


@dataclass(frozen=True, slots=True)
class Story:
    """The reports in the order of what happened to the VFs."""

    before: Report
    made: Observation
    nested: tuple[Row, ...]
    waiting: Report
    missing: list[dict[str, str]]
    ended: bool
    waited: bool
    log: tuple[str, ...]
    holder_pid: int
    holder_lived: bool
    removed: Report
    gone: bool
    wanted: Report
    lasting: Report


@pytest.fixture(scope="module")
def guest(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.SRIOV) as guest:
        yield guest


@pytest.fixture(scope="module")
def vfs(guest: Guest) -> list[str]:
    """Two VFs are made in the course of the story; their numbers are the hardware's."""
    return ["0000:03:10.0", "0000:03:10.2"]


@pytest.fixture(scope="module")
def story(guest: Guest, vfs: list[str], table: list[Row]) -> Story:
    before = check(guest, "before")

    assert guest.call("sriov.make", address=PF, count=2) == vfs
    assert guest.call("host.bind", address=vfs[0]) == "vfio-pci"
    made = observe(guest, "made")
    nested = tuple(start_nested(guest, made, [a])[0] for a in (*vfs, PF))
    table.extend((*made.rows, *nested))

    holder = guest.call("nested.start", name="holder", addresses=[vfs[0]], slot=True)
    assert holder["started"], holder["text"]
    holder_pid = guest.call("nested.pid", name="holder")
    since = guest.call("host.kernel_time")
    guest.call("sriov.begin_removal", address=PF)
    log = guest.call("host.await_log", texts=list(BLOCKED), since=since)
    # One that hangs is told from a slow one by what it has written.
    waiting, status = try_check(guest, "waiting")
    missing = json.loads((guest.out / "waiting.json").read_text())["missing"]
    waited = guest.call("sriov.is_waiting", address=PF)
    holder_lived = guest.call("nested.status", name="holder") == "prelaunch"
    guest.call("nested.stop", name="holder")
    assert guest.call("sriov.end_removal", address=PF) == ""
    gone = guest.call("sriov.virtual_functions", address=PF) == []
    removed = check(guest, "removed")

    guest.call("sriov.write_rule", address=PF, count=2)
    wanted = check(guest, "wanted")
    assert guest.call("sriov.make", address=PF, count=2) == vfs
    lasting = check(guest, "lasting")
    return Story(
        before,
        made,
        nested,
        waiting,
        missing,
        status is not None,
        waited,
        tuple(log),
        holder_pid,
        holder_lived,
        removed,
        gone,
        wanted,
        lasting,
    )


def test_without_vfs_nobody_uses_sriov(story: Story) -> None:
    assert story.before.code("sriov", f"function:{PF}") == "SRIOV_UNUSED"


def test_vfs_answer_as_predicted(story: Story, vfs: list[str]) -> None:
    assert story.made.disagreements == []
    # An FLR of its own: the report says nothing of the bus. A VF has none that could be reset.
    assert story.made.unclaimed == {("0000:02:00.0", "hot reset"), (vfs[0], "hot reset")}
    assert story.made.answer(vfs[0], "hot reset") == "EINVAL"
    assert [str(row) for row in story.nested if not row.agrees] == []
    assert [story.made.answer(a) for a in (*vfs, PF)] == [
        "opened",
        "group ENOENT",
        "group ENOENT",
    ]


def test_vfs_made_by_hand_are_not_there_to_stay(story: Story, vfs: list[str]) -> None:
    report = story.made.report
    assert report.code("sriov", f"function:{PF}") == "SRIOV_NOT_PERSISTENT"
    assert report.code("driver-binding", f"function:{vfs[0]}") == "BINDING_NOT_PERSISTENT"
    assert report.code("driver-binding", f"function:{vfs[1]}") == "NOT_BOUND"
    for address in vfs:
        assert report.code("group-isolation", report.group_of(address)) == "GROUP_CLEAN"
        assert report.code("reset-capability", f"function:{address}") == "RESET_FUNCTION"


def test_a_vf_is_not_taken_from_its_holder(story: Story) -> None:
    assert story.log
    assert story.waited
    assert story.holder_lived


def test_a_check_ends_while_the_kernel_waits(story: Story) -> None:
    assert story.ended, "the report was written and the process did not end"


def test_a_check_does_not_guess_while_the_kernel_waits(story: Story) -> None:
    """`sriov_numvfs` cannot be read, and what cannot be read is asked for."""
    assert story.waiting.code("sriov", f"function:{PF}") == "SRIOV_UNKNOWN"
    text = story.waiting.text("sriov", f"function:{PF}", "/sriov_numvfs")
    assert re.fullmatch(r"\? of \d+ VFs enabled \(blocked for .* s\)", text)
    wanted = f"/sys/bus/pci/devices/{PF}/sriov_numvfs"
    assert {"evidence": wanted, "command": f"cat {wanted}"} in story.missing


def test_a_vf_that_is_being_removed_is_held_and_not_free(story: Story, vfs: list[str]) -> None:
    subject = f"function:{vfs[0]}"
    assert story.waiting.code("driver-binding", subject) == "HELD_UNBOUND"
    number = story.waiting.group_of(vfs[0]).removeprefix("group:")
    held = story.waiting.text("driver-binding", subject, f"/dev/vfio/{number}")
    assert f"(pid {story.holder_pid})" in held
    assert story.waiting.code("device-holders", subject) == "HOLDER_STALE"
    stale = story.waiting.text("device-holders", subject, "stale")
    assert re.search(rf"its removal waits for pid {story.holder_pid}\b", stale)
    assert story.waiting.codes("vm-functions") == {f"vm:pid-{story.holder_pid}": "VM_HELD_UNBOUND"}


def test_removed_vfs_are_gone_from_the_report(story: Story, vfs: list[str]) -> None:
    assert story.gone
    assert story.removed.code("sriov", f"function:{PF}") == "SRIOV_UNUSED"
    assert set(vfs).isdisjoint(story.removed.functions())
    assert set(vfs) <= set(story.made.report.functions())


def test_a_rule_without_vfs_and_vfs_with_a_rule(story: Story) -> None:
    assert story.wanted.code("sriov", f"function:{PF}") == "SRIOV_MISSING"
    assert story.lasting.code("sriov", f"function:{PF}") == "SRIOV_READY"
