"""What Linux says about resets and power states of a function, and what VFIO makes of them.

The wording tells versions apart, not causes: 5.10 "refused to change power state", 6.1 "Unable to
change power state". Wordings: Linux 4.15 to 7.2, drivers/pci/pci.c, drivers/vfio/pci.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_PCI = "Linux drivers/pci/pci.c"
_COLD = (
    "Stop the VM, shut the host down and take its power away for a few seconds: a warm reboot may "
    "not reset the card. If it comes back after every VM stop, use another reset method or other "
    "hardware, or plan a host reboot between assignments."
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "not-ready-gave-up",
        r"not ready \d+ms after [^;\n]{1,40}; giving up",
        Cause(
            "The function was reset and did not answer for a minute: it is wedged. What follows "
            "(black screen, failed starts, host freezes) comes from here.",
            _COLD,
            "reset-history",
        ),
        stems="ms after",
        examples=(
            "vfio-pci 0000:0d:00.3: not ready 65535ms after FLR; giving up",
            "vfio-pci 0000:01:00.0: not ready 65535ms after bus reset; giving up",
            "vfio-pci 0000:01:00.0: not ready 65535ms after PM D3hot->D0; giving up",
        ),
        source=f"{_PCI} pci_dev_wait()",
    ),
    message(
        Kind.FAULT,
        "device-inaccessible",
        r"Unable to change power state from \S{1,10} to \S{1,10}, device inaccessible"
        r"|can.t change power state from \S{1,10} to \S{1,10} \(config space inaccessible\)",
        Cause(
            "The function answers nothing at all (reads give all ones): it is dead, without power "
            "or lost from the bus, usually since a failed reset.",
            _COLD,
            "device-health",
        ),
        stems="power state",
        examples=(
            "vfio-pci 0000:01:00.0: Unable to change power state from D3cold to D0, "
            "device inaccessible",
            "vfio-pci 0000:01:00.0: can't change power state from D3cold to D0 "
            "(config space inaccessible)",
        ),
        source=f"{_PCI} pci_power_up(); 5.19 and later, before it the second wording",
        follows=("not-ready-gave-up", "slot-lost"),
    ),
    message(
        Kind.FAULT,
        "power-state-refused",
        r"refused to change power state from \S{1,10} to D0"
        r"|refused to change power state, currently in D[1-3]",
        Cause(
            "The function does not wake up from its sleep. A VM that gets it finds a device that "
            "does not work.",
            "Keep it awake: options vfio-pci disable_idle_d3=1 in modprobe.d, update-initramfs -u, "
            "reboot. If it still does not wake after a VM stop: power the host off and on.",
            "reset-history",
        ),
        stems="power state",
        examples=(
            "vfio-pci 0000:01:00.0: refused to change power state from D3hot to D0",
            "vfio-pci 0000:01:00.0: Refused to change power state, currently in D3",
        ),
        source=f"{_PCI} pci_raw_set_power_state(), 5.10 and 5.15",
        follows=("not-ready-gave-up",),
    ),
    message(
        Kind.FAULT,
        "link-did-not-return",
        r"Data Link Layer Link Active not set in \d+ msec|subordinate device reset failed",
        Cause(
            "The bus behind this port was reset and its link did not come back in time. The "
            "device below it is not usable now.",
            "If the port's slot is hot-pluggable the bus reset can race with it: prefer flr or pm "
            "where the device has them (reset_method). Otherwise treat it as failed: " + _COLD,
            "reset-history",
        ),
        stems="link active not set|reset failed",
        examples=(
            "pcieport 0000:00:02.0: Data Link Layer Link Active not set in 1000 msec",
            "pcieport 0000:00:02.0: AER: subordinate device reset failed",
        ),
        source=f"{_PCI} pcie_wait_for_link_delay(), drivers/pci/pcie/err.c",
    ),
    message(
        Kind.FAULT,
        "reset-method-invalid",
        r"Invalid reset method\b",
        Cause(
            "A word was written to reset_method that is no reset method.",
            "Write one of: device_specific acpi flr af_flr pm bus; 'default' restores the "
            "kernel's own order. See what the function can: vfioctl device show ADDRESS",
            "reset-capability",
        ),
        stems="reset method",
        examples=("vfio-pci 0000:01:00.0: Invalid reset method 'bogus'",),
        source=f"{_PCI} reset_method_store(), 5.15 and later",
    ),
    message(
        Kind.FAULT,
        "reset-method-unsupported",
        r"Unsupported reset method\b",
        Cause(
            "The function does not have the reset method that was written to reset_method.",
            "See which ones it has: cat /sys/bus/pci/devices/ADDRESS/reset_method, and "
            "vfioctl device show ADDRESS",
            "reset-capability",
        ),
        stems="reset method",
        examples=("vfio-pci 0000:01:00.0: Unsupported reset method 'flr'",),
        source=f"{_PCI} reset_method_store(), 5.15 and later",
    ),
    message(
        Kind.FAULT,
        "resets-disabled",
        r"All device reset methods disabled by user",
        Cause(
            "Somebody emptied reset_method: this function can no longer be reset between VMs.",
            "Restore it: echo default | sudo tee /sys/bus/pci/devices/ADDRESS/reset_method; find "
            "the script that emptied it.",
            "reset-capability",
        ),
        stems="reset methods",
        examples=("vfio-pci 0000:01:00.0: All device reset methods disabled by user",),
        source=f"{_PCI} reset_method_store()",
    ),
    message(
        Kind.RISK,
        "not-ready-waiting",
        r"not ready \d+ms after [^;\n]{1,40}; waiting",
        Cause(
            "The function was reset and does not answer yet; the kernel goes on waiting, twice as "
            "long each time. Alone it is no failure: 'giving up' would be.",
            "See how it ended. If it got ready after a second or two, it is slow; if the last line "
            "says 'giving up', it is wedged.",
            "reset-history",
        ),
        stems="ms after",
        examples=(
            "vfio-pci 0000:0d:00.3: not ready 1023ms after FLR; waiting",
            "vfio-pci 0000:65:00.0: not ready 1023ms after bus reset; waiting",
            "nvme 0000:02:00.0: not ready 1023ms after resume; waiting",
        ),
        source=f"{_PCI} pci_dev_wait()",
        follows=("not-ready-gave-up",),
    ),
    message(
        Kind.RISK,
        "bars-restored",
        r"reset recovery - restoring BARs",
        Cause(
            "VFIO found that the function had lost its addresses: it was reset behind VFIO's back "
            "(by the guest's driver, by a reset of its bus, by losing power) and VFIO repaired "
            "it. Many of them: the device is asleep or wedged.",
            "One at a VM's start is common. If the guest has no working device: see whether the "
            "kernel changed (shorter waits since 6.1.16), and test start, stop, start.",
            "reset-history",
        ),
        stems="restoring bars",
        examples=("vfio-pci 0000:65:00.0: vfio_bar_restore: reset recovery - restoring BARs",),
        source="Linux drivers/vfio/pci/vfio_pci_config.c",
        follows=("not-ready-gave-up", "device-inaccessible"),
    ),
    message(
        Kind.HARMLESS,
        "sleep-refused",
        r"refused to change power state from D0 to \S{1,10}"
        r"|refused to change power state, currently in D0",
        Cause(
            "The function stays awake when it may sleep. That costs power, nothing else.",
            "Nothing.",
        ),
        stems="power state",
        examples=(
            "vfio-pci 0000:01:00.0: refused to change power state from D0 to D3hot",
            "pci 0000:01:00.0: Refused to change power state, currently in D0",
        ),
        source=f"{_PCI} pci_raw_set_power_state()",
    ),
    message(
        Kind.HARMLESS,
        "resetting",
        r"vfio-pci \S{7,16}: (?:resetting|reset done)",
        Cause(
            "VFIO resets the function at a VM's start and stop. 'reset done' is the kernel's word "
            "that it finished, not that the device works in the next VM.",
            "Nothing. Proof is a clean start, stop and start: vfioctl explain reset-history",
            "reset-history",
        ),
        stems="resetting|reset done",
        examples=(
            "vfio-pci 0000:01:00.0: resetting",
            "vfio-pci 0000:01:00.0: reset done",
        ),
        source="Linux drivers/vfio/pci/vfio_pci_core.c, 6.8 and later",
    ),
)
