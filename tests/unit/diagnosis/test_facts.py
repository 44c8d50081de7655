"""Messages as they are seen on real machines, each with the cause that a person would name."""

from __future__ import annotations

import pytest

from vfio_agent.diagnosis import recognise

ERRORS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # what is seen, the message, the checks that prove its causes
    ("VFIO_GROUP_GET_STATUS: flags=0x0", "group-not-viable", ("group-isolation",)),
    (
        "ioctl VFIO_GROUP_SET_CONTAINER: Operation not permitted",
        "set-container-refused",
        ("group-isolation",),
    ),
    ("vfio 0000:0b:00.0: group 21 is not viable", "group-not-viable", ("group-isolation",)),
    (
        "Please ensure all devices within the iommu_group are bound to their vfio bus driver.",
        "group-not-viable",
        ("group-isolation",),
    ),
    (
        "write '0000:0b:00.1' > /sys/bus/pci/drivers_probe: I/O error",
        "probe-refused",
        ("device-holders",),
    ),
    ("open('/dev/vfio/14'): EBUSY", "group-busy", ("device-holders",)),
    (
        "vfio 0000:01:00.0: Could not open '/dev/vfio/14': Device or resource busy",
        "group-busy",
        ("device-holders",),
    ),
    (
        "vfio 0000:07:00.0: Could not open '/dev/vfio/19': No such file or directory",
        "group-not-there",
        ("driver-binding",),
    ),
    (
        "vfio 0000:07:00.0: Could not open '/dev/vfio/19': Permission denied",
        "group-permission",
        ("",),
    ),
    (
        "vfio /sys/bus/pci/devices/0000:77:00.0: no such host device: No such file or directory",
        "no-such-device",
        ("vm-functions",),
    ),
    (
        "vfio-pci: probe of 0000:01:00.0 failed with error -22",
        "vfio-probe-22",
        ("iommu-active", "group-isolation"),
    ),
    (
        "vfio-pci: probe of 0000:00:0a.0 failed with error -22",
        "vfio-probe-22",
        ("iommu-active", "group-isolation"),
    ),
    (
        "vfio 0000:01:00.0: no iommu_group found: No such file or directory",
        "no-group",
        ("iommu-active",),
    ),
    (
        "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param "
        '"allow_unsafe_interrupts" to enable VFIO IOMMU support on this platform',
        "vfio-no-irq-remapping",
        ("interrupt-remapping",),
    ),
    ("VFIO_SET_IOMMU: Operation not permitted", "set-iommu-refused", ("interrupt-remapping",)),
    (
        "vfio 0000:01:00.0: failed to setup container for group 7: Failed to set iommu for "
        "container: Operation not permitted",
        "set-iommu-refused",
        ("interrupt-remapping", "reserved-regions"),
    ),
    ("Invalid reset method 'bogus'", "reset-method-invalid", ("reset-capability",)),
    ("Unsupported reset method 'flr'", "reset-method-unsupported", ("reset-capability",)),
    ("All device reset methods disabled by user", "resets-disabled", ("reset-capability",)),
    (
        "tee: /sys/bus/pci/devices/0000:01:00.0/reset: Inappropriate ioctl for device",
        "reset-not-alone",
        ("reset-capability",),
    ),
    (
        "pcieport 0000:00:02.0: Data Link Layer Link Active not set in 1000 msec",
        "link-did-not-return",
        ("reset-history",),
    ),
    (
        "vfio: Cannot reset device 0000:00:08.0, no available reset mechanism.",
        "no-reset-mechanism",
        ("reset-capability",),
    ),
    ("VFIO_DEVICE_RESET: Invalid argument", "no-reset-mechanism", ("reset-capability",)),
    (
        "No device request channel registered, blocked until released by user",
        "device-still-used",
        ("device-holders",),
    ),
    ("Relaying device request to user (#0)", "device-still-used", ("device-holders",)),
    ("2 VFs already enabled. Disable before enabling 1 VFs", "vfs-already-enabled", ("sriov",)),
    ("sriov_numvfs: No such file or directory", "vfs-on-vfio-pf", ("sriov",)),
    ("new_id: File exists", "new-id-twice", ("driver-binding",)),
    ("bind: No such device", "bind-no-device", ("driver-binding",)),
    (
        "vfio: Cannot reset device 0000:01:00.0, depends on group 15 which is not owned.",
        "reset-needs-group",
        ("reset-capability",),
    ),
    (
        "Device is ineligible for IOMMU domain attach due to platform RMRR requirement.",
        "rmrr-ineligible",
        ("reserved-regions",),
    ),
    (
        "Firmware has requested this device have a 1:1 IOMMU mapping, rejecting configuring",
        "rmrr-ineligible",
        ("reserved-regions",),
    ),
    ("RLIMIT_MEMLOCK (8388608) exceeded", "memlock-exceeded", ("memory-headroom",)),
    ("VF token required to access device", "vf-token", ("sriov",)),
    ("BAR 1: can't reserve [mem 0xc0000000-0xcfffffff 64bit pref]", "bar-taken", ("bar-and-rom",)),
    (
        "internal error: Active 0000:02:00.1 devices on bus with 0000:02:00.0, not doing bus reset",
        "libvirt-no-bus-reset",
        ("reset-capability",),
    ),
    (
        "PCI device mapping invalid (hardware probably changed): 'iommugroup' is different",
        "pve-mapping-invalid",
        ("vm-functions",),
    ),
    (
        "PCI device '0000:01:00.0' already in use by VMID '101'",
        "pve-in-use",
        ("device-holders",),
    ),
    # the same situation in the words of several kernels
    ("refused to change power state from D3hot to D0", "power-state-refused", ("reset-history",)),
    ("Refused to change power state, currently in D3", "power-state-refused", ("reset-history",)),
    (
        "Unable to change power state from D3cold to D0, device inaccessible",
        "device-inaccessible",
        ("device-health",),
    ),
    ("not ready 65535ms after FLR; giving up", "not-ready-gave-up", ("reset-history",)),
    ("not ready 65535ms after bus reset; giving up", "not-ready-gave-up", ("reset-history",)),
    ("not ready 1023ms after PM D3hot->D0; waiting", "not-ready-waiting", ("reset-history",)),
    # frightening or reassuring, and neither
    ("DMAR: IOMMU enabled", "iommu-enabled-announced", ("iommu-active",)),
    ("iommu: Default domain type: Passthrough", "default-domain-type", ("iommu-active",)),
    (
        "x2apic: IRQ remapping doesn't support X2APIC mode",
        "x2apic-not-supported",
        ("interrupt-remapping",),
    ),
    ("Failed to find module 'vfio_virqfd'", "virqfd-missing", ("vfio-modules",)),
)


@pytest.mark.parametrize(("text", "name", "checks"), ERRORS, ids=[e[0][:60] for e in ERRORS])
def test_the_right_cause_is_named(text: str, name: str, checks: tuple[str, ...]) -> None:
    (found,) = recognise([text.encode()]).sightings
    assert found.message.id == name
    assert {c.check for c in found.message.causes} >= set(checks)
    assert found.message.causes[0].check == checks[0]


def test_the_same_words_with_another_errno_are_another_cause() -> None:
    texts = [
        f"Could not open '/dev/vfio/14': {errno}"
        for errno in ("Device or resource busy", "No such file or directory", "Permission denied")
    ]
    names = [recognise([t.encode()]).sightings[0].message.id for t in texts]
    assert names == ["group-busy", "group-not-there", "group-permission"]


def test_sleep_that_is_refused_is_harmless_and_waking_is_not() -> None:
    kinds = [
        recognise([f"refused to change power state from {way}".encode()]).sightings[0].message.kind
        for way in ("D0 to D3hot", "D3hot to D0")
    ]
    assert kinds == ["HARMLESS", "FAULT"]


def test_virqfd_is_not_a_missing_module_but_vfio_pci_is() -> None:
    texts = ("Failed to find module 'vfio_virqfd'", "Failed to find module 'vfio_pci'")
    names = [recognise([t.encode()]).sightings[0].message.id for t in texts]
    assert names == ["virqfd-missing", "vfio-module-missing"]
