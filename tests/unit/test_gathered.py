"""The text manifest of the gathering script: what it says, and that a broken one is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.collect.gathered import read_gathered
from vfio_agent.collect.manifest import BadCapture

WHOLE = b"""vfioctl.gather/v1
uid 1000
list /sys/class/iommu
 dmar0
 a name with spaces
list /etc/empty
error 13 /sys/firmware/acpi/tables/DMAR
modified 1767225600 /etc/modprobe.d/vfio.conf
left /sys/devices/x/config: it sleeps
end
"""


def test_what_it_says() -> None:
    found = read_gathered(WHOLE)
    assert found is not None
    assert found.privileged is False
    assert found.listings == {"/sys/class/iommu": ("a name with spaces", "dmar0"), "/etc/empty": ()}
    assert found.errors == {"/sys/firmware/acpi/tables/DMAR": 13}
    assert found.modified == {"/etc/modprobe.d/vfio.conf": 1767225600}
    assert found.below["/sys/class"] == ("iommu",)
    assert found.lists("/etc/empty")


def test_root_is_said() -> None:
    found = read_gathered(WHOLE.replace(b"uid 1000", b"uid 0"))
    assert found is not None
    assert found.privileged


def test_anybody_may_have_a_manifest_txt() -> None:
    assert read_gathered(b"Manifest-Version: 1.0\n") is None
    assert read_gathered(b"") is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"gather/v1", b"gather/v2", "this version reads"),
        (b"end\n", b"", "cut short"),
        (b"\nend\n", b"\nend", "cut short"),
        (b"error 13", b"error 99999", "not a number"),
        (b"error 13", b"error -1", "not a number"),
        (b"error 13 /sys", b"error 13 sys", "not an absolute path"),
        (b"uid 1000", b"uid root", "not a number"),
        (b" dmar0", b" ../dmar0", "not understood"),
        (b"uid 1000\n", b"uid 1000\n dmar0\n", "not understood"),
        (b"list /etc", b"list etc", "not understood"),
        (b"left", b"shell", "not understood"),
    ],
)
def test_a_damaged_one_is_refused(old: bytes, new: bytes, reason: str) -> None:
    assert WHOLE.count(old) >= 1
    with pytest.raises(BadCapture, match=reason):
        read_gathered(WHOLE.replace(old, new, 1))


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_any_bytes_are_read_or_refused(noise: bytes, place: int) -> None:
    for data in (noise, b"vfioctl.gather/v1\n" + noise, WHOLE[:place] + noise + WHOLE[place:]):
        try:
            found = read_gathered(data)
        except BadCapture:
            continue
        assert found is None or all(p.startswith("/") for p in (*found.errors, *found.listings))
