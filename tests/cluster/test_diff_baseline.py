"""`vfioctl diff --baseline` over real gRPC: what was accepted against a node, or a stranger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.agents import Cluster, full_host
from tests.cluster.test_cli_commands import Shell, ShellFor, widened
from vfio_contract.artifact import encode_artifact


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> ShellFor:
    def at(cluster: Cluster) -> Shell:
        return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")

    return at


async def test_a_node_and_a_file_against_what_was_accepted(
    state: Path, tmp_path: Path, shell: ShellFor
) -> None:
    changed = tmp_path / "changed.json"
    changed.write_bytes(encode_artifact(widened(full_host())))
    stranger = full_host()
    firmware = replace(stranger.facts.firmware, product_uuid="a1b2c3d4-1111-4222-8333-444455556666")
    strange = tmp_path / "strange.json"
    facts = replace(stranger.facts, firmware=firmware)
    strange.write_bytes(encode_artifact(replace(stranger, facts=facts)))
    async with Cluster(state) as cluster:
        at = shell(cluster)
        agent = await cluster.join("pve01", full_host())
        none = await at.type("diff --baseline --node pve01")
        assert (none.code, "vfioctl baseline accept pve01" in none.err) == (2, True)
        await at.type("baseline accept pve01")

        same = await at.type("diff --baseline --node pve01")
        assert (same.code, "SAME" in same.out) == (0, True)
        harmful = await at.type(f"diff --baseline {changed} --node pve01")
        assert harmful.code == 2
        assert "baseline of pve01 -> " in harmful.out
        assert "GROUP_WIDENED" in harmful.out

        foreign = await at.type(f"diff --baseline {strange} --node pve01")
        assert (foreign.code, foreign.out) == (3, "")
        assert "another machine" in foreign.err
        assert "GROUP_" not in foreign.err

        agent.stream.cancel()
        admin = await cluster.admin()
        await admin.until_state("pve01", "revalidating")
        late = await at.type("diff --baseline --node pve01")
        assert (late.code, "NOT OF NOW" in late.out) == (3, True)
