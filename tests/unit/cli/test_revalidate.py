"""The exit code of `node revalidate`: 0 says that the node takes VMs, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.cli import baseline_samples, samples
from vfio_cli.commands.revalidate import exit_code
from vfio_cli.screens.layout import plain
from vfio_cli.screens.nodes import device_names
from vfio_cli.screens.revalidate import Revalidation, revalidate_screen, takes_vms
from vfio_contract.findings import Verdict
from vfio_contract.views import NodeView, Reason


def unfit(verdict: Verdict) -> NodeView:
    """A node that nothing holds, with two units of which none qualifies."""
    return replace(baseline_samples.unsound().node, verdict=verdict)


@pytest.mark.parametrize(
    ("node", "status"),
    [
        (samples.node("pve07"), 0),
        (samples.node("pve07", verdict=Verdict.WARN), 0),
        (samples.node("pve07", verdict=Verdict.FAIL), 2),
        (samples.node("pve07", verdict=Verdict.UNKNOWN), 3),
        (unfit(Verdict.FAIL), 2),
        (unfit(Verdict.WARN), 1),
        (samples.node("pve07", "revalidating"), 1),
        (samples.node("pve07", "cordoned"), 2),
        (samples.node("pve07", "lost"), 3),
    ],
)
def test_a_node_that_nothing_holds_is_judged_by_its_verdict(node: NodeView, status: int) -> None:
    assert exit_code(Revalidation(node, (), asked=False)) == status
    assert takes_vms(node) == (status == 0)


def test_one_unit_that_qualifies_is_enough() -> None:
    node = unfit(Verdict.PASS)
    node = replace(node, units=(*node.units, samples.unit(3, state="claimed", vm="vm1")))
    assert exit_code(Revalidation(node, (), asked=False)) == 0


def test_what_a_unit_only_holds_has_not_its_name() -> None:
    nic = replace(samples.unit(1), model="Intel 82574L", addresses=("0000:03:00.0", "0000:05:00.0"))
    assert "0000:05:00.0" not in device_names((nic,))
    disk = replace(samples.unit(2), model="Samsung 980", addresses=("0000:05:00.0",))
    assert device_names((disk, nic))["0000:05:00.0"] == "Samsung 980"


def test_a_cordon_for_a_check_ends_as_the_finding_says() -> None:
    reason = Reason("GROUP_DIRTY", "auto:GROUP_DIRTY", "0000:41:00.0: the group holds 2 devices")
    node = samples.node("pve07", "cordoned", reason, detail=True)
    text = plain(revalidate_screen(Revalidation(node, (), asked=False)))
    assert "ends by   Move the card to another slot." in text
