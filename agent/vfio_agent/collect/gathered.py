"""`manifest.txt` of captures that `vfioctl collect --script` made: the same facts, line by line.

A shell cannot write JSON safely, so its manifest is text: one fact a line, and the names of a
directory below it, each after one space. The last line is `end`; a manifest without it was cut
short and proves nothing. Reading one must never trust its shape: it may come from anyone.

    vfioctl.gather/v1
    uid 0
    list /sys/class/iommu
     dmar0
    error 13 /sys/firmware/acpi/tables/DMAR
    modified 1767225600 /etc/modprobe.d/vfio.conf
    left /sys/devices/pci0000:00/0000:00:02.0/config: it sleeps and is in use (yes)
    end
"""

from __future__ import annotations

from vfio_agent.collect.manifest import BadCapture, Manifest, names_below

GATHERED = "manifest.txt"
SCHEMA = "vfioctl.gather/v1"
_FAMILY = "vfioctl.gather/"
_MAX_ERRNO = 4095
"""What the kernel can return (include/linux/err.h)."""


def read_gathered(data: bytes) -> Manifest | None:
    """The manifest in these bytes; None when it is some other program's `manifest.txt`.

    BadCapture for a damaged one and for a schema that this version does not know. Directories that
    were listed are in `listings`, the empty ones with (). The boot id is a file of its own.
    """
    if not data.startswith(_FAMILY.encode()):
        return None
    if len(data) > Manifest.LIMIT_BYTES:
        raise BadCapture(f"{GATHERED} is larger than {Manifest.LIMIT_BYTES} bytes")
    schema, *lines = data.decode("utf-8", "surrogateescape").split("\n")
    if schema != SCHEMA:
        raise BadCapture(f"{GATHERED} has schema {schema!r}, this version reads {SCHEMA!r}")
    if lines[-2:] != ["end", ""]:
        raise BadCapture(f"{GATHERED} is cut short: it does not end with `end`")
    return _parse(lines[:-2])


def _parse(lines: list[str]) -> Manifest:
    uid: int | None = None
    errors: dict[str, int] = {}
    listings: dict[str, list[str]] = {}
    modified: dict[str, int] = {}
    open_list: list[str] | None = None
    for number, line in enumerate(lines, start=2):
        word, _, rest = line.partition(" ")
        if not word and open_list is not None and rest and "/" not in rest:
            open_list.append(rest)
            continue
        open_list = None
        if word == "list" and rest.startswith("/"):
            open_list = listings[rest] = []
        elif word == "error":
            errno, _, path = rest.partition(" ")
            errors[_path(path, number)] = _number(errno, number, most=_MAX_ERRNO)
        elif word == "modified":
            seconds, _, path = rest.partition(" ")
            modified[_path(path, number)] = _number(seconds, number, most=1 << 40)
        elif word == "uid" and uid is None:
            uid = _number(rest, number, most=(1 << 32) - 1)
        elif word != "left":
            raise BadCapture(f"{GATHERED}:{number}: not understood: {line[:80]!r}")
    return Manifest(
        boot_id="",
        privileged=uid == 0,
        collector=SCHEMA,
        errors=errors,
        listings={path: tuple(sorted(set(names))) for path, names in listings.items()},
        complete=frozenset(),
        empty_dirs=frozenset(path for path, names in listings.items() if not names),
        nodes={},
        below=names_below(listings),
        modified=modified,
    )


def _path(text: str, line: int) -> str:
    if not text.startswith("/"):
        raise BadCapture(f"{GATHERED}:{line}: not an absolute path: {text[:80]!r}")
    return text


def _number(text: str, line: int, *, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15) or int(text) > most:
        raise BadCapture(f"{GATHERED}:{line}: not a number up to {most}: {text[:40]!r}")
    return int(text)
