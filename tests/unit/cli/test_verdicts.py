"""Which verdicts fell between two reports, across new addresses and group numbers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from tests.fakes.snapshots import gpu, make_host, make_snapshot, nic, unread
from tests.unit.checks.hosts import hosts
from vfio_agent.checks import judge
from vfio_cli.verdicts import VerdictChange, compare_verdicts
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import Snapshot


def compare(before: Host, after: Host) -> tuple[VerdictChange, ...]:
    return compare_verdicts((before, judge(before)), (after, judge(after)))


def fallen(changes: tuple[VerdictChange, ...]) -> dict[str, str]:
    return {f"{c.check} {c.subject}": c.now_code for c in changes if c.worse}


@settings(max_examples=40)
@given(hosts())
def test_nothing_changes_against_itself(snapshot: Snapshot) -> None:
    assert compare(Host(snapshot), Host(snapshot)) == ()


def test_what_no_fact_about_devices_shows() -> None:
    before = make_host(nic("0000:01:00.0"))
    after = make_host(nic("0000:01:00.0"), interrupt_chips=("IO-APIC",))
    (found,) = compare(before, after)
    assert (found.check, found.was, found.now) == (
        "interrupt-remapping",
        Verdict.PASS,
        Verdict.FAIL,
    )
    assert found.harms
    assert "IO-APIC" in found.evidence
    (better,) = compare(after, before)
    assert not better.worse


def test_a_device_is_followed_to_its_new_address_and_group() -> None:
    def host(address: str, group: int, methods: tuple[str, ...]) -> Host:
        card = nic(address, group=group, reset_methods=methods, root_path="02.0/00.0")
        return make_host(card)

    found = fallen(compare(host("0000:01:00.0", 1, ("flr",)), host("0000:05:00.0", 7, ())))
    assert found["reset-capability function:0000:05:00.0"] == "RESET_DISABLED"


def test_lost_evidence_is_no_fall() -> None:
    before = make_host(nic("0000:01:00.0"))
    row = unread(nic("0000:01:00.0"), "driver", "reset_methods")
    assert not [c for c in compare(before, make_host(row)) if c.harms]


def test_what_nobody_means_to_pass_is_left_out() -> None:
    mine, other = nic("0000:01:00.0"), gpu("0000:02:00.0", group=2, driver="nouveau")
    snapshot = make_snapshot(mine, other)
    assert compare(Host(snapshot), make_host(mine, replace(other, reset_methods=()))) == ()
