"""Bad input with nothing but real processes: coordinator, agents and `vfioctl` as an operator has.

What is wrong is told where an operator looks, the others go on, and nothing that was stored is
lost. How the coordinator answers each single message is in `test_coordinator_bad_input`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.cluster.agents import Agent, nic_host, secure_channel
from tests.cluster.processes import Process, run_to_end, serving
from tests.cluster.users import DEADLINE_S
from tests.fakes.damaged_capture import Capture
from vfio_contract.bundle import load_bundle

HOSTS = Path(__file__).parent.parent / "data" / "hosts"
FIRST, SECOND = HOSTS / "amd-6.1.tar.gz", HOSTS / "numa-2gpu.tar.gz"

EVIL = b"evil \x1b[2J\x1b]0;pwn\x07\x9b31m \xff\xfe \xe2\x80\xae"


@dataclass(frozen=True, slots=True)
class Said:
    """What one `vfioctl` left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class AgentProcess:
    """`python -m vfio_agent`; `lines` is what it wrote to standard error so far."""

    running: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def says(self, words: str) -> str:
        """The line with these words; AssertionError if it ends without."""
        assert self.running.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            while row := (await self.running.stderr.readline()).decode():
                self.lines.append(row)
                if words in row:
                    return row
        raise AssertionError(f"ended without {words!r}: {self.lines}")

    async def end(self) -> int:
        """Ask it to end, and wait."""
        if self.running.returncode is None:
            self.running.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Wait until it ends by itself; its status."""
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.running.communicate()
        self.lines.append(errors.decode())
        assert "Traceback" not in "".join(self.lines)
        assert self.running.returncode is not None
        return self.running.returncode


@dataclass
class House:
    """A serving coordinator and its agents, all processes of their own."""

    state: Path
    work: Path
    process: Process
    stack: AsyncExitStack

    async def agent(
        self, node: str, root: Path, *, name: str = "", bundle: str = ""
    ) -> AgentProcess:
        """An agent of `node`; `name` tells its state apart, `bundle` whose certificate it has."""
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "vfio_agent", "--node", node, "--endpoint", self.process.endpoint),
            *("--tls", str(self.state / "nodes" / (bundle or node))),
            *("--state", str(self.work / f"agent-{name or node}"), "--root", str(root)),
            stderr=asyncio.subprocess.PIPE,
        )
        made = AgentProcess(running)
        self.stack.push_async_callback(made.end)
        return made

    async def vfioctl(self, *words: str) -> Said:
        return await vfioctl(self.state, *words)

    async def until_ready(self, node: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                said = await self.vfioctl("node", "list", "-o", "json")
                rows = {row["name"]: row for row in said.document["nodes"]}
                if rows.get(node, {}).get("state") == "ready":
                    return


async def vfioctl(state: Path, *words: str) -> Said:
    """One command as a process; never a traceback, never a control character."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vfio_cli.main", *words, "--endpoint", f"unix:{state}/api.sock"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = (text.decode("ascii") for text in await running.communicate())
    assert "Traceback" not in err
    assert all(c == "\n" or c.isprintable() for c in out + err)
    assert running.returncode is not None
    return Said(running.returncode, out, err)


@asynccontextmanager
async def house(state: Path, *nodes: str) -> AsyncIterator[House]:
    options = [word for node in nodes for word in ("--node", node)]
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(serving(state, *options))
        yield House(state, state.parent, process, stack)


async def test_a_certificate_for_another_node(state: Path) -> None:
    async with house(state, "pve01", "pve02") as here:
        await here.agent("pve01", FIRST)
        await here.until_ready("pve01")
        thief = await here.agent("pve02", SECOND, bundle="pve01")
        line = await thief.says("NODE_MISMATCH")
        assert "'pve02'" in line
        assert "'pve01'" in line
        shown = await here.vfioctl("node", "show", "pve01", "-o", "json")
        assert shown.document["node"]["state"] == "ready"
        absent = await here.vfioctl("node", "show", "pve02")
        assert absent.status == 64
        assert "UNKNOWN_NODE: node 'pve02'" in absent.err


async def test_two_machines_with_one_name(state: Path) -> None:
    async with house(state, "pve01") as here:
        await here.agent("pve01", FIRST, name="first")
        await here.until_ready("pve01")
        before = (await here.vfioctl("node", "show", "pve01", "-o", "json")).document["node"]
        second = await here.agent("pve01", SECOND, name="second")
        line = await second.says("NODE_CLONED")
        assert "was refused" in line
        after = (await here.vfioctl("node", "show", "pve01", "-o", "json")).document["node"]
        assert after["boot_id"] == before["boot_id"]
        assert after["state"] == "ready"
        told = await here.vfioctl("events", "-o", "json")
        assert "NODE_CLONED" in {event["code"] for event in told.document["events"]}


async def test_an_agent_of_a_newer_protocol(state: Path) -> None:
    async with house(state, "pve01", "pve02") as here:
        await here.agent("pve01", FIRST)
        await here.until_ready("pve01")
        bundle = load_bundle(state / "nodes" / "pve02")
        async with secure_channel(here.process.endpoint, bundle) as channel:
            stream = Agent("pve02", channel, nic_host()).open()
            agent = Agent("pve02", channel, nic_host())
            await stream.say(hello=agent.hello(protocol_min=2, protocol_max=3))
            refused = await stream.end()
        assert refused.status is grpc.StatusCode.FAILED_PRECONDITION
        assert "PROTOCOL_UNSUPPORTED" in refused.message
        assert "protocol 2 to 3, this coordinator 1 to 1" in refused.message
        listed = await here.vfioctl("node", "list", "-o", "json")
        assert [row["name"] for row in listed.document["nodes"]] == ["pve01"]


@pytest.mark.parametrize("keep", [0.5, 0.9])
async def test_a_truncated_store_is_named_and_its_copy_has_every_claim(
    state: Path, keep: float
) -> None:
    async with house(state, "pve01") as here:
        await here.agent("pve01", FIRST)
        await here.until_ready("pve01")
        placed = await here.vfioctl("vm", "place", "train-9", "--device", "nic", "-o", "json")
        assert placed.status == 0, placed.err
        here.process.terminate()
        assert (await here.process.ended()).status == 0
    database = state / "store.db"
    whole = database.read_bytes()
    cut = whole[: int(len(whole) * keep)]
    database.write_bytes(cut)
    ended = await run_to_end(state)
    assert ended.status == 2
    assert str(database) in ended.errors.splitlines()[-1]
    assert "Traceback" not in ended.errors
    assert database.read_bytes() == cut
    asked = await vfioctl(state, "vm", "list", "-o", "json")
    assert asked.status == 3
    assert str(state / "api.sock") in asked.err
    database.write_bytes(whole)
    async with house(state) as again:
        listed = (await again.vfioctl("vm", "list", "-o", "json")).document
        assert [vm["name"] for vm in listed["vms"]] == ["train-9"]


async def test_a_truncated_journal_stops_its_agent_alone(state: Path) -> None:
    async with house(state, "pve01", "pve02") as here:
        agent = await here.agent("pve01", FIRST)
        await here.agent("pve02", SECOND)
        await here.until_ready("pve01")
        await here.until_ready("pve02")
        assert await agent.end() == 0
        journal = here.work / "agent-pve01" / "journal.db"
        cut = journal.read_bytes()[: journal.stat().st_size // 2]
        journal.write_bytes(cut)
        again = await here.agent("pve01", FIRST)
        assert str(journal) in await again.says("it was left as it is")
        assert await again.ended() == 2
        assert journal.read_bytes() == cut
        rows = (await here.vfioctl("node", "list", "-o", "json")).document["nodes"]
        states = {row["name"]: row["state"] for row in rows}
        assert states["pve02"] == "ready"
        assert states["pve01"] != "ready"


async def test_text_of_a_host_goes_through_the_cluster_and_is_never_printed_as_it_is(
    state: Path, tmp_path: Path
) -> None:
    capture = Capture.load(FIRST)
    for name in (
        "proc/sys/kernel/hostname",
        "proc/cmdline",
        "sys/devices/virtual/dmi/id/bios_version",
        "sys/devices/virtual/dmi/id/board_name",
    ):
        capture = capture.put(name, EVIL + b"\n")
    log = capture.members["dmesg"]
    assert isinstance(log, bytes)
    log += (
        b"[  900.0] vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up " + EVIL + b"\n"
    )
    root = capture.put("dmesg", log).save(tmp_path / "evil.tar")
    async with house(state, "pve01") as here:
        await here.agent("pve01", root)
        await here.until_ready("pve01")
        for words in (
            ("status", "--cluster", "--detail"),
            ("node", "show", "pve01"),
            ("check", "--node", "pve01"),
            ("events",),
            ("vm", "place", "a", "--device", "nic", "--dry-run"),
        ):
            assert (await here.vfioctl(*words)).out
            assert (await here.vfioctl(*words, "-o", "json")).document


async def test_a_root_that_turns_to_garbage_keeps_the_node_and_tells(
    state: Path, tmp_path: Path
) -> None:
    root = tmp_path / "host.tar.gz"
    shutil.copy(FIRST, root)
    async with house(state, "pve01") as here:
        agent = await here.agent("pve01", root)
        await here.until_ready("pve01")
        assert await agent.end() == 0
        root.write_bytes(FIRST.read_bytes()[:5000])
        again = await here.agent("pve01", root)
        assert str(root) in await again.says("not a readable tar")
        assert await again.ended() == 64
        shown = await here.vfioctl("node", "show", "pve01", "-o", "json")
        assert shown.document["node"]["state"] != "ready"
