"""The kernel logs among the pasted texts: which of them counts, and against what else it speaks.

A log is of one boot of one host; a command line, a release or a listing of groups that differs from
it is of another. This module must never let two that contradict each other both count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vfio_agent.collect.log_extract import LogExtract
from vfio_agent.pasted.inventory import Inventory
from vfio_agent.pasted.source import Source
from vfio_contract.address import Address
from vfio_contract.model import KernelLog

_JOINS = re.compile(
    r"pci ([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): Adding to iommu group (\d{1,7})$"
)
_BANNER = re.compile(r"Linux version \S+ \(")


def read_log(source: Source) -> tuple[KernelLog, int]:
    """(extract of the last boot, how many boots begin in the text)."""
    extract = LogExtract()
    for piece in source.text():
        extract.feed(piece)
    return extract.finish(source.path), extract.boots


def describe_log(log: KernelLog, boots: int, excerpt: str) -> str:
    if excerpt:
        reach = f"an excerpt: {excerpt}"
    elif log.complete:
        reach = "whole boot"
    elif log.from_boot:
        reach = "cut: it ends before userspace, or lost lines"
    else:
        reach = "cut: its beginning is lost"
    which = f", the last of {boots} boots" if boots > 1 else ""
    return f"{log.total_lines} {'line' if log.total_lines == 1 else 'lines'}, {reach}{which}"


def choose_log(logs: Sequence[tuple[str, KernelLog]]) -> KernelLog | None:
    """The last whole one, else the last one that has any line."""
    whole = [log for _, log in logs if log.complete]
    some = [log for _, log in logs if log.lines]
    rest = [log for _, log in logs]
    return next((group[-1] for group in (whole, some, rest) if group), None)


def find_moved(log: KernelLog, inventory: Inventory) -> str:
    """A function that the log and a listing put into different groups: two hosts, or two boots."""
    groups = {f.address: f.group for f in inventory.functions or ()}
    for line in log.lines:
        match = _JOINS.match(line.text)
        listed = None if match is None else groups.get(Address(match[1]))
        if match is not None and listed is not None and listed != int(match[2]):
            shown = "no group" if listed < 0 else f"group {listed}"
            return f"it puts {match[1]} into group {match[2]}, the listing into {shown}"
    return ""


def forget_other_boot(files: dict[str, bytes], log: KernelLog, conflicts: list[str]) -> None:
    """A command line that is not the one in the log is of another boot, or another host."""
    given = files.get("/proc/cmdline")
    said = [
        line.text.partition("ommand line: ")[2]
        for line in log.lines
        if line.text.startswith(("Command line: ", "Kernel command line: "))
        and len(line.text) < 900
    ]
    if given is not None and said and given.decode("utf-8", "replace").split() != said[0].split():
        conflicts.append("/proc/cmdline is not the command line in the kernel log")
        del files["/proc/cmdline"]
    release = files.get("/proc/sys/kernel/osrelease")
    banner = [line.text.split()[2] for line in log.lines if _BANNER.match(line.text)]
    if release is not None and banner and release.decode("utf-8", "replace").strip() != banner[-1]:
        conflicts.append("uname's release is not the one in the kernel log")
        del files["/proc/sys/kernel/osrelease"]


def render_log(log: KernelLog) -> bytes:
    """The kept lines as a log, for the collectors that look a fact up in it."""
    rows = (f"<6>[{line.seconds or 0.0:12.6f}] {line.text}" for line in log.lines)
    return ("\n".join(rows) + "\n").encode("utf-8", "replace")
