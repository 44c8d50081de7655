"""The firmware tuple: the named parts of what a host booted with, as text that can be compared.

A part that could not be read is None, which is neither equal to anything nor changed. Nothing here
decides what a changed part means.
"""

from __future__ import annotations

import re

from vfio_contract.model import Facts

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")

_PARAMETERS = frozenset(
    {
        "intel_iommu",
        "amd_iommu",
        "iommu",
        "intremap",
        "pcie_acs_override",
        "pci",
        "vfio",
        "vfio_pci",
        "vfio_iommu_type1",
        "iommufd",
        "arm_smmu",
        "arm_smmu_v3",
        "efi",
    }
)
"""Names before the first `=` or `.` of kernel parameters that bear on passthrough."""

Parts = tuple[tuple[str, str | None], ...]
"""(name, value) of each part, None where it is not known; always the same names in one order."""


def firmware_tuple(facts: Facts) -> Parts:
    """The named parts of the firmware tuple, in DESIGN's order; None where a part is not known."""
    firmware = facts.firmware
    attributes = firmware.attributes
    joined = None if attributes is None else ", ".join(f"{k}={v}" for k, v in attributes)
    return (
        ("BIOS", _joined(firmware.bios_version, firmware.bios_date)),
        ("BMC", firmware.bmc_revision),
        ("microcode", firmware.microcode),
        ("kernel", facts.kernel.release),
        ("kernel build", facts.kernel.build),
        ("cmdline", None if facts.cmdline is None else iommu_parameters(facts.cmdline)),
        ("ACPI DMAR", firmware.dmar_sha256),
        ("ACPI IVRS", firmware.ivrs_sha256),
        ("firmware attributes", joined),
    )


def iommu_parameters(cmdline: str) -> str:
    """The kernel parameters that bear on passthrough, in their order."""
    return " ".join(word for word in cmdline.split() if _parameter_head(word) in _PARAMETERS)


def _parameter_head(word: str) -> str:
    return word.partition("=")[0].partition(".")[0].replace("-", "_")


def _joined(*parts: str | None) -> str | None:
    known = [p for p in parts if p]
    return None if None in parts else " ".join(known)


def shorten(value: str) -> str:
    """A part's value as people read it: a digest by its first 12 digits, as git shows them."""
    return _DIGEST.sub(lambda found: found[0][:12], value)
