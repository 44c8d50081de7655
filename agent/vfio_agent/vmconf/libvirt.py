"""A libvirt domain: /etc/libvirt/qemu/NAME.xml or what `virsh dumpxml` prints.

Read with expat, event by event, so that every entry has its line and nothing is kept that is not
asked for. A document type declaration is refused: without one there is no entity to expand and no
file to include. Depth and size are bounded. Total: broken XML gives the reason, never an exception.
Source: libvirt formatdomain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from xml.parsers import expat

from vfio_agent.vmconf.properties import parse_size, parse_switch, split_properties
from vfio_agent.vmconf.qemu_cmdline import (
    find_devices,
    find_disguises,
    find_raw_disks,
    read_options,
)
from vfio_agent.vmconf.secrets import redact_value
from vfio_contract.vm import LIBVIRT, SOURCE_ADDRESS, VmConfig, VmDevice, VmDisk, VmSetting

MAX_DEPTH = 64
"""libvirt's own schema is a dozen levels deep."""

_MAX_TEXT = 4096
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})")
_TEXTS = frozenset(
    {"domain/name", "domain/memory", "domain/currentMemory", "domain/os/loader", "domain/cpu/model"}
)
_SETTINGS = frozenset(
    {
        "domain",
        "domain/name",
        "domain/memory",
        "domain/currentMemory",
        "domain/memoryBacking/hugepages",
        "domain/memoryBacking/hugepages/page",
        "domain/os",
        "domain/os/type",
        "domain/os/loader",
        "domain/cpu",
        "domain/cpu/model",
        "domain/features/kvm/hidden",
        "domain/features/hyperv/vendor_id",
        "domain/devices/memballoon",
        "domain/devices/video/model",
        "domain/iommu",
        "domain/devices/iommu",
    }
)
"""Elements whose attributes are kept as settings, each with its line."""

_DISK_SOURCE = "domain/devices/disk/source"
_METADATA = "domain/metadata/"
_ARGUMENT = "domain/qemu:commandline/qemu:arg"
_HOSTDEV = "domain/devices/hostdev"
_INTERFACE = "domain/devices/interface"
_ALSO_HOSTDEVS = frozenset({(_INTERFACE, "hostdev"), ("domain/devices/disk", "nvme")})
"""A disk of type nvme is QEMU's own NVMe driver on VFIO: it takes the whole controller."""

_RANGES = {"domain": 0xFFFFFFFF, "bus": 0xFF, "slot": 0xFF, "function": 0xF}

Attributes = Mapping[str, str]


class _Refused(Exception):
    """The document is not one that we read; the text says why."""


@dataclass(slots=True)
class _Entry:
    """A hostdev (or interface or disk that is one) while it is read; paths are relative to it."""

    line: int
    path: str
    attributes: Attributes
    inside: dict[str, Attributes] = field(default_factory=dict)


def parse_libvirt(data: bytes, *, source: str, autostart: bool | None) -> VmConfig | str:
    """The domain in these bytes, or why there is none."""
    reader = _DomainReader()
    try:
        reader.parse(data)
    except _Refused as refusal:
        return f"line {reader.line}: {refusal}"
    except expat.ExpatError as error:
        return f"line {error.lineno}: {expat.errors.messages.get(error.code, 'broken XML')}"
    except (ValueError, LookupError) as error:
        return f"not XML that can be read: {error}"  # an encoding that Python does not know
    return reader.finish(source, autostart)


class _DomainReader:
    """Collects settings and host devices on the way through one document."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._settings: dict[str, tuple[int, Attributes]] = {}
        self._texts: dict[str, str] = {}
        self._entries: list[_Entry] = []
        self._open: _Entry | None = None
        self._disks: list[VmDisk] = []
        self._arguments: list[tuple[int, str]] = []
        self._system: tuple[int, str] | None = None
        self._no_hypervisor = False
        self._parser = expat.ParserCreate()

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def parse(self, data: bytes) -> None:
        parser = self._parser
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.EntityDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(data, True)

    def _refuse_doctype(self, *_: object) -> None:
        raise _Refused("a document type declaration is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} elements")
        self._path.append(name)
        if len(self._path) == 1 and name != "domain":
            raise _Refused(f"a {name[:40]!r} document, not a domain")
        path = "/".join(self._path)
        if path in _SETTINGS and path not in self._settings:
            self._settings[path] = (self.line, attributes)
        self._note(path, name, attributes)
        if path == _HOSTDEV or (path, attributes.get("type")) in _ALSO_HOSTDEVS:
            self._open = _Entry(self.line, path, attributes)
            self._entries.append(self._open)
        elif self._open is not None:
            self._open.inside.setdefault(path.removeprefix(f"{self._open.path}/"), attributes)

    def _note(self, path: str, name: str, attributes: Attributes) -> None:
        """What there may be several of, and what metadata says of the guest (libosinfo)."""
        if path == _DISK_SOURCE and attributes.get("dev", "").startswith("/dev/"):
            self._disks.append(VmDisk(self.line, attributes["dev"]))
        elif path == _ARGUMENT:
            self._arguments.append((self.line, attributes.get("value", "")))
        elif path.startswith(_METADATA) and name.rpartition(":")[2] == "os":
            self._system = self._system or (self.line, attributes.get("id", ""))
        elif path == "domain/cpu/feature" and attributes.get("name") == "hypervisor":
            self._no_hypervisor = attributes.get("policy") == "disable"

    def _end(self, _: str) -> None:
        if self._open is not None and "/".join(self._path) == self._open.path:
            self._open = None
        self._path.pop()

    def _text(self, data: str) -> None:
        path = "/".join(self._path)
        if path in _TEXTS:
            kept = self._texts.get(path, "")
            if len(kept) < _MAX_TEXT:
                self._texts[path] = (kept + data)[:_MAX_TEXT]

    # --- what it means ------------------------------------------------------------------------

    def finish(self, source: str, autostart: bool | None) -> VmConfig:
        faults: list[tuple[int, str]] = []
        devices = [
            _make_device(entry, number, faults)
            for number, entry in enumerate(self._entries)
            if entry.attributes.get("type") in ("pci", "mdev", "hostdev", "nvme")
        ]
        name = self._texts.get("domain/name", "").strip()
        if not name:
            faults.append((1, "the domain has no name"))
        memory = self._size("domain/memory")
        return VmConfig(
            name=name or source.rpartition("/")[2].removesuffix(".xml"),
            kind=LIBVIRT,
            source=source,
            title=name,
            machine=self._attribute("domain/os/type", "machine"),
            firmware=self._firmware(),
            cpu=self._cpu(),
            accelerated=self._attribute("domain", "type") == "kvm",
            disguises=self._disguises(),
            guest=guest_of(self._system[1]) if self._system is not None else "",
            memory_bytes=memory,
            balloon_bytes=self._balloon(memory),
            hugepages=self._hugepages(),
            autostart=autostart,
            template=False,
            devices=(*devices, *self._added_devices()),
            settings=self._list_settings(),
            faults=tuple(faults),
            raw_disks=self._raw_disks(),
        )

    def _added_devices(self) -> Iterator[VmDevice]:
        """Devices that `qemu:commandline` adds behind libvirt's back: it does not bind them."""
        lines = [line for line, _ in self._arguments]
        words = ["qemu", *(value for _, value in self._arguments)]
        for device in find_devices(list(read_options(words)), prefix="qemu:arg -device"):
            yield replace(device, line=lines[device.line - 1], managed=False)

    def _raw_disks(self) -> tuple[VmDisk, ...] | None:
        words = ["qemu", *(value for _, value in self._arguments)]
        behind = find_raw_disks(list(read_options(words)))
        if behind is None:
            return None
        added = (replace(disk, line=self._arguments[disk.line - 1][0]) for disk in behind)
        return (*self._disks, *added)

    def _attribute(self, path: str, name: str) -> str:
        return self._settings.get(path, (0, {}))[1].get(name, "")

    def _firmware(self) -> str:
        if self._attribute("domain/os", "firmware") == "efi":
            return "ovmf"
        if self._attribute("domain/os/loader", "type") == "pflash":
            return "ovmf"
        loader = self._texts.get("domain/os/loader", "")
        return "ovmf" if re.search(r"(?i)ovmf|edk2|aavmf", loader) else ""

    def _cpu(self) -> str:
        mode = self._attribute("domain/cpu", "mode")
        if mode in ("host-passthrough", "host-model", "maximum"):
            return mode
        return self._texts.get("domain/cpu/model", "").strip()

    def _disguises(self) -> tuple[str, ...]:
        found = []
        if parse_switch(self._attribute("domain/features/kvm/hidden", "state")) is True:
            found.append("kvm hidden")
        if parse_switch(self._attribute("domain/features/hyperv/vendor_id", "state")) is True:
            value = self._attribute("domain/features/hyperv/vendor_id", "value")
            found.append(f"hyperv vendor_id={value}")
        if self._no_hypervisor:
            found.append("cpu feature hypervisor disabled")
        words = ["qemu", *(value for _, value in self._arguments)]
        for _, option, text in read_options(words):
            if option == "-cpu":
                found += find_disguises(split_properties(text, first="model"))
        return tuple(found)

    def _size(self, path: str) -> int | None:
        text = self._texts.get(path)
        if text is None:
            return None
        return parse_size(text, unit=self._attribute(path, "unit") or "KiB")

    def _balloon(self, memory: int | None) -> int | None:
        if self._attribute("domain/devices/memballoon", "model") == "none":
            return 0
        if "domain/currentMemory" not in self._texts:
            return memory
        return self._size("domain/currentMemory")

    def _hugepages(self) -> int:
        if "domain/memoryBacking/hugepages" not in self._settings:
            return 0
        size = self._attribute("domain/memoryBacking/hugepages/page", "size")
        unit = self._attribute("domain/memoryBacking/hugepages/page", "unit") or "KiB"
        return parse_size(size, unit=unit) or -1

    def _list_settings(self) -> tuple[VmSetting, ...]:
        found = []
        for path, (line, attributes) in self._settings.items():
            words = [f"{k}={redact_value(k, v)}" for k, v in attributes.items() if path != "domain"]
            if path == "domain":
                words = [f"type={attributes.get('type', '')}"]
            text = self._texts.get(path, "").strip()
            key = path.removeprefix("domain/")
            found.append(VmSetting(key, " ".join([*words, *([text] if text else [])]), line))
        words = ["qemu", *(value for _, value in self._arguments)]
        for place, option, value in read_options(words):
            if option == "-cpu":
                line = self._arguments[place - 1][0]
                found.append(VmSetting("qemu:commandline -cpu", redact_value(option, value), line))
        if self._system is not None:
            found.append(VmSetting("ostype", redact_value("id", self._system[1]), self._system[0]))
        return tuple(found)


def guest_of(identifier: str) -> str:
    """`win11` of libosinfo's `http://microsoft.com/win/11`; other systems by their own name.

    "" when nothing is stated.
    """
    name = identifier.strip().partition("://")[2].rstrip("/").lower()
    if name.startswith("microsoft.com/win"):
        return "win" + name.removeprefix("microsoft.com/win").strip("/").replace("/", "-")
    return f"other {name}" if name else ""


def _make_device(entry: _Entry, number: int, faults: list[tuple[int, str]]) -> VmDevice:
    kind = entry.attributes.get("type", "")
    key = f"{entry.path.rpartition('/')[2]} {number}"
    source = entry.inside.get("source/address", {})
    address, mediated = "", ""
    if kind == "mdev":
        mediated = source.get("uuid", "")
        if not mediated:
            faults.append((entry.line, f"{key}: a mediated device without its uuid"))
    else:
        address = _address_of(source)
        if not address:
            faults.append((entry.line, f"{key}: its source is no PCI address"))
    rom = entry.inside.get("rom", {})
    disk = entry.inside.get("source", {}) if kind == "nvme" else {}
    return VmDevice(
        key=key,
        line=entry.line,
        addresses=(address,) if address else (),
        mapping="",
        mdev=mediated,
        pcie=None,
        managed="yes" in (entry.attributes.get("managed"), disk.get("managed")),
        primary_display=False,
        rom_file=rom.get("file", ""),
        rom_bar=parse_switch(rom.get("bar", "")),
        options=_list_options(entry),
    )


def _list_options(entry: _Entry) -> tuple[tuple[str, str], ...]:
    """Attributes of the entry and of what is in it (both addresses, alias, driver, rom)."""
    rows = [(name, value) for name, value in entry.attributes.items()]
    for path, attributes in entry.inside.items():
        # of the host's address no uuid: `mdev` has that
        shown = _RANGES if f"{path}." == SOURCE_ADDRESS else attributes
        rows += [(f"{path}.{name}", value) for name, value in attributes.items() if name in shown]
    return tuple((name, redact_value(name, value)) for name, value in rows)


def _address_of(attributes: Attributes) -> str:
    """The PCI address in an `<address>`; "" when a part is missing or out of range.

    libvirt writes hexadecimal with 0x and reads decimal without it.
    """
    numbers = {}
    for name, highest in _RANGES.items():
        text = attributes.get(name, "0" if name == "domain" else "").strip()
        if not _NUMBER.fullmatch(text):
            return ""
        numbers[name] = int(text, 16 if text[:2].lower() == "0x" else 10)
        if numbers[name] > highest:
            return ""
    return "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}".format(**numbers)
