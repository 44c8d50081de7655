"""All known messages in one list, in the order in which they explain each other.

The kernel's own words come first, because what QEMU, libvirt and Proxmox say follows from them; and
among the kernel's, the platform before devices, as the field guide digs.
"""

from __future__ import annotations

from vfio_agent.diagnosis import (
    kernel_faults,
    kernel_iommu,
    kernel_reset,
    kernel_vfio,
    libvirt,
    proxmox,
    qemu,
    start_failures,
    writes,
)
from vfio_agent.diagnosis.message import Message

MESSAGES: tuple[Message, ...] = (
    *kernel_iommu.MESSAGES,
    *kernel_vfio.MESSAGES,
    *kernel_reset.MESSAGES,
    *kernel_faults.MESSAGES,
    *writes.MESSAGES,
    *qemu.MESSAGES,
    *start_failures.MESSAGES,
    *libvirt.MESSAGES,
    *proxmox.MESSAGES,
)


def find_message(name: str) -> Message | None:
    """The message of that id."""
    return next((m for m in MESSAGES if m.id == name), None)
