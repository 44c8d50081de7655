"""The command line of a QEMU process as a VM's configuration.

What really runs, whoever started it. Options that do not matter here are passed over, so nothing
secret is kept. A line of this configuration is the place of the argument, the program being 0.
Total: any list of words gives a value, or None when it is no QEMU.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence

from vfio_agent.vmconf.properties import (
    Properties,
    find_property,
    parse_size,
    parse_switch,
    split_properties,
)
from vfio_agent.vmconf.secrets import REDACTED, redact_value
from vfio_contract.vm import (
    QEMU,
    VmConfig,
    VmDevice,
    VmDisk,
    VmSetting,
    complete_address,
)

_PROGRAM = re.compile(r"(?:qemu-system-[a-z0-9_]+|qemu-kvm|kvm|qemu)(?:-spice)?")
_VFIO_DRIVERS = frozenset({"vfio-pci", "vfio-pci-nohotplug"})
_SYSFS_ADDRESS = re.compile(r"/sys/(?:bus/pci/devices|devices/.*)/([0-9a-fA-F:.]+)/?")
_MDEV = re.compile(r"/sys/(?:bus/mdev/devices|devices/.*)/([0-9a-fA-F-]{36})/?")
_FLAGS = frozenset(
    {"-enable-kvm", "-nodefaults", "-nographic", "-daemonize", "-S", "-snapshot", "-no-shutdown"}
)
_DRIVES = frozenset({"-drive", "-blockdev", "-hda", "-hdb", "-hdc", "-hdd", "-cdrom"})
_DEVICE_FILE = re.compile(r"(?:^|[,.]file(?:name)?=|^file=|\"filename\":\s*\")(/dev/[^,\"\s]+)")
"""`file=/dev/sdb`, `file.filename=/dev/sdb`, `{"filename": "/dev/sdb"}` or the bare path."""

_ARGUMENT_BYTES = 1 << 16
"""A longer argument is no device that we know."""

Word = tuple[int, str, str]
"""(place of the value, option with one dash, its value)."""


def is_qemu(program: str) -> bool:
    """True for the path of a QEMU system emulator."""
    return _PROGRAM.fullmatch(program.rpartition("/")[2]) is not None


def split_cmdline(data: bytes) -> list[str]:
    """The arguments in /proc/PID/cmdline; bytes that are not UTF-8 become `\\xNN`."""
    text = data.decode("utf-8", "backslashreplace")
    return text.removesuffix("\0").split("\0") if text else []


def parse_qemu(words: Sequence[str], *, source: str, fallback_name: str) -> VmConfig | None:
    """The VM that this command line starts; None when its program is no QEMU."""
    if not words or not is_qemu(words[0]):
        return None
    options = list(read_options(words))
    name = _name_of(options)
    machine = _last(options, "-machine", "-M")
    machine_words = split_properties(machine, first="type")
    cpu = split_properties(_last(options, "-cpu"), first="model")
    memory = _memory_of(options)
    return VmConfig(
        name=_last(options, "-id") or name or fallback_name,
        kind=QEMU,
        source=source,
        title=name,
        machine=find_property(machine_words, "type"),
        firmware=_firmware_of(options),
        cpu=find_property(cpu, "model"),
        accelerated=_is_accelerated(options, machine_words, words[0]),
        disguises=find_disguises(cpu),
        guest="",
        memory_bytes=memory,
        balloon_bytes=memory if _has_balloon(options) else 0,
        hugepages=_hugepages_of(options),
        autostart=None,
        template=False,
        devices=tuple(find_devices(options, prefix="-device")),
        settings=tuple(
            VmSetting(option.lstrip("-"), redact_value(option, value), place)
            for place, option, value in options
            if option in ("-machine", "-M", "-cpu", "-m", "-accel", "-id", "-name")
        ),
        faults=tuple(_find_faults(options)),
        raw_disks=find_raw_disks(options),
    )


def split_arguments(text: str) -> list[str]:
    """Words of a line of arguments, quotes as a shell takes them; an open quote is a character."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def read_options(words: Sequence[str]) -> Iterator[Word]:
    """Options with their values, in order; `--option` is `-option`."""
    place = 1
    while place < len(words):
        word = words[place]
        if not word.startswith("-"):
            place += 1
            continue
        option = "-" + word.lstrip("-")
        following = words[place + 1] if place + 1 < len(words) else "-"
        if option in _FLAGS or following.startswith("-"):
            yield place, option, ""
            place += 1
        else:
            yield place + 1, option, following
            place += 2


def find_disguises(cpu: Properties) -> tuple[str, ...]:
    """Words of `-cpu` that hide KVM from the guest or change the hypervisor's name."""
    found = []
    for key, value in cpu:
        plain = key.lstrip("+-").replace("_", "-")
        if plain == "kvm" and parse_switch(value) is False:
            found.append("kvm=off")
        elif key == "-hypervisor" or (plain == "hypervisor" and parse_switch(value) is False):
            found.append("-hypervisor")
        elif plain == "hv-vendor-id" and value:
            found.append(f"hv-vendor-id={value}")
    return tuple(found)


def find_devices(options: Sequence[Word], *, prefix: str) -> Iterator[VmDevice]:
    """Every vfio-pci device of these options."""
    for place, option, value in options:
        if option != "-device" or len(value) > _ARGUMENT_BYTES:
            continue
        properties = _read_device(value)
        if find_property(properties, "driver") in _VFIO_DRIVERS:
            yield _make_device(properties, place, prefix)


def _read_device(value: str) -> Properties:
    """`-device` as a property string, or as the JSON that libvirt writes."""
    if not value.startswith("{"):
        return split_properties(value, first="driver")
    try:
        plain = json.loads(value)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(plain, dict):
        return ()
    return tuple((str(key), _plain_text(item)) for key, item in plain.items())


def _plain_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, str | int | float) else ""


def _make_device(properties: Properties, place: int, prefix: str) -> VmDevice:
    written = find_property(properties, "host")
    sysfs = find_property(properties, "sysfsdev")
    named = _SYSFS_ADDRESS.fullmatch(sysfs)
    address = complete_address(written or (named[1] if named else ""))
    mediated = _MDEV.fullmatch(sysfs)
    bus = find_property(properties, "bus")
    return VmDevice(
        key=f"{prefix} {find_property(properties, 'id')}".rstrip(),
        line=place,
        addresses=(address,) if address else (),
        mapping="",
        mdev=mediated[1] if mediated else "",
        pcie=None if not bus else not bus.startswith("pci.") and bus != "pcie.0",
        managed=False,
        primary_display=parse_switch(find_property(properties, "x-vga")) is True,
        rom_file=find_property(properties, "romfile"),
        rom_bar=parse_switch(find_property(properties, "rombar")),
        options=tuple((key, redact_value(key, value)) for key, value in properties),
    )


def find_raw_disks(options: Sequence[Word]) -> tuple[VmDisk, ...] | None:
    """Drives that are block devices of the host; None where a capture left a drive out."""
    found = []
    for place, option, value in options:
        if option in _DRIVES and len(value) <= _ARGUMENT_BYTES:
            if value == REDACTED:
                return None
            match = _DEVICE_FILE.search(value)
            if match is not None:
                found.append(VmDisk(place, match[1]))
    return tuple(found)


def _find_faults(options: Sequence[Word]) -> Iterator[tuple[int, str]]:
    for place, option, value in options:
        if option == "-device" and value.startswith("{") and not _read_device(value):
            yield place, "not a device that can be read"


def _last(options: Sequence[Word], *names: str) -> str:
    return next((value for _, option, value in reversed(options) if option in names), "")


def _name_of(options: Sequence[Word]) -> str:
    properties = split_properties(_last(options, "-name"), first="guest")
    return find_property(properties, "guest")


def _memory_of(options: Sequence[Word]) -> int | None:
    written = split_properties(_last(options, "-m"), first="size")
    size = find_property(written, "size")
    return parse_size(size, unit="M") if size else 128 << 20  # QEMU's default


def _firmware_of(options: Sequence[Word]) -> str:
    for _, option, value in options:
        if option == "-drive" and "if=pflash" in value:
            return "ovmf"
        if option in ("-machine", "-M") and "pflash0=" in value:
            return "ovmf"
        if option == "-bios" and re.search(r"(?i)ovmf|edk2|aavmf", value):
            return "ovmf"
    return "seabios"


def _is_accelerated(options: Sequence[Word], machine: Properties, program: str) -> bool:
    if any(option == "-enable-kvm" for _, option, _ in options):
        return True
    named = [value for _, option, value in options if option == "-accel"]
    named.append(find_property(machine, "accel"))
    chosen = next((name for name in named if name), "")
    if chosen:
        return chosen.partition(",")[0].partition(":")[0] == "kvm"
    return program.rpartition("/")[2] in ("kvm", "qemu-kvm")


def _has_balloon(options: Sequence[Word]) -> bool:
    return any(
        option == "-device"
        and find_property(_read_device(v), "driver").startswith("virtio-balloon")
        for _, option, v in options
        if len(v) <= _ARGUMENT_BYTES
    )


def _hugepages_of(options: Sequence[Word]) -> int:
    """Huge pages of any size when memory comes from hugetlbfs; 0 else."""
    for _, option, value in options:
        if option == "-mem-path" and "huge" in value:
            return -1
        if option == "-object" and "memory-backend-" in value and "huge" in value:
            size = find_property(split_properties(value, first="type"), "hugetlbsize")
            return parse_size(size, unit="") or -1
    return 0
