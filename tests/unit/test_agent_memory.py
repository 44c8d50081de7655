"""What keeps the agent's processes small: modules that they never load, memory that they give back.

How much that is, `tests/bench/bench_agent_rest.py` says.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER = {
    "vfio_agent.network": (
        *("sqlite3", "vfio_agent.checks", "vfio_agent.collect", "vfio_agent.diagnosis"),
        *("vfio_contract.fingerprint", "vfio_contract.policy", "vfio_contract.units"),
        *("vfio_contract.views", "vfioctl.v1.views_pb2"),
    ),
    "vfio_agent.hostd.__main__": (
        *("asyncio", "google.protobuf", "grpc", "http", "ssl", "vfioctl"),
        *("vfio_agent.pasted", "vfio_agent.redaction", "vfio_agent.session.link"),
        *("vfio_contract.codec", "vfio_contract.drift", "vfio_contract.views"),
    ),
}
"""By process: what it has no use for."""

HEAPS = """
import ctypes, os, tempfile, threading
from vfio_agent.process import spare_memory
{settled}

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]

threads = [threading.Thread(target=libc.malloc, args=[1_000]) for _ in range(3)]
for thread in threads:
    thread.start()
    thread.join()

blocks = [libc.malloc(100_000) for _ in range(100)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
libc.free(libc.malloc(20_000_000))  # since this one the library would keep 40 MB
for block in blocks:
    libc.free(block)
with tempfile.TemporaryFile() as file:
    stream = libc.fdopen(os.dup(file.fileno()), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    file.seek(0)
    print(file.read().decode())
"""


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("module", NEVER)
def test_a_process_loads_nothing_that_it_has_no_use_for(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {NEVER[module]!r} if m in sys.modules])"
    assert run(program) == "[]\n"


def test_each_name_is_one_that_could_be_loaded() -> None:
    names = sorted({name for names in NEVER.values() for name in names})
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    assert run(program) == ""


def heaps(*, settled: str) -> tuple[int, int]:
    """How many heaps the C library has and their MB after threads and large blocks came and went;
    malloc_info(3)."""
    said = run(HEAPS.format(settled=settled))
    total = said.rpartition('<system type="current" size="')[2].partition('"')[0]
    return said.count("<heap nr="), int(total) // 1_000_000


def test_what_is_freed_goes_back() -> None:
    many, large = heaps(settled="")
    one, small = heaps(settled="spare_memory()")
    assert many > 1
    assert large >= 10
    assert one == 1
    assert small < 5
