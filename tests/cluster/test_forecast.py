"""`vfioctl forecast` against a real coordinator: from never seen, over known good, to known bad."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem

from tests.cluster.agents import Cluster, full_host
from tests.cluster.test_cli_commands import Shell, widened
from vfio_cli.main import cli
from vfio_coordinator.peer import Role


def shell(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")


async def test_a_forecast_from_never_seen_to_known_bad(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster, capsys)
        assert (await at.type("forecast --bios F11")).code == 64
        one = await cluster.join("pve01", full_host())
        await cluster.join("pve02", full_host(2), number=2)

        good = await at.type("forecast --bios F10 --kernel 6.12")
        assert (good.code, "KNOWN GOOD  Supermicro X12DPi, 2 nodes" in good.out) == (0, True)
        unseen = await at.type("forecast --bios F11")
        assert unseen.code == 1
        assert "never seen on this board" in unseen.out
        assert "try it on one node first: pve01 has no VM" in unseen.out

        await at.type("baseline accept pve01")
        await at.type("node cordon pve01")
        assert (await at.type("vm place train-1 --device gpu")).code == 0
        await at.type("node uncordon pve01")
        one.stream.cancel()
        one.snapshot = widened(one.snapshot)
        await one.join()
        await (await cluster.admin()).until_state("pve01", "cordoned")
        bad = await at.type("forecast --bios F11")
        assert bad.code == 2
        assert "KNOWN BAD  Supermicro X12DPi, 2 nodes" in bad.out
        assert "1 VM would lose its home; 0 of 1 fit elsewhere" in bad.out
        assert "Next: vfioctl incident show INC-1" in bad.out
        there = await at.type("forecast --bios F11 --nodes pve01")
        assert (there.code, "runs it and fails" in there.out) == (1, True)
        assert (await at.type("incident show INC-1")).code == 2

        document = (await at.type("forecast --bios F11 --nodes pve02 -o json")).document
        assert document["schema"] == "vfioctl.forecast/v1"
        found = document["forecast"]
        assert [row["outcome"] for row in found["nodes"]] == ["bad"]
        assert found["boards"][0]["codes"] == ["GROUP_WIDENED"]
        assert [row["stage"] for row in found["moves"][0]["stages"]] == ["admitted"]


async def test_mistakes_roles_and_silence(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster, capsys)
        await cluster.join("pve01", full_host())
        for command, words in (
            ("forecast", "which version?"),
            ("forecast --bios F11 --nodes nobody", "UNKNOWN_NODE"),
            ("forecast --bios F11 --nodes state=asleep", "there are: ready"),
            (f"forecast --bios {'F' * 300}", "bios is not one printable line"),
        ):
            said = await at.type(command)
            assert (said.code, said.out) == (64, ""), said
            assert words in said.err
        cluster.user_bundle("eve", Role.VIEWER)
        bundle = cluster.directory / "users" / "eve"
        viewer = Shell(capsys, "--endpoint", cluster.serving.endpoint, "--tls", str(bundle))
        assert (await viewer.type("forecast --bios F10")).code == 0
        await cluster.restart()
        silent = await at.type("forecast --bios F10")
        assert (silent.code, "not heard since" in silent.out) == (3, True)
        assert await cluster.stop()
        assert (await at.type("forecast --bios F10")).code == 3


async def test_versions_are_completed_from_the_cluster(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join("pve01", full_host())
        where = ["--endpoint", f"unix:{cluster.directory}/api.sock"]

        def complete(option: str) -> list[CompletionItem]:
            context = cli.make_context("vfioctl", ["forecast", *where], resilient_parsing=True)
            forecast = cli.get_command(context, "forecast")
            assert forecast is not None
            below = forecast.make_context("forecast", list(where), resilient_parsing=True)
            (found,) = [p for p in forecast.params if option in p.opts]
            return found.shell_complete(below, "")

        for option, version in (("--bios", "F10 01/01/2025"), ("--kernel", "6.12.0-1-amd64")):
            items = await asyncio.to_thread(complete, option)
            assert [(item.value, item.help) for item in items] == [(version, "1 node")]
