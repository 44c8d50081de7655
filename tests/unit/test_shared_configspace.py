"""Our parser against real configuration spaces whose truth was taken from lspci."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.shared_folder import locate_shared
from vfio_agent.collect.config_space import parse_config, parse_link
from vfio_agent.collect.root import open_root
from vfio_contract.model import ConfigSpace

pytestmark = pytest.mark.shared

NOT_IN_TRUTH = {("pciutils-tree-fujitsu-p8010", "0000:1c:03.0", "NoSoftRst")}
"""A CardBus bridge: its list begins at 0x14, which the truth's maker did not follow; lspci shows
`Status: D0 NoSoftRst-` for it, and so do we."""


def rows() -> list[tuple[str, dict[str, str]]]:
    folder = locate_shared()
    if folder is None:
        return []
    found = []
    for truth in sorted((folder / "captures" / "configspace").glob("*/TRUTH.tsv")):
        with truth.open(newline="") as file:
            found += [(truth.parent.name, row) for row in csv.DictReader(file, delimiter="\t")]
    return found


def seen(config: ConfigSpace) -> dict[str, str]:
    extended = config.extended
    plain = config.capabilities or ()
    hidden = extended is None or (config.length <= 256 and 0x10 not in plain)
    return {
        "config_len": str(config.length),
        "pcie": "0" if config.pcie is None else "1",
        "FLR(DevCap bit28)": {None: "unknown", True: "yes", False: "no"}[
            None if config.pcie is None else config.pcie.flr
        ],
        "AF-FLR": {None: "-", True: "yes", False: "no"}[config.af_flr],
        "NoSoftRst": "-" if config.pm_no_soft_reset is None else str(config.pm_no_soft_reset),
        # the truth calls "unreadable" what 256 bytes without an Express capability prove absent
        "ACS ecap": "unreadable" if hidden else str(0x0D in (extended or ())),
        "ACSCap": "-" if config.acs is None else f"{config.acs.capability:#x}",
        "ACSCtl": "-" if config.acs is None else f"{config.acs.control:#x}",
        "SR-IOV ecap": "unreadable" if hidden else str(0x10 in (extended or ())),
    }


@pytest.mark.parametrize(
    ("name", "row"), rows(), ids=lambda v: v if isinstance(v, str) else v["bdf"]
)
def test_every_truth(name: str, row: dict[str, str], shared: Path) -> None:
    data = (shared / "captures" / "configspace" / name / row["bdf"] / "config").read_bytes()
    config = parse_config(data)
    wanted = {
        column: row[column]
        for column in seen(config)
        if (name, row["bdf"], column) not in NOT_IN_TRUTH
    }
    assert {column: seen(config)[column] for column in wanted} == wanted
    assert config.faults == ()
    if seen(config)["ACS ecap"] == "unreadable":
        assert config.extended == ()


def test_there_are_truths(shared: Path) -> None:
    assert len(rows()) == 103


@pytest.mark.parametrize(
    ("address", "total"), [("0000:02:00.0", 2), ("0000:03:00.0", 8), ("0000:01:00.0", 0)]
)
def test_sriov_of_the_lab_machine(address: str, total: int, shared: Path) -> None:
    root = open_root(str(shared / "captures" / "lab" / "m3" / "boot.tar.gz"))
    config = parse_config(root.read(f"/sys/bus/pci/devices/{address}/config"))
    assert (0x10 in (config.extended or ())) == (total > 0)
    assert (0 if config.sriov is None else config.sriov.total_vfs) == total


def test_serial_number_of_the_lab_machine(shared: Path) -> None:
    root = open_root(str(shared / "captures" / "lab" / "m3" / "boot.tar.gz"))
    config = parse_config(root.read("/sys/bus/pci/devices/0000:01:00.0/config"))
    assert config.serial_number == "52-54-00-ff-ff-12-34-56"


LINK_FILES = ("max_link_speed", "max_link_width", "current_link_speed", "current_link_width")


def test_links_are_what_the_kernel_printed(shared: Path) -> None:
    compared = 0
    for capture in sorted((shared / "captures" / "lab").glob("*/boot.tar.gz")):
        root = open_root(str(capture))
        for address in root.list("/sys/bus/pci/devices"):
            folder = f"/sys/bus/pci/devices/{address}"
            printed = root.read_many([f"{folder}/{name}" for name in LINK_FILES])
            texts = [p.decode().strip() for p in printed if isinstance(p, bytes)]
            link = parse_link(root.read(f"{folder}/config"))
            if len(texts) < len(LINK_FILES):
                assert link is None, address
                continue
            assert link is not None, address
            assert [link.max_speed, str(link.max_width), link.speed, str(link.width)] == texts
            compared += 1
    assert compared > 50
