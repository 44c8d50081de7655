"""The firmware tuple's parts: DMI, BMC, microcode, ACPI remapping tables, firmware settings.

A BIOS setting that reverted changes no version, so the DMAR and IVRS tables are hashed and the
firmware's own attributes are read (facts: What is readable of firmware). Only a platform that
provably lacks a part gets `""`; everything else that is not read is None.
"""

from __future__ import annotations

import re
from hashlib import sha256

from vfio_agent.collect.cpu import parse_microcode, read_cpuinfo
from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import Firmware

_DMI = "/sys/class/dmi/id"
_TABLES = "/sys/firmware/acpi/tables"
_PLATFORM = "/sys/devices/platform"
_DMI_ENTRIES = "/sys/firmware/dmi/entries"
_ATTRIBUTES = "/sys/class/firmware-attributes"

_NO_ATTRIBUTE = frozenset({"pending_reboot", "reset_bios", "save_settings", "debug_cmd"})
"""Files beside the attributes (Documentation/ABI/testing/sysfs-class-firmware-attributes)."""

_TABLE_BYTES = 4 << 20
"""Far above any table; DMAR and IVRS have a few KiB."""

_BMC = re.compile(r"ipmi_bmc\.\d+")


def collect_firmware(reader: Reader) -> Firmware:
    """All parts; hashes and `product_uuid` need root."""
    texts = reader.optional_texts([f"{_DMI}/{name}" for name in _DMI_FILES])
    dmi = dict(zip(_DMI_FILES, texts, strict=True))
    cpuinfo = read_cpuinfo(reader)
    return Firmware(
        bios_vendor=dmi["bios_vendor"],
        bios_version=dmi["bios_version"],
        bios_date=dmi["bios_date"],
        system_vendor=dmi["sys_vendor"],
        product_name=dmi["product_name"],
        product_uuid=dmi["product_uuid"],
        board_name=dmi["board_name"],
        bmc_revision=_collect_bmc(reader),
        microcode=None if cpuinfo is None else parse_microcode(cpuinfo),
        dmar_sha256=_hash_table(reader, "DMAR"),
        ivrs_sha256=_hash_table(reader, "IVRS"),
        attributes=_collect_attributes(reader),
    )


_DMI_FILES = (
    "bios_vendor",
    "bios_version",
    "bios_date",
    "sys_vendor",
    "product_name",
    "product_uuid",
    "board_name",
)


def _hash_table(reader: Reader, name: str) -> str | None:
    path = f"{_TABLES}/{name}"
    try:
        return sha256(reader.root.read(path, limit=_TABLE_BYTES)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        reader.gap(path, error, f"sudo sha256sum {path}")
        return None


def _collect_bmc(reader: Reader) -> str | None:
    """The management controller's revision; its driver alone shows it.

    Without the driver, SMBIOS type 38 tells whether there is a controller at all.
    """
    names = reader.optional_names(_PLATFORM)
    if names is None:
        return None
    for name in names:
        if _BMC.fullmatch(name):
            return reader.text(f"{_PLATFORM}/{name}/firmware_revision")
    entries = _quiet_names(reader, _DMI_ENTRIES)
    if entries and not any(entry.startswith("38-") for entry in entries):
        return ""
    if not entries and reader.optional_names(_DMI) == ():
        return ""
    reader.gap(
        f"{_PLATFORM}/ipmi_bmc.0/firmware_revision",
        "the IPMI driver is not loaded, and nothing proves that there is no BMC",
        "sudo modprobe ipmi_si",
    )
    return None


def _quiet_names(reader: Reader, path: str) -> list[str] | None:
    """A listing that is only a second opinion; its absence leaves no gap of its own."""
    try:
        return reader.root.list(path)
    except OSError:
        return None


def _collect_attributes(reader: Reader) -> tuple[tuple[str, str], ...] | None:
    """All settings, or None when one is not readable: half a list would look like drift."""
    drivers = reader.optional_names(_ATTRIBUTES)
    if drivers is None:
        return None
    found: list[tuple[str, str]] = []
    whole = True
    for driver in drivers:
        folder = f"{_ATTRIBUTES}/{driver}/attributes"
        names = reader.optional_names(folder)
        if names is None:
            return None
        wanted = [n for n in names if n not in _NO_ATTRIBUTE]
        results = reader.root.read_many([f"{folder}/{n}/current_value" for n in wanted])
        for name, result in zip(wanted, results, strict=True):
            if isinstance(result, bytes):
                found.append((name, decode(result)))
            elif not isinstance(result, FileNotFoundError | NotADirectoryError):
                reader.gap(f"{folder}/{name}/current_value", result)
                whole = False
    return tuple(sorted(found)) if whole else None
