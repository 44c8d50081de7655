"""Acceptances, refusals, settings and looks as the coordinator would tell them."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.cli import samples
from vfio_cli.screens.revalidate import ResetTest, Revalidation
from vfio_contract.baseline_views import BaselineProblem, BaselineRefusal, BaselineRow
from vfio_contract.findings import Verdict
from vfio_contract.policy import BASELINE, BASELINE_RESETS, PolicySetting
from vfio_contract.stale import StaleReference
from vfio_contract.views import BaselineView, NodeView, Reason


def forced() -> BaselineView:
    """Accepted in spite of what was lost."""
    reason = "slot 2 is empty on purpose since the card went to pve03"
    return replace(samples.baseline(drifted=False), reason=reason, passed=("gpu-00000002",))


def foreign() -> BaselineView:
    """Of the board that stood there before."""
    text = (
        "BASELINE_FOREIGN: baseline is of another machine: board X570 -> B650; waits for: "
        "vfioctl baseline accept pve07"
    )
    return replace(samples.baseline(drifted=False, why=text), doubt=text)


def held() -> BaselineView:
    """Nothing was lost, and a person has to look."""
    view = samples.baseline(drifted=True)
    return replace(view, drift=tuple(change for change in view.drift if not change.harms))


def stale() -> BaselineView:
    """The card moved; one VM was not edited."""
    line = StaleReference(
        "VM_ADDRESS_STALE",
        "vm 101",
        "/etc/pve/qemu-server/101.conf",
        4,
        "0000:11:00.0",
        "0000:11:00.0 is another device now: Intel 82574L",
        "hostpci0: 11:00.0 -> 41:00.0",
    )
    return replace(held(), stale=(line,))


def harmed() -> BaselineView:
    """The card moved, its group was widened, and one VM was not edited."""
    return replace(stale(), drift=samples.baseline(drifted=True).drift)


def newer() -> BaselineView:
    """The card moved, and a VM was written that names the address of today."""
    (line,) = stale().stale
    return replace(stale(), stale=(replace(line, owner="vm 105", line=7, newer=True),))


def untold(*, drifted: bool) -> BaselineView:
    """The firmware hides some of what it showed then."""
    facts = tuple(f"ACS bits of 0000:00:{n:02x}.0" for n in range(1, 12))
    return replace(held() if drifted else samples.baseline(drifted=False), unread=facts)


def refusal() -> BaselineRefusal:
    """A host with three kinds of problems, one of them ten times."""
    widened = BaselineProblem(
        "GROUP_WIDENED",
        "8086:10c9@01.0/00.0",
        "widened (merged): 0000:41:00.0 + 0000:00:17.0; affects render-4",
        "Restore the firmware settings or move the card; do not start VMs on it before that.",
    )
    line = BaselineProblem(
        "VM_ADDRESS_STALE",
        "vm 101",
        "/etc/pve/qemu-server/101.conf:4: hostpci0: 01:00 -> 04:00 (0000:01:00.0 is another device "
        "now: Intel 82574L)",
        "Edit that line.",
    )
    none = [
        BaselineProblem(
            "RESET_NONE",
            f"gpu-977eb8{n}",
            f"0000:{n}:00.0 offers no reset at all",
            "Choose hardware with FLR.",
        )
        for n in range(41, 51)
    ]
    return BaselineRefusal("pve07", (widened, *none, line))


def rows() -> tuple[BaselineRow, ...]:
    """Three acceptances under two firmwares, the older one in force again."""
    old = ("BIOS: F10 01/02/2025", "kernel: 6.12.0-1-amd64", "microcode: 0xa20120a")
    new = ("BIOS: F11 03/04/2026", "kernel: 6.12.0-1-amd64", "microcode: 0xa20120f")
    units = ("gpu-977eb823", "nic-4bfb35c3")
    digest = "sha256:" + "9c0f" * 16
    first = BaselineRow(
        1, "2026-09-01T08:00:00Z", "ops", digest, old, units[:1], "", "0.1.0", False, False
    )
    second = replace(
        first,
        number=2,
        accepted_at="2026-09-03T10:30:00Z",
        accepted_by="auto:POLICY",
        passed=units,
        in_force=True,
        facts_kept=True,
    )
    third = replace(
        second,
        number=3,
        accepted_at="2026-11-20T14:21:00Z",
        accepted_by="ops",
        firmware=new,
        passed=units[:1],
        reason="the second slot shares its group with the SATA controller since F11; lab only",
        in_force=False,
    )
    return (third, second, first)


def settings() -> tuple[PolicySetting, ...]:
    """One that somebody set, and one that nobody did."""
    return (
        PolicySetting(
            BASELINE.name,
            "auto",
            ("person", "auto"),
            "ops",
            "2026-11-20T14:21:00Z",
            BASELINE.meaning_of("auto"),
        ),
        PolicySetting(
            BASELINE_RESETS.name,
            "any",
            ("any", "proven"),
            "",
            "",
            BASELINE_RESETS.meaning_of("any"),
        ),
    )


def looked_at(state: str, *reasons: Reason, tested: bool = False) -> Revalidation:
    """A node after the look, with reset tests or without."""
    node: NodeView = replace(samples.node("pve07", state), reasons=reasons)
    tests = (
        ResetTest("gpu-977eb823", "0000:41:00.0", "done", "flr, success in 0.103 s"),
        ResetTest("nic-4bfb35c3", "0000:81:00.0", "skipped", "VM render-4 has it"),
        ResetTest(
            "nvme-aebc6516",
            "0000:02:00.0",
            "refused",
            "ACTION_NOT_PERMITTED: /etc/vfioctl/actuate.toml names no such device for reset-test",
        ),
    )
    return Revalidation(node, tests if tested else (), asked=tested)


def unsound() -> Revalidation:
    """Nothing holds it, and its IOMMU is off."""
    why = "IOMMU_OFF: no IOMMU is active"
    node = samples.node("pve07", verdict=Verdict.FAIL)
    units = (samples.unit(1, state="unfit", why=why), samples.unit(2, state="unfit", why=why))
    return Revalidation(replace(node, units=units, units_free=0, units_total=2), (), asked=False)


SPLIT = Reason(
    "GROUP_SPLIT",
    "auto:GROUP_SPLIT",
    "0000:41:00.0: group 12: 0000:41:00.0 0000:41:00.1 -> group 12: 0000:41:00.0; waits for: "
    "vfioctl baseline accept pve07",
)
SINCE = Reason(
    "GROUP_WIDENED",
    "auto:GROUP_WIDENED",
    "0000:41:00.0: widened (merged): 0000:41:00.0 + 0000:00:17.0; affects render-4",
    "2026-11-22T14:19:00Z",
)
PENDING = Reason("REVALIDATING", "auto:REVALIDATING", "this boot is not validated")
CORDON = Reason("NODE_CORDONED", "user:ann", "new fan")
