"""How VMs' starts went: told only where it was seen from all sides, and once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.snapshots import config_space, function_reading, make_snapshot, nic
from tests.fakes.vms import make_device, make_vm
from vfio_agent.hostd.vm_uses import SETTLED_MS, VmUses
from vfio_agent.journal import Journal
from vfio_contract.durable import ResetAttempted, Stamp
from vfio_contract.host import Host
from vfio_contract.ledger import Outcome
from vfio_contract.model import Holder, KernelLog, LogLine, PciFunction

SERIAL = config_space(serial_number="00-1b-21-ff-ff-5f-12-34")
CARD = nic("0000:01:00.0", config=SERIAL, group=7, driver="vfio-pci")
MATE = nic("0000:01:00.1", group=7, driver="vfio-pci")

WEB = Holder(path="/dev/vfio/7", pid=900, command="qemu-system-x86", started_seconds=10.0, vm="web")
AGAIN = replace(WEB, pid=950, started_seconds=60.0)
LOOK_MS = SETTLED_MS + 1_000

GIVING_UP = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
READY = "vfio-pci 0000:01:00.0: ready 1023ms after FLR"


def log_of(
    *lines: tuple[float, str], first_s: float = 0.0, last_s: float = 1e6, whole: bool = False
) -> KernelLog:
    rows = tuple(LogLine(n, seconds, text) for n, (seconds, text) in enumerate(lines, 1))
    return KernelLog("dmesg", whole, whole, 500, rows, first_seconds=first_s, last_seconds=last_s)


class Scene:
    """Looks at one host, a SETTLED_MS apart, over one journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.boot = "boot-1"
        self.log = log_of(whole=True, last_s=1.0)
        self.journal = Journal.open(path)
        self.uses = VmUses(self.journal)

    def host(
        self, *holders: Holder, functions: tuple[PciFunction, ...] = (CARD,), **changes: Any
    ) -> Host:
        values = {"holders": holders, "kernel_log": self.log, "boot_id": self.boot} | changes
        return Host(make_snapshot(*functions, **values))

    def look(self, *holders: Holder, **changes: Any) -> list[str]:
        """One look; what it added to the reset history, as `method outcome`."""
        self.number += 1
        before = len(self.journal.attempts())
        at = Stamp(self.boot, self.number * LOOK_MS, 1_795_000_000_000 + self.number)
        added = self.uses.tell(self.host(*holders, **changes), at=at)
        rows = self.journal.attempts()[before:]
        assert added == bool(rows)
        return [f"{row.method} {row.outcome}" for row in rows]

    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.path)
        self.uses = VmUses(self.journal)


@contextmanager
def scene_at(path: Path) -> Iterator[Scene]:
    scene = Scene(path)
    try:
        yield scene
    finally:
        scene.journal.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_at(tmp_path / "journal.db") as made:
        yield made


def test_start_stop_and_start_are_a_start_and_a_cycle(scene: Scene) -> None:
    assert scene.look() == []
    assert scene.look(WEB) == []
    assert scene.look(WEB) == ["vm-start success"]
    assert scene.look(WEB) == []
    assert scene.look() == []
    assert scene.look(AGAIN) == []
    assert scene.look(AGAIN) == ["vm-cycle success"]
    start, cycle = scene.journal.attempts()
    assert start.evidence == (
        "VM web (pid 900, started 10.00 s after boot) had it: it answers, and the kernel did not "
        "complain"
    )
    assert (cycle.address, cycle.boot_id, cycle.identity) == (
        CARD.address,
        "boot-1",
        "dsn-00-1b-21-ff-ff-5f-12-34.0",
    )
    told = [row.event for row in scene.journal.spool.after(0, 10)]
    assert [e.address for e in told] == [CARD.address, CARD.address]
    payloads = [e.payload for e in told]
    assert [p.outcome for p in payloads if isinstance(p, ResetAttempted)] == ["success"] * 2


def test_one_vm_after_another_between_two_looks_is_a_cycle(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    scene.look(WEB)
    assert scene.look(AGAIN) == []
    assert scene.look(AGAIN) == ["vm-cycle success"]


def test_what_ended_before_it_settled_is_unobserved(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    assert scene.look() == ["vm-start unobserved"]
    scene.look(AGAIN)
    assert scene.look() == ["vm-cycle unobserved"]


def test_a_second_look_that_is_too_soon_tells_nothing(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    host = scene.host(WEB)
    soon = Stamp("boot-1", scene.number * LOOK_MS + SETTLED_MS - 1, 0)
    assert not scene.uses.tell(host, at=soon)
    assert scene.look(WEB) == ["vm-start success"]


def test_a_start_says_when_it_can_be_told(scene: Scene) -> None:
    def left(after_ms: int) -> float | None:
        at = Stamp(scene.boot, scene.number * LOOK_MS + after_ms, 0)
        return scene.uses.settles_in_s(at=at)

    scene.look()
    assert left(0) is None
    scene.look(WEB)
    assert (left(0), left(SETTLED_MS - 1)) == (SETTLED_MS / 1000, 0.001)
    assert left(SETTLED_MS) is None, "what cannot be told then is not asked for again and again"
    scene.restart()
    assert left(4_000) == (SETTLED_MS - 4_000) / 1000
    assert scene.look(WEB) == ["vm-start success"]
    assert left(0) is None


def test_what_the_kernel_tells_is_not_told_twice(scene: Scene) -> None:
    scene.look()
    scene.log = log_of((5.0, GIVING_UP), whole=True, last_s=6.0)
    assert scene.look(WEB) == []
    assert scene.look(WEB) == []
    assert scene.look() == []
    scene.look(AGAIN)
    assert scene.look(AGAIN) == ["vm-cycle success"], "the line is of before"


def test_lines_that_nobody_read_are_no_success(scene: Scene) -> None:
    scene.log = log_of(last_s=100.0)
    scene.look()
    scene.log = log_of(first_s=101.0, last_s=200.0)
    scene.look(WEB)
    assert scene.look(WEB) == ["vm-start unobserved"]
    assert "overwritten" in scene.journal.attempts()[0].evidence


def test_a_log_that_rolls_over_without_a_gap_is_enough(scene: Scene) -> None:
    for number in range(3):
        scene.log = log_of(first_s=100.0 * number, last_s=100.0 * (number + 1), whole=number == 0)
        told = scene.look(*[WEB] * (number > 0))
    assert told == ["vm-start success"]


@pytest.mark.parametrize(
    "changes",
    [{"holders": None}, {"kernel_log": None}, {"boot_id": None}, {"functions": None}],
    ids=["holders", "log", "boot", "functions"],
)
def test_a_look_that_does_not_see_changes_nothing(scene: Scene, changes: dict[str, Any]) -> None:
    scene.look()
    scene.look(WEB)
    blind = Host(make_snapshot(CARD, **({"holders": ()} | changes)))
    assert not scene.uses.tell(blind, at=Stamp("boot-1", 10**9, 0))
    assert scene.look(WEB) == ["vm-start success"]


def test_a_function_that_is_asleep_is_waited_for(scene: Scene) -> None:
    asleep = (function_reading(CARD, power_state="D3hot", runtime_status="suspended"),)
    unread = (function_reading(CARD, power_state=None),)
    scene.look()
    scene.look(WEB)
    for number in range(2):
        values = make_snapshot(CARD).readings
        reading = (asleep, unread)[number]
        host = scene.host(WEB)
        readings = replace(host.readings, functions=reading)
        seen = Host(replace(host.snapshot, readings=readings))
        assert values.functions != reading
        assert not scene.uses.tell(seen, at=Stamp("boot-1", 10 * LOOK_MS + number, 0))
    assert scene.look(WEB) == ["vm-start success"]


def test_a_function_that_answers_nothing_is_wedged(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    assert CARD.config is not None
    dead = replace(CARD, config=replace(CARD.config, dead=True))
    assert scene.look(WEB, functions=(dead,)) == ["vm-start wedged"]


def test_a_function_that_a_running_vm_is_given_again_is_another_use(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    assert scene.look(WEB) == ["vm-start success"]
    assert scene.look() == []
    assert CARD.config is not None
    dead = (replace(CARD, config=replace(CARD.config, dead=True)),)
    scene.look(WEB, functions=dead)
    scene.restart()
    assert scene.look(WEB, functions=dead) == ["vm-cycle wedged"]
    assert scene.look(WEB, functions=dead) == []


def test_another_card_in_the_place_had_no_vm_before(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    scene.look(WEB)
    scene.look()
    other = (replace(CARD, config=config_space()),)
    scene.look(AGAIN, functions=other)
    assert scene.look(AGAIN, functions=other) == ["vm-start success"]


def test_how_long_the_kernel_waited_is_kept(scene: Scene) -> None:
    scene.look()
    scene.log = log_of((8.0, READY), (8.5, READY.replace("01:00.0", "02:00.0")), last_s=9.0)
    scene.look(WEB)
    scene.look(WEB)
    assert [row.duration_ms for row in scene.journal.attempts()] == [1023]


def test_who_is_no_vm_proves_nothing(scene: Scene) -> None:
    scene.look()
    for holder in (replace(WEB, command="testpmd", vm=""), replace(WEB, started_seconds=None)):
        assert [scene.look(holder) for _ in range(3)] == [[], [], []]


def test_a_qemu_without_a_name_is_a_vm(scene: Scene) -> None:
    scene.look()
    assert [scene.look(replace(WEB, vm="")) for _ in range(2)] == [[], ["vm-start success"]]


# --- which of a group's functions ----------------------------------------------------------------


def test_of_a_group_the_vm_has_what_its_configuration_names(scene: Scene) -> None:
    both = (CARD, MATE)
    named = {"vms": (make_vm(make_device("0000:01:00.1"), name="web"),)}
    scene.look(functions=both, **named)
    scene.look(WEB, functions=both, **named)
    assert scene.look(WEB, functions=both, **named) == ["vm-start success"]
    assert [row.address for row in scene.journal.attempts()] == [MATE.address]


def test_of_a_group_without_a_configuration_nobody_knows(scene: Scene) -> None:
    both = (CARD, MATE)
    scene.look(functions=both)
    scene.look(WEB, functions=both)
    assert scene.look(WEB, functions=both) == ["vm-start unobserved"] * 2
    mapped = {"vms": (make_vm(make_device(mapping="gpu"), name="web"),)}
    scene.look(functions=both, **mapped)
    scene.look(AGAIN, functions=both, **mapped)
    assert scene.look(AGAIN, functions=both, **mapped) == ["vm-cycle unobserved"] * 2


def test_a_device_node_is_one_function(scene: Scene) -> None:
    both = (CARD, MATE)
    readings = (function_reading(CARD), function_reading(MATE, vfio_nodes=("vfio3",)))
    node = replace(WEB, path="/dev/vfio/devices/vfio3")

    def look(*holders: Holder) -> bool:
        scene.number += 1
        host = scene.host(*holders, functions=both)
        seen = replace(host.snapshot, readings=replace(host.readings, functions=readings))
        return scene.uses.tell(Host(seen), at=Stamp("boot-1", scene.number * LOOK_MS, 0))

    assert [look(), look(node), look(node)] == [False, False, True]
    assert [row.address for row in scene.journal.attempts()] == [MATE.address]


# --- over the ends of hostd and of boots ---------------------------------------------------------


def test_a_start_and_a_stop_while_hostd_was_away(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    scene.look(WEB)
    scene.restart()
    assert scene.look(AGAIN) == []
    scene.restart()
    assert scene.look(AGAIN) == ["vm-cycle success"]
    scene.restart()
    assert scene.look(AGAIN) == []


def test_what_ran_before_anybody_looked_has_started_if_the_log_is_whole(tmp_path: Path) -> None:
    for name, log, outcome in (
        ("whole", log_of(whole=True), "success"),
        ("cut", log_of(first_s=50.0), "unobserved"),
    ):
        with scene_at(tmp_path / f"{name}.db") as scene:
            scene.log = log
            scene.look(WEB)
            assert scene.look(WEB) == [f"vm-start {outcome}"]


def test_a_boot_begins_anew(scene: Scene) -> None:
    scene.look()
    scene.look(WEB)
    scene.boot = "boot-2"
    assert scene.look() == ["vm-start unobserved"]
    assert [row.boot_id for row in scene.journal.attempts()] == ["boot-1"]
    (event,) = [row.event for row in scene.journal.spool.after(0, 10)]
    assert isinstance(event.payload, ResetAttempted)
    assert (event.at.boot_id, event.payload.boot_id) == ("boot-2", "boot-1")
    scene.look(WEB)
    assert scene.look(WEB) == ["vm-start success"], "no cycle: the boot is another"


def test_a_kill_at_any_commit_counts_each_start_once(tmp_path: Path) -> None:
    """The same looks by a process that is killed before a commit, and then by a second one."""
    story = [(), (WEB,), (WEB,), (), (AGAIN,), (AGAIN,), ()]
    for number in range(1, 20):
        path = tmp_path / f"at-{number}.db"
        with closing(Journal.open(path)):
            pass
        child = os.fork()
        if child == 0:
            scene = Scene(path)
            left = number

            def watch(statement: str) -> None:
                nonlocal left
                left -= statement == "COMMIT"
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            scene.journal._database._db.set_trace_callback(watch)
            for holders in story:
                scene.look(*holders)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with scene_at(path) as scene:
            for holders in story:
                scene.look(*holders)
            rows = [
                row for row in scene.journal.attempts() if row.outcome is not Outcome.UNOBSERVED
            ]
            keys = [row.key for row in scene.journal.attempts()]
            told = [row.event.payload for row in scene.journal.spool.after(0, 100)]
        assert len(set(keys)) == len(keys) == len(told) == 2
        assert [row.outcome for row in rows].count(Outcome.SUCCESS) >= 1
        if not killed:
            return
    pytest.fail("it was killed before each commit and never came to an end")
