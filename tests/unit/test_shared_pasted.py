"""Pasted evidence of real machines, through `--from`: all recognised, judged as a person would.

What a person reads in a group table depends on membership and classes alone; drivers, ACS override
and the rest are given beside it here, or the check says that they are missing.
"""

from __future__ import annotations

import csv
import re
from io import BytesIO
from pathlib import Path

import pytest

from tests.shared_folder import locate_shared
from vfio_agent.checks.architecture import ARM, family_of
from vfio_agent.inspect import Inspection, inspect_evidence
from vfio_contract.findings import Finding, Verdict

pytestmark = pytest.mark.shared

UNAME = "Linux pve 6.1.0-9-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.27-1 x86_64 GNU/Linux\n"
CMDLINE = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet\n"

DIRTY = {
    "groups/acs-group12.mailbody.txt": {12},
    "groups/adlink-ava.from-dmesg.tsv": set[int](),
    "groups/dell-optiplex5055.from-dmesg.tsv": {10},
    "groups/dell-t440.from-dmesg.tsv": set[int](),
    "groups/dell-t630.from-dmesg.tsv": {18},
    "groups/hp-m01.from-dmesg.tsv": {4, 7},
    "groups/msi-b350m.from-dmesg.tsv": {6},
    "groups/supermicro-x9dri.from-dmesg.tsv": {45},
    "lspci/cometlake-laptop.lspci-vv.txt": {13},
    "lspci/hp-spectre-15df.lspci-vvv.txt": {15},
    "lspci/imac-comet-z490-navi.full.mailbody.txt": {10},
    "lspci/imac-comet-z490-navi.lspci-nnvv.mailbody.txt": {10},
    "lspci/raptorlake-desktop.lspci-vvv.txt": {16},
    "lspci/asus-pn51-ryzen.lspci-vvv.txt": set[int](),
    "lspci/x570-desktop.lspci-verbose.txt": set[int](),
    "lspci/asm1812-switch.lspci-vvv.txt": set[int](),
}
"""Groups that mix devices, as a person sees it: network, USB and SATA of a chipset switch together;
audio with the LPC bridge and SMBus; SATA with the LPC bridge; two SATA slots with a display."""

WHOLE = {
    "lspci/cometlake-laptop.lspci-vv.txt": {1, 5, 6, 9, 14, 15},
    "lspci/hp-spectre-15df.lspci-vvv.txt": {0, 2, 6, 9, 22, 23, 24, 25, 26},
    "lspci/imac-comet-z490-navi.full.mailbody.txt": {1, 3, 11, 12, 13, 20},
    "lspci/raptorlake-desktop.lspci-vvv.txt": {0, 4, 5, 8, 17, 18, 19, 20},
    "lspci/asus-pn51-ryzen.lspci-vvv.txt": {*range(11, 21), 22, 23},
    "lspci/x570-desktop.lspci-verbose.txt": {14, *range(18, 23), *range(25, 29), 31, 32, 33},
}
"""Whole listings with drivers: with release and command line beside them, clean groups pass."""

KINDS = {"lspci": "lspci", "groups": "IOMMU group listing", "dmesg": "kernel log"}
OTHER_KINDS = {"asus-pn51-ryzen.lshw.txt": "lshw", "dell-t630.lscpu.txt": "lscpu"}


def _files(*folders: str) -> list[Path]:
    shared = locate_shared()
    if shared is None:
        return []
    return [p for name in folders for p in sorted((shared / "captures" / name).iterdir())]


def _logs() -> list[dict[str, str]]:
    shared = locate_shared()
    if shared is None:
        return []
    with (shared / "captures" / "dmesg-TRUTH.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("path", _files(*KINDS), ids=lambda p: p.name)
def test_every_file_is_recognised(path: Path) -> None:
    (given,) = inspect_evidence([str(path)]).given
    assert OTHER_KINDS.get(path.name, KINDS[path.parent.name]) in given.kinds


@pytest.mark.parametrize("path", _files(*KINDS, "errors"), ids=lambda p: p.name)
def test_no_file_alone_makes_a_host_ready(path: Path) -> None:
    seen = inspect_evidence([str(path)])
    assert seen.report.verdict in (Verdict.UNKNOWN, Verdict.FAIL)
    assert seen.report.missing


def _judge_groups(name: str, shared: Path, tmp_path: Path) -> dict[str, set[int]]:
    (tmp_path / "u").write_text(UNAME)
    (tmp_path / "c").write_text(CMDLINE)
    paths = [shared / "captures" / name, tmp_path / "u", tmp_path / "c"]
    found: dict[str, set[int]] = {}
    for finding in inspect_evidence([str(p) for p in paths]).report.findings:
        if finding.check == "group-isolation" and finding.subject.startswith("group:"):
            found.setdefault(finding.code, set()).add(int(finding.subject[6:]))
    return found


@pytest.mark.parametrize("name", DIRTY)
def test_dirty_groups(name: str, shared: Path, tmp_path: Path) -> None:
    found = _judge_groups(name, shared, tmp_path)
    assert found.pop("GROUP_DIRTY", set()) == DIRTY[name]
    assert set(found) <= {"GROUP_CLEAN", "GROUP_UNKNOWN"}


@pytest.mark.parametrize("name", WHOLE)
def test_clean_groups(name: str, shared: Path, tmp_path: Path) -> None:
    assert _judge_groups(name, shared, tmp_path)["GROUP_CLEAN"] == WHOLE[name]


@pytest.mark.parametrize("name", set(DIRTY) - set(WHOLE))
def test_nothing_is_clean_without_drivers_or_in_an_excerpt(
    name: str, shared: Path, tmp_path: Path
) -> None:
    assert "GROUP_CLEAN" not in _judge_groups(name, shared, tmp_path)


@pytest.mark.parametrize("name", WHOLE)
def test_no_clean_cut_makes_a_group_clean(name: str, shared: Path, tmp_path: Path) -> None:
    """Each listing, cut between two functions: the end of a paste is no end of a list."""
    data = (shared / "captures" / name).read_bytes()
    (tmp_path / "more").write_text(UNAME + CMDLINE)
    places = [m.end() for m in re.finditer(rb"\n\s*\n", data)]
    for place in places[1::4]:
        (tmp_path / "cut").write_bytes(data[:place])
        seen = inspect_evidence([str(tmp_path / "cut"), str(tmp_path / "more")])
        clean = {f.subject for f in seen.report.findings if f.code == "GROUP_CLEAN"}
        assert clean <= {f"group:{number}" for number in WHOLE[name]}, place


def test_a_paste_of_addresses_alone_decides_no_group(shared: Path) -> None:
    folder = shared / "captures" / "groups"
    for path in sorted(folder.glob("*.groups.mailbody.txt")):
        seen = inspect_evidence([str(path)])
        assert _find(seen, "iommu-active").verdict is Verdict.PASS  # the quoted AMD-Vi lines
        assert _find(seen, "group-isolation").code == "INVENTORY_UNKNOWN"
        assert len(seen.snapshot.facts.groups or ()) >= 9


# --- kernel logs ---------------------------------------------------------------------------------


def _find(seen: Inspection, check: str) -> Finding:
    (found,) = (f for f in seen.report.findings if f.check == check and f.subject == "node")
    return found


FORMS = ("as it is", "quoted", "levels", "two boots", "utf-16")
OLDER = b"[    0.000000] Linux version 4.1.0 (a@b) (gcc)\n[    1.000000] DMAR: IOMMU disabled\n"
_NO_ITS = {"nxp-imx8__6.19__no-smmu.dmesg-mailbody"}


def _reshape(data: bytes, form: str) -> bytes:
    rows = data.split(b"\n")
    if form == "quoted":
        return b"\n".join(b"> " + row for row in rows)
    if form == "levels":
        return b"\n".join(b"<6>" + r if r[:1] == b"[" else r for r in rows)
    if form == "two boots":
        return OLDER + data
    if form == "utf-16":
        return data.decode("utf-8", "replace").encode("utf-16")
    return data


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("row", _logs(), ids=lambda row: row["file"])
def test_the_truth_about_a_log(row: dict[str, str], form: str, shared: Path) -> None:
    data = (shared / "captures" / "dmesg" / row["file"]).read_bytes()
    seen = inspect_evidence(["-"], stdin=BytesIO(_reshape(data, form)))
    expected = {"ON": Verdict.PASS, "OFF": Verdict.FAIL}[row["DMA_remap"]]
    assert _find(seen, "iommu-active").verdict is expected
    if row["IRQ_remap"] == "ON":
        remapped = Verdict.PASS
    elif family_of(seen.host) != ARM:
        remapped = Verdict.UNKNOWN
    else:
        remapped = Verdict.NOT_APPLICABLE if row["file"] in _NO_ITS else Verdict.PASS
    assert _find(seen, "interrupt-remapping").verdict is remapped
    if form == "two boots":
        assert "boots" in seen.given[0].text


def test_log_lspci_and_lscpu_of_one_machine(shared: Path) -> None:
    captures = shared / "captures"
    paths = [
        captures / "dmesg" / "dell-t630__5.15.86.dmesg",
        captures / "lspci" / "dell-t630.lspci-nn.txt",
        captures / "lspci" / "dell-t630.lscpu.txt",
        captures / "groups" / "dell-t630.from-dmesg.tsv",
    ]
    seen = inspect_evidence([str(path) for path in paths])
    assert [g for g in seen.snapshot.readings.gaps if g.path == "--from"] == []
    assert seen.snapshot.facts.cpu.flags == ("vmx",)
    assert seen.snapshot.facts.kernel.release == "5.15.86.mx64.443"
    dirty = {f.subject for f in seen.report.findings if f.code == "GROUP_DIRTY"}
    assert dirty == {"group:18"}
