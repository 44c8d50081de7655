"""What the client says when a coordinator answers badly, late or not at all: one line, no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from vfio_cli import client
from vfio_cli.exits import Stop
from vfio_cli.main import run
from vfio_contract.errors import CATALOGUE, ErrorCode
from vfioctl.v1.cluster_pb2_grpc import ClusterServiceServicer, add_ClusterServiceServicer_to_server

Answer = Callable[[grpc.ServicerContext], Any]


class Strange(ClusterServiceServicer):
    """Answers GetStatus as a test wants it; every other call is not implemented."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def GetStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer(context)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], str]]:
    """Starts a coordinator that is none; gives its endpoint."""
    servers: list[grpc.Server] = []

    def start(answer: Answer) -> str:
        server = grpc.server(ThreadPoolExecutor(max_workers=2))
        strange: Any = Strange  # the stubs call the methods abstract; at run time they are not
        add_ClusterServiceServicer_to_server(strange(answer), server)
        server.add_insecure_port(f"unix:{tmp_path}/api.sock")
        server.start()
        servers.append(server)
        return f"unix:{tmp_path}/api.sock"

    yield start
    for server in servers:
        server.stop(None).wait()


def refuse(status: grpc.StatusCode, text: str) -> Answer:
    def answer(context: grpc.ServicerContext) -> Any:
        context.abort(status, text)

    return answer


def ask(endpoint: str) -> Stop:
    with client.connect(endpoint, None) as coordinator, pytest.raises(Stop) as caught:
        coordinator.status()
    return caught.value


EXPECTED = {
    "INVALID_ARGUMENT": 64,
    "UNAVAILABLE": 3,
    "UNKNOWN": 3,
    "INTERNAL": 3,
    "NOT_FOUND": 2,
    "ALREADY_EXISTS": 2,
    "FAILED_PRECONDITION": 2,
    "PERMISSION_DENIED": 2,
    "UNAUTHENTICATED": 2,
    "ABORTED": 2,
    "OUT_OF_RANGE": 2,
    "RESOURCE_EXHAUSTED": 2,
}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_refusal_is_passed_on_with_its_exit_code(
    code: ErrorCode, serve: Callable[[Answer], str]
) -> None:
    text = CATALOGUE[code]
    message = f"{code}: node 'x'. {text.text}"
    stop = ask(serve(refuse(grpc.StatusCode[text.status], message)))
    assert stop.message == message
    # A name that does not exist is what the user typed, as for a device of this host.
    assert stop.status == (64 if code.startswith("UNKNOWN_") else EXPECTED[text.status])
    assert stop.code == code


def test_our_own_faults_are_unknown(serve: Callable[[Answer], str]) -> None:
    stop = ask(serve(refuse(grpc.StatusCode.INTERNAL, "INTERNAL: its log says why")))
    assert (stop.status, stop.message) == (3, "INTERNAL: its log says why")


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_what_grpc_says_stands_behind_what_it_means(
    code: grpc.StatusCode, serve: Callable[[Answer], str]
) -> None:
    stop = ask(serve(refuse(code, "Received RST_STREAM with error code 8")))
    assert "the call broke off; a change may still have been made" in stop.message
    assert stop.message.endswith("(Received RST_STREAM with error code 8)")
    assert ask(serve(refuse(code, ""))).message.endswith(f"({code.name})")


def test_an_older_coordinator_is_named_as_such(serve: Callable[[Answer], str]) -> None:
    endpoint = serve(refuse(grpc.StatusCode.INTERNAL, "not asked"))
    with client.connect(endpoint, None) as coordinator, pytest.raises(Stop) as caught:
        coordinator.list_vms()
    assert "upgrade the coordinator" in caught.value.message


def test_a_frozen_coordinator_is_not_waited_for(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    thaw = threading.Event()

    def freeze(context: grpc.ServicerContext) -> Any:
        thaw.wait()
        context.abort(grpc.StatusCode.CANCELLED, "")

    monkeypatch.setattr(client, "DEADLINE_S", 0.2)
    try:
        stop = ask(serve(freeze))
    finally:
        thaw.set()
    assert stop.status == 3
    assert "no answer within" in stop.message


def test_a_server_cannot_write_on_the_terminal(
    serve: Callable[[Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = serve(refuse(grpc.StatusCode.ABORTED, "CONFLICT: \x1b[2J\nevil"))
    assert run(["status", "--cluster", "--endpoint", endpoint]) == 2
    assert capsys.readouterr().err == "vfioctl: CONFLICT: \\x1b[2J\\nevil\n"


def test_a_socket_that_nobody_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "api.sock").write_text("")
    assert run(["node", "list", "--endpoint", f"unix:{tmp_path}/api.sock"]) == 3
    said = capsys.readouterr().err
    assert said.partition(": cannot be reached: is it running? ")[1], said
    assert "vfioctl up" in said
    assert said.count("\n") == 1


def test_a_bundle_that_cannot_be_used_is_said_before_connecting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["node", "list", "--endpoint", "co1.invalid:7443", "--tls", str(tmp_path)]
    assert run(arguments) == 64
    assert "ca.pem is missing" in capsys.readouterr().err


def test_grpc_is_imported_by_the_client_and_its_channel_alone() -> None:
    package = Path(client.__file__).parent
    importing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "import grpc" in path.read_text() or "vfioctl.v1" in path.read_text()
    }
    assert importing == {"channel.py", "client.py"}
