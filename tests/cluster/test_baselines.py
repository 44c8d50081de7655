"""Baselines over real gRPC: accepted, refused, forced, back and forth; policies; looked at anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.agents import Agent, Cluster, full_host
from tests.cluster.noticing import NODE, scene, unpack
from tests.cluster.processes import serving
from tests.cluster.test_cli_commands import Shell, ShellFor, widened
from tests.cluster.test_commands import HOST, acting_node
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.two_processes import IS_ROOT
from vfio_contract.artifact import decompress, digest_bytes
from vfio_contract.model import Snapshot
from vfio_coordinator.peer import Role


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> ShellFor:
    def at(cluster: Cluster) -> Shell:
        return Shell(capsys, "--endpoint", f"unix:{cluster.directory}/api.sock")

    return at


def with_bios(bios: str, *, boot: int) -> Snapshot:
    made = full_host(boot_id=f"boot-1-{boot}")
    firmware = replace(made.facts.firmware, bios_version=bios)
    return replace(made, facts=replace(made.facts, firmware=firmware))


async def reboot(cluster: Cluster, agent: Agent, snapshot: Snapshot) -> None:
    agent.stream.cancel()
    agent.snapshot = snapshot
    await agent.join()


async def test_back_and_forth_between_two_accepted_firmwares(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at, admin = shell(cluster), await cluster.admin()
        agent = await cluster.join("pve01", with_bios("F10", boot=1))
        assert (await at.type("baseline accept pve01")).code == 0
        await reboot(cluster, agent, with_bios("F11", boot=2))
        changed = await at.type("baseline show pve01")
        assert changed.code == 1
        assert "vfioctl baseline accept pve01" in changed.out
        assert (await at.type("baseline accept pve01")).code == 0

        for boot, bios in ((3, "F10"), (4, "F11")):
            await reboot(cluster, agent, with_bios(bios, boot=boot))
            view = await admin.until_state("pve01", "ready")
            assert view.drift == ()
            shown = await at.type("baseline show pve01")
            assert (shown.code, f"BIOS: {bios}" in shown.out) == (0, True)

        await cluster.restart()
        history = await at.type("baseline history pve01")
        assert history.code == 0
        assert "2 acceptances" in history.out.splitlines()[0]
        document = (await at.type("baseline history pve01 -o json")).document
        assert document["schema"] == "vfioctl.baselines/v1"
        rows = document["baselines"]
        assert [row["number"] for row in rows] == [2, 1]
        assert all(row["facts_kept"] and row["accepted_by"] == "local" for row in rows)


async def test_a_broken_host_is_refused_unless_forced_with_a_reason(
    state: Path, shell: ShellFor
) -> None:
    async with Cluster(state) as cluster:
        at, admin = shell(cluster), await cluster.admin()
        agent = await cluster.join("pve01", full_host())
        await at.type("baseline accept pve01")
        await reboot(cluster, agent, widened(agent.snapshot))
        await admin.until_state("pve01", "cordoned")
        refused = await at.type("baseline accept pve01")
        assert refused.code == 2
        assert refused.out.startswith("REFUSED  pve01: ")
        assert "GROUP_WIDENED" in refused.out
        assert 'vfioctl baseline accept pve01 --force --reason "..."' in refused.out
        document = (await at.type("baseline accept pve01 -o json")).document
        assert document["baseline"] is None
        assert {p["code"] for p in document["problems"]} >= {"GROUP_WIDENED"}

        for wrong in ("--force", "--reason why"):
            assert (await at.type(f"baseline accept pve01 {wrong}")).code == 64
        newer = "--force --reason wired-so --digest sha256:000000000000"
        refused = await at.type(f"baseline accept pve01 {newer}")
        assert refused.code != 0
        assert "not those that were shown" in refused.err
        shown = await at.type("baseline show pve01")
        digest = shown.out.rpartition("--digest ")[2].split()[0]
        forced = await at.type(f"baseline accept pve01 --force --reason wired-so --digest {digest}")
        assert (forced.code, "wired-so" in forced.out) == (0, True)
        await admin.until_state("pve01", "ready")
        assert "forced: wired-so" in (await at.type("baseline history pve01")).out
        assert "forced    wired-so" in (await at.type("baseline show pve01")).out


async def test_what_is_not_told_any_more_is_named_and_is_not_known(
    state: Path, shell: ShellFor
) -> None:
    async with Cluster(state) as cluster:
        at, admin = shell(cluster), await cluster.admin()
        agent = await cluster.join("pve01", full_host())
        await at.type("baseline accept pve01")
        facts = agent.snapshot.facts
        less = tuple(replace(f, reset_methods=None, parent=None) for f in facts.functions or ())
        await reboot(cluster, agent, replace(agent.snapshot, facts=replace(facts, functions=less)))
        await admin.until_state("pve01", "revalidating")
        shown = await at.type("baseline show pve01")
        assert shown.code == 3
        assert "NOW  UNKNOWN: " in shown.out
        assert "NOT TOLD NOW" in shown.out
        assert "reset methods of 0000:" in shown.out
        document = (await at.type("baseline show pve01 -o json")).document
        assert any("reset methods of" in fact for fact in document["baseline"]["unread"])
        refused = await at.type("baseline accept pve01")
        assert (refused.code, "EVIDENCE_LOST" in refused.out) == (2, True)
        assert "do: " in refused.out


async def test_facts_can_be_had_to_compare(state: Path) -> None:
    async with Cluster(state) as cluster:
        agent = await cluster.join("pve01", with_bios("F10", boot=1))
        operator = await cluster.user(Role.OPERATOR)
        none = await operator.refusal("GetBaselineFacts", node="pve01")
        assert none.code == "NO_BASELINE"
        await operator.call("AcceptBaseline", node="pve01")
        accepted = agent.digest
        await reboot(cluster, agent, with_bios("F11", boot=2))
        before = await operator.call("GetBaselineFacts", node="pve0")
        after = await operator.call("GetNodeFacts", node="pve01")
        assert (before.node, before.digest, after.digest) == ("pve01", accepted, agent.digest)
        for found in (before, after):
            assert digest_bytes(decompress(found.facts_zlib)) == found.digest
        assert after.why == ""
        cluster.advance(600)
        later = await operator.call("GetNodeFacts", node="pve01")
        assert later.why


async def test_a_policy_accepts_by_itself(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at, admin = shell(cluster), await cluster.admin()
        shown = await at.type("policy show")
        assert shown.code == 0
        assert "nobody: the default" in shown.out
        for wrong in ("nonsense=1", "baseline", "baseline=perhaps"):
            assert (await at.type(f"policy set {wrong}")).code == 64
        for twice in ("baseline=auto baseline=person", "baseline=person baseline=auto"):
            refused = await at.type(f"policy set {twice}")
            assert (refused.code, "baseline: it is there twice" in refused.err) == (64, True)
        said = await at.type("policy set baseline=auto -o name")
        assert said.out.splitlines() == ["baseline=auto", "baseline-resets=any"]
        await cluster.join("pve01", full_host())
        rows = await admin.until_event("BASELINE_ACCEPTED")
        assert [row.actor for row in rows if row.code == "BASELINE_ACCEPTED"] == ["auto:POLICY"]
        assert "auto:POLICY" in (await at.type("baseline history pve01")).out
        assert "POLICY_SET" in {event.code for event in await admin.events()}


# --- looked at anew ------------------------------------------------------------------------------


async def test_a_node_is_looked_at_anew_and_refused_tests_are_told(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scene(state, unpack(HOST, tmp_path / "root")) as here:
        at = Shell(capsys, "--endpoint", f"unix:{state}/api.sock")
        free = await here.free()
        ready = await at.type(f"node revalidate {NODE}")
        assert (ready.code, ready.out.startswith(f"{NODE}  READY")) == (0, True), ready
        # a replayed host permits no action: each test is a line of its own, and no success
        tested = await at.type(f"node revalidate {NODE} --reset-tests -o json")
        tests = tested.document["reset_tests"]
        assert tested.code == 1
        assert {test["address"] for test in tests} >= set(free)
        assert {test["outcome"] for test in tests} == {"refused"}
        assert "replays a captured host" in tests[0]["text"]
        await at.type(f"node cordon {NODE}")
        cordoned = await at.type(f"node revalidate {NODE}")
        assert (cordoned.code, "ends by" in cordoned.out) == (2, True)


async def test_a_node_that_is_not_heard_cannot_be_looked_at(state: Path, shell: ShellFor) -> None:
    async with Cluster(state) as cluster:
        at = shell(cluster)
        agent = await cluster.join("pve01", full_host())
        agent.stream.cancel()
        admin = await cluster.admin()
        await admin.until("pve01", lambda view: view.state != "ready")
        said = await at.type("node revalidate pve01")
        assert (said.code, said.out) == (3, "")
        assert (await at.type("node revalidate nobody")).code == 64


@pytest.mark.skipif(not IS_ROOT, reason="only root may act")
async def test_reset_tests_are_made_one_by_one(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(state, "--node", NODE) as process, admin_of(state) as admin:
        with acting_node(state, tmp_path / "host", process.endpoint) as (_, host):
            at = Shell(capsys, "--endpoint", f"unix:{state}/api.sock")
            await admin.until_event("NODE_VALIDATED")
            intended = [u.addresses[0] for u in (await admin.node(NODE)).units if u.intended]
            said = await at.type(f"node revalidate {NODE} --reset-tests --timeout 1 -o json")
            tests = said.document["reset_tests"]
            assert [test["address"] for test in tests] == intended
            assert {test["outcome"] for test in tests} == {"done"}
            assert all("success in" in test["text"] for test in tests)
            assert host.resets() == len(intended) > 1
            assert said.code in (0, 1)
