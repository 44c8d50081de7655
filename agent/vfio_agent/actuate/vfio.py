"""VFIO as a hypervisor uses it: container, groups, devices, and the two resets.

The only module that makes these ioctls. A group can be open once, so that whoever has it open is
known to be alone: EBUSY is the answer to everybody else. Opening a device resets it where it can
be reset alone, and so does closing it (vfio_pci_core.c: vfio_pci_core_enable, _disable). This
module must never open a function of which nobody has made sure that the host can spare it.

Source: Linux include/uapi/linux/vfio.h, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from vfio_contract.address import Address

CONTAINER = "/dev/vfio/vfio"
DEVICES = "/sys/bus/pci/devices"

_TYPE, _BASE = ord(";"), 100


def _number(offset: int) -> int:
    """_IO(VFIO_TYPE, VFIO_BASE + offset): no size, no direction."""
    return _TYPE << 8 | _BASE + offset


VFIO_GET_API_VERSION = _number(0)
VFIO_SET_IOMMU = _number(2)
VFIO_GROUP_GET_STATUS = _number(3)
VFIO_GROUP_SET_CONTAINER = _number(4)
VFIO_GROUP_GET_DEVICE_FD = _number(6)
VFIO_DEVICE_GET_INFO = _number(7)
VFIO_DEVICE_RESET = _number(11)
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = _number(12)
VFIO_DEVICE_PCI_HOT_RESET = _number(13)

VFIO_API_VERSION = 0
VFIO_TYPE1V2_IOMMU = 3
VFIO_GROUP_FLAGS_VIABLE = 1 << 0
VFIO_DEVICE_FLAGS_RESET = 1 << 0

_GROUP_STATUS = struct.Struct("=II")  # argsz, flags
_DEVICE_INFO = struct.Struct("=5I")  # argsz, flags, num_regions, num_irqs, cap_offset
_HOT_RESET_INFO = struct.Struct("=III")  # argsz, flags, count
_DEPENDENT = struct.Struct("=IHBB")  # group_id, segment, bus, devfn
_HOT_RESET = struct.Struct("=III")  # argsz, flags, count; then group descriptors (s32)
_MAX_DEPENDENTS = 256
"""All functions of one bus."""


class VfioError(Exception):
    """An answer of the kernel that stopped us: `step` says at what, `errno` is the kernel's.

    Steps: iommu_group, container, version, group, viable, set-container, set-iommu, device, info,
    hot-reset-info, reset.
    """

    def __init__(self, step: str, number: int, about: str) -> None:
        super().__init__(f"{step} {about}: {os.strerror(number)}")
        self.step = step
        self.errno = number


@dataclass(frozen=True, slots=True)
class Opened:
    """Functions that nobody else has as long as this is open, by address; groups by number."""

    devices: Mapping[Address, int]
    groups: Mapping[str, int]
    resettable: frozenset[Address]

    def reset(self, address: Address) -> None:
        """VFIO_DEVICE_RESET: this function alone, by the kernel's first method that works."""
        with _step("reset", address):
            fcntl.ioctl(self.devices[address], VFIO_DEVICE_RESET)

    def hot_reset(self, address: Address) -> None:
        """VFIO_DEVICE_PCI_HOT_RESET: everything behind its bridge, with all our groups as proof."""
        descriptors = list(self.groups.values())
        size = _HOT_RESET.size + 4 * len(descriptors)
        request = _HOT_RESET.pack(size, 0, len(descriptors)) + struct.pack(
            f"={len(descriptors)}i", *descriptors
        )
        with _step("reset", address):
            fcntl.ioctl(self.devices[address], VFIO_DEVICE_PCI_HOT_RESET, request)

    def hot_reset_domain(self, address: Address) -> tuple[Address, ...]:
        """What the kernel says a hot reset takes along, by address."""
        size = _HOT_RESET_INFO.size + _DEPENDENT.size * _MAX_DEPENDENTS
        data = bytearray(size)
        _HOT_RESET_INFO.pack_into(data, 0, size, 0, 0)
        with _step("hot-reset-info", address):
            fcntl.ioctl(self.devices[address], VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, data, True)
        count = min(_HOT_RESET_INFO.unpack_from(data)[2], _MAX_DEPENDENTS)
        rows = (
            _DEPENDENT.unpack_from(data, _HOT_RESET_INFO.size + _DEPENDENT.size * n)
            for n in range(count)
        )
        return tuple(
            sorted(
                Address(f"{segment:04x}:{bus:02x}:{devfn >> 3:02x}.{devfn & 7}")
                for _, segment, bus, devfn in rows
            )
        )


@contextmanager
def open_functions(addresses: Sequence[Address]) -> Iterator[Opened]:
    """All of these functions with their groups in one container, closed again afterwards.

    VfioError: EBUSY at `group` means that somebody has it; EPERM at `viable` that a member of the
    group has a driver of the host; EPERM at `set-iommu` that interrupts are not remapped.
    """
    with ExitStack() as stack:
        container = _open(stack, CONTAINER, "container")
        with _step("version", CONTAINER):
            version = fcntl.ioctl(container, VFIO_GET_API_VERSION)
        if version != VFIO_API_VERSION:
            raise VfioError("version", 95, f"VFIO answers {version}")  # EOPNOTSUPP
        groups: dict[str, int] = {}
        numbers = {address: _group_of(address) for address in addresses}
        for number in dict.fromkeys(numbers.values()):
            groups[number] = _open_group(stack, number, container)
        with _step("set-iommu", CONTAINER):
            fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1V2_IOMMU)
        devices: dict[Address, int] = {}
        resettable = set()
        for address in addresses:
            devices[address] = _open_device(stack, address, groups[numbers[address]])
            if _flags_of(address, devices[address]) & VFIO_DEVICE_FLAGS_RESET:
                resettable.add(address)
        yield Opened(devices, groups, frozenset(resettable))


def _group_of(address: Address) -> str:
    with _step("iommu_group", address):
        return os.path.basename(os.readlink(f"{DEVICES}/{address}/iommu_group"))


def _open_group(stack: ExitStack, number: str, container: int) -> int:
    path = f"/dev/vfio/{number}"
    group = _open(stack, path, "group")
    status = bytearray(_GROUP_STATUS.pack(_GROUP_STATUS.size, 0))
    with _step("viable", path):
        fcntl.ioctl(group, VFIO_GROUP_GET_STATUS, status, True)
    if not _GROUP_STATUS.unpack(status)[1] & VFIO_GROUP_FLAGS_VIABLE:
        raise VfioError("viable", 1, path)  # EPERM, as VFIO_GROUP_SET_CONTAINER would say
    with _step("set-container", path):
        fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER, struct.pack("=i", container))
    return group


def _open_device(stack: ExitStack, address: Address, group: int) -> int:
    name = bytearray(f"{address}\0".encode())
    with _step("device", address):
        device: int = fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name, True)
    stack.callback(os.close, device)
    return device


def _flags_of(address: Address, device: int) -> int:
    info = bytearray(_DEVICE_INFO.pack(_DEVICE_INFO.size, 0, 0, 0, 0))
    with _step("info", address):
        fcntl.ioctl(device, VFIO_DEVICE_GET_INFO, info, True)
    return int(_DEVICE_INFO.unpack(info)[1])


def _open(stack: ExitStack, path: str, step: str) -> int:
    with _step(step, path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _step(step: str, about: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VfioError(step, error.errno or 0, about) from error
