"""A capture whose members can be taken away, made unreadable or garbled, one at a time.

It knows the format of a capture (a tar with `manifest.json`) and nothing of the product's code, so
that what it takes away is really gone.
"""

from __future__ import annotations

import errno
import io
import json
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Capture:
    """Content by member name: bytes of a file, or the text of a link."""

    members: dict[str, bytes | str]

    @classmethod
    def load(cls, path: Path) -> Self:
        found: dict[str, bytes | str] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name] = file.read()
                elif member.issym():
                    found[member.name] = member.linkname
        return cls(found)

    def save(self, path: Path) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, content in self.members.items():
                member = tarfile.TarInfo(name)
                if isinstance(content, bytes):
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                else:
                    member.type, member.linkname = tarfile.SYMTYPE, content
                    tar.addfile(member)
        return path

    @property
    def names(self) -> list[str]:
        """Members that hold evidence."""
        return sorted(name for name in self.members if name != MANIFEST)

    def put(self, name: str, content: bytes | str) -> Capture:
        return Capture(self.members | {name: content})

    def without(self, *names: str) -> Capture:
        return Capture({n: c for n, c in self.members.items() if n not in names})

    def unreadable(self, name: str) -> Capture:
        """As if the recorder had been refused this one path."""
        content = self.members[MANIFEST]
        assert isinstance(content, bytes)
        manifest = json.loads(content)
        path = f"/{name}"
        folder = path.rpartition("/")[0]
        if folder in manifest["complete"] and folder not in manifest["listings"]:
            known = [f"/{n}" for n in self.members]
            known += [*manifest["empty_dirs"], *manifest["listings"], *manifest["complete"]]
            known += manifest["nodes"]
            below = {k[len(folder) + 1 :].partition("/")[0] for k in known if _within(k, folder)}
            manifest["listings"][folder] = sorted(below)
        manifest["errors"][path] = errno.EACCES
        return self.without(name).put(MANIFEST, json.dumps(manifest).encode())


def _within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _replace(change: Callable[[bytes], bytes]) -> Callable[[Capture, str], Capture]:
    def damage(capture: Capture, name: str) -> Capture:
        content = capture.members[name]
        if isinstance(content, bytes):
            return capture.put(name, change(content))
        return capture.put(name, posixpath.basename(name))  # a link to itself

    return damage


def _change_header(capture: Capture, name: str) -> Capture:
    """A config space whose header type has become another's; anything else is cut to a byte."""
    content = capture.members[name]
    if not isinstance(content, bytes) or not name.endswith("/config") or len(content) < 0x10:
        return DAMAGES["half-written"](capture, name)
    header = content[0x0E] & 0x80 | (1 - content[0x0E] & 0x03)
    return capture.put(name, content[:0x0E] + bytes([header]) + content[0x0F:])


DAMAGES: dict[str, Callable[[Capture, str], Capture]] = {
    "unreadable": Capture.unreadable,
    "left out": lambda capture, name: capture.without(name),
    "left out of a plain copy": lambda capture, name: capture.without(name, MANIFEST),
    "empty": _replace(lambda content: b""),
    "half-written": _replace(lambda content: content[: len(content) // 2]),
    "all ones": _replace(lambda content: b"\xff" * len(content)),
    "zeros": _replace(lambda content: bytes(len(content))),
    "another header type": _change_header,
    "no text": _replace(lambda content: b"\x1b[31m\xfe\xff\x80 \xc3\x28" + content[3:]),
}
"""What can happen to one member. A link that is damaged points to itself."""
