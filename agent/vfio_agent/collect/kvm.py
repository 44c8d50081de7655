"""Whether KVM really makes a VM: the one question to a device that collection asks.

A processor can claim virtualization that its firmware or another hypervisor withholds; only
KVM_CREATE_VM tells. The VM is empty and closed at once, it runs nothing. This module must never be
asked where no KVM module is there: opening the node would load one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

DEVICE = "/dev/kvm"
MADE = b"KVM_CREATE_VM: a VM was made\n"
"""What reading the device yields, and what a capture keeps of it."""

# _IO(KVMIO, nr) of include/uapi/linux/kvm.h
_CREATE_VM, _CHECK_EXTENSION = 0xAE01, 0xAE03
_ARM_VM_IPA_SIZE = 165
_DIRECTED = ("ppc", "mips", "sparc", "alpha", "parisc")
"""Machines whose _IO() numbers carry a direction bit (arch/*/include/uapi/asm/ioctl.h)."""


def probe_kvm(path: str) -> bytes:
    """`MADE` when KVM at this device makes a VM; OSError says why not.

    An ordinary file (a test's) is read as a file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.read(descriptor, 4096)
        bit = 1 << 29 if os.uname().machine.startswith(_DIRECTED) else 0
        try:
            machine = fcntl.ioctl(descriptor, bit | _CREATE_VM, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Arm processors with less than 40 bits of address must be asked for what they have
            bits = fcntl.ioctl(descriptor, bit | _CHECK_EXTENSION, _ARM_VM_IPA_SIZE)
            if bits <= 0:
                raise
            machine = fcntl.ioctl(descriptor, bit | _CREATE_VM, bits)
        os.close(machine)
        return MADE
    finally:
        os.close(descriptor)
