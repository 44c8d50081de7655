"""A root shell on the guest's serial line, for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONSOLE = "/dev/ttyS0"

_shells: list[subprocess.Popen[bytes]] = []


def open_on_console(*, rows: int, columns: int) -> None:
    """Start the shell with `vfioctl` on PATH, in a terminal of this size."""
    # The kernel's own messages would be written over what a person types; dmesg keeps them.
    Path("/proc/sys/kernel/printk").write_text("1")
    binaries = Path(sys.executable).parent
    name = os.uname().nodename
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "TERM": "linux",
        "PS1": f"root@{name}:\\w# ",
        "LINES": str(rows),
        "COLUMNS": str(columns),
    }
    subprocess.run(
        ["stty", "-F", CONSOLE, "sane", "rows", str(rows), "cols", str(columns)], check=True
    )
    # setsid -c makes the line the shell's own terminal: Ctrl-C and job control work.
    line = Path(CONSOLE).open("r+b", buffering=0)  # noqa: SIM115
    with line:
        _shells.append(
            subprocess.Popen(
                ["setsid", "-c", "bash", "--norc", "-i"],
                stdin=line,
                stdout=line,
                stderr=line,
                env=environment,
                cwd="/root",
            )
        )


def is_open() -> bool:
    """Whether the shell has not ended yet."""
    return _shells[-1].poll() is None
