"""Two agents on one machine that speak under two names: real processes, a real coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.outdoors import outdoors
from tests.cluster.test_cli_commands import Shell
from tests.cluster.users import want


async def test_one_machine_under_two_names_gives_its_units_away_once(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with outdoors(state, "pve01", "pve02") as here:
        first = await here.add("pve01", tmp_path / "root")
        await here.until_ready(first)
        placed = await here.admin.place(want("render-1", ("gpu", "", 1)))
        assert placed.placement is not None
        second = await here.add("pve02", tmp_path / "root")
        found = await here.until_health("MACHINE_TWICE")
        assert "is on the machine of pve01" in found["MACHINE_TWICE"]
        shell = Shell(capsys, "--endpoint", f"unix:{state}/api.sock")
        shown = await shell.type("node show pve02")
        assert "MACHINE_TWICE" in shown.out
        assert "vfioctl vm release render-1" in " ".join(shown.out.split())
        refused = await shell.type("vm place render-2 --device gpu")
        assert refused.code == 2
        assert "MACHINE_TWICE" in refused.out
        assert "MACHINE_TWICE" in (await shell.type("events --node pve02")).out
        assert "MACHINE_TWICE" in (await shell.type("incident list")).out
        first.end()
        second.end()
