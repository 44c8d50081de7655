"""What all of the harness stands on: its folder, its locks, its commands, its errors.

One work folder holds everything that the lab makes; nothing is ever written beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# sun_path of unix(7) less its final zero; QEMU's monitor is such a socket, deep in this folder.
_SOCKET_PATH_MAX = 107
_LONGEST_MACHINE = 40
# A disk with less is called full: the files of one machine are a few MiB, its disks sparse.
FULL_BELOW_BYTES = 16 << 20
# The longest that a run keeps a machine, or a first set-up takes, and some.
LOCK_LIMIT_S = 1200.0


class LabError(Exception):
    """The lab cannot be prepared or a machine failed; the message says what and where."""


class LabMissing(LabError):
    """Something must be installed on this computer first; the message says how."""


def work_folder() -> Path:
    """The lab's folder, outside git (`$VFIOCTL_LAB`, ~/.cache/vfioctl-lab), made on first use."""
    path = Path(os.environ.get("VFIOCTL_LAB") or Path.home() / ".cache" / "vfioctl-lab")
    path = path.resolve()
    if "," in str(path):
        raise LabError(f"{path}: QEMU's options cannot carry a comma in a path; set VFIOCTL_LAB")
    if len(f"{path}/machines/{'x' * _LONGEST_MACHINE}/qmp.sock") > _SOCKET_PATH_MAX:
        raise LabError(f"{path}: too long for a Unix socket in it; set VFIOCTL_LAB")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}; set VFIOCTL_LAB") from error
    return path


def explain_space(path: Path) -> str:
    """A sentence when the disk of this path is full, else nothing."""
    free = shutil.disk_usage(path).free
    if free >= FULL_BELOW_BYTES:
        return ""
    return f"the disk of {path} is full: {free >> 10} KiB free; VFIOCTL_LAB names another folder"


@contextmanager
def locked(path: Path, *, limit_s: float = LOCK_LIMIT_S) -> Iterator[None]:
    """Hold this lock file; another run's is waited for, and a dead one's is none.

    LabError after `limit_s` seconds, with the pid of who has it.
    """
    end = time.monotonic() + limit_s
    with path.open("a+") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > end:
                file.seek(0)
                raise LabError(f"{path}: held for {limit_s:g} s by {file.read().strip()}")
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"pid {os.getpid()}\n")
        file.flush()
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_tool(*argv: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    """What the command wrote. LabError with all that it said when it failed or is not there."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, input=stdin, text=True, capture_output=True, check=False
        )
    except OSError as error:
        raise LabError(f"{argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
