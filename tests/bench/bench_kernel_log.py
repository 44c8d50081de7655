"""A kernel log of 100 MB through `vfioctl check`: seconds of processor time, and memory.

`name value unit`, for a file, for a captured root and for standard input, each in a process of its
own, so that the memory is that process's. The budget is 5 s and 200 MB (DESIGN, Budgets). It runs
under `make bench`, or alone: `python -m tests.bench.bench_kernel_log`.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SIZE_BYTES = 100 << 20

_RUN = """
import resource, sys, time
from vfio_agent.inspect import inspect_evidence, inspect_host
began = time.process_time()
if sys.argv[1] == "--root":
    inspect_host(sys.argv[2])
else:
    inspect_evidence(sys.argv[2:])
spent = time.process_time() - began
print(spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _words() -> Callable[[int], str]:
    chance = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(5000)]
    return lambda i: f"[{i / 10:12.6f}] {' '.join(chance.choices(words, k=10))}\n"


def _hex(form: str) -> Callable[[int], str]:
    chance = random.Random(1)
    return lambda i: form.format(i / 1000, chance.getrandbits(40))


LINES: dict[str, Callable[[], Callable[[int], str]]] = {
    "every_line_another": _words,
    "short_lines": lambda: lambda i: f"[{i / 1000:12.6f}] DMAR: {i % 100}\n",
    "faults": lambda: _hex(
        "[{:12.6f}] DMAR: [DMA Read] Request device [01:00.0] fault addr 0x{:x} [fault reason 06]\n"
    ),
    "levels_quoted_crlf": lambda: lambda i: f"> <4>[{i / 1000:12.6f}] vfio-pci: x {i}\r\n",
}


ENDLESS = (
    ("one_line", b"[    1.000000] iommu ", b"a"),
    ("nuls", b"", b"\0"),
    ("empty_lines", b"", b"\n"),
)


def _write(
    path: Path, line: Callable[[int], str], *, encoding: str = "utf-8", mark: bytes = b""
) -> None:
    """In pieces: a child process starts with its parent's highest memory."""
    with path.open("wb") as file:
        file.write(mark)
        number = 0
        while file.tell() < SIZE_BYTES:
            text = "".join(line(i) for i in range(number, number + 10_000))
            file.write(text.encode(encoding))
            number += 10_000


def _logs(folder: Path) -> Iterator[tuple[str, Path]]:
    path = folder / "dmesg"
    for name, make in LINES.items():
        _write(path, make())
        yield name, path
    _write(path, LINES["short_lines"](), encoding="utf-16-le", mark=b"\xff\xfe")
    yield "utf16", path
    for name, head, piece in ENDLESS:
        with path.open("wb") as file:
            file.write(head)
            file.writelines(piece * (1 << 20) for _ in range(SIZE_BYTES >> 20))
        yield name, path


def _run(*words: str, stdin: Path | None = None) -> tuple[float, float]:
    given = subprocess.DEVNULL if stdin is None else stdin.open("rb")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *words], stdin=given, capture_output=True, check=True
        )
    finally:
        if not isinstance(given, int):
            given.close()
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def measure(folder: Path, report: Callable[[str], None]) -> None:
    for name, path in _logs(folder):
        ways = {
            "from": _run("--from", str(path)),
            "root": _run("--root", str(path.parent)),
            "stdin": _run("--from", "-", stdin=path),
        }
        for way, (seconds, megabytes) in ways.items():
            report(f"kernel_log.{name}.{way}.cpu {seconds:.2f} s")
            report(f"kernel_log.{name}.{way}.rss {megabytes:.0f} MB")


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_kernel_log_figures(tmp_path: Path) -> None:
    measure(tmp_path, print)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), print)
