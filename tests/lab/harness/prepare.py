"""Makes this computer ready for the lab: QEMU and tools, kernels 6.1 and 6.12.

`python -m tests.lab.harness.prepare [SERIES...]`; `make` calls it. Everything but Debian's own
packages lands in the work folder and is made once; packages are installed only as root, and never
while tests run. What is there already needs no network, and a kernel package that somebody put
there needs none either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.harness import kernel as recipe
from tests.lab.harness.apt import BACKPORTS, Apt, numbers
from tests.lab.harness.ground import LabError, LabMissing, explain_space, locked, run_tool
from tests.lab.harness.ground import work_folder as work_folder

QEMU = "qemu-system-x86_64"
# igb arrived in QEMU 8.0; Debian 12 itself has 7.2, hence backports.
QEMU_MIN_MAJOR = 8
QEMU_PACKAGE = "qemu-system-x86"
SERIES = ("6.1", "6.12")
# Package -> a program it brings; missing programs decide what is installed.
PACKAGES = {
    "cpio": "cpio",
    "dpkg": "dpkg-deb",
    "kmod": "depmod",
    "pciutils": "lspci",
    "e2fsprogs": "mke2fs",
    "iproute2": "ip",
    "lvm2": "lvm",
    "mdadm": "mdadm",
    "util-linux": "setpriv",
    "zstd": "zstd",
}
# Written last: the sizes of all files of a kernel's folder.
MANIFEST = "manifest.json"
# A package unpacked, its image and modules: what a build needs at its worst.
BUILD_BYTES = 800 << 20
# Other checkouts may have other recipes and machines: they stay as long as somebody uses them.
UNUSED_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel: `release` as in `uname -r`, files below the work folder."""

    release: str
    image: Path
    initrd: Path


def prepare(series: Iterable[str], *, install: bool = True) -> dict[str, Kernel]:
    """Tools and the kernels of these series ("6.1", "6.12"), made unless they are there.

    Takes about 40 s and 350 MB the first time. Without `install` the system stays as it is and the
    network is left alone. Raises LabMissing when something is missing and may or can not be had,
    else LabError.
    """
    folder = work_folder()
    # sbin is not on an ordinary user's PATH, and some tools live only there.
    if "/usr/sbin" not in os.environ["PATH"].split(":"):
        os.environ["PATH"] += ":/usr/sbin:/sbin"
    with locked(folder / "lock"):
        apt = Apt(folder / "apt")
        try:
            _install_missing(apt, install=install)
            fetcher = apt if install else None
            return {n: _prepare_kernel(fetcher, n, folder) for n in dict.fromkeys(series)}
        except OSError as error:
            where = error.filename or folder
            text = f"{where}: {error.strerror}; {explain_space(folder)}".rstrip("; ")
            raise LabError(text) from error


def qemu_major() -> int:
    """The installed QEMU's major version, 0 if there is none."""
    if shutil.which(QEMU) is None:
        return 0
    found = re.search(r"version (\d+)\.", run_tool(QEMU, "--version"))
    return int(found[1]) if found else 0


def _install_missing(apt: Apt, *, install: bool) -> None:
    missing = [package for package, tool in PACKAGES.items() if shutil.which(tool) is None]
    if recipe.find_static_busybox() is None:
        missing.append("busybox-static")
    needs_qemu = qemu_major() < QEMU_MIN_MAJOR
    if not missing and not needs_qemu:
        return
    how = _how_to_install(apt, missing, needs_qemu=needs_qemu)
    if not install or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabMissing(how)
    try:
        apt.refresh()
        if needs_qemu:
            apt.install([QEMU_PACKAGE], suite=BACKPORTS)
        if missing:
            apt.install(missing)
    except LabError as error:
        raise LabMissing(f"{how}\nTried, in vain:\n{error}") from error


def _how_to_install(apt: Apt, missing: list[str], *, needs_qemu: bool) -> str:
    what, lines = "Debian packages", []
    apt_get = "sudo apt-get install -y --no-install-recommends"
    if needs_qemu:
        what = f"QEMU {QEMU_MIN_MAJOR} or newer"
    if shutil.which("apt-get") is None:
        return f"the lab needs {what}, and programs of: {', '.join(PACKAGES)}, busybox-static"
    if needs_qemu:
        source = f"deb {apt.mirror() or 'MIRROR'} {BACKPORTS} main"
        lines.append(f"  echo '{source}' | sudo tee /etc/apt/sources.list.d/backports.list")
    lines.append("  sudo apt-get update")
    if needs_qemu:
        lines.append(f"  {apt_get} -t {BACKPORTS} {QEMU_PACKAGE}")
    if missing:
        lines.append(f"  {apt_get} {' '.join(missing)}")
    head = f"the lab needs {what}; as root `make lab` installs it, otherwise:"
    return "\n".join([head, *lines])


def _prepare_kernel(apt: Apt | None, series: str, folder: Path) -> Kernel:
    made = folder / f"kernel-{series}-{recipe.recipe()}"
    damage = find_damage(made)
    if damage is not None:
        if made.exists():
            print(f"lab: {made}: {damage}; made anew", file=sys.stderr, flush=True)
        _build(apt, series, folder, made)
    # When it was last used: see _forget_unused.
    os.utime(made)
    release = next((made / "lib/modules").iterdir()).name
    return Kernel(release, made / "vmlinux", made / "initrd")


def find_damage(made: Path) -> str | None:
    """What is wrong with a kernel's folder, by the sizes of its files, or None.

    A full disk, a killed run or a person that tidies up leaves other sizes behind.
    """
    try:
        sizes = json.loads((made / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"no whole {MANIFEST} ({type(error).__name__})"
    for name, size in sizes.items():
        path = made / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            return f"{name}: {'missing' if found is None else f'{found} bytes'}, {size} expected"
    return None


def write_manifest(made: Path) -> None:
    """Record the sizes of everything in a kernel's folder."""
    files = sorted(path for path in made.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(made)): path.stat().st_size for path in files}
    (made / MANIFEST).write_text(json.dumps(sizes, indent=1))


def _build(apt: Apt | None, series: str, folder: Path, made: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < BUILD_BYTES:
        raise LabMissing(
            f"{folder}: kernel {series} needs {BUILD_BYTES >> 20} MiB while it is made, "
            f"{free >> 20} are free; VFIOCTL_LAB names another folder"
        )
    deb = _find_package(apt, series, folder / "packages")
    # Built aside and renamed, so that a folder that exists is whole.
    building = folder / f"kernel-{series}.part"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    recipe.build(deb, building)
    write_manifest(building)
    if made.exists():
        shutil.rmtree(made)
    building.rename(made)
    _forget_unused(folder)


def _find_package(apt: Apt | None, series: str, packages: Path) -> Path:
    """The kernel's package: one that is there already, else the newest, if `apt` may fetch it."""
    pattern = rf"linux-image-{re.escape(series)}\.[^-_]*(-[0-9]+)?-amd64"
    packages.mkdir(exist_ok=True)
    there = [p for p in packages.glob("*.deb") if re.fullmatch(pattern, p.name.partition("_")[0])]
    if there:
        return max(there, key=lambda path: numbers(path.name))
    if apt is None:
        raise LabMissing(f"no kernel {series}: `make lab` fetches and makes it")
    try:
        apt.refresh()
        return apt.download(apt.newest(pattern), packages)
    except LabError as error:
        raise LabMissing(
            f"no kernel {series}, and it cannot be fetched:\n{error}\n"
            f"Fetch Debian's package linux-image-{series}.*-amd64 (neither -cloud, -rt nor -dbg; "
            f"6.12 is in bookworm-backports), put the .deb into {packages} and try again."
        ) from error


def _forget_unused(folder: Path) -> None:
    for pattern in ("kernel-*", "machines/*/", "rows-*/"):
        for path in folder.glob(pattern):
            if time.time() - path.stat().st_mtime > UNUSED_S:
                shutil.rmtree(path)


def main(argv: list[str]) -> int:
    """Prepare the named series, all without a name; exit code 1 when that is not possible."""
    parser = argparse.ArgumentParser(description="Make this computer ready for the lab.")
    parser.add_argument("series", nargs="*", default=SERIES, help=f"of: {', '.join(SERIES)}")
    parser.add_argument("--optional", action="store_true", help="without CI, missing is a note")
    options = parser.parse_args(argv)
    try:
        for name, kernel in prepare(options.series).items():
            print(f"lab: kernel {name}: {kernel.release}", flush=True)
    except LabMissing as error:
        print(f"lab: {error}", file=sys.stderr)
        if options.optional and not os.environ.get("CI"):
            print("lab: without it the lab's tests are skipped", file=sys.stderr)
            return 0
        return 1
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
