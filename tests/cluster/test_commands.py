"""Commands over real TLS: from whoever asks to hostd and back, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.agent_side import House, make_house
from tests.cluster.noticing import KINDS, NODE, Scene, scene, unpack
from tests.cluster.processes import serving
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.two_processes import ACCOUNT, IS_ROOT, Half, Halves, halves
from tests.cluster.users import DEADLINE_S
from tests.fakes.acting_host import BOUND, DISK, FREE, ActingHost
from tests.fakes.recording_coordinator import CLUSTER, RecordingCoordinator, Stream
from vfio_agent.hostd.line import Line
from vfio_agent.hostd.messages import PROTOCOL, Events, GetEvents, Greet, Greeting
from vfio_agent.inspect import inspect_host
from vfio_agent.session.outbox import seconds_up
from vfio_contract.action import Outcome, unpack_report
from vfio_contract.artifact import decode_artifact, digest_facts
from vfio_contract.codec import from_message
from vfio_contract.codes import Code
from vfio_contract.command import COUNT_BITS, AnswerState, CommandAnswer, Order
from vfio_contract.command_codes import (
    COMMAND_EXPIRED,
    COMMAND_FENCED,
    COMMAND_MISDIRECTED,
    COMMAND_NOT_PERMITTED,
    COMMAND_OTHER_BOOT,
    COMMAND_OTHER_STATE,
    COMMAND_STALE,
    COMMAND_UNKNOWN,
)
from vfio_contract.views import CommandView
from vfioctl.v1 import session_pb2 as wire

HOST = "gpubox-f10"
RESET = ("device", "reset-test")


async def start_vfioctl(state: Path, *arguments: str) -> asyncio.subprocess.Process:
    """The command line, asking at the coordinator's socket."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vfio_cli.main", *arguments),
        env={**os.environ, "VFIOCTL_ENDPOINT": f"unix:{state}/api.sock"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def vfioctl(state: Path, *arguments: str) -> tuple[int, str, str]:
    """Its status, stdout and stderr."""
    return await finish(await start_vfioctl(state, *arguments))


async def finish(running: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await running.communicate()
    assert running.returncode is not None
    return running.returncode, out.decode(), errors.decode()


async def run(here: Scene, verb: str, address: str = "") -> CommandView:
    response = await here.admin.call("RunCommand", node=NODE, verb=verb, address=address)
    return from_message(CommandView, response.command)


async def ended(here: Scene, id: str) -> CommandView:
    """The command once it has its end; asks again while the coordinator is away."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            response = await here.admin.call("GetCommand", id=id, wait_ms=5_000)
            view = from_message(CommandView, response.command)
            if view.state == "ended":
                return view


async def ends(here: Scene, id: str) -> list[str]:
    """The rows of the event log that tell of its end."""
    return [e.text for e in await here.admin.events() if e.code == "ACTION_ENDED" and id in e.text]


# --- looks ---------------------------------------------------------------------------------------


async def test_a_check_and_a_collect_are_of_now(state: Path, tmp_path: Path) -> None:
    async with scene(state, unpack(HOST, tmp_path / "root")) as here:
        (victim, *_) = await here.free()
        code, before, _ = await vfioctl(state, "check", "--node", NODE, "-o", "json")
        assert code in (0, 1)
        assert json.loads(before)["host"] == NODE

        # a change that a replayed host does not notice by itself
        (here.both.root / "proc/cmdline").write_text("root=/dev/vda1 ro changed=1\n")
        file = tmp_path / "of-now.json"
        code, _, said = await vfioctl(state, "collect", "--node", NODE, "-o", str(file))
        assert code == 0, said
        collected = decode_artifact(file.read_bytes())
        assert "changed=1" in (collected.facts.cmdline or "")
        assert victim in {f.address for f in collected.facts.functions or ()}
        same = inspect_host(str(here.both.root)).snapshot
        assert digest_facts(collected.facts) == digest_facts(same.facts)

        rows = await here.admin.events()
        asked = [e for e in rows if e.code == "COMMAND_SENT"]
        assert [e.text.split(":")[0] for e in asked] == ["check", "collect"]
        assert {e.actor for e in asked} == {"user:local"}
        shown = (await here.admin.node(NODE)).commands
        assert [(c.verb, c.outcome, c.by) for c in shown] == [
            ("collect", "done", "local"),
            ("check", "done", "local"),
        ]

        # what acts needs the owner of the host, who permits nothing on a replay
        view = await ended(here, (await run(here, Order.BIND, victim)).id)
        assert (view.outcome, view.code) == ("refused", COMMAND_NOT_PERMITTED.name)
        assert "replays a captured host" in view.text
        (row,) = [e for e in await here.admin.events() if e.code == "COMMAND_REFUSED"]
        assert COMMAND_NOT_PERMITTED.name in row.text

        # a silent node is shown as it was heard, and gives no artifact
        for half in here.both.started:
            half.end(signal.SIGKILL)
        await here.admin.until(NODE, lambda view: view.state != "ready")
        code, screen, said = await vfioctl(state, "check", "--node", NODE)
        assert (code, NODE in screen) == (3, True)
        assert "as it was last heard: NODE_UNHEARD" in said
        found = await here.admin.refusal("RunCommand", node=NODE, verb="collect")
        assert found.code == "NODE_UNHEARD"
        found = await here.admin.refusal("GetArtifact", id=shown[0].id)
        assert found.code == "NO_ARTIFACT"


# --- crashes -------------------------------------------------------------------------------------


async def test_a_killed_coordinator_sends_what_has_not_ended_and_nothing_else(
    state: Path, tmp_path: Path
) -> None:
    async with scene(state, unpack(HOST, tmp_path / "root")) as here:
        _, network = here.both.started
        done = await run(here, Order.CHECK)
        first = await ended(here, done.id)
        last = max(event.seq for event in await here.admin.events())
        network.send(signal.SIGSTOP)  # nothing that is sent now is taken
        waiting = await start_vfioctl(state, "check", "--node", NODE)
        await here.stream.until(
            lambda c: any(e.code == "COMMAND_SENT" and e.seq > last for e in c.events)
        )
        asked, *_ = (await here.admin.node(NODE)).commands
        assert (asked.verb, asked.state) == ("check", "sent")
        waiting.send_signal(signal.SIGINT)
        code, _, said = await finish(waiting)
        assert code == 130, said
        assert f"goes on without you; see what became of command {asked.id}" in said
        here.process.kill()
        await here.process.ended()
        async with serving(state, "--listen", here.process.endpoint):
            shown = (await here.admin.call("GetCommand", id=asked.id)).command
            assert shown.state == "waiting"
            network.send(signal.SIGCONT)
            view = await ended(here, asked.id)
            assert (view.outcome, len(await ends(here, asked.id))) == ("done", 1)
            again = await ended(here, done.id)
            assert (again.outcome, again.ended_at) == (first.outcome, first.ended_at)
            assert len(await ends(here, done.id)) == 1


async def test_an_agent_that_is_killed_with_a_command_in_hand_ends_it_once(
    state: Path, tmp_path: Path
) -> None:
    async with scene(state, unpack(HOST, tmp_path / "root")) as here:
        hostd, network = here.both.started
        first = await run(here, Order.RESCAN)
        hostd.end(signal.SIGKILL)
        here.both.hostd()
        assert (await ended(here, first.id)).outcome == "done"
        second = await run(here, Order.RESCAN)
        network.end(signal.SIGKILL)
        here.both.network()
        assert (await ended(here, second.id)).outcome == "done"
        for asked in (first, second):
            assert len(await ends(here, asked.id)) == 1


# --- hands ---------------------------------------------------------------------------------------


@contextmanager
def acting_node(state: Path, top: Path, endpoint: str) -> Iterator[tuple[Halves, ActingHost]]:
    """A node whose hands reach a host of files, with a kernel's answers behind them."""
    host = ActingHost(top).make()
    with halves(state / "nodes" / NODE, top, endpoint) as both:
        both.node = NODE
        both.socket.parent.mkdir(mode=0o755)
        start_acting(both, host).until("listens")
        both.network()
        yield both, host


def start_acting(both: Halves, host: ActingHost) -> Half:
    where = [str(host.top), str(both.socket), str(both.state), ACCOUNT]
    return both.start(["-m", "tests.cluster.acting_hostd", *where])


@pytest.mark.skipif(not IS_ROOT, reason="only root may act")
async def test_a_bind_from_afar_is_done_once_whatever_is_killed(
    state: Path, tmp_path: Path
) -> None:
    async with serving(state, "--node", NODE) as process, admin_of(state) as admin:
        with acting_node(state, tmp_path / "host", process.endpoint) as (both, host):
            stream = admin.watch(kinds=KINDS)
            here = Scene(both, process, admin, stream)
            await stream.until(lambda change: any(n.evidence_age_s >= 0 for n in change.nodes))
            script = host.top / "script"
            script.write_text(f"hang {FREE}")
            asked = await run(here, Order.BIND, FREE)
            hanging = host.top / "hanging"
            async with asyncio.timeout(DEADLINE_S):
                while not (hanging.exists() and hanging.read_text()):
                    await admin.node(NODE)
            busy = await admin.refusal("RunCommand", node=NODE, verb="unbind", address=FREE)
            assert busy.code == "NODE_BUSY"
            both.started[0].end(signal.SIGKILL)
            script.unlink()
            os.kill(int(hanging.read_text()), signal.SIGKILL)
            start_acting(both, host).until("listens")
            view = await ended(here, asked.id)
            assert (view.outcome, host.driver(FREE)) == ("done", "vfio-pci")
            assert len(await ends(here, asked.id)) == 1
            report = (await admin.call("GetCommand", id=asked.id)).report
            assert unpack_report(report).id == asked.id

            code, out, said = await vfioctl(state, *RESET, "--node", NODE, BOUND, "-o", "json")
            assert (code, host.resets()) == (0, 1)
            assert f"reset-test on {NODE}: " in said, "which device it will be"
            assert json.loads(out)["outcome"] == "done"
            code, out, _ = await vfioctl(state, "device", "unbind", NODE, DISK)
            assert (code, "HOST_CRITICAL" in out) == (2, True)
            stream.call.cancel()


# --- a real hostd, and a coordinator that says anything -------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture
def coordinator(house: House) -> Iterator[RecordingCoordinator]:
    with RecordingCoordinator(house.server) as server:
        yield server


@pytest.fixture
def both(house: House, tmp_path: Path, coordinator: RecordingCoordinator) -> Iterator[Halves]:
    with halves(house.node, unpack(HOST, tmp_path / "root"), coordinator.endpoint) as made:
        made.hostd()
        made.network()
        yield made


def greet(coordinator: RecordingCoordinator, *, epoch: int = 1) -> tuple[Stream, dict[str, Any]]:
    """A session, and a command that its host would take."""
    stream = coordinator.next_stream()
    hello = stream.hear("hello")
    assert hello.commands == 1
    assert abs(hello.boottime_ms - seconds_up() * 1000) < DEADLINE_S * 1000
    stream.welcome(epoch=epoch, heartbeat_interval_ms=100)
    stream.hear("inventory")
    stream.hear("observation")
    command = {
        "id": f"{epoch:016x}",
        "verb": "rescan",
        "node": "pve07",
        "product_uuid": hello.product_uuid,
        "boot_id": hello.boot_id,
        "agent_state_id": hello.agent_state_id,
        "sequence": 1 << COUNT_BITS | epoch,
        "deadline_boottime_ms": hello.boottime_ms + 60_000,
        "cluster_id": CLUSTER,
        "incarnation": 1,
        "epoch": epoch,
    }
    return stream, command


def ask(stream: Stream, command: dict[str, Any]) -> CommandAnswer:
    """What the agent answers; whatever else it says meanwhile is left out."""
    stream.say(wire.SessionResponse(command=wire.Command(**command)))
    while True:
        body = stream.hear("command_answer", "observation", "events", "journal")
        if isinstance(body, wire.CommandAnswer):
            return from_message(CommandAnswer, body)


def test_a_number_that_no_journal_holds_does_not_end_hostd(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    both.hostd()
    both.network()
    coordinator.next_stream()
    never, quiet = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as connection, never, quiet:
        connection.connect(str(both.socket))
        line = Line(connection, quiet, lambda _: None)
        line.ask_here(Greet(PROTOCOL), Greeting)
        for seq in (1 << 63, (1 << 64) - 1):
            assert line.ask_here(GetEvents(seq, 1), Events) == Events(())
        line.end()


def test_a_real_hostd_refuses_by_name_and_takes_once(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    stream, good = greet(coordinator)
    cases: list[tuple[dict[str, Any], Code]] = [
        ({"node": "pve08"}, COMMAND_MISDIRECTED),
        ({"product_uuid": "somebody else"}, COMMAND_MISDIRECTED),
        ({"boot_id": "an earlier boot"}, COMMAND_OTHER_BOOT),
        ({"agent_state_id": "f" * 32}, COMMAND_OTHER_STATE),
        ({"deadline_boottime_ms": 1}, COMMAND_EXPIRED),
        ({"epoch": 0}, COMMAND_FENCED),
        ({"sequence": (1 << 63) - 1}, COMMAND_UNKNOWN),
        ({"cluster_id": "cluster-b"}, COMMAND_FENCED),
        ({"verb": "reboot"}, COMMAND_UNKNOWN),
        ({"verb": "bind"}, COMMAND_UNKNOWN),
        ({"verb": "bind", "address": "; reboot"}, COMMAND_UNKNOWN),
        ({"verb": "bind", "unit": {"assign": ["x" * 60_000]}}, COMMAND_UNKNOWN),
    ]
    for number, (changes, code) in enumerate(cases):
        answer = ask(stream, {**good, "id": f"bad{number}", **changes})
        assert (answer.state, answer.code) == (AnswerState.REFUSED, code.name), changes
    for _ in range(2):
        assert ask(stream, good) == CommandAnswer(good["id"], AnswerState.TAKEN)
    stale = ask(stream, {**good, "id": "stale"})
    assert (stale.state, stale.code) == (AnswerState.REFUSED, COMMAND_STALE.name)


def test_its_end_is_told_again_to_a_cluster_that_has_forgotten(
    both: Halves, coordinator: RecordingCoordinator
) -> None:
    stream, command = greet(coordinator)
    assert ask(stream, command).state == AnswerState.TAKEN
    stream.say(wire.SessionResponse(events_held=_held(both, 0)))
    end = _next_end(stream)
    assert end.action_ended.id == command["id"]
    report = unpack_report(end.action_ended.report)
    assert (report.verb, report.outcome) == ("rescan", Outcome.DONE)
    both.started[1].end(signal.SIGKILL)
    both.network()
    stream, later = greet(coordinator, epoch=2)
    command["epoch"] = 2
    again = ask(stream, command)
    assert again.state == AnswerState.TAKEN, "its end waits in the spool"
    stream.say(wire.SessionResponse(events_held=_held(both, end.seq, end)))
    while (again := ask(stream, command)).state == AnswerState.TAKEN:
        pass  # until the acknowledgement was taken
    assert (again.state, again.ended and again.ended.outcome) == (AnswerState.ENDED, "done")
    assert ask(stream, later).state == AnswerState.TAKEN


def _held(both: Halves, seq: int, event: Any = None) -> wire.EventsHeld:
    from vfio_agent.journal.database import Database

    database = Database.open_readonly(both.state / "journal.db")
    assert database is not None
    spool_id = database.meta("spool_id")
    database.close()
    moment: dict[str, Any] = {}
    if event is not None:
        moment = {
            "boot_id": event.boot_id,
            "boottime_ms": event.boottime_ms,
            "wall_ms": event.wall_ms,
        }
    return wire.EventsHeld(spool_id=spool_id, seq=seq, window_events=64, **moment)


def _next_end(stream: Stream) -> Any:
    while True:
        body = stream.hear("events", "observation", "journal")
        for event in getattr(body, "events", ()):
            if event.WhichOneof("payload") == "action_ended":
                return event
