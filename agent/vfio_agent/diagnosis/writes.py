"""What the kernel answers to somebody who writes into sysfs by hand or by script.

The answer is only an errno, so the file that was written is part of the pattern; where a shell
leaves it out, the likely causes are all named.
"""

from __future__ import annotations

from vfio_agent.diagnosis.message import Cause, Kind, Message, message

_WROTE = r"(?:write error|echo: I/O error|tee: )"

_BIND_WRONG = Cause(
    "bind wants an address whose function is there, has no driver now and fits this driver: here "
    "it is absent, on another driver, or vfio-pci does not know its ids.",
    "echo vfio-pci > .../ADDRESS/driver_override, echo ADDRESS > .../ADDRESS/driver/unbind, then "
    "echo ADDRESS > /sys/bus/pci/drivers_probe",
    "driver-binding",
)
_PROBE = Cause(
    "The group is open in a VM, so the kernel lets no host driver take another function of it. "
    "The function stays without a driver; that protects both.",
    "Stop the VM that has the group, or leave the function as it is.",
    "device-holders",
)
_NO_FUNCTION_RESET = Cause(
    "The function cannot be reset alone: 'bus' is advertised, but another function shares its bus "
    "or slot.",
    "That need not matter: VFIO resets the whole slot when one VM owns it all. See which class of "
    "reset it has: vfioctl device show ADDRESS",
    "reset-capability",
)

MESSAGES: tuple[Message, ...] = (
    message(
        Kind.FAULT,
        "new-id-twice",
        r"new_id\b[^\n]{0,120}(?:EEXIST|File exists|Errno 17\b)"
        rf"|{_WROTE}[^\n]{{0,80}}File exists",
        Cause(
            "These ids were given to the driver before (new_id takes each only once). Nothing is "
            "broken.",
            "If the function is still not on vfio-pci: echo ADDRESS > "
            "/sys/bus/pci/drivers_probe. Better than new_id: driver_override.",
            "driver-binding",
        ),
        stems="eexist|file exists|errno 17",
        examples=(
            "bash: echo: write error: File exists",
            "new_id twice: write: EEXIST (17)",
            "tee: /sys/bus/pci/drivers/vfio-pci/new_id: File exists",
        ),
        source="Linux drivers/pci/pci-driver.c new_id_store()",
    ),
    message(
        Kind.FAULT,
        "bind-no-device",
        r"\bbind\b[^\n]{0,120}(?:ENODEV|No such device|Errno 19\b)"
        rf"|{_WROTE}[^\n]{{0,80}}No such device",
        _BIND_WRONG,
        stems="enodev|no such device|errno 19",
        examples=(
            "bash: echo: write error: No such device",
            "write bind: ENODEV (19)",
            "tee: /sys/bus/pci/drivers/vfio-pci/bind: No such device",
        ),
        source="Linux drivers/base/bus.c bind_store()",
        follows=("vfio-probe-22", "vfio-probe-other"),
    ),
    message(
        Kind.FAULT,
        "probe-refused",
        r"drivers_probe\b[^\n]{0,120}(?:I/O error|Input/output error|EIO)"
        r"|echo: I/O error|write error: Input/output error",
        _PROBE,
        stems="i/o error|input/output|eio",
        examples=(
            "sh: 1: echo: echo: I/O error",
            "write drivers_probe: I/O error shown by dash, sibling stays without driver",
            "bash: echo: write error: Input/output error",
        ),
        source="Linux drivers/vfio; seen in the lab",
    ),
    message(
        Kind.FAULT,
        "reset-not-alone",
        r"\breset\b[^\n]{0,120}(?:ENOTTY|Inappropriate ioctl|Errno 25\b)"
        rf"|{_WROTE}[^\n]{{0,80}}Inappropriate ioctl",
        _NO_FUNCTION_RESET,
        stems="enotty|inappropriate ioctl|errno 25",
        examples=(
            "write reset: ENOTTY (25)",
            "bash: echo: write error: Inappropriate ioctl for device",
            "error writing '1' to '/sys/bus/pci/devices/0000:02:00.0/reset': Inappropriate ioctl "
            "for device",
        ),
        source="Linux drivers/pci/pci.c; seen in the lab",
    ),
    message(
        Kind.FAULT,
        "vfs-on-vfio-pf",
        r"(?:sriov_numvfs|sriov on vfio-pci PF)[^\n]{0,120}"
        r"(?:ENOENT|No such file or directory|Errno 2\b)",
        Cause(
            "The physical function is on vfio-pci, which makes no virtual functions unless told "
            "to.",
            "Put the physical function on its host driver (the normal way), or set "
            "vfio_pci.enable_sriov=Y and give the VFs a vf_token.",
            "sriov",
        ),
        stems="sriov",
        examples=(
            "tee: /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs: No such file or directory",
            "write sriov_numvfs: ENOENT (2) until vfio_pci.enable_sriov=Y",
        ),
        source="Linux drivers/vfio/pci; seen in the lab",
    ),
    message(
        Kind.FAULT,
        "vfs-busy",
        r"sriov_numvfs[^\n]{0,120}(?:EBUSY|Device or resource busy|Errno 16\b)",
        Cause(
            "The number of virtual functions can only be changed from 0, and not while a VM has "
            "one of them.",
            "Stop those VMs, write 0, then the new number.",
            "sriov",
        ),
        stems="sriov_numvfs",
        examples=("tee: /sys/bus/pci/devices/0000:03:00.0/sriov_numvfs: Device or resource busy",),
        source="Linux drivers/pci/pci-sysfs.c",
        follows=("vfs-already-enabled",),
    ),
    message(
        Kind.FAULT,
        "reset-method-refused",
        r"reset_method\b[^\n]{0,120}(?:EINVAL|Invalid argument|Errno 22\b)",
        Cause(
            "The function does not have that reset method, or the word is none. The kernel log "
            "says which.",
            "cat /sys/bus/pci/devices/ADDRESS/reset_method shows what it has.",
            "reset-capability",
        ),
        stems="reset_method",
        examples=(
            "tee: /sys/bus/pci/devices/0000:01:00.0/reset_method: Invalid argument",
            "reset_method = garbage / unsupported: write: EINVAL",
        ),
        source="Linux drivers/pci/pci.c reset_method_store()",
        follows=("reset-method-invalid", "reset-method-unsupported"),
    ),
    message(
        Kind.FAULT,
        "write-refused-alone",
        r"write error: (?:Device or resource busy|Invalid argument|No such file or directory)",
        Cause(
            "A write into sysfs was refused, and the text does not say to which file. Busy: "
            "somebody has the device (unbind, sriov_numvfs). Invalid argument: the value does not "
            "fit (reset_method, sriov_numvfs).",
            "Repeat with the path in sight (echo VALUE | sudo tee PATH) and read the kernel's "
            "line: sudo dmesg | tail",
            "device-holders",
        ),
        stems="write error",
        examples=("bash: echo: write error: Device or resource busy",),
        source="bash",
        follows=("vfs-already-enabled", "reset-method-invalid", "reset-method-unsupported"),
    ),
)
