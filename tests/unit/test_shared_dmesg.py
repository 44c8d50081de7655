"""Boot logs of real machines, alone, against what a person read in them (`dmesg-TRUTH.tsv`).

Each becomes a root that holds nothing but `dmesg`. Where the truth says "no evidence" for interrupt
remapping, x86 is UNKNOWN and Arm goes by its ITS.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.shared_folder import locate_shared
from vfio_agent.checks import judge
from vfio_agent.checks.architecture import ARM, family_of
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host

pytestmark = pytest.mark.shared

_NO_ITS = {"nxp-imx8__6.19__no-smmu.dmesg-mailbody"}
"""Its own log says: "ITS: No ITS available, not enabling LPIs"; it has no GICv2m either."""


def _rows() -> list[dict[str, str]]:
    folder = locate_shared()
    if folder is None:
        return []
    with (folder / "captures" / "dmesg-TRUTH.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


ROWS = _rows()


def _read(row: dict[str, str], shared: Path, tmp_path: Path) -> Host:
    log = shared / "captures" / "dmesg" / row["file"]
    (tmp_path / "dmesg").write_bytes(log.read_bytes())
    return Host(collect_host(open_root(str(tmp_path))))


def _find(host: Host, check: str) -> Finding:
    (found,) = (f for f in judge(host).findings if f.check == check)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_dma_remapping(row: dict[str, str], shared: Path, tmp_path: Path) -> None:
    finding = _find(_read(row, shared, tmp_path), "iommu-active")
    expected = {"ON": Verdict.PASS, "OFF": Verdict.FAIL}[row["DMA_remap"]]
    assert finding.verdict is expected, finding


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_interrupt_remapping(row: dict[str, str], shared: Path, tmp_path: Path) -> None:
    host = _read(row, shared, tmp_path)
    finding = _find(host, "interrupt-remapping")
    if row["IRQ_remap"] == "ON":
        expected = Verdict.PASS
    elif family_of(host) != ARM:
        expected = Verdict.UNKNOWN
    else:
        expected = Verdict.NOT_APPLICABLE if row["file"] in _NO_ITS else Verdict.PASS
    assert finding.verdict is expected, finding


def test_both_truths_occur() -> None:
    assert {(r["DMA_remap"], r["IRQ_remap"]) for r in ROWS} >= {
        ("ON", "ON"),
        ("OFF", "ON"),
        ("OFF", "no evidence"),
    }


@pytest.mark.parametrize("row", ROWS[:1], ids=lambda row: row["file"])
def test_a_log_alone_is_no_inventory(row: dict[str, str], shared: Path, tmp_path: Path) -> None:
    report = judge(_read(row, shared, tmp_path))
    assert report.verdict is Verdict.UNKNOWN
    codes = {f.check: f.code for f in report.findings}
    assert codes["group-isolation"] == "INVENTORY_UNKNOWN"
    assert codes["host-critical"] == "INVENTORY_UNKNOWN"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("asus-x507uar__5.3.8__ir-on-dma-off.dmesg", "Add intel_iommu=on"),
        ("dell-xps13-9360__6.9__ir-on-dma-off.dmesg", "Add intel_iommu=on"),
        ("gigabyte-m720__5.14__amd-no-iommu.dmesg", "firmware setup"),
        ("nxp-imx8__6.19__no-smmu.dmesg-mailbody", "SMMU"),
        ("wsl2-hyperv-guest__5.18.dmesg", "vIOMMU"),
    ],
)
def test_the_cause_is_named(name: str, cause: str, shared: Path, tmp_path: Path) -> None:
    finding = _find(_read({"file": name}, shared, tmp_path), "iommu-active")
    assert cause in finding.decision
