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
        said = run_tool("apt-get", *_TIMEOUT, "update") if os.geteuid() == 0 else ""
        rows = self._configured()
        main = find_main(rows)
        if main is None:
            raise LabError(f"apt has no index of Debian 12 ('bookworm main'):\n{said}".strip())
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sources = [*rows, f"{main[0]} {BACKPORTS} {main[2]}"]
        text = "".join(f"deb {signed}{row}\n" for row in dict.fromkeys(sources))
        (self._folder / "sources.list").write_text(text)
        # It succeeds when nothing could be fetched, and warns.
        self._warnings = self._apt("apt-get", *_TIMEOUT, "update")

    def mirror(self) -> str | None:
        """Where this machine has Debian 12 from, or None."""
        main = find_main(self._configured())
        return main[0] if main else None

    def _configured(self) -> list[str]:
        """The sources of this machine whose indexes were fetched: "URI SUITE COMPONENT"."""
        return run_tool(
            *("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"),
            "Created-By: Packages",
        ).splitlines()

    def install(self, packages: Iterable[str], suite: str | None = None) -> None:
        """Install into the system, as root. Raises LabError."""
        target = ["-t", suite] if suite else []
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        self._apt("apt-get", "install", "-y", "--no-install-recommends", *target, *packages)

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
        return run_tool(argv[0], *options, *argv[1:], cwd=cwd)


def find_main(rows: Iterable[str]) -> list[str] | None:
    """URI, suite and component of Debian 12's main archive among such sources."""
    return next((r.split() for r in rows if re.search(r"/debian/ bookworm main$", r)), None)


def numbers(name: str) -> list[int]:
    """The numbers in a package's name, to order names by."""
    return [int(n) for n in re.findall(r"\d+", name)]
