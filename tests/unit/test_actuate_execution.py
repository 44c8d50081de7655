"""Carrying plans out: real processes, killed at every moment, on a tree with a kernel behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.snapshots import make_host, nic
from tests.fakes.sysfs_tree import SysfsTree
from tests.unit.actuate_runner import BOOT, FileDiary, hands_on, run, save
from vfio_agent.actuate.execution import WHOLE, carry_out, take_back
from vfio_agent.actuate.hands import Hands, Waiting
from vfio_agent.actuate.persistence import MODPROBE_FILE, Written, driverctl_file
from vfio_agent.actuate.plan import plan_bind, plan_unbind
from vfio_agent.actuate.records import Entry, Operation, State
from vfio_agent.actuate.steps import Kind, Plan, Step, Verb
from vfio_contract.address import Address

CHECKOUT = Path(__file__).resolve().parents[2]
NIC = Address("0000:01:00.0")
DRIVERCTL = Written(True, ())
SAVED = Written(True, ((driverctl_file(NIC), "vfio-pci\n"),))

Seen = tuple[str, str, str | None]
"""Driver, override, and the text of driverctl's file."""

ON_HOST: Seen = ("igb", "", None)
ON_VFIO: Seen = ("vfio-pci", "vfio-pci", "vfio-pci\n")


def plan_for(verb: Verb) -> Plan:
    if verb is Verb.BIND:
        host = make_host(nic(NIC, group=4, driver="igb"))
        return plan_bind(host, host.units[0], DRIVERCTL)
    host = make_host(nic(NIC, group=4, driver_override="vfio-pci"), intents=())
    return plan_unbind(host, host.units[0], SAVED)


def make_tree(top: Path, verb: Verb) -> SysfsTree:
    """The host that `plan_for` was made for."""
    tree = SysfsTree(top)
    driver, override, saved = ON_HOST if verb is Verb.BIND else ON_VFIO
    tree.function(NIC, driver=driver, files={"driver_override": f"{override or '(null)'}\n"})
    for name in ("igb", "vfio-pci"):
        tree.mkdir(f"/sys/bus/pci/drivers/{name}")
    tree.write("/fits", f"{NIC} igb\n")
    if saved is not None:
        tree.write(driverctl_file(NIC), saved)
    save(top, Operation("command-1", BOOT, plan_for(verb)))
    return tree


def see(top: Path) -> Seen:
    device = top / "sys/bus/pci/devices" / NIC
    link = device / "driver"
    driver = os.path.basename(os.readlink(link)) if link.is_symlink() else ""
    override = (device / "driver_override").read_text().strip()
    saved = top / driverctl_file(NIC).lstrip("/")
    text = saved.read_text() if saved.exists() else None
    return driver, "" if override == "(null)" else override, text


GOALS = {Verb.BIND: ON_VFIO, Verb.UNBIND: ON_HOST}
VERBS = pytest.mark.parametrize("verb", list(GOALS))


def spawn(top: Path, when: str = "never", number: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.unit.actuate_runner", str(top), str(top), when, str(number)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


@VERBS
def test_a_plan_is_done_once_and_the_second_time_finds_it_done(tmp_path: Path, verb: Verb) -> None:
    make_tree(tmp_path, verb)
    first = run(tmp_path, FileDiary(tmp_path / "diary"))
    calls = (tmp_path / "calls").read_text()
    second = run(tmp_path, FileDiary(tmp_path / "diary"))

    assert first.state is second.state is State.DONE
    assert see(tmp_path) == GOALS[verb]
    moving = [e for e in second.entries if e.state is not State.ALREADY]
    # what cannot be looked at is done again; neither takes anything
    kinds = {plan_for(verb).steps[e.step].kind for e in moving}
    assert kinds <= {Kind.MODULE, Kind.FORGET}
    assert "unbind" not in (tmp_path / "calls").read_text().removeprefix(calls)


@VERBS
def test_a_plan_is_taken_back_and_that_twice(tmp_path: Path, verb: Verb) -> None:
    make_tree(tmp_path, verb)
    start = see(tmp_path)
    operation = Operation("command-1", BOOT, plan_for(verb))
    run(tmp_path, FileDiary(tmp_path / "diary"))

    for _ in range(2):
        done = take_back(operation, hands_on(tmp_path), FileDiary(tmp_path / "diary"))
        assert done.state is State.UNDONE
        assert see(tmp_path) == start


def points(verb: Verb, folder: Path) -> tuple[int, int]:
    """How many lines the diary gets and how many writes the kernel gets in a whole run."""
    make_tree(folder, verb)
    run(folder, FileDiary(folder / "diary"))
    lines = (folder / "diary").read_text().splitlines()
    return len(lines), len((folder / "calls").read_text().splitlines())


@VERBS
def test_killed_at_any_moment_a_second_run_finishes_or_undoes(tmp_path: Path, verb: Verb) -> None:
    lines, writes = points(verb, tmp_path / "whole")
    # before a line of the diary is after the effect that it tells of
    moments = [("diary", "before", n) for n in range(1, lines + 1)]
    moments += [("kernel", "before", n) for n in range(1, writes + 1)]
    seen = set()

    for who, when, number in moments:
        top = tmp_path / f"{who}-{when}-{number}"
        make_tree(top, verb)
        start = see(top)
        if who == "kernel":
            (top / "script").write_text(f"{when} {number}")
        killed = spawn(top, *((when, number) if who == "diary" else ()))
        assert killed.returncode == -signal.SIGKILL, (who, when, number, killed.stderr)
        seen.add(see(top))
        (top / "script").unlink(missing_ok=True)

        finished = run(top, FileDiary(top / "diary"))
        assert (finished.state, see(top)) == (State.DONE, GOALS[verb]), (who, when, number)
        operation = Operation("command-1", BOOT, plan_for(verb))
        back = take_back(operation, hands_on(top), FileDiary(top / "diary"))
        assert (back.state, see(top)) == (State.UNDONE, start), (who, when, number)

    # every state in between was met, so that the kills were where they were meant to be
    assert len(seen) >= 4


@VERBS
def test_killed_on_the_way_back_a_second_run_goes_on_that_way(tmp_path: Path, verb: Verb) -> None:
    whole = tmp_path / "whole"
    make_tree(whole, verb)
    start = see(whole)
    operation = Operation("command-1", BOOT, plan_for(verb))
    run(whole, FileDiary(whole / "diary"))
    forward = len((whole / "diary").read_text().splitlines())
    take_back(operation, hands_on(whole), FileDiary(whole / "diary"))
    lines = (whole / "diary").read_text().splitlines()

    for kept in range(forward + 1, len(lines)):
        top = tmp_path / f"kept-{kept}"
        make_tree(top, verb)
        run(top, FileDiary(top / "other"))
        (top / "diary").write_text("".join(line + "\n" for line in lines[:kept]))

        back = run(top, FileDiary(top / "diary"))
        assert (back.state, see(top)) == (State.UNDONE, start)


def test_the_operation_and_each_intent_are_on_disk_before_any_effect(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.BIND)
    for number in (1, 2):
        spawn(tmp_path, "before", number)
        assert see(tmp_path) == ON_HOST
        assert not (tmp_path / "calls").exists()
        assert len(FileDiary(tmp_path / "diary").entries()) == 0
        (tmp_path / "diary").unlink(missing_ok=True)


def test_a_diary_that_cannot_write_keeps_the_hands_still(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.BIND)
    (tmp_path / "diary").mkdir()
    operation = Operation("command-1", BOOT, plan_for(Verb.BIND))

    with pytest.raises(IsADirectoryError):
        carry_out(operation, hands_on(tmp_path), FileDiary(tmp_path / "diary"), boot_id=BOOT)
    assert see(tmp_path) == ON_HOST


def test_what_vfio_pci_had_by_its_ids_comes_back_by_an_override(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.UNBIND)
    tree.write(f"/sys/bus/pci/devices/{NIC}/driver_override", "(null)\n")
    host = make_host(nic(NIC, group=4))
    plan = plan_unbind(host, host.units[0], Written(False, ()))
    operation = Operation("command-1", BOOT, plan)
    hands, diary = hands_on(tmp_path), FileDiary(tmp_path / "diary")

    free = carry_out(operation, hands, diary, boot_id=BOOT)
    assert (free.state, see(tmp_path)[:2]) == (State.DONE, ("igb", ""))
    back = take_back(operation, hands, diary)
    assert (back.state, see(tmp_path)[:2]) == (State.UNDONE, ("vfio-pci", "vfio-pci"))


def test_a_step_that_fails_takes_back_those_before_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    tree.at("/sys/bus/pci/drivers/vfio-pci").rmdir()
    (tmp_path / "etc").mkdir()

    outcome = run(tmp_path, FileDiary(tmp_path / "diary"))

    assert outcome.state is State.UNDONE
    failed = next(e for e in outcome.entries if e.state is State.FAILED)
    assert "vfio-pci/bind: No such device" in failed.detail
    assert see(tmp_path) == ON_HOST


def test_what_somebody_else_changed_since_stops_everything(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    tree.bind(NIC, "e1000e")

    outcome = run(tmp_path, FileDiary(tmp_path / "diary"))

    assert [e.state for e in outcome.entries if not e.undoing] == [State.CHANGED]
    assert outcome.state is State.CHANGED
    assert see(tmp_path) == ("e1000e", "", None)
    assert not (tmp_path / "calls").exists()


def test_a_file_edited_meanwhile_is_kept_and_the_binding_taken_back(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    tree.write(driverctl_file(NIC), "uio_pci_generic\n")

    outcome = run(tmp_path, FileDiary(tmp_path / "diary"))

    assert outcome.state is State.CHANGED
    assert see(tmp_path) == ("igb", "", "uio_pci_generic\n")


def test_after_a_reboot_only_the_files_are_taken_back(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    run(tmp_path, FileDiary(tmp_path / "diary"))
    # what a boot makes of it
    tree.bind(NIC, "vfio-pci")
    (tmp_path / "calls").unlink()

    outcome = run(tmp_path, FileDiary(tmp_path / "diary"), boot_id="boot-2")

    assert outcome.state is State.UNDONE
    assert see(tmp_path)[2] is None
    assert not (tmp_path / "calls").exists()


def test_on_the_way_back_too_a_reboot_leaves_only_the_files(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    diary = FileDiary(tmp_path / "diary")
    run(tmp_path, diary)
    diary.note(Entry("command-1", WHOLE, State.INTENDED, "asked for", undoing=True))
    tree.bind(NIC, "vfio-pci")  # by the boot, and perhaps for a VM
    (tmp_path / "calls").unlink()

    outcome = run(tmp_path, diary, boot_id="boot-2")

    assert outcome.state is State.UNDONE
    assert see(tmp_path)[2] is None
    assert not (tmp_path / "calls").exists()


def test_what_is_written_can_be_read_whatever_the_umask(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.BIND)
    before = os.umask(0o077)
    try:
        run(tmp_path, FileDiary(tmp_path / "diary"))
    finally:
        os.umask(before)
    file = tmp_path / driverctl_file(NIC).lstrip("/")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)


def test_an_unbind_that_blocks_is_told_and_neither_done_nor_undone(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.UNBIND)
    (tmp_path / "script").write_text(f"hang {NIC}")
    diary = FileDiary(tmp_path / "diary")
    operation = Operation("command-1", BOOT, plan_for(Verb.UNBIND))
    hands = hands_on(tmp_path, deadline_s=0.5)

    outcome = carry_out(operation, hands, diary, boot_id=BOOT)
    again = carry_out(operation, hands, diary, boot_id=BOOT)

    assert outcome.state is again.state is State.WAITING
    (pid,) = hands.waiting()
    assert f"pid {pid}" in outcome.entries[-1].detail
    assert see(tmp_path)[0] == "vfio-pci"
    # the holder lets go: what waited is gone, and the second run goes on
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / "script").unlink()
    assert hands.waiting() == []
    finished = carry_out(operation, hands_on(tmp_path), diary, boot_id=BOOT)
    assert (finished.state, see(tmp_path)) == (State.DONE, ON_HOST)


def test_half_a_file_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.BIND)
    target = tmp_path / driverctl_file(NIC).lstrip("/")
    target.parent.mkdir(parents=True)
    leftover = target.with_name(f".{target.name}.vfioctl-new")
    leftover.write_text("vfi")

    assert run(tmp_path, FileDiary(tmp_path / "diary")).state is State.DONE
    assert see(tmp_path) == ON_VFIO
    assert not leftover.exists()
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/modprobe.d/vfio.conf", "/etc/../etc/shadow"])
def test_no_file_but_ours_is_ever_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a file of ours"):
        Hands(tmp_path).apply(Step(Kind.FILE, path, None, "text", ""))
    assert list(tmp_path.iterdir()) == []


def test_no_subject_but_an_address_reaches_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an address"):
        Hands(tmp_path).apply(Step(Kind.UNBIND, "../../x", "a", "", ""))


def test_a_link_in_place_of_our_file_stops_it(tmp_path: Path) -> None:
    place = tmp_path / MODPROBE_FILE.lstrip("/")
    place.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("theirs")
    place.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="no regular file"):
        Hands(tmp_path).observe(Step(Kind.FILE, MODPROBE_FILE, None, "ours", ""))
    assert (tmp_path / "elsewhere").read_text() == "theirs"


def test_the_real_writer_tells_the_kernels_errno(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Verb.BIND)
    step = plan_for(Verb.BIND).steps[1]
    hands = Hands(tmp_path)

    hands.apply(step)
    assert hands.observe(step) == "vfio-pci"
    tree.remove(f"/sys/bus/pci/devices/{NIC}/driver_override")
    tree.mkdir(f"/sys/bus/pci/devices/{NIC}/driver_override")
    with pytest.raises(IsADirectoryError):
        hands.apply(step)


def test_a_function_that_is_gone_fails_its_step(tmp_path: Path) -> None:
    make_tree(tmp_path, Verb.BIND)
    (tmp_path / "sys/bus/pci/devices" / NIC).unlink()

    outcome = run(tmp_path, FileDiary(tmp_path / "diary"))

    assert outcome.state is State.FAILED
    assert "No such file" in outcome.entries[0].detail


def test_waiting_is_not_an_oserror() -> None:
    """So that no handler of the kernel's answers takes it for one."""
    assert not issubclass(Waiting, OSError)
    assert replace(plan_for(Verb.BIND).steps[0], old="x").thing.endswith("/driver")
