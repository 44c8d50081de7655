"""Fetches and builds what the lab boots: tools, Debian kernels as plain ELF images, small initrds.

Everything lands in one work folder (`$VFIOCTL_LAB`, default `~/.cache/vfioctl-lab`) and is made
once; only missing Debian packages are installed into the system, and only as root. It never edits
apt's own configuration: kernel 6.12 and a QEMU with igb are found through a private copy of the
configured sources with the matching backports suite added.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QEMU = "qemu-system-x86_64"
# igb arrived in QEMU 8.0; Debian 12 itself has 7.2, hence backports.
QEMU_MIN_MAJOR = 8
# Package -> a program it brings; missing programs decide what is installed.
PACKAGES = {
    "busybox-static": "busybox",
    "cpio": "cpio",
    "kmod": "depmod",
    "pciutils": "lspci",
    "e2fsprogs": "mke2fs",
    "iproute2": "ip",
    "lvm2": "lvm",
    "mdadm": "mdadm",
    "zstd": "zstd",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Loaded by the initrd, in dependency order: what the root file system itself needs.
ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
# Offered to the guest, which loads them by modalias or by name.
GUEST_MODULES = (
    *("vfio_pci", "vfio_iommu_type1", "kvm_amd", "tun", "vhost_net"),
    *("nvme", "ahci", "sd_mod", "ext4", "dm_mod", "raid0", "raid1", "loop"),
    *("e1000", "e1000e", "igb", "igbvf", "virtio_net", "bridge", "bonding", "8021q"),
    *("bochs", "cirrus", "snd_hda_intel", "snd_hda_codec_generic"),
    *("xhci_pci", "usbhid", "hid_generic", "psmouse", "serio_raw", "evdev", "button"),
    *("shpchp", "i2c_i801", "lpc_ich", "iTCO_wdt", "qemu_fw_cfg"),
    *("crc32c_generic", "crc32c_intel", "libcrc32c"),
)

INIT = """\
#!/bin/busybox sh
# Root is the lab host's / over read-only 9p under a tmpfs overlay. Its layers live under /run,
# which moves along: the overlay's options name paths that still exist in the running system.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run
for module in $(cat /modules/order); do insmod /modules/$module; done
mkdir -p /run/root/lower /run/root/rw /run/lab
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose root /run/root/lower
mount -t tmpfs -o mode=755 tmpfs /run/root/rw
mkdir /run/root/rw/upper /run/root/rw/work
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none lab /run/lab
mount -t overlay \\
  -o lowerdir=/run/root/lower,upperdir=/run/root/rw/upper,workdir=/run/root/rw/work root /newroot
for dir in proc sys dev run; do mount -o move /$dir /newroot/$dir; done
exec switch_root /newroot /bin/busybox sh /run/lab/machines/$(hostname)/start.sh
"""


class LabError(Exception):
    """The lab cannot be prepared or a machine failed; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel: `release` as in `uname -r`, files below the work folder."""

    release: str
    image: Path
    initrd: Path


def work_folder() -> Path:
    """The lab's folder, outside git, created on first use."""
    path = Path(os.environ.get("VFIOCTL_LAB") or Path.home() / ".cache" / "vfioctl-lab")
    path = path.resolve()
    if "," in str(path):
        raise LabError(f"{path}: QEMU's options cannot carry a comma in a path; set VFIOCTL_LAB")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold this lock file; a second run waits, and the kernel drops the lock of a dead one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*argv: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Apt:
    """apt with the machine's own sources plus their backports, configured in `folder` only."""

    def __init__(self, folder: Path) -> None:
        self.suite = ""
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
        """Write the private sources and fetch their indexes. Raises LabError."""
        (self._folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        # A machine whose indexes were never fetched names no sources at all.
        _run("apt-get", "update")
        rows = _run(
            *("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"),
            "Created-By: Packages",
        ).splitlines()
        main = next((r.split() for r in rows if re.search(r"/debian/ bookworm main$", r)), None)
        if main is None:
            raise LabError("the lab needs Debian 12: no source for 'bookworm main' is configured")
        self.suite = f"{main[1]}-backports"
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sources = [*rows, f"{main[0]} {self.suite} {main[2]}"]
        text = "".join(f"deb {signed}{row}\n" for row in dict.fromkeys(sources))
        (self._folder / "sources.list").write_text(text)
        self._apt("apt-get", "update")

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
            raise LabError(f"no package matches {pattern}")
        return max(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])

    def download(self, package: str, folder: Path) -> Path:
        """The package's .deb, fetched into `folder`."""
        self._apt("apt-get", "download", package, cwd=folder)
        return next(folder.glob(f"{package}_*.deb"))

    def _apt(self, *argv: str, cwd: Path | None = None) -> str:
        options = [part for option in self._options for part in ("-o", option)]
        return _run(argv[0], *options, *argv[1:], cwd=cwd)


def qemu_major() -> int:
    """The installed QEMU's major version, 0 if there is none."""
    if shutil.which(QEMU) is None:
        return 0
    found = re.search(r"version (\d+)\.", _run(QEMU, "--version"))
    return int(found[1]) if found else 0


def prepare(versions: Iterable[str]) -> dict[str, Kernel]:
    """Tools and the kernels of these series ("6.1", "6.12"), made unless they are there.

    Takes about 40 s and 350 MB the first time. Raises LabError.
    """
    folder = work_folder()
    # sbin is not on an ordinary user's PATH, and some tools live only there.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with locked(folder / "lock"):
        apt = Apt(folder / "apt")
        missing = [package for package, tool in PACKAGES.items() if shutil.which(tool) is None]
        wanted = [v for v in dict.fromkeys(versions) if not _kernel_folder(folder, v).is_dir()]
        if missing or wanted or qemu_major() < QEMU_MIN_MAJOR:
            if os.geteuid() != 0:
                raise LabError("the lab fetches and installs Debian packages: run it as root once")
            apt.refresh()
        if qemu_major() < QEMU_MIN_MAJOR:
            apt.install(["qemu-system-x86"], suite=apt.suite)
        if missing:
            apt.install(missing)
        for version in wanted:
            _build_kernel(apt, version, folder)
    return {version: _kernel(_kernel_folder(folder, version)) for version in versions}


def _kernel_folder(folder: Path, version: str) -> Path:
    # A changed recipe makes a new folder, so that a stale initrd never boots.
    recipe = " ".join((INIT, *ROOT_MODULES, *GUEST_MODULES)).encode()
    return folder / f"kernel-{version}-{hashlib.sha256(recipe).hexdigest()[:8]}"


def _kernel(folder: Path) -> Kernel:
    release = next((folder / "lib/modules").iterdir()).name
    return Kernel(release, folder / "vmlinux", folder / "initrd")


def _build_kernel(apt: Apt, version: str, folder: Path) -> None:
    # Built aside and renamed, so that a folder that exists is whole.
    building = folder / f"kernel-{version}.part"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    package = apt.newest(rf"linux-image-{re.escape(version)}\.[^-]*(-[0-9]+)?-amd64")
    deb = apt.download(package, building)
    _run("dpkg-deb", "-x", str(deb), str(building / "deb"))
    release = package.removeprefix("linux-image-")
    image = extract_vmlinux((building / f"deb/boot/vmlinuz-{release}").read_bytes())
    (building / "vmlinux").write_bytes(image)
    modules = building / "deb/lib/modules" / release
    reduced = building / "lib/modules" / release
    _run("depmod", "-b", str(building / "deb"), release)
    for path in _closure(modules, (*ROOT_MODULES, *GUEST_MODULES)):
        target = (reduced / path).with_suffix("") if path.endswith(".xz") else reduced / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unpacked here because decompression in an emulated guest costs seconds.
        data = (modules / path).read_bytes()
        target.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(modules / name, reduced / name)
    _run("depmod", "-b", str(building), release)
    _build_initrd(building, [reduced / path for path in _closure(reduced, ROOT_MODULES)])
    shutil.rmtree(building / "deb")
    deb.unlink()
    for stale in folder.glob(f"kernel-{version}-*"):
        shutil.rmtree(stale)
    building.rename(_kernel_folder(folder, version))


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF kernel packed in a bzImage; booted by PVH it skips 13 s of emulated unpacking.

    Source: Linux Documentation/arch/x86/boot.rst (setup_sects, payload_offset, payload_length).
    """
    if image[0x202:0x206] != b"HdrS":
        raise LabError("the boot image has no Linux boot header")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ\x00"):
        # The unpacked length follows the stream: a decompressor object stops before it.
        kernel = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        argv = ("zstd", "-dcq")
        # zstd writes everything and then complains about the trailing length: judge the output.
        kernel = subprocess.run(argv, input=payload, capture_output=True, check=False).stdout
    else:
        raise LabError(f"kernel payload of unknown packing: {payload[:6].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        raise LabError("the boot image holds no ELF kernel")
    return kernel


def _closure(modules: Path, names: Iterable[str]) -> list[str]:
    """Module files, relative, each after what it depends on; built-in and unknown names drop."""
    depends: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[path] = needs.split()
        by_name[Path(path).name.partition(".ko")[0].replace("-", "_")] = path
    order: dict[str, None] = {}

    def add(path: str) -> None:
        if path not in order:
            for need in depends[path]:
                add(need)
            order[path] = None

    for name in names:
        if name.replace("-", "_") in by_name:
            add(by_name[name.replace("-", "_")])
    return list(order)


def _build_initrd(folder: Path, modules: list[Path]) -> None:
    tree = folder / "initrd.d"
    for name in ("bin", "dev", "proc", "sys", "run", "newroot", "modules"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is not installed")
    shutil.copy(busybox, tree / "bin/busybox")
    for name in ("sh", "mount", "mkdir", "cat", "insmod", "hostname", "switch_root"):
        (tree / "bin" / name).symlink_to("busybox")
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    archive = folder / "initrd.cpio"
    _run(*("cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0", "-F", str(archive)),
         cwd=tree, stdin=names)  # fmt: skip
    packed = gzip.compress(archive.read_bytes(), 1, mtime=0)
    packed += bytes(-len(packed) % 4)
    (folder / "initrd").write_bytes(packed + _sacrifice())
    archive.unlink()
    shutil.rmtree(tree)


def _sacrifice() -> bytes:
    """A cpio member that the firmware may overwrite.

    QEMU puts the initrd 160 KiB below the top of memory, where SeaBIOS keeps up to 256 KiB of its
    own (with VGA and USB it does): the initrd's tail is a file that nobody reads, without the
    trailer that would have to survive. Source: Linux Documentation/driver-api/early-userspace.
    """
    size, name = 256 << 10, b"sacrifice\0"
    fields = (1, 0o100600, 1, 0, 0, 0, size, 0, 0, 0, 0, len(name), 0)
    member = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return member + bytes(-len(member) % 4) + bytes(size)


if __name__ == "__main__":
    try:
        for name, kernel in prepare(sys.argv[1:] or ("6.1", "6.12")).items():
            sys.stdout.write(f"{name}: {kernel.release}\n")
    except LabError as error:
        sys.exit(f"lab: {error}")
