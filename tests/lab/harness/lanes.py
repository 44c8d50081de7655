"""All scenarios, several files at a time, and the table of what was predicted and observed.

`make lab`: every tests/lab/test_*.py is run by a pytest of its own, the longest first, in three
lanes side by side: machines often wait for a clock, and two lanes leave a quarter of two cores
idle. What each says is shown as it comes, with its name in front; what failed is repeated at the
end. `make lab-table` puts the table of the last whole run into docs/lab.md. It must never call a
run good in which a file did not end well.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab.harness.ground import LabError, locked, work_folder
from tests.lab.harness.machine import CHECKOUT
from tests.lab.harness.prepare import SERIES, prepare
from tests.lab.observation import ROWS_FILE, Row, render

SCENARIOS = CHECKOUT / "tests" / "lab"
# The long ones first, so that the short ones fill the end; any file that is not named comes after.
LONGEST_FIRST = (
    *("readiness", "hands", "ledger", "firmware", "hotplug", "reset", "live", "three_nodes"),
    *("hands_proof", "sriov", "captures"),
)
LANES = 3
# What guests run: compiled here once, instead of by each emulated process that starts.
SOURCES = ("agent", "cli", "coordinator", "proto", "tests/lab")
DOCUMENT = CHECKOUT / "docs" / "lab.md"
# In the folder of a whole run's rows when every file of it ended well.
GREEN = "green"
# The table of the document is what stands behind this line.
HEADING = "<!-- From here on: `make lab-table`. -->\n"


@dataclass(frozen=True, slots=True)
class Result:
    """How a file's run ended: pytest's exit code, and all that it said."""

    name: str
    code: int
    text: str


def main(argv: list[str]) -> int:
    """Run the named files, all without a name; exit code 1 unless every one ended well."""
    parser = argparse.ArgumentParser(description="Run the lab's scenarios.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in tests/lab/test_NAME.py")
    parser.add_argument("--lanes", type=int, default=LANES, help="files at a time")
    parser.add_argument("--write-table", action="store_true", help="only docs/lab.md, run nothing")
    options = parser.parse_args(argv)
    if options.write_table:
        return write_table()
    known = find_scenarios()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are: {', '.join(known)}")
    names = [name for name in known if name in options.names or not options.names]
    prepare(SERIES)
    for folder in SOURCES:
        compileall.compile_dir(CHECKOUT / folder, quiet=1)
    if options.names:
        # Only a whole run makes the table of docs/lab.md.
        with tempfile.TemporaryDirectory(prefix="vfioctl-lab-") as folder:
            return _run_all(names, Path(folder), lanes=options.lanes)
    rows = rows_folder()
    # A second run in this checkout would write the same rows; one in another has its own.
    with locked(rows.with_suffix(".lock"), limit_s=0):
        shutil.rmtree(rows, ignore_errors=True)
        rows.mkdir()
        code = _run_all(names, rows, lanes=options.lanes)
        if code == 0:
            (rows / GREEN).touch()
        return code


def find_scenarios() -> list[str]:
    """The names of all files with scenarios, in the order in which they are started."""
    names = {path.stem.removeprefix("test_") for path in SCENARIOS.glob("test_*.py")}
    return [n for n in LONGEST_FIRST if n in names] + sorted(names - set(LONGEST_FIRST))


def _run_all(names: Sequence[str], rows: Path, *, lanes: int) -> int:
    started = time.monotonic()
    with ThreadPoolExecutor(lanes) as pool:
        results = list(pool.map(lambda name: _run(name, rows / f"{name}.json"), names))
    failed = [result for result in results if result.code != 0]
    for result in failed:
        print(f"\n{'=' * 20} {result.name}: pytest exit {result.code} {'=' * 20}\n{result.text}")
    if table := read_rows(rows):
        print(f"\n{render(table)}\n")
    for result in results:
        end = result.text.strip().rpartition("\n")[2].strip("= ")
        print(f"{'FAILED' if result.code else 'passed'} {result.name}: {end}")
    seconds = time.monotonic() - started
    print(f"lab: {len(results)} files in {seconds:.0f} s, {len(failed)} failed")
    return 1 if failed else 0


def _run(name: str, rows: Path) -> Result:
    # setpriv: a pytest whose lane is gone ends, and its machines with it.
    argv = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "pytest"]
    argv += ["-p", "no:cacheprovider", "-m", "lab", "--verbose", f"tests/lab/test_{name}.py"]
    changes = {ROWS_FILE: str(rows), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        argv,
        cwd=CHECKOUT,
        env=os.environ | changes,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                # One write a line: the other lane writes, too.
                sys.stdout.write(f"{name}: {line}")
                sys.stdout.flush()
    finally:
        code = process.wait()
    return Result(name, code, "".join(lines))


def rows_folder() -> Path:
    """Where the last whole run of this checkout left its rows."""
    checkout = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]
    return work_folder() / f"rows-{checkout}"


def read_rows(folder: Path) -> list[Row]:
    """What a run's files compared; files in alphabetical order, rows as they came."""
    files = sorted(folder.glob("*.json"))
    return [Row(**row) for path in files for row in json.loads(path.read_text())]


def write_table(document: Path = DOCUMENT) -> int:
    """Put the table of the last whole run into docs/lab.md; exit code 1 unless it was good."""
    rows = rows_folder()
    missing = [n for n in find_scenarios() if not (rows / f"{n}.json").is_file()]
    if missing:
        print(f"lab: run `make lab` first: nothing of {', '.join(missing)}", file=sys.stderr)
        return 1
    if not (rows / GREEN).exists():
        print("lab: the last `make lab` failed, or has not ended", file=sys.stderr)
        return 1
    before, heading, _ = document.read_text().partition(HEADING)
    document.write_text(f"{before}{heading or HEADING}\n{render(read_rows(rows))}\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
