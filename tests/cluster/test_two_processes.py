"""hostd and the network process by themselves: what each does while the other is away.

Neither makes up what the other did not say, and neither loses what it was told.
"""

from __future__ import annotations

import pwd
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.agent_side import House, make_house
from tests.cluster.two_processes import ACCOUNT, IS_ROOT, Halves, halves
from tests.fakes.recording_coordinator import DEADLINE_S, RecordingCoordinator, Stream
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.fence import Fence
from vfio_agent.hostd.client import AWAY as AWAY_STATUS
from vfio_agent.journal import Journal
from vfio_contract.durable import JournalStatus
from vfioctl.v1.session_pb2 import EventsHeld, SessionResponse

SOON_MS = 1_000
"""The shortest interval that an agent accepts."""

GIVING_UP = "[  149.417712] vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up\n"

AWAY = "no hostd, what it saw last grows old: "


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


@pytest.fixture
def both(house: House, tmp_path: Path, coordinator: RecordingCoordinator) -> Iterator[Halves]:
    tree = SysfsTree(tmp_path / "root")
    tree.host(boot_id="boot-1")
    tree.iommu()
    tree.bridge("0000:00:01.0", buses=(1, 1), group=1)
    tree.function("0000:01:00.0", parent="0000:00:01.0", driver="vfio-pci", group=2)
    tree.write("/dmesg", "[    0.000000] Linux version 6.1.0-56-amd64 (builder@host) (gcc)\n")
    with halves(house.node, tmp_path / "root", coordinator.endpoint) as made:
        yield made


def in_session(coordinator: RecordingCoordinator, *, epoch: int = 1, often: bool = True) -> Stream:
    """A session as far as its first observation; with heartbeats and, where `often`, looks."""
    stream = coordinator.next_stream()
    stream.hear("hello")
    changes: dict[str, Any] = {"observation_interval_ms": SOON_MS} if often else {}
    stream.welcome(epoch=epoch, heartbeat_interval_ms=100, **changes)
    stream.hear("inventory")
    stream.hear("observation")
    return stream


def hear_both(stream: Stream) -> tuple[int, JournalStatus]:
    """The age in ms of the next observation, and the next state of the journal."""
    found: dict[str, Any] = {}
    while len(found) < 2:
        kind = "journal" if "observation" in found else "observation"
        body = stream.hear("observation", "journal") if not found else stream.hear(kind)
        found["journal" if body.DESCRIPTOR.name.startswith("Journal") else "observation"] = body
    journal = JournalStatus(found["journal"].code, found["journal"].text)
    return int(found["observation"].age_ms), journal


def test_without_hostd_the_session_goes_on_and_its_evidence_ages(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    hostd, network = both.hostd(), both.network()
    first = coordinator.next_stream()
    state_id = first.hear("hello").agent_state_id
    first.welcome(heartbeat_interval_ms=100)
    first.hear("inventory")
    young_ms = int(first.hear("observation").age_ms)
    hostd.end(signal.SIGKILL)
    network.until(AWAY + "hostd closed the connection")
    told = first.hear("journal")
    assert JournalStatus(told.code, told.text) == AWAY_STATUS
    first.hear("heartbeat", beats=True)
    assert not first.ended.is_set()
    # what a new session is told is the old look, older
    first.end()
    second = coordinator.next_stream()
    assert second.hear("hello").agent_state_id == state_id
    second.welcome(held=True, heartbeat_interval_ms=100)
    old_ms, journal = hear_both(second)
    assert old_ms > young_ms
    assert journal == AWAY_STATUS
    second.hear("heartbeat", beats=True)
    both.hostd()
    network.until("hostd is back")
    assert hear_both(second)[1] == JournalStatus()
    assert coordinator.idle
    assert not second.ended.is_set()


def test_a_killed_network_process_comes_back_as_the_same_agent(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    both.hostd()
    network = both.network()
    stream = coordinator.next_stream()
    state_id = stream.hear("hello").agent_state_id
    stream.welcome(epoch=7)
    stream.hear("inventory")
    network.end(signal.SIGKILL)
    assert stream.ended.wait(DEADLINE_S)
    both.network()
    hello = coordinator.next_stream().hear("hello")
    assert (hello.agent_state_id, hello.highest_epoch) == (state_id, 7)


def test_a_frozen_hostd_is_noticed_and_found_again(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    hostd, network = both.hostd(), both.network()
    stream = in_session(coordinator, often=False)
    hostd.send(signal.SIGSTOP)
    network.until(AWAY + "hostd did not answer within 5 s")
    assert stream.hear("journal").code == "HOSTD_AWAY"
    stream.hear("heartbeat", beats=True)
    hostd.send(signal.SIGCONT)
    network.until("hostd is back")
    assert hear_both(stream)[1] == JournalStatus()
    assert not stream.ended.is_set()


def test_a_fence_that_cannot_be_made_durable_is_not_obeyed(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    hostd, network = both.hostd(), both.network()
    first = in_session(coordinator)
    hostd.end(signal.SIGKILL)
    network.until(AWAY + "hostd closed the connection")
    first.end()
    second = coordinator.next_stream()
    assert second.hear("hello").highest_epoch == 1
    second.welcome(epoch=2)
    assert second.hear_the_end() == []
    network.until("session ended: hostd is away")
    both.hostd()
    network.until("hostd is back")
    third = coordinator.next_stream()
    assert third.hear("hello").highest_epoch == 1
    third.welcome(epoch=2)
    third.hear("inventory")
    for half in both.started[1:]:
        half.end()
    journal = Journal.open_readonly(both.state / "journal.db")
    assert journal is not None
    assert journal.fence() == Fence("cluster-a", 1, 2)
    journal.close()


def test_a_reset_crosses_as_a_durable_event_and_is_forgotten_once_it_is_held(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    log = both.root / "dmesg"
    log.write_text(log.read_text() + GIVING_UP)
    hostd, network = both.hostd(), both.network()
    first = coordinator.next_stream()
    spool = first.hear("hello").spool_id
    first.welcome()
    first.hear("inventory")
    first.hear("observation")
    first.say(SessionResponse(events_held=EventsHeld(spool_id=spool, window_events=9)))
    (event,) = first.hear("events").events
    assert event.reset_attempted.outcome == "wedged"
    mark = {name: getattr(event, name) for name in ("seq", "boot_id", "boottime_ms", "wall_ms")}
    held = EventsHeld(spool_id=spool, window_events=9, **mark)
    first.say(SessionResponse(events_held=held))
    first.end()
    assert coordinator.next_stream().hear("hello").spool_id == spool
    assert (network.end()[0], hostd.end()[0]) == (0, 0)
    with closing(Journal.open(both.state / "journal.db")) as journal:
        assert (journal.spool.last, journal.spool.after(0, 9)) == (1, [])


def test_hostd_with_another_journal_ends_the_network_process(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    hostd, network = both.hostd(), both.network()
    in_session(coordinator)
    hostd.end()
    both.state.rename(both.top / "moved-away")
    both.hostd()
    status, said = network.ended()
    assert status == 2
    assert said.splitlines()[-1].startswith("vfioctl agent run: hostd has another journal")


BROKEN_SPEECH = """
import sys, vfio_agent.session.words as words
def to_message(finding):
    raise RuntimeError("a codec of ours has a bug")
words.to_message = to_message
from vfio_agent.network import main
sys.exit(main())
"""


def test_a_fault_of_its_own_ends_the_network_process_with_a_traceback(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    both.hostd()
    network = both.network(program=("-c", BROKEN_SPEECH))
    stream = coordinator.next_stream()
    stream.hear("hello")
    stream.welcome()
    status, said = network.ended()
    assert status == 70
    assert "ending on a fault of the agent itself\nTraceback" in said
    assert said.splitlines()[-1] == "RuntimeError: a codec of ours has a bug"


def test_both_end_when_asked(both: Halves, coordinator: RecordingCoordinator) -> None:
    hostd, network = both.hostd(), both.network()
    in_session(coordinator)
    assert network.end()[0] == 0
    assert hostd.end()[0] == 0
    assert not both.socket.exists()


def test_two_on_one_socket_or_one_state(both: Halves, coordinator: RecordingCoordinator) -> None:
    first = both.hostd()
    both.network()
    coordinator.next_stream()
    status, said = both.hostd().ended()
    assert (status, said.count("\n")) == (2, 1), said
    assert f"another agent uses it (pid {first.pid})" in said
    status, said = both.hostd(state=both.top / "other").ended()
    assert (status, said.count("\n")) == (2, 1), said
    assert f"another hostd listens there (pid {first.pid})" in said
    assert both.socket.exists()


@pytest.mark.skipif(not IS_ROOT, reason="only root can change who it is")
def test_the_network_process_is_not_root(both: Halves, coordinator: RecordingCoordinator) -> None:
    both.hostd()
    network = both.network()
    in_session(coordinator)
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{network.pid}/status").read_text().splitlines()
        if ":" in line
    )
    uid = str(pwd.getpwnam(ACCOUNT).pw_uid)
    assert status["Uid"].split() == [uid] * 4
    assert status["Groups"].split() == []
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert both.socket.stat().st_uid == int(uid)
    assert both.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not IS_ROOT, reason="only root has something to give up")
def test_the_network_process_refuses_to_be_root(both: Halves) -> None:
    argv = ["-m", "vfio_agent.network", "--hostd", str(both.socket), "--node", "pve07"]
    status, said = both.start([*argv, "--tls", str(both.top / "tls"), "--user", "root"]).ended()
    assert (status, said.count("\n")) == (2, 1), said
    assert "the network process is root" in said


@pytest.mark.skipif(not IS_ROOT, reason="only root becomes another user")
def test_root_that_names_nobody_becomes_the_account_of_the_package(both: Halves) -> None:
    bundle = both.top / "of root"
    bundle.mkdir(mode=0o700)
    argv = ["-m", "vfio_agent.network", "--hostd", str(both.socket), "--node", "pve07"]
    status, said = both.start([*argv, "--tls", str(bundle)]).ended()
    assert (status, said.count("\n")) == (64, 1), said
    assert "Permission denied" in said
