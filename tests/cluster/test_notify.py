"""People are told of incidents: by real programs and a real web server, whatever those do.

Length: one list of what programs and servers do to whoever tells them, over one set of fixtures.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.cluster.agents import Agent, Cluster, nic_host, secure_channel
from tests.cluster.processes import run_to_end, serving
from tests.cluster.receivers import DEADLINE_S, web_server, write_config, write_program
from tests.cluster.users import OPTIONS, User
from vfio_contract.bundle import load_bundle
from vfio_contract.codec import to_message
from vfio_contract.findings import Evidence, Finding, Verdict
from vfio_contract.incident_views import IncidentView
from vfio_coordinator import notify as module
from vfio_coordinator.notify import Notifier
from vfio_coordinator.notify_config import AnyTarget, read_targets
from vfio_coordinator.pki import Authority
from vfio_coordinator.state.effects import Notify
from vfio_coordinator.state.events import NotifyEnded
from vfio_coordinator.state.incident_notices import HOLD_S

WEDGED = Finding(
    check="reset-history",
    subject="function:0000:01:00.0",
    verdict=Verdict.FAIL,
    code="RESET_WEDGED",
    evidence=(Evidence("journal", "not ready 65535ms after FLR; giving up"),),
    meaning="",
    decision="",
    intended=True,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other at once; how many there are stays as it is."""
    monkeypatch.setattr(module, "FIRST_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_S", 0.002)


def notice(number: int = 7, **changes: Any) -> Notify:
    values: dict[str, Any] = {
        "id": f"INC-{number}",
        "code": "GROUP_WIDENED",
        "level": "ERR",
        "state": "open",
        "text": "GPU now grouped with AHCI",
        "opened_at": "2026-11-22T14:19:00Z",
        "closed_at": "",
        "first_node": "pve07",
        "nodes": 3,
        "peak": 3,
        "vms": 2,
        "acked_by": "",
        "acked_at": "",
        "ack_reason": "",
        "factors": (),
        "next": "",
    }
    return Notify(IncidentView(**(values | changes)), f"INC-{number}/1", "opened")


class Told:
    """A notifier for a notify.toml, and what it said in the end."""

    def __init__(self, targets: tuple[AnyTarget, ...]) -> None:
        self.ends: asyncio.Queue[NotifyEnded] = asyncio.Queue()
        self.notifier = Notifier(targets, self.ends.put_nowait, lambda: ("cluster-1", 3))

    def tell(self, *notices: Notify) -> None:
        for one in notices:
            self.notifier.tell(one)

    async def end(self) -> NotifyEnded:
        async with asyncio.timeout(DEADLINE_S):
            return await self.ends.get()


@asynccontextmanager
async def telling(tmp_path: Path, text: str) -> AsyncIterator[Told]:
    told = Told(read_targets(write_config(tmp_path / "notify.toml", text)))
    told.notifier.start()
    try:
        yield told
    finally:
        await told.notifier.stop()


def webhook(port: int, *more: str) -> str:
    return "\n".join(["[[webhook]]", f'url = "http://127.0.0.1:{port}/hooks/s3cret"', *more, ""])


def program(path: Path, *more: str) -> str:
    return "\n".join(["[[exec]]", f'argv = ["{path}", "a b", "$HOME"]', *more, ""])


# --- a program -----------------------------------------------------------------------------------


async def test_a_program_gets_json_on_stdin_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    out = tmp_path / "out"
    script = write_program(
        tmp_path / "page", f'cat >{out}.json; env >{out}.env; printf "%s|" "$@" >{out}.argv'
    )
    async with telling(tmp_path, program(script)) as told:
        told.tell(notice())
        assert await told.end() == NotifyEnded(
            incident="INC-7", stamp="INC-7/1", ok=True, detail=""
        )
    document = json.loads(Path(f"{out}.json").read_text())
    assert document["schema"] == "vfioctl.notify/v1"
    assert (document["kind"], document["reason"]) == ("incident", "opened")
    assert (document["id"], document["level"]) == ("cluster-1/3/INC-7/1", "ERR")
    assert document["text"] == "INC-7 GROUP_WIDENED on 3 nodes: GPU now grouped with AHCI"
    assert document["incident"]["first_node"] == "pve07"
    names = {line.partition("=")[0] for line in Path(f"{out}.env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LANG"}
    assert Path(f"{out}.argv").read_text() == "a b|$HOME|"


@pytest.mark.usefixtures("quick")
async def test_a_program_that_fails_is_tried_so_often_and_given_up(tmp_path: Path) -> None:
    script = write_program(tmp_path / "page", f"echo x >>{tmp_path}/tries; echo secret >&2; exit 3")
    async with telling(tmp_path, program(script)) as told:
        told.tell(notice())
        end = await told.end()
    assert (end.ok, end.detail) == (False, "exec-1: it ended with status 3")
    assert (tmp_path / "tries").read_text().count("x") == module.ATTEMPTS == 8


async def test_a_program_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    pids = tmp_path / "pids"
    script = write_program(tmp_path / "page", f"sleep 600 & echo $! $$ >{pids}; wait")
    async with telling(tmp_path, program(script, "timeout-s = 0.5")) as told:
        told.tell(notice())
        end = await told.end()
    assert (end.ok, end.detail) == (False, "exec-1: no answer within 0.5 s")
    for pid in pids.read_text().split():
        async with asyncio.timeout(DEADLINE_S):
            while not is_gone(int(pid)):
                await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """True once it is no process or one that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_program_that_reads_nothing_and_says_much_is_judged_by_its_status(
    tmp_path: Path,
) -> None:
    script = write_program(tmp_path / "page", "exec <&-; head -c 3000000 /dev/zero >&2")
    async with telling(tmp_path, program(script)) as told:
        told.tell(notice(text="x" * 200_000))
        assert (await told.end()).ok


async def test_a_program_that_leaves_a_child_behind_has_told_it_once(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = write_program(tmp_path / "page", f"cat >>{tmp_path}/told; sleep 600 & echo $! >{pid}")
    async with telling(tmp_path, program(script, "timeout-s = 20")) as told:
        told.tell(notice())
        end = await told.end()
        assert (end.ok, end.detail) == (True, "")
        async with asyncio.timeout(DEADLINE_S):
            while not is_gone(int(pid.read_text())):
                await asyncio.sleep(0.01)
    assert len((tmp_path / "told").read_text().splitlines()) == 1


async def test_what_a_failing_program_leaves_behind_does_not_hide_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    script = write_program(tmp_path / "page", "sleep 600 & exit 4")
    async with telling(tmp_path, program(script)) as told:
        told.tell(notice())
        end = await told.end()
    assert (end.ok, end.detail) == (False, "exec-1: it ended with status 4")


# --- a web server --------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
async def test_a_post_is_repeated_until_it_is_taken_and_keeps_its_id(tmp_path: Path) -> None:
    with web_server() as web:
        web.answers = [503, 302, lambda: None, 429]
        async with telling(tmp_path, webhook(web.port)) as told:
            told.tell(notice())
            assert (await told.end()).ok
            bodies = [await web.next() for _ in range(5)]
        assert bodies == bodies[:1] * 5
        assert bodies[0]["id"] == "cluster-1/3/INC-7/1"
        assert web.paths == ["/hooks/s3cret"] * 5
        assert web.headers[0]["Content-Type"] == "application/json"
        assert told.ends.empty()


@pytest.mark.usefixtures("quick")
async def test_what_a_target_says_of_itself_is_no_secret(tmp_path: Path) -> None:
    with web_server() as web, socket.create_server(("127.0.0.1", 0)) as closed:
        web.answers = [404] * 100
        port = closed.getsockname()[1]
        closed.close()
        config = webhook(web.port, 'name = "chat"') + webhook(port, 'name = "gone"')
        async with telling(tmp_path, config) as told:
            told.tell(notice())
            end = await told.end()
        parts = sorted(end.detail.split("; "))
        assert parts[0] == "chat: it answered 404"
        assert parts[1].startswith("gone: Connect")
        assert "s3cret" not in end.detail
        assert not end.ok


async def test_one_that_hangs_delays_nobody_else_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with web_server() as web, socket.create_server(("127.0.0.1", 0)) as deaf:
        config = webhook(deaf.getsockname()[1], "timeout-s = 1") + webhook(web.port)
        async with telling(tmp_path, config) as told:
            told.tell(notice(1), notice(2))
            assert [(await web.next())["incident"]["id"] for _ in range(2)] == ["INC-1", "INC-2"]
            assert told.ends.empty()
            end = await told.end()
        # It was told where it could be: telling it there again and again would help nobody.
        assert (end.ok, end.detail) == (True, "webhook-1: no answer within 1 s")


async def test_https_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    authority = Authority.open_or_create(tmp_path / "ca", now=datetime.now(UTC))
    files = authority.ensure_server(["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "cert.pem", files / "key.pem")
    with web_server(tls=context) as web:
        config = webhook(web.port).replace("http://127.0.0.1", "https://localhost")
        async with telling(tmp_path, config) as told:
            told.tell(notice())
            end = await told.end()
            assert not end.ok
            assert end.detail.startswith("webhook-1: its certificate is not trusted")
            assert web.bodies.empty()
            monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem"))
            told.tell(notice())
            assert (await told.end()).ok
            assert (await web.next())["id"] == "cluster-1/3/INC-7/1"


# --- who is told, and how much -------------------------------------------------------------------


async def test_a_target_is_told_of_what_it_wants_and_nobody_is_an_end_too(tmp_path: Path) -> None:
    with web_server() as web:
        only = webhook(web.port, 'min-level = "ERR"', 'codes = ["GROUP_WIDENED"]')
        async with telling(tmp_path, only) as told:
            told.tell(
                notice(1, level="WARN"), notice(2, code="NODE_LOST"), notice(3), notice(4, nodes=1)
            )
            ends = [await told.end() for _ in range(4)]
            assert [(await web.next())["incident"]["id"] for _ in range(2)] == ["INC-3", "INC-4"]
        assert all(end.ok and not end.detail for end in ends)
        assert web.bodies.empty()


async def test_a_cluster_in_doubt_is_no_incident(tmp_path: Path) -> None:
    with web_server() as web:
        async with telling(tmp_path, webhook(web.port)) as told:
            told.tell(
                notice(id="", code="NODE_CLONED", nodes=1, text="a twin was refused"),
                notice(id="", code="STORE_REWOUND", first_node="", nodes=0, text="it knew more"),
            )
            one, other = await web.next(), await web.next()
    assert (one["kind"], one["text"]) == ("cluster", "NODE_CLONED on pve07: a twin was refused")
    assert other["text"] == "STORE_REWOUND: it knew more"


async def test_a_storm_is_ten_notifications_and_one_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_S", 1.0)
    with web_server() as web:
        async with telling(tmp_path, webhook(web.port)) as told:
            storm = [notice(n, nodes=n) for n in range(1, 51)]
            storm[40] = notice(41, level="WARN", nodes=900)
            told.tell(*storm)
            singles = []
            while (digest := await web.next())["kind"] != "digest":
                singles.append(digest)
            ends = [await told.end() for _ in range(50)]
        # ten at once, and what the bucket lets through while a slow machine tells those
        many = len(singles)
        assert module.AT_ONCE <= many < 30
        assert [s["incident"]["id"] for s in singles] == [f"INC-{n}" for n in range(1, many + 1)]
        assert (digest["kind"], digest["count"], digest["level"]) == ("digest", 50 - many, "ERR")
        assert digest["text"].startswith("INC-50 GROUP_WIDENED on 50 nodes: ")
        assert digest["text"].endswith(f" and {50 - many - 1} more")
        assert len(digest["incidents"]) == module.LISTED
        assert digest["incidents"][0]["id"] == "cluster-1/3/INC-50/1"
        assert {end.stamp for end in ends} == {n.stamp for n in storm}
        assert all(end.ok for end in ends)
        assert web.bodies.empty()


async def test_more_than_can_wait_is_left_to_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    with web_server() as web:
        async with telling(tmp_path, webhook(web.port)) as told:
            told.tell(notice(1), notice(2), notice(3))
            ends = {end.stamp: end for end in [await told.end() for _ in range(3)]}
    assert (ends["INC-3/1"].ok, ends["INC-3/1"].detail) == (False, "webhook-1: 2 others wait")
    assert ends["INC-1/1"].ok


async def test_what_a_host_said_reaches_no_receiver_as_it_is(tmp_path: Path) -> None:
    with web_server() as web:
        async with telling(tmp_path, webhook(web.port)) as told:
            told.tell(notice(text="\x1b[2Jgone\r\nX: \u202e y \ud800"))
            body = await web.next()
            assert (await told.end()).ok
    assert body["incident"]["text"] == "\\x1b[2Jgone\\r\\nX: \\u202e y \\ud800"
    assert body["text"].isprintable()


# --- from an agent's word to the receiver --------------------------------------------------------


async def test_an_incident_of_a_real_cluster_is_told_once_and_trouble_is_shown(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with web_server() as web:
        web.answers = [500]
        cluster = Cluster(state)
        config = write_config(tmp_path / "notify.toml", webhook(web.port))
        cluster.settings = replace(cluster.settings, notify=config)
        async with cluster:
            agent = await cluster.join("pve01")
            await agent.observe(findings=[to_message(WEDGED)])
            admin = await cluster.admin()
            await opened(admin)
            assert web.bodies.empty()
            cluster.advance(HOLD_S)
            first = await web.next()
            assert (first["code"], first["level"]) == ("RESET_WEDGED", "ERR")
            (row,) = await admin.until_event("NOTIFY_FAILED")
            assert row.text == "webhook-1: it answered 500"
            cluster.advance(1)
            items = {item.code: item for item in (await admin.status()).items}
            assert items["NOTIFY_FAILED"].text == "webhook-1: it answered 500"
            cluster.advance(601)
            again = await web.next()
            assert again == first
            rows: tuple[Any, ...] = ()
            async with asyncio.timeout(DEADLINE_S):
                while len(rows) < 2:
                    rows = await admin.until_event("NOTIFY_FAILED")
            assert rows[1].text.startswith("over: ")
            cluster.advance(601)
            codes = {item.code for item in (await admin.status()).items}
            assert "NOTIFY_FAILED" not in codes
        # Time went by, and what that did to the silent node is an incident of its own.
        while not web.bodies.empty():
            assert (await web.next())["code"] == "NODE_LOST"


async def opened(user: User) -> None:
    """Once an incident is in the store."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await user.call("ListIncidents")).incidents:
            pass  # each look is a call over the wire


async def test_a_kill_before_and_after_telling_tells_it_each_time_under_the_same_id(
    state: Path, tmp_path: Path
) -> None:
    with web_server() as web:
        config = str(write_config(tmp_path / "notify.toml", webhook(web.port)))
        async with serving(state, "--node", "pve01", "--notify", config) as process:
            async with secure_channel(process.endpoint, load_bundle(state / "nodes/pve01")) as one:
                agent = Agent("pve01", one, nic_host())
                await agent.join()
                await agent.observe(findings=[to_message(WEDGED)])
                async with local(state) as user:
                    await opened(user)
            process.kill()
            await process.ended()
        assert web.bodies.empty(), "it waits for what may come of the same cause"
        ready = threading.Event()
        web.answers = [lambda: os.kill(process.pid, signal.SIGKILL) if ready.wait(9) else 500]
        async with serving(state, "--notify", config) as process:
            ready.set()
            first = await web.next()
            assert (await process.ended()).status == -signal.SIGKILL
        answer = threading.Event()
        web.answers = [lambda: 200 if answer.wait(DEADLINE_S) else None]
        async with serving(state, "--notify", config) as process, local(state) as user:
            second = await web.next()
            before = (await user.status()).revision
            answer.set()
            async with asyncio.timeout(DEADLINE_S):
                while (await user.status()).revision == before:
                    pass  # each look is a call over the wire
            process.kill()
            await process.ended()
        assert (second["id"], second["text"]) == (first["id"], first["text"])
        async with serving(state, "--notify", config), local(state) as user:
            assert (await user.status()).revision > before
        assert web.bodies.empty()


@asynccontextmanager
async def local(state: Path) -> AsyncIterator[User]:
    """Whoever reaches the process's Unix socket."""
    async with grpc.aio.insecure_channel(f"unix:{state}/api.sock", options=OPTIONS) as channel:
        yield User(channel)


async def test_a_bad_notify_toml_ends_the_start_with_its_field(state: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "notify.toml", '[[exec]]\nargv = ["page"]')
    ended = await run_to_end(state, "--notify", str(config))
    assert ended.status == 2
    assert ended.errors == (
        f"vfioctl coordinator run: {config}: [[exec]] 1: argv: 'page' is no absolute path\n"
    )
    assert not state.exists()
