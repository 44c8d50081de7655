"""`--watch` and `events --follow` as processes, over sudden deaths of what they watch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.agents import Cluster
from tests.cluster.processes import serving
from tests.cluster.test_coordinator_restart import admin_of, ready_agent
from tests.cluster.users import DEADLINE_S

NODE = "pve01"
KILLS = 3


class Command:
    """A command that goes on until it is stopped."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        self.running = running

    async def line(self) -> str:
        assert self.running.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = (await self.running.stdout.readline()).decode()
        assert line, f"it ended: {await self.end_by_itself()}"
        return line

    async def until(self, holds: Callable[[Any], bool]) -> list[Any]:
        """Every document up to the first that is as wanted, each on one line."""
        heard = [json.loads(await self.line())]
        while not holds(heard[-1]):
            heard.append(json.loads(await self.line()))
        return heard

    async def end(self) -> tuple[int, str]:
        """Its status after Ctrl-C, and what it said on stderr."""
        self.running.send_signal(signal.SIGINT)
        return await self.end_by_itself()

    async def end_by_itself(self) -> tuple[int, str]:
        """Its status and what it said on stderr."""
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.running.communicate()
        assert self.running.returncode is not None
        return self.running.returncode, errors.decode()


@asynccontextmanager
async def vfioctl(state: Path, line: str) -> AsyncIterator[Command]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vfio_cli.main", *line.split()),
        env={**os.environ, "VFIOCTL_STATE": str(state)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    try:
        yield Command(running)
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


async def test_a_follower_outlives_killed_coordinators_and_hears_each_event_once(
    state: Path,
) -> None:
    seqs: list[int] = []
    async with AsyncExitStack() as commands:
        async with (
            serving(state, "--node", NODE) as process,
            ready_agent(state, process),
            admin_of(state) as admin,
        ):
            command = await commands.enter_async_context(
                vfioctl(state, "events --follow --since 0 -o json")
            )
            await admin.call("CordonNode", node=NODE, reason="0")
            heard = await command.until(lambda row: row["code"] == "NODE_CORDONED")
            seqs += [row["seq"] for row in heard]
            process.kill()
            await process.ended()
        for number in range(1, KILLS + 1):
            async with serving(state) as process, admin_of(state) as admin:
                await admin.call("CordonNode", node=NODE, reason=str(number))
                heard = await command.until(lambda row: row["code"] == "NODE_CORDONED")
                seqs += [row["seq"] for row in heard]
                kept = await admin.events()
                process.kill()
                await process.ended()
        code, errors = await command.end()
    assert code == 130
    # once for each loss, however many attempts it took; the last may not have been noticed
    assert errors.count("going on after what was shown") in (KILLS, KILLS + 1)
    assert errors.count("connected again") == KILLS
    assert "Traceback" not in errors
    assert seqs == [row.seq for row in kept]


async def test_a_watched_status_says_when_it_is_old_and_comes_back(state: Path) -> None:
    async with (
        serving(state, "--node", NODE) as process,
        ready_agent(state, process),
        admin_of(state) as admin,
        vfioctl(state, "status --cluster --watch -o json") as command,
    ):
        (first, *_) = await command.until(lambda document: True)
        assert first["schema"] == "vfioctl.status/v1"
        await admin.call("CordonNode", node=NODE, reason="new cooler")
        heard = await command.until(is_cordoned)
        assert heard[-1]["status"]["recent"]
        process.kill()
        await process.ended()
        lost = await command.until(lambda d: d["schema"] == "vfioctl.error/v1")
        assert lost[-1]["exit_code"] == 3
        async with serving(state):
            back = await command.until(lambda d: d["schema"] == "vfioctl.status/v1")
            assert back[-1]["status"]["epoch"] == first["status"]["epoch"] + 1
            assert is_cordoned(back[-1])
            code, errors = await command.end()
    assert (code, "trying again" in errors) == (130, True)


def is_cordoned(document: Any) -> bool:
    return any(node["state"] == "cordoned" for node in document["status"]["nodes"])


@pytest.mark.parametrize("what", ["status --cluster", "node list", "vm list", "events"])
async def test_what_cannot_be_reached_at_first_is_said_and_ends(state: Path, what: str) -> None:
    async with vfioctl(state, f"{what} --watch") as command:
        code, errors = await command.end_by_itself()
    assert code == 3
    assert "vfioctl up" in errors


@pytest.mark.parametrize(
    ("form", "begins"),
    [("table", "NODE "), ("json", '{"schema": "vfioctl.nodes/v1"'), ("yaml", "---"), ("name", "")],
)
async def test_a_list_is_shown_again_only_when_it_changed(
    state: Path, form: str, begins: str
) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        async with vfioctl(state, f"node list --watch -o {form}") as command:
            assert (await command.line()).startswith(begins or NODE)
            await (await cluster.admin()).call("CordonNode", node=NODE, reason="one")
            text = ""
            while (begins or NODE) not in text or (form != "name" and "cordoned" not in text):
                text += await command.line()
            assert (await command.end())[0] == 130


async def test_events_that_are_no_longer_kept_are_told_as_a_gap(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        feed = cluster.serving.runtime.publisher.feed
        feed._event_floor = 2
        async with vfioctl(state, "events --follow --since 1 -o json") as command:
            (row, *_) = await command.until(lambda _: True)
            assert row["seq"] > 2
            _, errors = await command.end()
    assert "COMPACTED: events 2 to 2" in errors


async def test_a_number_that_the_log_has_not_reached_is_said_and_waited_for(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join(NODE)
        admin = await cluster.admin()
        newest = max(row.seq for row in await admin.events())
        asked = newest + 2
        async with vfioctl(state, f"events --follow --since {asked} -o json") as command:
            assert command.running.stderr is not None
            async with asyncio.timeout(DEADLINE_S):
                said = (await command.running.stderr.readline()).decode()
            assert f"the newest event is {newest}: nothing is shown before {asked + 1};" in said
            assert said.endswith(f"vfioctl events --follow --since {newest}\n")
            for number in range(4):
                await admin.call("CordonNode", node=NODE, reason=str(number))
            (row, *_) = await command.until(lambda _: True)
            assert row["seq"] == asked + 1
            code, errors = await command.end()
            assert (code, errors.strip()) == (130, "")
        async with vfioctl(state, f"events --follow --since {newest} -o json") as command:
            (row, *_) = await command.until(lambda _: True)
            assert row["seq"] == newest + 1
            code, errors = await command.end()
            assert (code, errors.strip()) == (130, "")
