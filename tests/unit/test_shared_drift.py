"""Firmware F10 -> F11 on a real kernel: what moved, and what was merged."""

from pathlib import Path

import pytest

from vfio_agent.collect.host import collect_host
from vfio_agent.collect.root import open_root
from vfio_contract.artifact import digest_facts
from vfio_contract.drift import compare
from vfio_contract.host import Host

pytestmark = pytest.mark.shared


def _host(shared: Path, name: str) -> Host:
    return Host(collect_host(open_root(str(shared / f"captures/lab/{name}/boot.tar.gz"))))


def test_f10_to_f11_moves_four_and_widens_two(shared: Path) -> None:
    changes = compare(_host(shared, "g3a"), _host(shared, "g3b"))
    moved = {(c.before, c.after) for c in changes if c.code == "DEVICE_MOVED"}
    assert moved == {
        ("0000:01:00.0", "0000:04:00.0"),
        ("0000:02:00.0", "0000:05:00.0"),
        ("0000:03:00.0", "0000:06:00.0"),
        ("0000:03:00.1", "0000:06:00.1"),
    }
    widened = {(c.address_after, c.detail) for c in changes if c.code == "GROUP_WIDENED"}
    assert widened == {("0000:04:00.0", "merged"), ("0000:05:00.0", "merged")}
    firmware = [c for c in changes if c.code == "FIRMWARE_CHANGED"]
    assert next((c.detail, c.before, c.after) for c in firmware) == (
        "BIOS",
        "F10 01/02/2025",
        "F11 06/07/2025",
    )
    assert {c.code for c in changes if c.harms} == {"GROUP_WIDENED"}


def test_a_reboot_with_nothing_changed_is_no_drift(shared: Path) -> None:
    one, other = _host(shared, "g3a"), _host(shared, "g3a")
    assert compare(one, other) == ()
    assert digest_facts(one.facts) == digest_facts(other.facts)


def test_the_same_machine_by_two_kernels_differs_in_its_kernel_only(shared: Path) -> None:
    changes = compare(_host(shared, "m3"), _host(shared, "k612-m3"))
    assert {c.detail for c in changes if c.code == "FIRMWARE_CHANGED"} >= {"kernel"}
    assert not [c for c in changes if c.code == "GROUP_WIDENED"]
