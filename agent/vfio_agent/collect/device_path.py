"""Which PCI function a canonical sysfs path runs through.

The innermost one is the device's own: a disk behind VMD or a USB stick names several bridges and
controllers above it. Paths must be canonical (`Root.real`); nothing here reads anything.
"""

from __future__ import annotations

from vfio_contract.address import Address, is_address


def innermost_function(path: str) -> Address | None:
    """The last PCI address among the path's components, None when there is none."""
    for part in reversed(path.split("/")):
        if is_address(part):
            return Address(part)
    return None
