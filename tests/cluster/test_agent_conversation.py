"""The agent's side of the stream, message by message: `grpc_testing` in place of the wire."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import grpc_testing
import pytest

from tests.cluster.agent_side import (
    SPEAKER,
    observe,
)
from tests.fakes.recording_coordinator import (
    CLUSTER,
    DEADLINE_S,
)
from vfio_agent.journal import Journal
from vfio_agent.session.conversation import (
    Conversation,
    Fences,
    Terms,
)
from vfio_agent.session.ending import Ended
from vfio_agent.session.outbox import Outbox
from vfioctl.v1 import session_pb2
from vfioctl.v1.session_pb2 import SessionRequest, SessionResponse, Welcome
from vfioctl.v1.session_pb2_grpc import AgentSessionServiceStub


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal.open(tmp_path / "journal.db")) as opened:
        yield opened


class Scripted:
    """A conversation over a channel of `grpc_testing`, where each response arrives alone."""

    def __init__(self, fences: Fences) -> None:
        service = session_pb2.DESCRIPTOR.services_by_name["AgentSessionService"]
        channel = grpc_testing.channel([service], grpc_testing.strict_real_time())
        self.outbox = Outbox()
        self.outbox.offer(observe())
        self.terms: queue.SimpleQueue[Terms] = queue.SimpleQueue()
        self._conversation = Conversation(
            speaker=SPEAKER, outbox=self.outbox, fences=fences, on_terms=self.terms.put
        )
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        stub = AgentSessionServiceStub(channel)
        self._thread = threading.Thread(
            target=lambda: self._ended.put(self._conversation.run(stub)), daemon=True
        )
        self._thread.start()
        _, self.rpc = channel.take_stream_stream(service.methods_by_name["Session"])
        self.rpc.send_initial_metadata(())

    def hear(self) -> str:
        request: SessionRequest = self.rpc.take_request()
        return str(request.WhichOneof("body"))

    def say(self, **body: Any) -> None:
        self.rpc.send_response(SessionResponse(**body))

    def ended(self) -> Ended:
        ended = self._ended.get(timeout=DEADLINE_S)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return ended


WELCOME = Welcome(protocol=1, cluster_id=CLUSTER, incarnation=1, epoch=1)


def test_what_comes_before_welcome_waits_for_it(journal: Journal) -> None:
    script = Scripted(journal)
    assert script.hear() == "hello"
    script.say(inventory_wanted=session_pb2.InventoryWanted(digest="sha256:any"))
    script.say(welcome=WELCOME)
    assert [script.hear(), script.hear()] == ["inventory", "observation"]
    script.rpc.terminate((), grpc.StatusCode.OK, "")
    assert script.ended() == Ended("the coordinator ended the session")


def test_an_end_before_welcome(journal: Journal) -> None:
    script = Scripted(journal)
    assert script.hear() == "hello"
    script.rpc.terminate((), grpc.StatusCode.OK, "")
    assert script.ended() == Ended("the coordinator ended the session")
    assert script.terms.empty()


def test_a_second_welcome_renews_the_terms(journal: Journal) -> None:
    script = Scripted(journal)
    script.say(welcome=WELCOME)
    later = Welcome(
        protocol=1, cluster_id=CLUSTER, incarnation=1, epoch=1, observation_interval_ms=5000
    )
    script.say(welcome=later)
    asked = [script.terms.get(timeout=DEADLINE_S).observation_interval_s for _ in range(2)]
    assert asked == [0.0, 5.0]
    script.rpc.terminate((), grpc.StatusCode.ABORTED, "SESSION_REPLACED: a newer one. Closed.")
    ended = script.ended()
    assert ended.slow, "two agents of one name would take turns for ever"


def test_a_status_without_details(journal: Journal) -> None:
    script = Scripted(journal)
    script.say(welcome=WELCOME)
    assert [script.hear() for _ in range(3)] == ["hello", "inventory", "observation"]
    script.say(acknowledged=session_pb2.Acknowledged(sequence=1))
    script.say(inventory_wanted=session_pb2.InventoryWanted(digest="sha256:any"))
    assert [script.hear(), script.hear()] == ["inventory", "observation"]
    script.rpc.terminate((), grpc.StatusCode.UNAVAILABLE, "")
    assert script.ended() == Ended("UNAVAILABLE: ", useful=True)
