"""The hands: the only module that writes to the host, one step at a time.

A write into sysfs can block for as long as a VM holds the device, in a state that no signal ends
(facts: Reading), so a child process makes it and is left alone when it does not come back. Files
are replaced whole (temporary file, fsync, rename, fsync of the folder). This module must never
write a path that is not one of ours, nor decide whether a step may be done.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vfio_agent.actuate.persistence import is_ours
from vfio_agent.actuate.steps import LOADED, PCI, VFIO_PCI, Kind, Step
from vfio_agent.collect.deadline import Deadline
from vfio_contract.address import is_address

DEADLINE_S = 10.0
"""Seconds for one write; unbinding a graphics driver takes one or two."""

_CHILD = """
import os, sys
try:
    descriptor = os.open(sys.argv[1], os.O_WRONLY)
    os.write(descriptor, sys.argv[2].encode())
except OSError as error:
    print(error.errno)
else:
    print(0)
"""
"""One write(2), which is what sysfs understands; its errno is the answer."""

_NULL = "(null)"
_FORGET_LIMIT = 8
_TEMPORARY = ".vfioctl-new"


class Waiting(Exception):
    """The kernel has not answered within the deadline; the effect may come later, or never."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The commands that make an effect: `write` gets PATH and TEXT, `modprobe` a name."""

    write: tuple[str, ...] = (sys.executable, "-I", "-S", "-c", _CHILD)
    modprobe: tuple[str, ...] = ("modprobe", "--use-blacklist", "--quiet")


class Hands:
    """Looks at and moves one thing at a time below `top`, which is `/` on a host."""

    def __init__(
        self, top: Path = Path("/"), *, tools: Tools | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._top = top
        self._tools = tools or Tools()
        self._deadline_s = deadline_s
        self._reads = Deadline(scope=f"actuate {top}")
        self._stuck: dict[str, subprocess.Popen[bytes]] = {}

    def observe(self, step: Step) -> str | None:
        """What stands there now, in the words of `step.old`; OSError, ETIMEDOUT if it blocks.

        FORGET and a module's alias cannot be looked at: their `old`.
        """
        match step.kind:
            case Kind.FILE:
                return self._read(self._load_file, step.subject)
            case Kind.OVERRIDE:
                return self._read(self._load_override, step.path)
            case Kind.UNBIND | Kind.BIND:
                return self._read(self._load_driver, f"{PCI}/devices/{step.subject}")
            case Kind.MODULE if step.subject == VFIO_PCI:
                return LOADED if self._at(f"{PCI}/drivers/{VFIO_PCI}").is_dir() else ""
            case _:
                return step.old

    def apply(self, step: Step) -> None:
        """Have the effect. OSError as the kernel says it, Waiting when it says nothing."""
        match step.kind:
            case Kind.FILE:
                self._replace(step.subject, step.new)
            case Kind.MODULE:
                self._load_module(step.subject)
            case Kind.OVERRIDE:
                self._write(step, (step.new or "") + "\n")
            case Kind.FORGET:
                self._forget(step)
            case Kind.UNBIND | Kind.BIND:
                self._write(step, step.subject)

    def waiting(self) -> list[int]:
        """Processes that the kernel has not answered yet; none can be ended from here."""
        for path in [path for path, process in self._stuck.items() if process.poll() is not None]:
            _release(self._stuck.pop(path))
        return [process.pid for process in self._stuck.values()]

    # --- looking ----------------------------------------------------------------------------

    def _at(self, path: str) -> Path:
        return self._top / path.lstrip("/")

    def _read(self, operation: Callable[[str], str | None], path: str) -> str | None:
        found = self._reads.run(operation, (path,))[0]
        if isinstance(found, OSError):
            raise found
        return found

    def _load_file(self, path: str) -> str | None:
        try:
            mode = os.lstat(self._at(path)).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        return self._at(path).read_bytes().decode("utf-8", "surrogateescape")

    def _load_override(self, path: str) -> str:
        text = self._at(path).read_text().strip()
        return "" if text == _NULL else text

    def _load_driver(self, device: str) -> str:
        os.stat(self._at(device))  # a function that is gone has no driver to speak of
        try:
            return os.path.basename(os.readlink(self._at(f"{device}/driver")))
        except FileNotFoundError:
            return ""

    # --- moving -----------------------------------------------------------------------------

    def _write(self, step: Step, text: str) -> None:
        """One write(2) by a child, whose only word is the errno."""
        if not is_address(step.subject):
            raise ValueError(f"not an address: {step.subject!r}")
        status, said = self._run((*self._tools.write, str(self._at(step.path)), text), step.path)
        if status or not said.isdigit():
            raise OSError(errno.EIO, f"the writing process ended with {status}", step.path)
        if int(said):
            raise OSError(int(said), os.strerror(int(said)), step.path)

    def _forget(self, step: Step) -> None:
        """Each write takes one entry out of vfio-pci's list, ENODEV when none is left."""
        for _ in range(_FORGET_LIMIT):
            try:
                self._write(step, step.new or "")
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise

    def _load_module(self, name: str) -> None:
        """An alias that no module has is no error: its driver is built in, or there is none."""
        status, _ = self._run((*self._tools.modprobe, name), f"modprobe {name}")
        if status and name == VFIO_PCI:
            raise OSError(errno.ENOENT, f"modprobe ended with status {status}", name)

    def _run(self, argv: tuple[str, ...], path: str) -> tuple[int, bytes]:
        """The child's status and words; Waiting where it does not end in time."""
        process = self._start(argv, path)
        try:
            process.wait(self._deadline_s)
        except subprocess.TimeoutExpired:
            self._stuck[path] = process
            waits = f"no answer in {self._deadline_s:g} s (pid {process.pid} waits)"
            raise Waiting(f"{path}: {waits}") from None
        assert process.stdout is not None
        with process.stdout:
            return process.returncode, process.stdout.read().strip()

    def _start(self, argv: tuple[str, ...], path: str) -> subprocess.Popen[bytes]:
        if self.waiting() and path in self._stuck:
            raise Waiting(f"{path}: still waits (pid {self._stuck[path].pid})")
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what interrupts us must not interrupt half an effect
        )

    def _replace(self, path: str, text: str | None) -> None:
        if not is_ours(path):
            raise ValueError(f"not a file of ours: {path}")
        target = self._at(path)
        if text is None:
            target.unlink(missing_ok=True)
            _sync(target.parent)
            return
        _make_folder(target.parent)
        # hidden and without the suffix that anybody looks for, so that half a file is never read
        fresh = target.with_name(f".{target.name}{_TEMPORARY}")
        fresh.unlink(missing_ok=True)  # of a run that was cut short
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask: others read their configuration too
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(target)
        _sync(target.parent)


def _release(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
