"""Every parser of evidence, each with real text to mutate and what must hold for any bytes.

A target takes bytes and returns nothing; an exception that is not the parser's own way to refuse is
a failure, and so is a verdict PASS from broken evidence.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from tests.unit.pasted import pastes
from vfio_agent.checks import judge
from vfio_agent.collect import collect_host
from vfio_agent.collect.claimed_disks import parse_volume_groups
from vfio_agent.collect.config_space import parse_config, parse_link
from vfio_agent.collect.contention import parse_cpu_time, parse_disks
from vfio_agent.collect.cpu import parse_cpuinfo, parse_microcode
from vfio_agent.collect.interrupts import parse_chips, parse_device_interrupts
from vfio_agent.collect.kernel import parse_version_line
from vfio_agent.collect.kernel_log import extract_log
from vfio_agent.collect.keyboards import parse_input_devices
from vfio_agent.collect.log_line import render_kmsg
from vfio_agent.collect.manifest import BadCapture, read_manifest
from vfio_agent.collect.memory import parse_meminfo
from vfio_agent.collect.mounts import parse_mountinfo, parse_mounts
from vfio_agent.collect.pressure import parse_pressure
from vfio_agent.collect.root import open_root
from vfio_agent.collect.route_tables import parse_fib_trie, parse_route
from vfio_agent.collect.storage import parse_swaps
from vfio_agent.collect.zpool import parse_cache
from vfio_agent.inspect import inspect_evidence
from vfio_agent.pasted import EvidenceError
from vfio_agent.pasted.inventory import build_inventory
from vfio_agent.pasted.listing import parse_listing
from vfio_agent.pasted.machine_lspci import rewrite_rows
from vfio_agent.pasted.memory_root import MemoryRoot
from vfio_agent.pasted.recognise import clean, recognise_text
from vfio_agent.reset_lines import find_traces
from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import parse_qemu, split_cmdline
from vfio_agent.vmconf.secrets import redact_cmdline, redact_conf, redact_xml
from vfio_contract.artifact import ArtifactError, decode_artifact, encode_artifact
from vfio_contract.findings import Verdict
from vfio_contract.host import Host

HOSTS = Path(__file__).resolve().parents[1] / "data" / "hosts"
HOST = "m3-intel-6.1.tar.gz"

Seeds = Callable[[], list[bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """`seeds` are made when they are needed; `run` must not raise."""

    seeds: Seeds
    run: Callable[[bytes], object]


# --- seeds ---------------------------------------------------------------------------------------

CONFIG = (
    "#note\nagent: 1\nargs: -cpu 'host,kvm=off' -device vfio-pci,host=02:00.0\nballoon: 2048\n"
    "bios: ovmf\nhostpci0: 0000:01:00;0000:02:00.0,pcie=1,x-vga=1,romfile=a.bin\n"
    "hostpci1: mapping=gpu,mdev=nvidia-1\nmachine: q35\nmemory: 16384\nhugepages: 1024\n"
    "name: win10\nostype: win10\nscsi0: local:vm-1,size=8G\n\n[snap]\nhostpci0: 03:00\n"
)
DOMAIN = (
    "<domain type='kvm'>\n <name>games</name>\n <memory unit='GiB'>8</memory>\n"
    " <memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>\n"
    " <os><type machine='q35'>hvm</type><loader type='pflash'>/OVMF.fd</loader></os>\n"
    " <features><kvm><hidden state='on'/></kvm></features><cpu mode='host-passthrough'/>\n"
    " <devices><hostdev mode='subsystem' type='pci' managed='yes'><source>\n"
    "  <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>\n"
    "  <rom file='a'/></hostdev>\n  <hostdev type='mdev'><source><address uuid='x'/></source>"
    "</hostdev></devices>\n</domain>\n"
)
MAPPING = (
    "gpu\n\tdescription x\n\tmap id=10de:1b80,iommugroup=1,node=pve,path=0000:01:00.0;0000:01:00.1,"
    "subsystem-id=1458:3702\n\tmdev 1\n\nnic\n\tmap id=8086:1533,node=b,path=0000:02:00\n"
)
COMMAND = (
    "/usr/bin/kvm\0-id\x00101\0-name\0win,debug-threads=on\0-machine\0type=q35,accel=kvm\0-m\x008G\0"
    '-device\0{"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0"}\0-cpu\0host,kvm=off\0'
    "-device\0vfio-pci,host=01:00.1,bus=pcie.1,x-vga=on\0-object\0memory-backend-file,hugetlb=on\0"
    "-drive\0if=pflash,file=/OVMF.fd\0"
)
SETTINGS = (
    "options vfio-pci ids=10de:1b80,10de:10f0:1458:3702 disable_vga=1\nsoftdep nouveau pre: vfio\n"
    "blacklist nouveau\ninstall x /bin/true\noptions vfio_pci \\\n ids=1:2\nvfio_pci\n"
    'GRUB_CMDLINE_LINUX_DEFAULT="quiet ${GRUB_CMDLINE_LINUX} intel_iommu=on"\n'
    "GRUB_CMDLINE_LINUX='a=\"b\"'\ntitle x\noptions root=/dev/sda ro\n"
    'ACTION=="add", ATTR{device/sriov_numvfs}="4"\n'
)


@cache
def _host_files() -> dict[str, bytes]:
    """The small files of a captured host by path."""
    found = {}
    with tarfile.open(HOSTS / HOST) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                found["/" + member.name.removeprefix("./")] = file.read()
    return found


def named(*suffixes: str) -> Seeds:
    """Files of the captured host whose path ends like this."""

    def pick() -> list[bytes]:
        found = [data for path, data in _host_files().items() if path.endswith(suffixes)]
        assert found, suffixes
        return sorted(set(found))[:40]

    return pick


def fixed(*texts: str | bytes) -> Seeds:
    """These texts."""
    return lambda: [text.encode() if isinstance(text, str) else text for text in texts]


def log_seeds() -> list[bytes]:
    found = [data[:20_000] for path, data in _host_files().items() if path == "/dmesg"]
    return [*found, pastes.DMESG.encode(), pastes.DMESG.encode("utf-16")]


def paste_seeds() -> list[bytes]:
    texts = [pastes.LSPCI_VV, pastes.LOOP, pastes.CMDLINE, pastes.UNAME, pastes.DMESG, CONFIG]
    texts += [DOMAIN, MAPPING, SETTINGS, COMMAND.replace("\0", " ") + "\n"]
    texts.append("\n$ x\n".join(texts))
    return [text.encode() for text in texts]


@cache
def _artifact() -> bytes:
    return encode_artifact(collect_host(open_root(str(HOSTS / HOST))))


# --- what must hold ------------------------------------------------------------------------------


def text_of(parser: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parser(data.decode("utf-8", "backslashreplace"))


def judge_paste(data: bytes) -> None:
    try:
        seen = inspect_evidence(["-"], stdin=BytesIO(data))
    except EvidenceError:
        return
    if seen.given[0].recorded:
        return  # an artifact or archive that survived: a whole host
    assert seen.report.verdict is not Verdict.PASS


def list_paste(data: bytes) -> None:
    text = rewrite_rows(clean(data))
    recognise_text(text)
    build_inventory([parse_listing(text)])


def read_log(data: bytes) -> None:
    log = extract_log(data, "x")
    assert len(log.lines) + log.omitted_lines <= max(log.total_lines, 1)
    find_traces(log.lines)


def read_artifact(data: bytes) -> None:
    try:
        snapshot = decode_artifact(data)
    except ArtifactError:
        return
    judge(Host(snapshot))


def read_tar(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="vfioctl-fuzz-") as file:
        file.write(data)
        file.flush()
        try:
            root = open_root(file.name)
        except BadCapture:
            return
        judge(Host(collect_host(root)))


def read_host_manifest(data: bytes) -> None:
    try:
        read_manifest(data)
    except BadCapture:
        return


def _small_tar() -> list[bytes]:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in sorted(_host_files().items())[:30]:
            info = tarfile.TarInfo(path[1:])
            info.size = len(data[:200])
            tar.addfile(info, BytesIO(data[:200]))
        link = tarfile.TarInfo("sys/a")
        link.type, link.linkname = tarfile.SYMTYPE, "../proc"
        tar.addfile(link)
    return [out.getvalue()]


_READ = (
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/loader/entries/a.conf",
    "/etc/modprobe.d/a.conf",
    "/etc/modules-load.d/a.conf",
    "/etc/modules",
    "/etc/initramfs-tools/modules",
    "/etc/udev/rules.d/a.rules",
    "/etc/driverctl.d/pci-0000:01:00.0",
    "/etc/pve/qemu-server/101.conf",
    "/etc/pve/mapping/pci.cfg",
    "/etc/libvirt/qemu/a.xml",
    "/proc/42/cmdline",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/mounts",
    "/proc/net/fib_trie",
    "/proc/net/route",
    "/proc/self/mountinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/version",
    "/sys/bus/pci/devices/0000:01:00.0/class",
    "/sys/bus/pci/devices/0000:01:00.0/config",
    "/sys/bus/pci/devices/0000:01:00.0/reset_method",
    "/sys/bus/pci/devices/0000:01:00.0/resource",
    "/sys/bus/pci/devices/0000:01:00.0/vendor",
    "/sys/kernel/iommu_groups/1/devices/0000:01:00.0",
    "/sys/kernel/iommu_groups/1/reserved_regions",
)


def collect_everywhere(data: bytes) -> None:
    """The same bytes in every file that a collector reads."""
    files = dict.fromkeys(_READ, data) | {"/proc/42/comm": b"kvm\n", "/dmesg": data}
    report = judge(Host(collect_host(MemoryRoot(files))))
    assert report.verdict is not Verdict.PASS


def redact(data: bytes) -> None:
    redact_conf(data)
    redact_xml(data)
    redact_cmdline(data)


def qemu(data: bytes) -> None:
    parse_qemu(split_cmdline(data), source="x", fallback_name="x")


TARGETS: dict[str, Target] = {
    "paste": Target(paste_seeds, judge_paste),
    "listing": Target(paste_seeds, list_paste),
    "log": Target(log_seeds, read_log),
    "kmsg": Target(
        fixed(
            b"6,0,0,-;Linux version 6\n KEY=x\n4,2,65000123,c;vfio-pci: a\\x0ab\n30,3,6,-;systemd\n"
        ),
        lambda data: extract_log(render_kmsg(data), "x"),
    ),
    "config-space": Target(named("/config"), lambda data: (parse_config(data), parse_link(data))),
    "artifact": Target(lambda: [_artifact()[:60_000], _artifact()], read_artifact),
    "tar": Target(_small_tar, read_tar),
    "manifest": Target(named("/manifest.json"), read_host_manifest),
    "proxmox": Target(fixed(CONFIG), text_of(lambda t: parse_proxmox(t, name="1", source="x"))),
    "mapping": Target(fixed(MAPPING), text_of(lambda t: parse_mappings(t, source="x"))),
    "libvirt": Target(fixed(DOMAIN), lambda data: parse_libvirt(data, source="x", autostart=None)),
    "qemu": Target(fixed(COMMAND), qemu),
    "redact": Target(fixed(CONFIG, DOMAIN, COMMAND), redact),
    "collectors": Target(
        lambda: [*paste_seeds(), *named("/interrupts", "/mountinfo", "/resource")()],
        collect_everywhere,
    ),
    "interrupts": Target(
        named("/interrupts"), text_of(lambda t: (parse_chips(t), parse_device_interrupts(t)))
    ),
    "mounts": Target(
        named("/mountinfo", "/mounts"), text_of(lambda t: (parse_mountinfo(t), parse_mounts(t)))
    ),
    "meminfo": Target(named("/meminfo"), text_of(parse_meminfo)),
    "cpuinfo": Target(named("/cpuinfo"), text_of(lambda t: (parse_cpuinfo(t), parse_microcode(t)))),
    "version": Target(named("/version"), text_of(parse_version_line)),
    "input": Target(
        fixed(
            "I: Bus=0003\nN: Name=x\nS: Sysfs=/devices/pci0000:00/0000:00:14.0/usb1/input3\n"
            "H: Handlers=sysrq kbd\nB: EV=120013\n\n"
        ),
        text_of(parse_input_devices),
    ),
    "routes": Target(
        fixed("Iface\tDestination\tGateway\neth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n"),
        text_of(lambda t: list(parse_route(t))),
    ),
    "fib-trie": Target(
        fixed("Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.1\n        /32 host LOCAL\n"),
        text_of(parse_fib_trie),
    ),
    "swaps": Target(
        fixed("Filename Type Size Used Priority\n/dev/dm-1 partition 8388604 0 -2\n"),
        text_of(parse_swaps),
    ),
    "pressure": Target(
        fixed(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 "
            "avg300=0.00 total=1\n"
        ),
        text_of(lambda t: parse_pressure("io", t)),
    ),
    "contention": Target(
        fixed(
            "cpu  1 2 3 4 5 6 7 8 9 10\n", "   8  0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n"
        ),
        text_of(lambda t: (parse_cpu_time(t), parse_disks(t))),
    ),
    "zpool-cache": Target(fixed(bytes(64), b"\x01\x01" + bytes(range(200))), parse_cache),
    "volume-groups": Target(
        fixed('vg0 {\nid = "x"\nphysical_volumes {\npv0 {\ndevice = "/dev/sda3"\n}\n}\n}\n'),
        text_of(lambda t: parse_volume_groups(t, "x")),
    ),
}
