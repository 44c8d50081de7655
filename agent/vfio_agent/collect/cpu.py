"""The processor as /proc/cpuinfo shows it, and whether KVM offers its device.

The file differs by architecture; only x86 has virtualisation flags, elsewhere KVM itself is the
evidence. A missing flag line must never read as a processor without the feature.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from vfio_agent.collect.kvm import DEVICE, MADE
from vfio_agent.collect.reader import REMEDY_ROOT, Reader, decode
from vfio_contract.model import Cpu, Module, Snapshot

_CPUINFO = "/proc/cpuinfo"
_HEAD_BYTES = 16 << 10
"""Holds the first processor many times over; its entry has 1 to 2 KiB."""

_FLAGS = ("hypervisor", "sev_snp", "svm", "vmx")


def collect_cpu(reader: Reader) -> Cpu:
    """Vendor, model and the flags that matter here; see `parse_cpuinfo`."""
    text = read_cpuinfo(reader)
    if text is None:
        return Cpu(vendor=None, model=None, flags=None)
    return parse_cpuinfo(text)


def read_cpuinfo(reader: Reader) -> str | None:
    """The head of /proc/cpuinfo: the file asks every processor for its clock, one is enough."""
    data = reader.data(_CPUINFO, limit=_HEAD_BYTES)
    return None if data is None else decode(data)


def parse_cpuinfo(text: str) -> Cpu:
    """The first processor.

    `flags` is () where the architecture has no such line (Arm, POWER, RISC-V), None where x86 text
    lacks it. Arm names its vendor and model by number: `implementer 0x41`, `part 0xd0c`.
    """
    fields = _first_processor(text)
    if not fields:
        return Cpu(vendor=None, model=None, flags=None)
    flags: tuple[str, ...] | None = ()
    if "flags" in fields:
        present = set(fields["flags"].split())
        flags = tuple(flag for flag in _FLAGS if flag in present)
    elif "cpu family" in fields or "apicid" in fields:
        flags = None
    vendor = fields.get("vendor_id", "")
    model = fields.get("model name") or fields.get("cpu", "") or fields.get("uarch", "")
    if "CPU implementer" in fields:
        vendor = vendor or f"implementer {fields['CPU implementer']}"
        model = model or f"part {fields.get('CPU part', '?')}"
    return Cpu(vendor=vendor, model=model, flags=flags)


def parse_microcode(text: str) -> str | None:
    """The first processor's microcode revision; `""` where it names none, None for no processor."""
    fields = _first_processor(text)
    return fields.get("microcode", "") if fields else None


def machine_of(text: str) -> str | None:
    """`uname -m` as far as the shape of /proc/cpuinfo shows it, for kernels before 6.1."""
    fields = _first_processor(text)
    if "flags" in fields:
        return "x86_64" if "lm" in fields["flags"].split() else "i686"
    if fields.get("CPU architecture") == "8" or "CPU implementer" in fields:
        return "aarch64" if fields.get("CPU architecture") == "8" else "armv7l"
    if "isa" in fields:
        return "riscv64" if fields["isa"].startswith("rv64") else "riscv32"
    return None


def collect_kvm_device(reader: Reader) -> bool | None:
    """Whether /dev/kvm exists; None where /dev was not captured whole."""
    names = reader.names("/dev")
    if names is None:
        return None
    if "kvm" in names:
        return True
    if reader.root.authoritative("/dev/kvm"):
        return False
    reader.gap("/dev/kvm", "not captured", "ls -l /dev/kvm")
    return None


def collect_kvm(
    reader: Reader,
    *,
    device: bool | None,
    modules: Sequence[Module] | None,
    previous: Snapshot | None,
) -> str | None:
    """What KVM said when it was asked for a VM: "" for yes, else why not; None if not asked.

    `previous` is this boot's last snapshot: what worked once is not asked again. A directory that
    somebody copied holds no answer.
    """
    root = reader.root
    if not device or not any(m.name.startswith("kvm") for m in modules or ()):
        return None
    if previous is not None and previous.readings.kvm == "":
        return ""
    if not root.live and root.privileged is None:
        return None
    try:
        return "" if root.read(DEVICE).strip() == MADE.strip() else None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            reader.gap(DEVICE, error, REMEDY_ROOT if root.live else "")
            return None
        if not error.errno or error.errno == errno.ETIMEDOUT:
            return None
        return f"KVM_CREATE_VM: {error.strerror or error}"


def _first_processor(text: str) -> dict[str, str]:
    """Key and value of each line up to the first blank one."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip() and fields:
            break
        key, found, value = line.partition(":")
        if found:
            fields.setdefault(key.strip(), value.strip())
    return fields
