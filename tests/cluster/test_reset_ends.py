"""The same resets on the host and in the cluster, whichever process is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.both_ends import compare_ends
from tests.cluster.noticing import KINDS, NODE, Scene
from tests.cluster.processes import serving
from tests.cluster.test_commands import (
    acting_node,
    ended,
    run,
    start_acting,
    vfioctl,
)
from tests.cluster.test_coordinator_restart import admin_of
from tests.cluster.two_processes import IS_ROOT
from tests.cluster.users import DEADLINE_S
from tests.fakes.acting_host import BOUND
from vfio_agent.inspect import inspect_host
from vfio_agent.recall import recall_resets
from vfio_contract.artifact import to_plain
from vfio_contract.codec import from_message
from vfio_contract.command import Order
from vfio_contract.ledger_views import DeviceHistory


async def history(state: Path, device: str) -> dict[str, Any]:
    code, out, said = await vfioctl(state, "device", "history", NODE, device, "-o", "json")
    assert code in (0, 1, 2), said
    found: dict[str, Any] = json.loads(out)["history"]
    return found


@pytest.mark.skipif(not IS_ROOT, reason="only root may act")
async def test_the_ledger_is_equal_on_both_ends_after_kills(state: Path, tmp_path: Path) -> None:
    async with serving(state, "--node", NODE) as process, admin_of(state) as admin:
        with acting_node(state, tmp_path / "host", process.endpoint) as (both, host):
            stream = admin.watch(kinds=KINDS)
            here = Scene(both, process, admin, stream)
            await stream.until(lambda change: any(n.evidence_age_s >= 0 for n in change.nodes))

            def recall(device: str) -> dict[str, Any]:
                seen = inspect_host(str(host.top)).snapshot
                found = recall_resets(seen, device, journal=both.state / "journal.db")
                assert found is not None
                plain: dict[str, Any] = to_plain(found)
                return plain

            async def is_equal(attempts: int) -> dict[str, Any]:
                """Both, as soon as the cluster has been told of so many."""
                async with asyncio.timeout(DEADLINE_S):
                    while True:
                        answer = await admin.call("GetDeviceHistory", node=NODE, device=BOUND)
                        there = to_plain(from_message(DeviceHistory, answer.history))
                        if sum(row["attempts"] for row in there["tuples"]) >= attempts:
                            assert compare_ends(recall(BOUND), there) == []
                            found: dict[str, Any] = there
                            return found

            await ended(here, (await run(here, Order.RESET_TEST, BOUND)).id)
            (one,) = (await is_equal(1))["tuples"]
            assert [row["outcome"] for row in one["newest"]] == ["success"]
            assert one["newest"][0]["address"] == BOUND
            assert one["durations"][0]["median_ms"] == 16

            # hostd ends in the middle of a reset
            (host.top / "die").touch()
            asked = await run(here, Order.RESET_TEST, BOUND)
            assert both.started[0].ended()[0] == -signal.SIGKILL
            (host.top / "die").unlink()
            start_acting(both, host).until("listens")
            assert (await ended(here, asked.id)).outcome == "unknown"
            once = await is_equal(2)
            (one,) = once["tuples"]
            assert [row["outcome"] for row in one["newest"]] == ["success", "unobserved"]
            stream.call.cancel()
    # the host is gone, and the coordinator is another process: what was told stays
    async with serving(state):
        again = await history(state, BOUND)
        assert compare_ends(once, again) == []
