"""hostd's socket against peers that are hostile, slow, silent or too many.

Real sockets and the real thread; what depends on time is asked of a peer with the time as argument.

Length: one server and all that its peers can do to it.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfio_agent.fence import Fence
from vfio_agent.hostd.frames import FrameReader, to_frame
from vfio_agent.hostd.listening import SocketError, listen
from vfio_agent.hostd.messages import (
    ANSWERS,
    PROTOCOL,
    Done,
    GetFence,
    GetLedger,
    Greet,
    Greeting,
    Obeyed,
    Observation,
    Observe,
    Ping,
    Refused,
    Rescan,
    read_message,
    write_message,
)
from vfio_agent.hostd.peer import (
    BURST,
    GREETING_S,
    MAX_PENDING,
    MAX_UNSENT_BYTES,
    RATE_PER_S,
    REQUEST_S,
    SILENCE_S,
    TAKING_S,
    Peer,
)
from vfio_agent.hostd.server import FOR_ROOT, MAX_PEERS, Server
from vfio_agent.hostd.verbs import Answer, Refusal, Verbs

DEADLINE_S = 20.0

IS_ROOT = os.geteuid() == 0

GREETING = Greeting(PROTOCOL, "0.1.0", "state")
FENCE = Fence("cluster-a", 1, 2)


class Served:
    """A server with two verbs: `rescan` is refused, `fence.get` answers when the test says so."""

    def __init__(self, path: Path, *, uid: int, others: int = 0) -> None:
        """`others` are connections that hostd made, as for its network process."""
        self.path = path
        pairs = [socket.socketpair() for _ in range(others)]
        self.kept = [theirs for _, theirs in pairs]
        self.faults: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.asked: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.fault: Exception | None = None
        self.callers: list[Caller] = []
        verbs = Verbs()
        verbs.add("rescan", Rescan, self._rescan)
        verbs.add("fence.get", GetFence, lambda _, answer: self.asked.put(answer))
        self._listening = listen(path, owner=os.geteuid())
        self.server = Server(
            verbs,
            GREETING,
            listener=self._listening.__enter__(),
            allowed=(uid,),
            on_fault=self.faults.put,
        )
        self.server.start(*(ours for ours, _ in pairs))

    def _rescan(self, _request: Rescan, _answer: Answer) -> None:
        raise self.fault or Refusal("not today")

    def close(self) -> None:
        for caller in self.callers:
            caller.connection.close()
        for connection in self.kept:
            connection.close()
        self.server.close()
        self._listening.__exit__(None, None, None)

    def connect(self) -> Caller:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(DEADLINE_S)
        self.callers.append(Caller(connection))
        connection.connect(str(self.path))
        return self.callers[-1]


class Caller:
    """The other end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader(64 * 1024 * 1024)

    def say(self, message: object, id: int = 1) -> None:
        self.connection.sendall(to_frame(write_message(id, message)))

    def hear(self, id: int = 1) -> object:
        """The next message, which must have this id; None when the connection is over."""
        while (body := self._reader.take()) is None:
            try:
                data = self.connection.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._reader.feed(data)
        envelope = read_message(body, ANSWERS)
        assert envelope.id == id
        return envelope.message

    def ask(self, message: object, id: int = 1) -> object:
        self.say(message, id)
        return self.hear(id)

    def greet(self) -> Caller:
        assert self.ask(Greet(PROTOCOL)) == GREETING
        return self

    def is_cut(self) -> bool:
        return self.hear() is None


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "run" / "s", uid=os.geteuid())
    yield made
    made.close()
    assert made.faults.empty()


def observation(number: int, size: int = 10) -> Observation:
    return Observation(str(number), "A" * size, "", "", "", "", 0.0)  # type: ignore[arg-type]


# --- who may ask ---------------------------------------------------------------------------------


def test_another_user_is_not_heard(tmp_path: Path) -> None:
    served = Served(tmp_path / "run" / "s", uid=os.geteuid() + 1)
    caller = served.connect()
    assert caller.is_cut()
    served.close()


def test_no_more_than_so_many_at_once(served: Served) -> None:
    callers = [served.connect().greet() for _ in range(MAX_PEERS + FOR_ROOT * IS_ROOT)]
    assert served.connect().is_cut()
    callers[0].connection.close()
    while not isinstance((again := served.connect()).ask(Greet(PROTOCOL)), Greeting):
        again.connection.close()  # its place is free once the server saw the end of the first
    assert callers[1].ask(Ping()) == Done()


def test_whoever_else_asks_cannot_keep_root_out(tmp_path: Path) -> None:
    made = Served(tmp_path / "s", uid=os.geteuid(), others=MAX_PEERS)
    try:
        caller = made.connect()
        if IS_ROOT:
            caller.greet()
        else:
            assert caller.is_cut()
    finally:
        made.close()


def test_the_socket_is_its_owners_alone(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600


def test_a_socket_where_others_could_put_theirs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with (
        pytest.raises(SocketError, match="others could put their own socket there"),
        listen(tmp_path / "open" / "s", owner=os.geteuid()),
    ):
        raise AssertionError("it listens")


def test_a_file_of_that_name_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    path.write_text("precious")
    with (
        pytest.raises(SocketError, match="something else has this name"),
        listen(path, owner=os.geteuid()),
    ):
        raise AssertionError("it listens")
    assert path.read_text() == "precious"


def test_the_socket_of_a_killed_hostd_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    served = Served(path, uid=os.geteuid())
    served.connect().greet()
    served.close()
    assert not path.exists()


# --- what is said --------------------------------------------------------------------------------


def test_the_first_word_is_a_greeting(served: Served) -> None:
    for first in (Ping(), Rescan()):
        caller = served.connect()
        caller.say(first)
        assert caller.is_cut()


def test_another_protocol_is_refused_and_nothing_else_is_taken(served: Served) -> None:
    caller = served.connect()
    answer = caller.ask(Greet(PROTOCOL + 1))
    assert isinstance(answer, Refused)
    assert f"this hostd speaks protocol {PROTOCOL}, not {PROTOCOL + 1}" in answer.reason
    caller.say(Ping())
    assert caller.is_cut()


def test_a_request_that_does_not_fit_is_refused_by_name_and_the_next_is_taken(
    served: Served,
) -> None:
    caller = served.connect().greet()
    body = json.dumps({"id": 5, "kind": "ping", "body": {"path": "/etc/shadow"}})
    caller.connection.sendall(to_frame(body.encode()))
    assert caller.hear(5) == Refused("ping.path: not known here")
    assert caller.ask(GetLedger(), 6) == Refused("message.kind: ledger is not known here")
    assert caller.ask(Ping(), 7) == Done()


@pytest.mark.parametrize("harm", [b"\xff\xff\xff\xff", b"\0\0\0\0", to_frame(b"no JSON")])
def test_what_is_no_request_ends_that_connection_alone(served: Served, harm: bytes) -> None:
    good, bad = served.connect().greet(), served.connect().greet()
    bad.connection.sendall(harm)
    assert bad.is_cut()
    assert good.ask(Ping()) == Done()


def test_a_refusal_is_an_answer_and_a_fault_is_ours(tmp_path: Path) -> None:
    served = Served(tmp_path / "run" / "s", uid=os.geteuid())
    caller = served.connect().greet()
    assert caller.ask(Rescan()) == Refused("not today")
    served.fault = RuntimeError("a handler of ours has a bug")
    caller.say(Rescan())
    assert served.faults.get(timeout=DEADLINE_S) is served.fault
    assert caller.is_cut()
    served.close()


def test_an_answer_may_come_later_and_from_any_thread(served: Served) -> None:
    caller = served.connect().greet()
    caller.say(GetFence(), 2)
    later = served.asked.get(timeout=DEADLINE_S)
    assert caller.ask(Ping(), 3) == Done()
    obeyed = Obeyed(FENCE)
    threading.Thread(target=later, args=(obeyed,)).start()
    assert caller.hear(2) == obeyed


def test_an_answer_for_somebody_who_left_is_dropped(served: Served) -> None:
    caller = served.connect().greet()
    caller.say(GetFence(), 2)
    later = served.asked.get(timeout=DEADLINE_S)
    caller.connection.close()
    other = served.connect().greet()
    later(Obeyed(FENCE))
    assert other.ask(Ping()) == Done()


# --- too much ------------------------------------------------------------------------------------


def test_only_so_many_requests_wait_and_the_others_stay_in_the_socket(served: Served) -> None:
    caller = served.connect().greet()
    for number in range(MAX_PENDING + 5):
        caller.say(GetFence(), 100 + number)
    waiting = [served.asked.get(timeout=DEADLINE_S) for _ in range(MAX_PENDING)]
    assert served.connect().greet().ask(Ping()) == Done()
    assert served.asked.empty()
    waiting.pop(0)(Obeyed(FENCE))
    assert caller.hear(100) == Obeyed(FENCE)
    waiting.append(served.asked.get(timeout=DEADLINE_S))


def test_a_flood_does_not_keep_others_from_being_heard(served: Served) -> None:
    flooding, good = served.connect().greet(), served.connect().greet()
    flooding.connection.setblocking(False)
    frame = to_frame(write_message(1, Ping()))
    for _ in range(5):
        try:
            while True:  # until the socket takes no more
                flooding.connection.send(frame * 100)
        except BlockingIOError:
            pass
        assert good.ask(Ping()) == Done()


def test_who_does_not_read_gets_the_latest_of_what_came_meanwhile(served: Served) -> None:
    slow, quick = served.connect().greet(), served.connect().greet()
    assert slow.ask(Observe()) == Done()
    assert quick.ask(Observe()) == Done()
    big = 1 << 20  # more than a socket holds
    for number in range(20):
        served.server.offer(observation(number, big))
        heard = quick.hear(0)
        assert isinstance(heard, Observation)
        assert heard.digest == str(number)
    first, last = slow.hear(0), slow.hear(0)
    assert isinstance(first, Observation)
    assert isinstance(last, Observation)
    assert (first.digest, last.digest) == ("0", "19")


def test_who_subscribes_late_gets_the_latest_at_once(served: Served) -> None:
    served.server.offer(observation(1))
    served.server.offer(observation(2))
    caller = served.connect().greet()
    caller.say(Observe())
    assert caller.hear() == Done()
    heard = caller.hear(0)
    assert isinstance(heard, Observation)
    assert heard.digest == "2"


# --- too slow: the time is an argument -----------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Peer, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Peer(ours, "a peer", uid=0, now=100.0), theirs


def due(peer: Peer) -> tuple[float, str]:
    at_s, words = peer.due_s()
    return at_s - 100.0, words.partition(" within")[0].partition(" for")[0]


def test_who_does_not_greet_is_late(ends: tuple[Peer, socket.socket]) -> None:
    peer, theirs = ends
    assert due(peer) == (GREETING_S, "did not greet")
    assert due(Peer(theirs, "child", uid=None, now=100.0, greeting_s=60.0)) == (
        60.0,
        "did not greet",
    )
    peer.greeted = True
    assert due(peer) == (SILENCE_S, "said nothing")


def test_a_request_that_trickles_is_late_however_much_comes(
    ends: tuple[Peer, socket.socket],
) -> None:
    peer, theirs = ends
    peer.greeted = True
    frame = to_frame(b"x" * 40)
    for number in range(20):
        theirs.send(frame[number : number + 1])
        peer.receive(101.0 + number / 10)
        assert peer.take(101.0 + number / 10) is None
        assert due(peer) == (1.0 + REQUEST_S, "did not finish its request")
    theirs.send(frame[20:] + frame[:1])
    peer.receive(104.0)
    assert peer.take(104.0) == b"x" * 40
    assert due(peer) == (4.0 + REQUEST_S, "did not finish its request")


def test_who_takes_nothing_is_late(ends: tuple[Peer, socket.socket]) -> None:
    peer, theirs = ends
    peer.greeted = True
    peer.answer(b"x" * (8 << 20), 110.0)
    peer.send(110.0)
    assert peer.wants_to_write
    peer.send(115.0)  # it took nothing since
    assert due(peer) == (10.0 + TAKING_S, "took nothing")
    theirs.recv(1 << 20)
    peer.send(116.0)
    assert due(peer) == (16.0 + TAKING_S, "took nothing")


def test_requests_are_paced_after_a_burst(ends: tuple[Peer, socket.socket]) -> None:
    peer, theirs = ends
    taken, seconds = 0, 10
    for tick in range(seconds * 1_000):
        now = 100.0 + tick / 1_000
        if peer.reads(now):
            theirs.send(to_frame(b"x") * 3)
            peer.receive(now)
        while peer.take(now) is not None:
            taken += 1
            peer.answer(b"y", now)
            peer.send(now)
            theirs.recv(100)
    assert BURST < taken <= BURST + seconds * RATE_PER_S


def test_who_leaves_its_answers_untaken_is_not_read_from(
    ends: tuple[Peer, socket.socket],
) -> None:
    peer, _ = ends
    peer.answer(b"x" * (MAX_UNSENT_BYTES + 1), 100.0)
    assert peer.patient
    assert not peer.reads(100.0)
