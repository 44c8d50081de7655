"""The agent as a process: `python -m vfio_agent` replaying a captured host.

It ends when asked, survives SIGKILL with what it knows, and where it cannot go on it says why in
one line and a status, or with a traceback if the fault is its own.

Length: one house, one host and one coordinator serve every way to begin, to go on and to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.recording_coordinator import DEADLINE_S, RecordingCoordinator, Stream
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.journal import Fence, Journal
from vfio_contract.artifact import decode, decompress
from vfio_contract.bundle import Bundle, load_bundle
from vfio_contract.model import Facts, Readings
from vfio_coordinator.pki import Authority

ADDRESS = "0000:01:00.0"
BOOT_LOG = "[    0.000000] Linux version 6.1.0-56-amd64 (builder@host) (gcc)\n"
GIVING_UP = f"[  149.417712] vfio-pci {ADDRESS}: not ready 65535ms after FLR; giving up\n"
SOON_MS = 1_000
"""The shortest interval that an agent accepts."""


@dataclass(frozen=True, slots=True)
class House:
    """The coordinator's bundle and the directory of the node's."""

    server: Bundle
    node: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    top = tmp_path_factory.mktemp("house")
    authority = Authority.open_or_create(top / "ca", now=datetime.now(UTC))
    server = load_bundle(authority.ensure_server(["localhost", "127.0.0.1"]))
    return House(server, authority.ensure_node_bundle("pve07", top / "node"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


def build(top: Path, *, boot_id: str = "boot-1", log: str = "", ids: str = "8086:10d3") -> Path:
    """A small captured host with one card behind one port."""
    tree = SysfsTree(top)
    tree.host(boot_id=boot_id)
    tree.iommu()
    tree.bridge("0000:00:01.0", buses=(1, 1), group=1)
    tree.function(ADDRESS, parent="0000:00:01.0", ids=ids, driver="vfio-pci", group=2)
    tree.write("/dmesg", BOOT_LOG + log)
    return top


@dataclass
class Agent:
    """How an agent is started here, and the process once it was."""

    house: House
    state: Path
    root: Path
    endpoint: str
    node: str = "pve07"
    tls: Path | None = None
    program: tuple[str, ...] = ("-m", "vfio_agent")
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[str]:
        options = {
            "--node": self.node,
            "--tls": str(self.tls or self.house.node),
            "--state": str(self.state),
            "--root": str(self.root),
            "--endpoint": self.endpoint,
        }
        words = [word for option, value in options.items() if value for word in (option, value)]
        process = subprocess.Popen(
            [sys.executable, *self.program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def end(self) -> tuple[int, str]:
        """Wait for the last process; its status and what it wrote to standard error."""
        process = self.running.pop()
        said, complained = process.communicate(timeout=DEADLINE_S)
        assert said == ""
        return process.returncode, complained

    def ask_to_end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.running[-1].send_signal(number)
        return self.end()


@pytest.fixture
def agent(house: House, tmp_path: Path, coordinator: RecordingCoordinator) -> Iterator[Agent]:
    made = Agent(house, tmp_path / "state", build(tmp_path / "root"), coordinator.endpoint)
    yield made
    for process in made.running:
        process.kill()
        _, complaint = process.communicate()
        print(complaint)  # shown where a test failed


def greet(coordinator: RecordingCoordinator, *, epoch: int = 1) -> tuple[Stream, str]:
    """Accept the next session; the stream, and the agent's state id."""
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert hello.node == "pve07"
    stream.welcome(epoch=epoch, observation_interval_ms=SOON_MS)
    return stream, str(hello.agent_state_id)


def hear_facts(stream: Stream) -> Facts:
    return decode(Facts, decompress(stream.hear("inventory").facts_zlib))


def hear_new_facts(stream: Stream) -> Facts:
    """The next facts, after any number of looks that saw nothing new."""
    while not hasattr(told := stream.hear("inventory", "observation"), "facts_zlib"):
        pass
    return decode(Facts, decompress(told.facts_zlib))


def hear_readings(stream: Stream) -> Readings:
    return decode(Readings, decompress(stream.hear("observation").readings_zlib))


def histories(readings: Readings) -> list[tuple[str, int]]:
    assert readings.ledger is not None
    return [(row.state, row.attempts) for row in readings.ledger]


# --- ending ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked(
    agent: Agent, coordinator: RecordingCoordinator, number: signal.Signals
) -> None:
    agent.start()
    stream, _ = greet(coordinator)
    hear_facts(stream)
    hear_readings(stream)
    status, complaint = agent.ask_to_end(number)
    assert (status, "Traceback" in complaint) == (0, False), complaint
    assert stream.ended.wait(DEADLINE_S)


def test_it_ends_when_asked_before_it_was_welcomed_and_often(
    agent: Agent, coordinator: RecordingCoordinator
) -> None:
    process = agent.start()
    coordinator.next_stream().hear("hello")
    for _ in range(50):
        process.send_signal(signal.SIGTERM)
    status, complaint = agent.end()
    assert (status, "Traceback" in complaint) == (0, False), complaint


def test_it_ends_when_asked_while_nobody_listens(house: House, agent: Agent) -> None:
    with RecordingCoordinator(house.server) as gone:
        agent.endpoint = gone.endpoint
    process = agent.start()
    assert process.stderr is not None
    complaint = process.stderr.readline()
    assert "session ended: UNAVAILABLE: " in complaint
    status, rest = agent.ask_to_end()
    assert (status, "Traceback" in rest) == (0, False), rest


# --- going on --------------------------------------------------------------------------------


def test_sigkill_and_restart_keep_state_fence_and_history(
    agent: Agent, coordinator: RecordingCoordinator
) -> None:
    build(agent.root, log=GIVING_UP)
    agent.start()
    stream, state_id = greet(coordinator, epoch=4)
    stream.hear("inventory")
    assert histories(hear_readings(stream)) == [("wedged", 1)]
    status, _ = agent.ask_to_end(signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert stream.ended.wait(DEADLINE_S)
    build(agent.root)  # the kernel's ring has lost the line
    agent.start()
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert hello.agent_state_id == state_id
    assert (hello.highest_incarnation, hello.highest_epoch) == (1, 4)
    stream.welcome(epoch=5, held=True)
    assert histories(hear_readings(stream)) == [("wedged", 1)]
    assert agent.ask_to_end()[0] == 0


def test_a_root_that_was_replaced_is_seen_at_the_next_look(
    agent: Agent, coordinator: RecordingCoordinator, tmp_path: Path
) -> None:
    link = tmp_path / "captured"
    link.symlink_to(agent.root)
    agent.root = link
    agent.start()
    stream, _ = greet(coordinator)
    assert {f.device for f in hear_facts(stream).functions or ()} >= {0x10D3}
    stream.hear("observation")
    replace_link(link, build(tmp_path / "other-card", ids="8086:1572"))
    assert {f.device for f in hear_new_facts(stream).functions or ()} >= {0x1572}
    stream.hear("observation")
    replace_link(link, build(tmp_path / "next-boot", boot_id="boot-2", log=GIVING_UP))
    assert set(stream.hear_the_end()) <= {"observation"}
    stream = coordinator.next_stream()
    assert stream.hear("hello").boot_id == "boot-2"
    stream.welcome(held=True)
    assert histories(hear_readings(stream)) == [("wedged", 1)]
    assert agent.ask_to_end()[0] == 0


def replace_link(link: Path, target: Path) -> None:
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.rename(link)


def test_a_coordinator_that_was_killed_is_found_again_and_told_the_latest(
    agent: Agent, house: House, tmp_path: Path
) -> None:
    with RecordingCoordinator(house.server) as first:
        agent.endpoint = first.endpoint
        agent.start()
        stream, _ = greet(first)
        hear_facts(stream)
        stream.acknowledge(hear_sequence(stream))
    with RecordingCoordinator(house.server, port=first.port) as second:
        stream, _ = greet(second, epoch=2)
        hear_facts(stream)
        assert hear_readings(stream).boot_id == "boot-1"
        status, complaint = agent.ask_to_end()
    assert status == 0
    assert "in session with cluster cluster-a, epoch 1" in complaint
    assert "session ended: UNAVAILABLE" in complaint
    assert "in session with cluster cluster-a, epoch 2" in complaint


def hear_sequence(stream: Stream) -> int:
    return int(stream.hear("observation").sequence)


# --- refusing to start -----------------------------------------------------------------------

Harm = Callable[[Agent], object]


def open_key(agent: Agent) -> None:
    agent.tls = agent.state.with_name("bundle")
    agent.tls.mkdir(mode=0o700)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (agent.tls / name).write_bytes((agent.house.node / name).read_bytes())
    (agent.tls / "key.pem").chmod(0o644)


def bad_tar(agent: Agent) -> None:
    agent.root = agent.state.with_name("capture.tar.gz")
    agent.root.write_bytes(b"no tar at all")


def change(**values: object) -> Harm:
    def apply(agent: Agent) -> None:
        for name, value in values.items():
            setattr(agent, name, value)

    return apply


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (change(tls=Path("/nonexistent/bundle")), "/nonexistent/bundle does not exist: "),
        (open_key, "key.pem is readable by others (mode 0644): chmod 600 "),
        (change(root=Path("/nonexistent/host")), "--root /nonexistent/host cannot be opened ("),
        (bad_tar, "capture.tar.gz cannot be opened (not a readable tar"),
        (change(node="Not A Name"), "--node 'Not A Name' is not a valid name: "),
        (change(node=""), "the following arguments are required: --node; see: "),
        (change(endpoint="nowhere"), "endpoint is not host:port ('nowhere'): "),
        (change(endpoint=""), "--endpoint is missing and "),
    ],
)
def test_wrong_usage_is_one_line_and_status_64(agent: Agent, harm: Harm, words: str) -> None:
    harm(agent)
    agent.start()
    status, complaint = agent.end()
    assert (status, complaint.count("\n")) == (64, 1), complaint
    assert complaint.startswith("vfioctl agent run: ")
    assert words in complaint
    assert not agent.state.exists(), "it began before it knew how"


def test_a_damaged_journal_is_one_line_and_status_2(agent: Agent) -> None:
    agent.state.mkdir()
    journal = agent.state / "journal.db"
    journal.write_bytes(b"garbage " * 1000)
    agent.start()
    status, complaint = agent.end()
    assert (status, complaint.count("\n")) == (2, 1), complaint
    assert complaint.startswith(f"vfioctl agent run: {journal}: no SQLite database (8000 bytes)")
    assert journal.read_bytes() == b"garbage " * 1000


def test_two_agents_on_one_state(agent: Agent, coordinator: RecordingCoordinator) -> None:
    first = agent.start()
    stream, _ = greet(coordinator)
    agent.start()
    status, complaint = agent.end()
    assert (status, complaint.count("\n")) == (2, 1), complaint
    assert f"another agent uses it (pid {first.pid})" in complaint
    hear_facts(stream)
    assert agent.ask_to_end()[0] == 0


# --- not going on ----------------------------------------------------------------------------


def test_a_journal_that_fails_ends_it(agent: Agent, coordinator: RecordingCoordinator) -> None:
    agent.start()
    stream, _ = greet(coordinator)
    hear_facts(stream)
    journal = agent.state / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as intruder:
        intruder.execute("DROP TABLE attempts")
    status, complaint = agent.end()
    assert status == 2
    assert complaint.splitlines()[-1].startswith(
        f"vfioctl agent run: {journal}: SQLite says: no such table: attempts"
    )
    assert "Traceback" not in complaint


def test_a_journal_that_fails_in_the_session_s_thread_ends_it(
    agent: Agent, coordinator: RecordingCoordinator
) -> None:
    agent.start()
    stream = coordinator.next_stream()
    stream.hear("hello")
    journal = agent.state / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as intruder:
        intruder.execute("DROP TABLE meta")
    stream.welcome()
    status, complaint = agent.end()
    assert status == 2
    assert f"{journal}: SQLite says: no such table: meta" in complaint.splitlines()[-1]
    assert stream.hear_the_end() == []


def test_a_root_that_went_away_ends_it(agent: Agent, coordinator: RecordingCoordinator) -> None:
    agent.start()
    stream, _ = greet(coordinator)
    hear_facts(stream)
    agent.root.rename(agent.root.with_name("elsewhere"))
    status, complaint = agent.end()
    assert status == 2
    last = complaint.splitlines()[-1]
    assert last.startswith(f"vfioctl agent run: {agent.root}: ")
    assert "Traceback" not in complaint


BROKEN_LOOK = """
import sys, vfio_agent.hostd.looking as looking
def observe(*args, **kwargs):
    raise RuntimeError("a check of ours has a bug")
looking.observe = observe
from vfio_agent.__main__ import main
sys.exit(main())
"""


def test_a_fault_of_its_own_ends_it_with_a_traceback(agent: Agent) -> None:
    agent.program = ("-c", BROKEN_LOOK)
    agent.start()
    status, complaint = agent.end()
    assert status == 70
    assert "ending on a fault of the agent itself\nTraceback" in complaint
    assert complaint.splitlines()[-1] == "RuntimeError: a check of ours has a bug"


def network_process_of(pid: int) -> int:
    """Its one child."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def test_hostd_does_not_outlive_its_network_process(
    agent: Agent, coordinator: RecordingCoordinator
) -> None:
    process = agent.start()
    stream, _ = greet(coordinator)
    hear_facts(stream)
    os.kill(network_process_of(process.pid), signal.SIGKILL)
    status, complaint = agent.end()
    assert status == 2
    assert complaint.splitlines()[-1] == (
        "vfioctl agent run: the network process was killed by SIGKILL"
    )


def test_the_fence_of_an_older_coordinator_is_refused_and_the_agent_lives(
    agent: Agent, coordinator: RecordingCoordinator
) -> None:
    journal = Journal.open(agent.state / "journal.db")
    journal.obey(Fence("cluster-a", 1, 9))
    journal.close()
    process = agent.start()
    stream, _ = greet(coordinator, epoch=8)
    assert stream.hear_the_end() == []
    assert process.stderr is not None
    assert "session ended: STORE_REWOUND: the coordinator is at" in process.stderr.readline()
    status, _ = agent.ask_to_end()
    assert status == 0
    assert os.listdir(agent.state)
