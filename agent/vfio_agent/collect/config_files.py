"""Configuration folders in which a later folder's file is hidden by an earlier one's.

modprobe.d, modules-load.d and udev share the rule (modprobe.d(5), file-hierarchy). Only folders
that are meant to be read by everybody are read here: what a capture records must hold no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import NotCaptured

_ANY = re.compile("")

Files = list[tuple[str, str]]
"""(path, text), in the order in which they are read."""


def read_folders(
    reader: Reader,
    folders: Sequence[str],
    suffix: str,
    *,
    quiet: bool = False,
    wanted: re.Pattern[str] = _ANY,
) -> Files | None:
    """Files of these folders by precedence; None + gap when the first folder cannot be read.

    A folder that is known not to exist is empty. Only the first one's absence from a capture says
    that something is missing; with `quiet` not even that leaves a gap. A file that cannot be read
    is left out, with a gap. Files whose name has nothing of `wanted` are not opened.
    """
    seen: set[str] = set()
    paths: list[str] = []
    for number, folder in enumerate(folders):
        names = _list(reader, folder, quiet=quiet or number > 0)
        if names is None:
            if number == 0:
                return None
            continue
        for name in names:
            if name.endswith(suffix) and name not in seen and wanted.search(name):
                seen.add(name)
                paths.append(f"{folder}/{name}")
    contents = zip(paths, reader.contents(paths), strict=True)
    return [(p, data.decode("utf-8", "backslashreplace")) for p, data in contents if data]


def read_file(reader: Reader, path: str, *, quiet: bool = False) -> str | None:
    """The file's text, unstripped so that lines count; "" when it is known not to exist.

    None when it cannot be read, with a gap; `quiet` leaves none for a file not captured.
    """
    try:
        return reader.root.read(path).decode("utf-8", "backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if not (quiet and isinstance(error, NotCaptured)):
            remedy = f"cat {path}" if isinstance(error, NotCaptured) else ""
            reader.gap(path, error, remedy)
        return None


def read_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, stripped text) of lines that say something: no comments, continued lines joined."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        whole = (joined + line).strip()
        if whole and not whole.startswith(("#", ";")):
            yield first, whole
        joined, first = "", 0


def _list(reader: Reader, folder: str, *, quiet: bool) -> tuple[str, ...] | None:
    try:
        return tuple(reader.root.list(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        return None if quiet and isinstance(error, NotCaptured) else reader.names(folder)
