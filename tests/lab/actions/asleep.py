"""How a sleeping function fares, by files that do not wake what they tell of.

Source: Linux Documentation/ABI/testing/sysfs-devices-power, sysfs-bus-pci (power_state).
"""

from __future__ import annotations

from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")


def power(*, address: str) -> dict[str, str]:
    """Its power state, what runtime power management believes, and how many milliseconds it was
    awake since it came to the bus: {"power_state", "runtime_status", "runtime_active_time"}."""
    folder = DEVICES / address
    return {
        name.rpartition("/")[2]: (folder / name).read_text().strip()
        for name in ("power_state", "power/runtime_status", "power/runtime_active_time")
    }
