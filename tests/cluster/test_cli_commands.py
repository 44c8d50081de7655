"""The command line against a real coordinator: screens, documents and exit codes over real gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import CompletionItem

from tests.cluster.agents import Cluster, full_host
from tests.fakes.snapshots import unread
from vfio_cli.main import cli, run
from vfio_cli.screens.layout import WIDTH
from vfio_contract.model import Snapshot
from vfio_coordinator.peer import Role


@dataclass(frozen=True, slots=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Types commands at a coordinator's Unix socket, or as someone with a bundle."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *where: str) -> None:
        self._capsys = capsys
        self._where = where

    async def type(self, line: str) -> Said:
        """One command, in a thread because its client blocks."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(run, [*line.split(), *self._where])
        said = self._capsys.readouterr()
        if "-o" not in line:
            assert all(len(row) <= WIDTH for row in said.out.splitlines()), said.out
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)


ShellFor = Callable[[Cluster], Shell]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> ShellFor:
    def at(cluster: Cluster) -> Shell:
        return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")

    return at


def widened(snapshot: Snapshot) -> Snapshot:
    """The same machine after a reboot into firmware that put the card and the disk together."""
    functions = snapshot.facts.functions or ()
    merged = tuple(replace(f, group=2) if f.group in (2, 4) else f for f in functions)
    firmware = replace(snapshot.facts.firmware, bios_version="F11")
    again = full_host(boot_id="boot-1-2")
    groups = tuple(g for g in again.facts.groups or () if g.number not in (2, 4))
    members = tuple(f.address for f in merged if f.group == 2)
    together = replace((again.facts.groups or ())[1], number=2, members=members)
    facts = replace(again.facts, functions=merged, firmware=firmware, groups=(*groups, together))
    return replace(again, facts=facts)


async def test_from_an_empty_cluster_to_a_released_vm(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        empty = await at.type("status --cluster")
        assert "none has joined yet: vfioctl agent run --help" in empty.out
        assert (await at.type("node list")).out.startswith("No node has joined yet")
        await cluster.join("pve01", full_host())
        healthy = await at.type("status --cluster")
        assert healthy.code == 0
        assert "HEALTH_OK" in healthy.out
        assert "NODES 1   1 ready" in healthy.out

        dry = await at.type("vm place train-1 --device gpu --dry-run")
        assert dry.code == 0
        assert dry.out.startswith("WOULD FIT  train-1 on pve01")
        assert (await at.type("vm list -o name")).out == ""
        placed = await at.type("vm place train-1 --device gpu --device nic=1")
        assert placed.code == 0
        assert placed.out.startswith("PLACED  train-1 on pve01")
        assert "iommu-active" in placed.out
        claimed = await at.type("vm claim other-1 --device nvme -o json")
        assert claimed.document["decision"]["placement"]["node"] == "pve01"
        assert (await at.type("vm list -o name")).out == "other-1\ntrain-1\n"
        kinds = {v["name"]: v["kind"] for v in (await at.type("vm list -o json")).document["vms"]}
        assert kinds == {"train-1": "placed", "other-1": "external"}

        refused = await at.type("vm place train-2 --device gpu")
        assert refused.code == 2
        assert refused.out.startswith("REFUSED  train-2: 0 of 1 node qualifies")
        assert "Nothing was reserved." in refused.out
        explained = await at.type("vm explain train-2")
        assert (explained.code, "free" in explained.out) == (2, True)
        assert (await at.type("vm explain train-1")).code == 0

        twice = await at.type("vm place train-1 --device gpu")
        assert (twice.code, twice.err.partition(":")[2].strip().partition(":")[0]) == (
            2,
            "VM_EXISTS",
        )
        released = await at.type("vm release train-1")
        assert released.out.startswith("RELEASED  train-1 on pve01")
        assert (await at.type("vm release train-1")).code == 64
        events = (await at.type("events -o json")).document["events"]
        codes = [event["code"] for event in events]
        assert codes.count("VM_PLACED") == 1
        assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
        assert "VM_RELEASED" in (await at.type("events --last 1")).out
        newest = events[-1]["seq"]
        beyond = f"No events after 99999; the newest of the log is {newest}.\n"
        assert (await at.type("events --since 99999")).out == beyond
        assert (await at.type("events --since 99999 -o json")).document["last_seq"] == newest
        assert "VM_PLACED" not in (await at.type("events --node pve01")).out


async def test_a_cordon_is_seen_and_lifted_by_a_short_name(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        await cluster.join("pve01")
        done = await at.type("node cordon pv --reason maintenance")
        assert done.code == 0
        assert done.out.startswith("CORDONED  pve01")
        status = await at.type("status --cluster")
        assert status.code == 1
        assert "1 cordoned" in status.out
        assert "maintenance" in status.out
        refused = await at.type("vm place v --device nic")
        assert "admitted" in refused.out
        assert (await at.type("node uncordon pve01 -o name")).out == "pve01\n"
        assert (await at.type("node list -o name")).out == "pve01\n"
        assert (await at.type("node show pve01")).code in (0, 1)


async def test_a_baseline_a_reboot_and_the_drift_it_shows(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        agent = await cluster.join("pve01", full_host())
        none = await at.type("baseline show pve01")
        assert (none.code, "vfioctl baseline accept pve01" in none.err) == (2, True)
        accepted = await at.type("baseline accept pve01")
        assert accepted.out.startswith("ACCEPTED  pve01")
        same = await at.type("baseline show pve01")
        assert (same.code, "nothing that both know differs" in same.out) == (0, True)

        agent.stream.cancel()
        agent.snapshot = widened(agent.snapshot)
        await agent.join()
        await (await cluster.admin()).until_state("pve01", "cordoned")
        drifted = await at.type("baseline show pve01")
        assert drifted.code == 2
        assert "FAIL  GROUP_WIDENED" in drifted.out
        assert "F10" in drifted.out
        assert "F11" in drifted.out
        status = await at.type("status --cluster")
        assert status.code == 2
        assert "GROUP_WIDENED" in status.out
        shown = await at.type("node show pve01")
        assert "CORDONED" in shown.out.splitlines()[0]
        assert "DRIFT from the baseline" in shown.out


async def test_a_silent_node_is_never_shown_as_healthy(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        await cluster.join("pve01")
        await at.type("baseline accept pve01")
        assert (await at.type("check --node pve01")).code in (0, 1)
        cluster.advance(600)
        await (await cluster.admin()).until_state("pve01", "lost")
        for command in ("check --node pve01", "node show pve01"):
            said = await at.type(command)
            assert said.code == 3
            assert "UNKNOWN" in said.out.splitlines()[0]
            assert "PASS" not in said.out
        same = await at.type("baseline show pve01")
        assert (same.code, "NOW  UNKNOWN: lost" in same.out) == (3, True)
        document = (await at.type("check --node pve01 -o json")).document
        assert (document["schema"], document["verdict"]) == ("vfioctl.check/v1", "UNKNOWN")
        status = await at.type("status --cluster")
        assert status.code == 2
        assert "1 lost" in status.out
        assert "ready" not in status.out.partition("NODES")[2].splitlines()[0]


async def test_a_node_with_a_gap_says_what_is_not_known(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        snapshot = full_host()
        blind = replace(snapshot, facts=unread(snapshot.facts, "kvm_device"))
        agent = await cluster.agent("pve01", blind)
        await agent.join()
        said = await at.type("check --node pve01")
        assert said.code == 3
        assert "UNKNOWN  cpu-virtualization" in said.out
        refused = await at.type("vm place v --device gpu -o wide")
        assert refused.code == 2


@pytest.mark.parametrize("form", ["wide", "json", "yaml"])
async def test_every_look_has_every_form(form: str, state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        await cluster.join("pve01", full_host())
        await at.type("baseline accept pve01")
        await at.type("vm place v1 --device gpu")
        for command in (
            "status --cluster",
            "node list",
            "node show pve01",
            "vm list",
            "vm explain v1",
            "baseline show pve01",
            "events",
            "check --node pve01",
        ):
            said = await at.type(f"{command} -o {form}")
            assert said.code in (0, 1), command
            assert said.out.isascii()
            if form == "json":
                assert said.document["schema"].startswith("vfioctl.")


async def test_a_viewer_may_look_and_not_touch(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(state) as cluster:
        await cluster.join("pve01")
        cluster.user_bundle("eve", Role.VIEWER)
        bundle = cluster.directory / "users" / "eve"
        at = Shell(capsys, "--endpoint", cluster.serving.endpoint, "--tls", str(bundle))
        assert (await at.type("status --cluster")).code == 0
        assert (await at.type("vm place v --device nic --dry-run")).code == 0
        denied = await at.type("vm place v --device nic")
        assert denied.code == 2
        assert denied.err.startswith("vfioctl: PERMISSION_DENIED")
        (bundle / "key.pem").chmod(0o644)
        open_key = await at.type("status --cluster")
        assert open_key.code == 64
        assert "chmod 600" in open_key.err


async def test_mistakes_are_named_by_the_coordinator(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        for command, code in (
            ("node show nobody", "UNKNOWN_NODE"),
            ("events --node nobody", "UNKNOWN_NODE"),
            ("vm release nobody", "UNKNOWN_VM"),
            ("vm explain nobody", "UNKNOWN_VM"),
        ):
            said = await at.type(command)
            assert (said.code, said.out) == (64, "")
            assert said.err.startswith(f"vfioctl: {code}: ")
            assert said.err.count("\n") == 1
        await cluster.join("pve01")
        said = await at.type("baseline show pve01")
        assert said.err.endswith("make one: vfioctl baseline accept pve01\n")


async def test_a_stopped_coordinator_is_unknown(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        assert await cluster.stop()
        said = await at.type("status --cluster")
        assert said.code == 3
        assert "vfioctl up" in said.err


async def test_names_are_completed_from_the_cluster(state: Path) -> None:
    async with Cluster(state) as cluster:
        await cluster.join("pve01")
        where = ["--endpoint", f"unix:{cluster.directory}/api.sock"]

        def complete() -> list[CompletionItem]:
            context = cli.make_context("vfioctl", ["node", "show", *where], resilient_parsing=True)
            node = cli.get_command(context, "node")
            assert node is not None
            show = node.get_command(context, "show")  # type: ignore[attr-defined]
            below = show.make_context("show", [*where, "x"], resilient_parsing=True)
            items: list[CompletionItem] = show.params[0].shell_complete(below, "pv")
            return items

        found = await asyncio.to_thread(complete)
        assert [(item.value, item.help) for item in found] == [("pve01", "ready")]
