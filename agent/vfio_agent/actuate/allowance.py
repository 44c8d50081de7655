"""What this host's owner lets the hands do: a small file that only root can have written.

No file, no hands. The coordinator has no say in it (facts: safety, Trust). This module must never
read a file that somebody else than root could change, nor take a mistake in it for consent.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vfio_agent.actuate.steps import Verb
from vfio_contract.address import is_address
from vfio_contract.model import PciFunction

FILE = Path("/etc/vfioctl/actuate.toml")
LIMIT_BYTES = 1 << 16
EVERY = "*"

EXAMPLE = """\
# Also for whoever has the account of the agent's network process.
actuate = true
verbs = ["bind", "unbind", "reset-test"]
devices = ["0000:01:00.0", "10de:2231"]
per_hour = 20  # commands of the cluster; 20 if it is left out
"""

PER_HOUR = 20
"""Where the owner says nothing: enough for a host full of devices, both ways."""

MAX_PER_HOUR = 1_000

_IDS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class AllowanceError(Exception):
    """The file is there and cannot be used; the text names the file and the mistake."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Permitted verbs, and devices by address or `vvvv:dddd`; `*` is every device.

    `source` is where it is written, or would be. `per_hour` commands of the cluster may act in an
    hour; who asks as root on the host could change the file and is not counted.
    """

    verbs: frozenset[Verb]
    devices: frozenset[str]
    source: str
    per_hour: int = PER_HOUR

    def permits(self, verb: Verb, function: PciFunction) -> bool:
        """True when the owner wrote that this may be done to this function."""
        names = {EVERY, str(function.address), function.ids}
        return verb in self.verbs and bool(names & self.devices)


def load_allowance(path: Path = FILE, *, owner: int = 0) -> Allowance:
    """The allowance in the file; nothing is permitted where there is none. AllowanceError.

    `owner` is the uid that the file and its folder must belong to.
    """
    nothing = Allowance(frozenset(), frozenset(), str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return nothing
    except OSError as error:
        raise AllowanceError(f"{path}: {error.strerror}") from error
    try:
        _require_owned(os.fstat(descriptor), path, owner=owner)
        _require_owned(os.stat(path.parent), path.parent, owner=owner, folder=True)
        data = os.read(descriptor, LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > LIMIT_BYTES:
        raise AllowanceError(f"{path}: larger than {LIMIT_BYTES} bytes")
    try:
        rows = tomllib.loads(data.decode())
    except ValueError as error:
        raise AllowanceError(f"{path}: {error}") from error
    return _parse(rows, path, nothing)


def _require_owned(found: os.stat_result, path: Path, *, owner: int, folder: bool = False) -> None:
    right = stat.S_ISDIR(found.st_mode) if folder else stat.S_ISREG(found.st_mode)
    if not right or found.st_uid != owner or found.st_mode & _OTHERS_MAY_WRITE:
        kind = "folder" if folder else "file"
        raise AllowanceError(f"{path}: must be a {kind} of uid {owner} that nobody else may write")


def _parse(rows: Mapping[str, object], path: Path, nothing: Allowance) -> Allowance:
    unknown = set(rows) - {"actuate", "verbs", "devices", "per_hour"}
    if unknown:
        raise AllowanceError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    actuate = rows.get("actuate", False)
    if not isinstance(actuate, bool):
        raise AllowanceError(f"{path}: actuate must be true or false")
    per_hour = rows.get("per_hour", PER_HOUR)
    if type(per_hour) is not int or not 0 <= per_hour <= MAX_PER_HOUR:
        raise AllowanceError(f"{path}: per_hour must be a number from 0 to {MAX_PER_HOUR}")
    verbs, devices = _texts(rows, "verbs", path), _texts(rows, "devices", path)
    for text in verbs:
        if text not in tuple(Verb):
            raise AllowanceError(f"{path}: verbs: {text!r} is none of {', '.join(Verb)}")
    for text in devices:
        if text != EVERY and not is_address(text) and not _IDS.fullmatch(text):
            raise AllowanceError(f"{path}: devices: {text!r} is no address, vvvv:dddd or {EVERY!r}")
    if not actuate:
        return nothing
    return Allowance(frozenset(map(Verb, verbs)), frozenset(devices), str(path), per_hour)


def _texts(rows: Mapping[str, object], name: str, path: Path) -> list[str]:
    found = rows.get(name, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise AllowanceError(f"{path}: {name} must be a list of texts")
    return found
