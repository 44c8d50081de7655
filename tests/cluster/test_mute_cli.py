"""Mutes over the wire and on the screen: the word, the exit code, the watch, and who may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.agents import Agent, Cluster
from tests.cluster.test_cli_commands import Shell
from vfio_cli.main import cli
from vfio_contract.codec import to_message
from vfio_contract.findings import Evidence, Finding, Verdict
from vfio_contract.views import ClusterChange, WatchKind
from vfio_coordinator.peer import Role

DOWNGRADED = Finding(
    check="link-state",
    subject="function:0000:01:00.0",
    verdict=Verdict.WARN,
    code="LINK_DOWNGRADED",
    evidence=(Evidence("current_link_width", "x8"),),
    meaning="",
    decision="",
    intended=True,
)


async def show_it(cluster: Cluster, node: str, number: int = 1) -> Agent:
    agent = await cluster.join(node, number=number)
    await agent.observe(findings=[to_message(DOWNGRADED)])
    return agent


def at(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")


async def test_a_mute_from_add_to_remove(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Cluster(state) as cluster:
        await show_it(cluster, "pve01")
        shell = at(cluster, capsys)
        assert (await shell.type("status --cluster")).code == 1
        added = await shell.type("mute add link_downgraded --reason known --for 2d")
        assert added.code == 0
        assert added.out.startswith("MUTED  LINK_DOWNGRADED on all nodes\n")
        assert "  was  " not in added.out
        again = await shell.type("mute add LINK_DOWNGRADED --reason known --for 2d")
        assert (again.code, "  was     by local until " in again.out) == (0, True)
        wrong = await shell.type("mute add LINK_DOWNGRADED --reason known --for soon")
        assert (wrong.code, "end: 'soon' is no end" in wrong.err) == (64, True)
        muted = await shell.type("status --cluster")
        assert (muted.code, "HEALTH_OK" in muted.out) == (0, True)
        assert "MUTED 1: none of this counts above\n" in muted.out
        assert "WARN  LINK_DOWNGRADED  1 node  by local until" in muted.out
        document = (await shell.type("status --cluster -o json")).document
        (item,) = document["status"]["items"]
        assert (item["count"], item["incident"]) == (1, "")
        assert item["since"]
        assert item["muted"].startswith("by local until ")
        listed = (await shell.type("mute list -o json")).document
        assert [m["code"] for m in listed["mutes"]] == ["LINK_DOWNGRADED"]
        assert (await shell.type("mute list -o name")).out == "LINK_DOWNGRADED\n"
        other = await shell.type("mute remove LINK_DOWNGRADED --node pve01")
        assert (other.code, "on all nodes: leave out --node" in other.err) == (64, True)
        removed = await shell.type("mute remove LINK_DOWNGRADED")
        assert "1 node again" in removed.out
        assert (await shell.type("status --cluster")).code == 1
        said = (await shell.type("events -o json")).document["events"]
        rows = [(e["code"], e["actor"]) for e in said if e["code"].startswith("MUTE_")]
        assert rows == [*[("MUTE_ADDED", "user:local")] * 2, ("MUTE_REMOVED", "user:local")]
        assert "; instead of that by local until" in str(said)
        assert (await shell.type("mute list")).out.startswith("Nothing is muted.")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("mute add NODE_CLONED --reason x", 64, "is never muted"),
        ("mute add LINK_DOWNGRADED --reason x --for 1h --until 2027-01-01", 64, "give one of"),
        ("mute add LINK_DOWNGRADED --reason x --for 91d", 64, "at most 90"),
        ("mute add LINK_DOWNGRADED --for 1h", 64, "--reason"),
        ("mute add NODE_LOST --reason x", 64, "mute it on its node: --node NODE"),
        ("mute remove NODE_LOST", 64, "UNKNOWN_MUTE"),
    ],
)
async def test_mistakes_are_named(
    line: str, code: int, said: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        await show_it(cluster, "pve01")
        ended = await at(cluster, capsys).type(line)
        assert (ended.code, ended.out) == (code, "")
        assert said in ended.err


async def test_a_viewer_sees_mutes_and_makes_none(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        await show_it(cluster, "pve01")
        viewer = await cluster.user(Role.VIEWER)
        assert not (await viewer.call("ListMutes")).mutes
        terms = {"code": "LINK_DOWNGRADED", "reason": "known"}
        refused = await viewer.refusal("AddMute", **terms)
        assert "PERMISSION_DENIED" in str(refused)
        operator = await cluster.user(Role.OPERATOR)
        made = (await operator.call("AddMute", **terms)).mute
        assert made.muted_by == "operator"
        refused = await viewer.refusal("RemoveMute", code="LINK_DOWNGRADED")
        assert "PERMISSION_DENIED" in str(refused)


async def test_who_watches_sees_a_mute_come_and_break(state: Path) -> None:
    async with Cluster(state) as cluster:
        await show_it(cluster, "pve01")
        admin = await cluster.admin()
        stream = admin.watch(kinds=[WatchKind.SUMMARY])

        async def until(health: str, *, count: int, muted: bool) -> None:
            def holds(change: ClusterChange) -> bool:
                summary = change.summary
                if summary is None or summary.health != health:
                    return False
                rows = [i for i in summary.items if i.code == "LINK_DOWNGRADED"]
                return [(i.count, bool(i.muted)) for i in rows] == [(count, muted)]

            await stream.until(holds)

        await until("HEALTH_WARN", count=1, muted=False)
        await admin.call("AddMute", code="LINK_DOWNGRADED", reason="known")
        await until("HEALTH_OK", count=1, muted=True)
        await show_it(cluster, "pve02", 2)
        await until("HEALTH_WARN", count=2, muted=False)


async def test_codes_are_completed_from_what_is_shown_and_what_is_muted(state: Path) -> None:
    async with Cluster(state) as cluster:
        await show_it(cluster, "pve01")
        where = ["--endpoint", f"unix:{cluster.directory}/api.sock"]

        def complete(name: str) -> list[tuple[str, str | None]]:
            context = cli.make_context("vfioctl", ["mute", name, *where], resilient_parsing=True)
            mute = cli.get_command(context, "mute")
            assert mute is not None
            command = mute.get_command(context, name)  # type: ignore[attr-defined]
            below = command.make_context(name, [*where, "x"], resilient_parsing=True)
            items = command.params[0].shell_complete(below, "LINK")
            return [(item.value, item.help) for item in items]

        shown = await asyncio.to_thread(complete, "add")
        assert shown == [("LINK_DOWNGRADED", "WARN 1 node")]
        assert await asyncio.to_thread(complete, "remove") == []
        admin = await cluster.admin()
        await admin.call("AddMute", code="LINK_DOWNGRADED", reason="known")
        assert await asyncio.to_thread(complete, "add") == []
        assert await asyncio.to_thread(complete, "remove") == [("LINK_DOWNGRADED", "all nodes")]
