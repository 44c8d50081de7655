"""A Debian kernel package made into what the lab boots: a plain ELF image, modules, an initrd.

It only writes into the folder that it is given, and installs nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.lab.harness.ground import LabError, run_tool

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
exec switch_root /newroot /bin/busybox sh /run/lab/start.sh
"""


def build(deb: Path, building: Path) -> str:
    """Make the kernel of this package in an empty folder; its release, as in `uname -r`."""
    unpacked = building / "deb"
    run_tool("dpkg-deb", "-x", str(deb), str(unpacked))
    release = next((unpacked / "lib/modules").iterdir()).name
    image = extract_vmlinux((unpacked / f"boot/vmlinuz-{release}").read_bytes())
    (building / "vmlinux").write_bytes(image)
    modules = unpacked / "lib/modules" / release
    reduced = building / "lib/modules" / release
    run_tool("depmod", "-b", str(unpacked), release)
    for path in _closure(modules, (*ROOT_MODULES, *GUEST_MODULES)):
        target = (reduced / path).with_suffix("") if path.endswith(".xz") else reduced / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unpacked here because decompression in an emulated guest costs seconds.
        data = (modules / path).read_bytes()
        target.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(modules / name, reduced / name)
    run_tool("depmod", "-b", str(building), release)
    _build_initrd(building, [reduced / path for path in _closure(reduced, ROOT_MODULES)])
    shutil.rmtree(unpacked)
    return release


def recipe() -> str:
    """What a built kernel depends on beside its package, as a short hash."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def find_static_busybox() -> str | None:
    """The busybox that runs where nothing else is; Debian's plain one needs its libraries."""
    found = shutil.which("busybox")
    return found if found and b"/lib64/ld-linux" not in Path(found).read_bytes() else None


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
    busybox = find_static_busybox()
    if busybox is None:
        raise LabError("busybox-static is not installed")
    shutil.copy(busybox, tree / "bin/busybox")
    for name in ("sh", "mount", "mkdir", "cat", "insmod", "switch_root"):
        (tree / "bin" / name).symlink_to("busybox")
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    archive = folder / "initrd.cpio"
    run_tool(*("cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0", "-F", str(archive)),
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
