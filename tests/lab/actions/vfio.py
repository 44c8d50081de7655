"""What VFIO itself answers: the ioctls that a hypervisor makes before a VM gets a device.

Each step gives its errno instead of raising, so that a scenario can compare the kernel's answer
with what was predicted. Everything that is opened is closed again.

Source: Linux include/uapi/linux/vfio.h, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

DEVICES = Path("/sys/bus/pci/devices")
CONTAINER = "/dev/vfio/vfio"

_BASE = (ord(";") << 8) + 100
SET_IOMMU = _BASE + 2
GROUP_GET_STATUS = _BASE + 3
GROUP_SET_CONTAINER = _BASE + 4
GROUP_GET_DEVICE_FD = _BASE + 6
DEVICE_GET_INFO = _BASE + 7
DEVICE_RESET = _BASE + 11
GET_PCI_HOT_RESET_INFO = _BASE + 12
PCI_HOT_RESET = _BASE + 13

TYPE1V2 = 3
_VIABLE = 1
_CAN_RESET = 1
_MAX_DEPENDENTS = 64


def group_of(address: str) -> str:
    """The number of the function's group; "" for none."""
    link = DEVICES / address / "iommu_group"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def attempt(address: str, *, then: str = "") -> dict[str, Any]:
    """Open the function as a hypervisor would; `then` is "", "reset" or "hot-reset".

    {"step": how far it came, "errno": "" or the name of the error that stopped it, "viable": bool,
    "can_reset": bool, "seconds": of the last step}. Steps: no group, vfio, group, status,
    container, iommu, device, opened, reset, done. `viable` is None where nobody could ask.
    """
    got: dict[str, Any] = {"step": "", "errno": "", "viable": None, "can_reset": False}
    with ExitStack() as stack:
        try:
            device, group = _open(address, got, stack)
            if then == "reset":
                _timed(got, "reset", lambda: fcntl.ioctl(device, DEVICE_RESET))
            elif then == "hot-reset":
                _timed(got, "reset", lambda: _hot_reset(device, [group]))
        except OSError as error:
            got["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
    return got


def _open(address: str, got: dict[str, Any], stack: ExitStack) -> tuple[int, int]:
    got["step"] = "no group"
    number = group_of(address)
    if not number:
        raise FileNotFoundError(errno.ENOENT, f"{address} has no IOMMU group")
    got["step"] = "vfio"
    container = stack.enter_context(_opened(CONTAINER))
    got["step"] = "group"
    group = stack.enter_context(_opened(f"/dev/vfio/{number}"))
    got["step"] = "status"
    status = bytearray(struct.pack("=II", 8, 0))
    fcntl.ioctl(group, GROUP_GET_STATUS, status, True)
    got["viable"] = bool(struct.unpack("=II", status)[1] & _VIABLE)
    got["step"] = "container"
    fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("=i", container))
    got["step"] = "iommu"
    fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
    got["step"] = "device"
    device = fcntl.ioctl(group, GROUP_GET_DEVICE_FD, bytearray(address.encode() + b"\0"), True)
    stack.callback(os.close, device)
    info = bytearray(struct.pack("=5I", 20, 0, 0, 0, 0))
    fcntl.ioctl(device, DEVICE_GET_INFO, info, True)
    got["can_reset"] = bool(struct.unpack("=5I", info)[1] & _CAN_RESET)
    got["step"] = "opened"
    return device, group


def _timed(got: dict[str, Any], step: str, action: Any) -> None:
    got["step"] = step
    started = time.monotonic()
    try:
        action()
    finally:
        got["seconds"] = round(time.monotonic() - started, 3)
    got["step"] = "done"


def hot_reset_domain(address: str) -> dict[str, Any]:
    """{"errno", "functions": [[address, group], ...]} that a VFIO hot reset takes along."""
    got: dict[str, Any] = {"step": "", "errno": "", "viable": None, "can_reset": False}
    functions: list[list[str]] = []
    with ExitStack() as stack:
        try:
            device, _ = _open(address, got, stack)
            size = 12 + 8 * _MAX_DEPENDENTS
            data = bytearray(struct.pack("=III", size, 0, 0) + bytes(8 * _MAX_DEPENDENTS))
            fcntl.ioctl(device, GET_PCI_HOT_RESET_INFO, data, True)
            for row in range(struct.unpack_from("=III", data)[2]):
                group, segment, bus, devfn = struct.unpack_from("=IHBB", data, 12 + 8 * row)
                name = f"{segment:04x}:{bus:02x}:{devfn >> 3:02x}.{devfn & 7}"
                functions.append([name, str(group)])
        except OSError as error:
            got["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
    return {"errno": got["errno"], "functions": sorted(functions)}


def _hot_reset(device: int, groups: list[int]) -> None:
    request = struct.pack(f"=III{len(groups)}i", 12 + 4 * len(groups), 0, len(groups), *groups)
    fcntl.ioctl(device, PCI_HOT_RESET, request)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
