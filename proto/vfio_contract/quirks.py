"""Devices that do not keep to the PCI specification, as the kernel's own list has them.

Only what changes how a value is read stands here, with the place in the kernel's source. This
module must never make a device look better than its registers say: an id that is not sure is left
out.
"""

from __future__ import annotations

_WIDE_ACS = (
    range(0xA110, 0xA120),
    range(0xA167, 0xA16B),
    range(0xA290, 0xA2A0),
    range(0xA2E7, 0xA2EF),
    range(0x9D10, 0x9D1C),
)
"""Root ports of Intel's 100 and 200 series and of 7th and 8th generation mobile chipsets."""


def has_wide_acs(vendor: int | None, device: int | None) -> bool:
    """True for root ports with dwords as ACS registers: control at +8 and not at +6.

    Source: Linux drivers/pci/quirks.c, pci_quirk_intel_spt_pch_acs_match().
    """
    return vendor == 0x8086 and any(device in ids for ids in _WIDE_ACS)
