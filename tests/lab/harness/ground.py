"""What all of the harness stands on: its folder, its locks, its commands, its errors.

One work folder holds everything that the lab makes; nothing is ever written beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# sun_path of unix(7) less its final zero; QEMU's monitor is such a socket, deep in this folder.
_SOCKET_PATH_MAX = 107
_LONGEST_MACHINE = 40
# A disk with less is called full: the files of one machine are a few MiB, its disks sparse.
FULL_BELOW_BYTES = 16 << 20
# Longer than most runs keep a machine, and shorter than any test of them may take.
LOCK_LIMIT_S = 600.0
# What takes longer is stuck: a build's longest command takes seconds.
TOOL_LIMIT_S = 300.0


class LabError(Exception):
    """The lab cannot be prepared or a machine failed; the message says what and where."""


class LabMissing(LabError):
    """This computer lacks what the lab needs, tools or room; the message says what to do."""


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

    Who has to wait says so once. LabError after `limit_s` seconds, with the pid of who has it, or
    when it cannot be written.
    """
    end = time.monotonic() + limit_s
    with os.fdopen(_open(path), "r+") as file:
        if not _try_lock(file.fileno()):
            _say_waiting(path, file)
            while not _try_lock(file.fileno()):
                if time.monotonic() > end:
                    raise LabError(f"{path}: held for {limit_s:g} s by {_read_again(file)}")
                time.sleep(0.1)
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"pid {os.getpid()}\n".encode())
        except OSError as error:
            text = f"{path}: {error.strerror}; {explain_space(path)}"
            raise LabError(text.rstrip("; ")) from error
        yield


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error


def _say_waiting(path: Path, file: TextIO) -> None:
    print(f"lab: waits for {path}, held by {_read_again(file)}", file=sys.stderr, flush=True)


def _read_again(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_tool(
    *argv: str, cwd: Path | None = None, stdin: str = "", limit_s: float = TOOL_LIMIT_S
) -> str:
    """What the command wrote; it gets `stdin`, never this process's, and so can ask nobody.

    LabError with all that it said when it failed, is not there, or took longer than `limit_s`.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            timeout=limit_s,
        )
    except OSError as error:
        raise LabError(f"{argv[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: not done within {limit_s:g} s") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
