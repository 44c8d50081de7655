"""A host that came back with its IOMMU off: one cause, and nothing that rests on it is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import FULL_ACS, config_space
from tests.unit.state.hosts import accepted, cards, owners, reboot
from vfio_contract.findings import Verdict
from vfio_contract.model import NO_GROUP, Acs, PciFunction

IOMMU_OFF = {
    ("iommu-active", "node"): (Verdict.FAIL, "IOMMU_OFF"),
    ("driver-binding", "function:0000:01:00.0"): (Verdict.BLOCKED, ""),
    ("driver-binding", "function:0000:02:00.0"): (Verdict.BLOCKED, ""),
}


def unremapped(*functions: PciFunction) -> tuple[PciFunction, ...]:
    """The same cards with the IOMMU off: no groups, no ACS bits, nothing that VFIO could have."""
    rows = []
    for f in functions:
        off = replace(f, group=NO_GROUP, driver="", vfio_device=False)
        if f.config is not None and f.config.acs is not None:
            acs = replace(f.config.acs, control=0)
            off = replace(off, driver=f.driver, config=replace(f.config, acs=acs))
        rows.append(off)
    return tuple(rows)


def test_an_iommu_that_is_off_is_the_cause_and_not_what_went_with_it() -> None:
    cluster, one = accepted(*cards(2))
    one.replaced = IOMMU_OFF
    view = reboot(cluster, one, *unremapped(*cards(2)))
    assert owners(view) == ["auto:IOMMU_OFF", "auto:REVALIDATING"]
    assert "IOMMU_OFF" not in view.reasons[0].text, "the reason has its code beside it"
    one.replaced = {}
    assert reboot(cluster, one, *cards(2)).state == "ready"


@pytest.mark.parametrize("shown", [True, False])
def test_an_iommu_that_is_off_lifts_nothing(shown: bool) -> None:
    cluster, one = accepted(*cards(2))
    cleared = config_space(header_type=1, port_type=4, acs=Acs(FULL_ACS.capability, 0))
    lost = {"0000:00:01.0": {"config": cleared}, "0000:01:00.0": {"driver": "igb"}}
    rows = tuple(
        replace(f, vfio_device=False, **lost[f.address])  # type: ignore[arg-type]
        if f.address in lost
        else f
        for f in cards(2)
    )
    one.replaced = {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "WHATEVER")}
    causes = {"auto:ACS_CLEARED", "auto:BINDING_LOST"}
    assert causes <= set(owners(reboot(cluster, one, *rows)))
    one.replaced = IOMMU_OFF
    if shown:
        view = reboot(cluster, one, *unremapped(*rows))
    else:
        unseen = tuple(replace(f, group=None) for f in unremapped(*cards(2)))
        view = reboot(cluster, one, *unseen)
    assert causes <= set(owners(view))
    one.replaced = {}
    assert reboot(cluster, one, *cards(2)).state == "ready"
