"""The mount table of process 1, and which mount a path is on.

/proc/PID/mountinfo is preferred: it has device numbers and the tree of mounts. The older tables
have neither, so the tree is rebuilt from their order. Nothing here follows a link or looks at a
filesystem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from posixpath import normpath

from vfio_agent.collect.reader import Reader

_LIMIT_BYTES = 16 << 20
"""Some 80,000 mounts; a host with 1,000 containers has about 10,000."""

_ID = re.compile(r"[0-9]{1,10}")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (Documentation/filesystems/proc.rst, 3.5).

    `number` is `major:minor`, "" where the table has none. `point` is the mount point, `options`
    those of the superblock. `parent` is another mount's `id`, or none of them for the root.
    """

    id: int
    parent: int
    number: str
    point: str
    fstype: str
    source: str
    options: tuple[str, ...]

    def option(self, name: str) -> str:
        """The value of `name=value`, "" when there is none."""
        return next((v for k, _, v in (o.partition("=") for o in self.options) if k == name), "")


class MountTable:
    """Mounts in the order of the table, with the way from `/` to any path."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts = tuple(mounts)
        self._below: dict[int, list[Mount]] = {}
        known = {mount.id for mount in self.mounts}
        for mount in self.mounts:
            top = mount.parent not in known or mount.parent == mount.id
            self._below.setdefault(-1 if top else mount.parent, []).append(mount)

    def containing(self, path: str) -> Mount | None:
        """The mount that an absolute path is on, as a lookup finds it; None when none is.

        A mount below a point that was mounted over later is not found: it cannot be seen.
        """
        wanted = normpath(path)
        here: Mount | None = None
        seen: set[int] = set()
        at = -1
        while True:
            found = [m for m in self._below.get(at, ()) if _is_within(wanted, m.point)]
            found = [m for m in found if m.id not in seen]
            if not found:
                return here
            shortest = min(len(m.point) for m in found)
            here = [m for m in found if len(m.point) == shortest][-1]
            seen.add(here.id)
            at = here.id


def _is_within(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def collect_mounts(reader: Reader) -> MountTable | None:
    """Process 1's mounts, else our own; None and a gap when no table can be read whole."""
    places: tuple[tuple[str, Callable[[str], list[Mount]]], ...] = (
        ("/proc/1/mountinfo", parse_mountinfo),
        ("/proc/self/mountinfo", parse_mountinfo),
        ("/proc/mounts", parse_mounts),
        ("/proc/self/mounts", parse_mounts),
    )
    cause: OSError | str = ""
    for path, parse in places:
        try:
            data = reader.root.read(path, limit=_LIMIT_BYTES)
        except OSError as error:
            cause = cause or error.with_traceback(None)  # which would keep this frame
            continue
        if len(data) >= _LIMIT_BYTES:
            cause = f"longer than {_LIMIT_BYTES} bytes"
            break
        mounts = parse(data.decode("utf-8", "backslashreplace"))
        if mounts and data.endswith(b"\n"):
            return MountTable(mounts)
        # a table that lost a line may have lost the mount that matters
        damaged = "is half-written or damaged" if data.strip() else "holds no mount"
        cause = cause or f"{path} {damaged}"
    reader.gap("/proc/1/mountinfo", cause, "cat /proc/1/mountinfo")
    return None


def parse_mountinfo(text: str) -> list[Mount]:
    """Lines of mountinfo; none at all when one of them does not fit the format."""
    found: list[Mount] = []
    for line in text.split("\n"):
        head, dash, tail = line.partition(" - ")
        words, last = head.split(" "), tail.split(" ")
        if not line:
            continue
        if not dash or len(words) < 6 or len(last) < 2:
            return []
        if not (_ID.fullmatch(words[0]) and _ID.fullmatch(words[1])):
            return []
        found.append(
            Mount(
                id=int(words[0]),
                parent=int(words[1]),
                number=words[2],
                point=_plain(words[4]),
                fstype=last[0],
                source=_plain(last[1]),
                options=_options(last[2] if len(last) > 2 else ""),
            )
        )
    return found


def parse_mounts(text: str) -> list[Mount]:
    """Lines of /proc/mounts: no numbers, and each mount's parent is what its point was on.

    None at all when one of them does not fit the format.
    """
    found: list[Mount] = []
    for line in text.split("\n"):
        words = line.split(" ")
        if not line:
            continue
        if len(words) < 4:
            return []
        point = _plain(words[1])
        above = MountTable(found).containing(point)
        found.append(
            Mount(
                id=len(found) + 1,
                parent=above.id if above is not None else 0,
                number="",
                point=point,
                fstype=words[2],
                source=_plain(words[0]),
                options=_options(words[3]),
            )
        )
    return found


def _options(text: str) -> tuple[str, ...]:
    return tuple(_plain(word) for word in text.split(",") if word)


def _plain(text: str) -> str:
    r"""Undo the kernel's octal escapes (`\040` for a space)."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
