"""The tables of error strings and kernel strings, and real failures, each recognised rightly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.shared_folder import locate_shared
from vfio_agent.diagnosis import Kind, recognise

pytestmark = pytest.mark.shared

CHECKS = {
    "group not viable": "group-isolation",
    "host driver probed": "device-holders",
    "group held": "device-holders",
    "device not bound": "driver-binding",
    "BDF does not exist": "vm-functions",
    "no IOMMU": "iommu-active",
    "intremap off": "interrupt-remapping",
    "bridge bound": "group-isolation",
    "reset_method =": "reset-capability",
    "reset, `bus`": "reset-capability",
    "bus reset, ACPI": "reset-history",
    "no reset method": "reset-capability",
    "unbind / VF removal": "device-holders",
    "sriov_numvfs change": "sriov",
    "sriov on vfio-pci": "sriov",
    "new_id twice": "driver-binding",
    "bind of a device": "driver-binding",
}
"""How a row's situation begins -> the check that a person would prove it with."""

ALSO = {
    "Cannot reset device": "reset-capability",
    "Device is ineligible": "reserved-regions",
    "Firmware has requested": "reserved-regions",
    "RLIMIT_MEMLOCK": "memory-headroom",
    "VF token required": "sriov",
    "BAR n": "bar-and-rom",
    "Active ...": "reset-capability",
    "PCI device mapping invalid": "vm-functions",
    "already in use by VMID": "device-holders",
}
"""The strings of the paragraph below the table, as they begin."""

HARMLESS_ROWS = ("Captured SR-IOV VF",)


def _errors() -> str:
    folder = locate_shared()
    path = None if folder is None else folder / "facts" / "vfio-errors.md"
    return path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""


def _probes() -> list[tuple[str, str]]:
    """(situation, text): each quoted string of a row, or the row itself where it quotes none."""
    found: list[tuple[str, str]] = []
    situation = ""
    for line in _errors().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")] if line.startswith("|") else []
        if len(cells) != 3 or cells[0] in ("situation", "---"):
            continue
        situation = situation if cells[0] == "same" else cells[0]
        quoted = re.findall(r"`([^`]+)`", cells[2])
        strings = [q for q in quoted if " " in q]
        if cells[2].startswith("EINVAL;"):
            strings.append(f"{situation}: EINVAL")
        found += [(situation, s) for s in strings or [f"{situation}: {cells[1]}: {cells[2]}"]]
        if "sriov_numvfs" in cells[1] and "ENOENT" in cells[2]:
            found.append((situation, f"{cells[1]}: {cells[2]}"))
    return found


PROBES = _probes()


def test_the_table_was_found() -> None:
    assert len({s for s, _ in PROBES}) == len(CHECKS)
    assert len(PROBES) > 25


@pytest.mark.parametrize(("situation", "text"), PROBES, ids=[p[1][:50] for p in PROBES])
def test_every_row_leads_to_the_right_check(situation: str, text: str) -> None:
    reading = recognise([text.encode()])
    assert reading.sightings, text
    if text.startswith(HARMLESS_ROWS):
        assert reading.sightings[0].message.kind is Kind.HARMLESS
        return
    (check,) = (c for begin, c in CHECKS.items() if situation.startswith(begin))
    named = {c.check for s in reading.sightings for c in s.message.causes}
    assert check in named, (situation, text)
    assert reading.root is not None


def _also() -> list[str]:
    paragraph = _errors().partition("Also to be recognised")[2]
    return re.findall(r"`([^`]+)`", paragraph)


@pytest.mark.parametrize("text", _also())
def test_the_strings_below_the_table_are_recognised(text: str) -> None:
    (check,) = (c for begin, c in ALSO.items() if text.startswith(begin))
    concrete = {
        "Cannot reset device ..., depends on group N": "Cannot reset device 0000:01:00.0, depends "
        "on group 3",
        "BAR n": "BAR 3",
        "RLIMIT_MEMLOCK ...": "RLIMIT_MEMLOCK (65536)",
        "by VMID": "by VMID '101'",
        "Active ... devices on bus ...": "Active 0000:01:00.1 devices on bus with 0000:01:00.0,",
    }
    for general, seen in concrete.items():
        text = text.replace(general, seen)
    (found,) = recognise([text.encode()]).sightings
    assert check in {c.check for c in found.message.causes}


PREFIXES_ALONE = {"DMAR:", "DMAR-IR:", "AMD-Vi:", "iommu:"}
"""The notes begin with the prefixes; they are no messages."""


def test_every_kernel_string_is_recognised(shared: Path) -> None:
    text = (shared / "facts" / "kernel.md").read_text(encoding="utf-8")
    body = text.partition("## Intel")[2].partition("## sysfs")[0]
    quoted = [q for q in re.findall(r'"([^"\n]{6,})"', body) if " " in q]
    lines = [re.sub(r"<\w+>|%dms", "1023ms", q) for q in quoted]
    strings = [s for s in lines if re.match(r"DMAR|AMD-Vi|x2apic|iommu|vfio|hiding", s)]
    missed = [
        s
        for s in strings
        if s.strip() not in PREFIXES_ALONE and not recognise([_complete(s).encode()]).sightings
    ]
    assert len(strings) > 20
    assert missed == []


def _complete(text: str) -> str:
    """A string of the notes with its open places filled as a kernel would."""
    text = re.sub(r"\[ \(set via kernel command line\)\]", "", text)
    text = re.sub(r"\(0x\.\.(?:, 0x\.\.)?\)", "(0x58f77ef22294ade)", text)
    return text.replace("at 1023ms cap", "at 0000:00:00.2 cap").replace("group N", "group 7")


@pytest.mark.parametrize(
    ("name", "root", "exactly"),
    [
        ("matisse-flr-hang", "not-ready-gave-up", ["not-ready-gave-up", "not-ready-waiting"]),
        ("since-6.1.16", None, ["bars-restored"]),
        ("quadro-p1000-nointxmask", None, []),
    ],
)
def test_real_failures(name: str, root: str | None, exactly: list[str], shared: Path) -> None:
    text = (shared / "captures" / "errors" / f"{name}.mailbody.txt").read_bytes()
    reading = recognise([text])
    assert [s.message.id for s in reading.sightings] == exactly
    assert (None if reading.root is None else reading.root.message.id) == root


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("n-iooff", "iommu-switched-off"),
        ("n-nodev", "vfio-probe-22"),
        ("n-noir", "vfio-no-irq-remapping"),
    ],
)
def test_the_lab_names_its_own_fault(name: str, root: str, shared: Path) -> None:
    text = (shared / "captures" / "lab" / name / "run.log").read_bytes()
    reading = recognise([text])
    assert reading.root is not None
    assert reading.root.message.id == root


@pytest.mark.parametrize(
    "name",
    ["asus-x507uar__5.3.8__ir-on-dma-off.dmesg", "nxp-imx8__6.19__no-smmu.dmesg-mailbody"],
)
def test_a_log_without_proof_of_dma_remapping_is_not_called_fine(name: str, shared: Path) -> None:
    text = (shared / "captures" / "dmesg" / name).read_bytes()
    assert recognise([text]).unproved == ("iommu-active",)
