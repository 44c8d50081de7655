"""Collection and checks against `lspci -vvvnnk` on the same root: `name value unit`, and the ratio.

The budget is a ratio of at most 1 on a 256-function host (DESIGN, Budgets). Both read the same tree
in turns, so that a busy machine slows both; figures are medians. The agent is a running process, so
its part is timed inside one, while lspci is started each time, as everybody does. It runs under
`make bench`, or alone: `python -m tests.bench.bench_collect`.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.fakes.sysfs_tree import SysfsTree, make_big_host
from tests.shared_folder import locate_shared
from vfio_agent.checks import judge
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import LiveRoot, Root, open_root
from vfio_contract.host import Host

ROUNDS = 15
FUNCTIONS = 256

Measured = Callable[[], object]


def run_lspci(top: Path | None) -> None:
    where = [] if top is None else ["-A", "linux-sysfs", "-O", f"sysfs.path={top}/sys/bus/pci"]
    subprocess.run(["lspci", *where, "-vvvnnk"], capture_output=True, check=True)


def collect_and_check(root: Root) -> None:
    judge(Host(collect_host(root)))


def medians_ms(**works: Measured) -> dict[str, float]:
    """Median milliseconds of each, run in turns after one round that warms the caches."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                spent[name].append((time.perf_counter() - began) * 1_000)
    return {name: median(values) for name, values in spent.items()}


def compare(name: str, top: Path, root: Callable[[], Root], report: Callable[[str], None]) -> None:
    found = medians_ms(
        lspci=lambda: run_lspci(None if str(top) == "/" else top),
        collect=lambda: collect_host(root()),
        collect_checks=lambda: collect_and_check(root()),
    )
    for part, value in found.items():
        report(f"collect.{name}.{part} {value:.1f} ms")
    report(f"collect.{name}.ratio {found['collect_checks'] / found['lspci']:.2f} x")


def measure(folder: Path, report: Callable[[str], None]) -> None:
    if shutil.which("lspci") is None:
        pytest.skip("lspci is not installed (apt-get install pciutils)")
    tree = SysfsTree(folder / "big")
    make_big_host(tree, functions=FUNCTIONS)
    # a prefixed live root does on a tree of files what the agent does on its host
    compare(f"live{FUNCTIONS}", tree.top, lambda: LiveRoot(str(tree.top)), report)
    compare(f"captured{FUNCTIONS}", tree.top, lambda: open_root(str(tree.top)), report)
    compare("this_machine", Path("/"), LiveRoot, report)
    shared = locate_shared()
    if shared is not None:
        lab = folder / "lab-m3"
        with tarfile.open(shared / "captures" / "lab" / "m3" / "boot.tar.gz") as tar:
            tar.extractall(lab)  # our own capture; Debian 12's Python has no filters yet
        compare("lab_m3", lab, lambda: open_root(str(lab)), report)


@pytest.mark.bench
def test_collect_figures(tmp_path: Path) -> None:
    measure(tmp_path, print)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), print)
