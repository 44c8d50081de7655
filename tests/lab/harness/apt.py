"""Debian packages for the lab: installed into the system as root, or fetched and kept.

It never edits apt's own configuration: kernel 6.12 and a QEMU with igb are found through a private
copy of the configured sources with the matching backports suite added.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from tests.lab.harness.ground import LabError, run_tool

BACKPORTS = "bookworm-backports"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A mirror that swallows packets must not keep a set-up for apt's own two minutes a try.
_TIMEOUT = ("-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")
# One that trickles must end, too: a hundred megabytes over a slow line, and no longer.
FETCH_LIMIT_S = 1200.0
# Nobody is there to be asked: what an administrator changed stays.
_UNASKED = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")


class Apt:
    """apt with the machine's own sources plus their backports, configured in `folder` only."""

    def __init__(self, folder: Path) -> None:
        self._warnings = ""
        self._options = [
            f"Dir::Etc::sourcelist={folder}/sources.list",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={folder}/lists",
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Sandbox::User=root",
            "DPkg::Lock::Timeout=300",
        ]
        self._folder = folder

    def refresh(self) -> None:
        """Write the private sources and fetch their indexes. Raises LabError.

        Indexes that were fetched before serve when a mirror cannot be reached.
        """
        (self._folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        # A machine whose indexes were never fetched names no sources at all.
        argv = ("apt-get", *_TIMEOUT, "update")
        said = run_tool(*argv, limit_s=FETCH_LIMIT_S) if os.geteuid() == 0 else ""
        indexes = self._indexes()
        mirror = find_main(indexes)
        if mirror is None:
            raise LabError(f"apt has no index of Debian 12 ('bookworm main'):\n{said}".strip())
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sources = [*(" ".join(row.split()[:3]) for row in indexes), f"{mirror} {BACKPORTS} main"]
        text = "".join(f"deb {signed}{row}\n" for row in dict.fromkeys(sources))
        (self._folder / "sources.list").write_text(text)
        # It succeeds when nothing could be fetched, and warns.
        self._warnings = self._apt("apt-get", *_TIMEOUT, "update")

    def mirror(self) -> str | None:
        """Where this machine has Debian 12 from, or None."""
        return find_main(self._indexes())

    def _indexes(self) -> list[str]:
        """This machine's sources whose indexes were fetched: "URI SUITE COMPONENT" and whose."""
        fields = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CODENAME) $(LABEL)"
        argv = ("apt-get", "indextargets", "--format", fields, "Created-By: Packages")
        return run_tool(*argv).splitlines()

    def install(self, packages: Iterable[str], suite: str | None = None) -> None:
        """Install into the system, as root. Raises LabError."""
        target = ["-t", suite] if suite else []
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        options = (*_TIMEOUT, *_UNASKED, "-y", "--no-install-recommends")
        self._apt("apt-get", "install", *options, *target, *packages)

    def newest(self, pattern: str) -> str:
        """The package with the highest version numbers in its name that matches `pattern`."""
        names = self._apt("apt-cache", "search", "--names-only", pattern).splitlines()
        found = [n for n in (line.split()[0] for line in names) if re.fullmatch(pattern, n)]
        if not found:
            raise LabError(f"no package matches {pattern}\n{self._warnings}".strip())
        return max(found, key=numbers)

    def download(self, package: str, folder: Path) -> Path:
        """The package's .deb, fetched into `folder`, whole or not at all."""
        part = folder / "part"
        part.mkdir(parents=True, exist_ok=True)
        for left in part.iterdir():
            left.unlink()
        self._apt("apt-get", *_TIMEOUT, "download", package, cwd=part)
        fetched = next(part.glob(f"{package}_*.deb"))
        return fetched.rename(folder / fetched.name)

    def _apt(self, *argv: str, cwd: Path | None = None) -> str:
        options = [part for option in self._options for part in ("-o", option)]
        return run_tool(argv[0], *options, *argv[1:], cwd=cwd, limit_s=FETCH_LIMIT_S)


def find_main(indexes: Iterable[str]) -> str | None:
    """Where Debian 12's main archive is, among "URI SUITE COMPONENT CODENAME LABEL".

    The suite may be `oldstable`, the archive anywhere: what it is its own index says.
    """
    for uri, _, *what in (row.split(maxsplit=4) for row in indexes):
        if what == ["main", "bookworm", "Debian"]:
            return uri
    return None


def numbers(name: str) -> list[int]:
    """The numbers in a package's name, to order names by."""
    return [int(n) for n in re.findall(r"\d+", name)]
