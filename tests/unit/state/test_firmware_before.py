"""Parts of the firmware that cannot be read now: shown as last known, never compared."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import accepted, cards, snapshot
from vfio_cli.screens.nodes import show_screen
from vfio_contract.model import Snapshot
from vfio_contract.views import BaselineView


def seen(*, boot: int, bmc: str | None, bios: str | None = "F10") -> Snapshot:
    made = snapshot(*cards(2), boot=boot)
    date = made.facts.firmware.bios_date if bios else None
    firmware = replace(made.facts.firmware, bmc_revision=bmc, bios_version=bios, bios_date=date)
    return replace(made, facts=replace(made.facts, firmware=firmware))


def boot_as(cluster: Cluster, one: Agent, made: Snapshot) -> None:
    one.snapshot = made
    cluster.join(one)


def test_the_last_known_value_is_shown_with_its_boot_and_changes_nothing() -> None:
    cluster, one = accepted(*cards(2))
    for boot, bmc in ((0, "1.73"), (1, None), (2, None)):
        boot_as(cluster, one, seen(boot=boot, bmc=bmc))
    first = seen(boot=0, bmc=None).readings.boot_id
    assert first is not None
    view = cluster.view("pve01")
    assert view.firmware_before == (f"BMC 1.73 in boot {first[:8]}",)
    assert (view.state, view.drift) == ("ready", ())
    shown = [line.text for line in show_screen(view)]
    assert f"            not read now, was BMC 1.73 in boot {first[:8]}" in shown
    assert cluster.state.cohorts.count("BMC", "1.73") == 0
    boot_as(cluster, one, seen(boot=2, bmc="1.74"))
    assert cluster.view("pve01").firmware_before == ()


def test_it_never_chooses_a_baseline() -> None:
    cluster, one = accepted(*cards(2))
    boot_as(cluster, one, seen(boot=0, bmc="1.73"))
    cluster.accept(BaselineView, "pve01")
    before = cluster.state.nodes["pve01"].baseline
    boot_as(cluster, one, seen(boot=1, bmc="1.73", bios=None))
    node = cluster.state.nodes["pve01"]
    assert node.inventory is not None
    assert dict(node.inventory.firmware_parts)["BIOS"] is None
    assert [name for name, _, _ in node.inventory.before] == ["BIOS"]
    assert node.drift == ()
    assert node.baseline == before
