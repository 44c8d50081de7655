"""Resets as the kernel offers them in sysfs, and what its log and the agent's ledger say of each.

Source: Linux Documentation/ABI/testing/sysfs-bus-pci (reset, reset_method).
"""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.lab.actions.agent import STATE
from tests.lab.actions.host import kernel_log, kernel_time
from vfio_agent.journal import Journal

DEVICES = Path("/sys/bus/pci/devices")
JOURNAL = STATE / "journal.db"

_begun: list[Future[dict[str, Any]]] = []


def methods(*, address: str) -> list[str] | None:
    """The kernel's list for this function; None where it has none."""
    path = DEVICES / address / "reset_method"
    return path.read_text().split() if path.exists() else None


def each(*, address: str) -> list[dict[str, Any]]:
    """Try every listed method alone, as `once`; the list is afterwards as it was before."""
    listed = methods(address=address) or []
    # A list of one is the choice already; `bus` beside siblings could not even be chosen again.
    if len(listed) == 1:
        return [{**once(address=address), "method": listed[0]}]
    tried = [once(address=address, method=method) for method in listed]
    # Written back rather than `default`, which would make the kernel look again.
    usable = [row["method"] for row in tried if row["step"] != "choose"]
    if usable:
        (DEVICES / address / "reset_method").write_text(" ".join(usable))
    return tried


def once(*, address: str, method: str = "") -> dict[str, Any]:
    """One reset, by this method alone or by the kernel's choice, with the kernel's lines meanwhile.

    {"method", "step": how far it came ("choose", "reset", "done"), "errno", "seconds", "log"}.
    """
    before = kernel_time()
    got: dict[str, Any] = {"method": method, "step": "choose", "errno": ""}
    started = time.monotonic()
    try:
        if method:
            _write(DEVICES / address / "reset_method", method)
        got["step"] = "reset"
        _write(DEVICES / address / "reset", "1")
        got["step"] = "done"
    except OSError as error:
        got["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
    got["seconds"] = round(time.monotonic() - started, 2)
    got["log"] = kernel_log(since=before)
    return got


def begin(*, address: str, method: str) -> None:
    """Start one reset by this method alone: the kernel may take a minute to come back from it."""
    _begun.append(ThreadPoolExecutor(1).submit(once, address=address, method=method))


def end(*, within_s: float) -> dict[str, Any]:
    """What `once` gives of it. TimeoutError after `within_s` seconds."""
    return _begun.pop().result(within_s)


def _write(path: Path, text: str) -> None:
    # One write(2): a buffered file would try again when it is closed.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def power_state(*, address: str) -> str:
    """`D0`, `D3hot`, ... as the kernel believes it to be."""
    return (DEVICES / address / "power_state").read_text().strip()


def ledger(*, count: int, within_s: float) -> list[dict[str, str]]:
    """The agent's rows as another process sees them, once it has looked and there are so many.

    {"place", "boot_id", "method", "outcome", "evidence"}; TimeoutError after `within_s` seconds.
    """
    end = time.monotonic() + within_s
    while (rows := _read_ledger()) is None or len(rows) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"not {count} rows within {within_s:g} s, but {rows}")
        time.sleep(1)
    return rows


def _read_ledger() -> list[dict[str, str]] | None:
    journal = Journal.open_readonly(JOURNAL)
    if journal is None:
        return None
    try:
        rows = journal.attempts()
        looked = journal.fed_boot()
    finally:
        journal.close()
    names = ("place", "boot_id", "method", "outcome", "evidence")
    return [{n: str(getattr(row, n)) for n in names} for row in rows] if looked else None
