"""Redacted evidence: judged the same, and without the names of its owner."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import function, make_host, nic
from vfio_agent.inspect import inspect_host, judge_snapshot
from vfio_agent.redaction import Masks, redact_snapshot
from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_contract.artifact import decode_artifact, encode_artifact
from vfio_contract.host import Host
from vfio_contract.identity import identify
from vfio_contract.model import (
    Firmware,
    Holder,
    KernelLog,
    LogLine,
    NetDevice,
    Snapshot,
    StorageUse,
)
from vfio_contract.vm import MappingEntry, PciMapping, VmConfig

HOSTS = sorted((Path(__file__).resolve().parents[1] / "data" / "hosts").glob("*.tar.gz"))
KEY, OTHER = b"k" * 32, b"o" * 32

_SHAPES = (
    re.compile(r"(?<![0-9a-f:])(?!00:00:00:00:00:00)(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])"),
    re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
    re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
)


def verdicts(snapshot: Snapshot) -> Counter[tuple[str, str, str]]:
    report = judge_snapshot(snapshot).report
    return Counter((f.check, str(f.verdict), f.code) for f in report.findings)


def originals(snapshot: Snapshot) -> set[str]:
    """What identifies this host or its owner."""
    facts = snapshot.facts
    found = {facts.host, facts.firmware.product_uuid or "", snapshot.readings.boot_id or ""}
    for device in facts.network or ():
        found |= {device.mac, *(device.addresses or ())}
        found |= {r.partition("/")[0] for r in device.routes or () if r not in ("default", "::/0")}
    found |= {f.config.serial_number or "" for f in facts.functions or () if f.config is not None}
    found |= {b.label for b in facts.block or () if b.name.startswith("dm-")}
    return found - {"", "unknown"}


@pytest.mark.parametrize("path", HOSTS, ids=lambda p: p.name.partition(".tar")[0])
def test_captured_hosts_are_judged_the_same_and_tell_nothing(path: Path) -> None:
    snapshot = inspect_host(str(path)).snapshot
    data = encode_artifact(redact_snapshot(snapshot, KEY))
    shown = decode_artifact(data)
    assert verdicts(shown) == verdicts(snapshot)
    text = data.decode()
    assert originals(snapshot)
    assert {word for word in originals(snapshot) if word in text} == set()
    for shape in _SHAPES:
        assert shape.findall(text) == []


@pytest.mark.parametrize("path", HOSTS[:2], ids=lambda p: p.name.partition(".tar")[0])
def test_what_a_check_stands_on_stays(path: Path) -> None:
    facts = inspect_host(str(path)).snapshot.facts
    snapshot = inspect_host(str(path)).snapshot
    shown = redact_snapshot(snapshot, KEY).facts
    assert shown.groups == facts.groups
    assert shown.modules == facts.modules
    assert [f.address for f in shown.functions or ()] == [f.address for f in facts.functions or ()]
    assert [f.ids for f in shown.functions or ()] == [f.ids for f in facts.functions or ()]
    assert shown.firmware.bios_version == facts.firmware.bios_version


def test_the_same_key_gives_the_same_names_and_another_one_others() -> None:
    snapshot = inspect_host(str(HOSTS[0])).snapshot
    assert redact_snapshot(snapshot, KEY) == redact_snapshot(snapshot, KEY)
    one, two = redact_snapshot(snapshot, KEY), redact_snapshot(snapshot, OTHER)
    assert one.readings.redacted != two.readings.redacted
    assert one.facts.host != two.facts.host
    assert snapshot.readings.redacted is None


def test_redacting_again_changes_no_verdict() -> None:
    snapshot = redact_snapshot(inspect_host(str(HOSTS[0])).snapshot, KEY)
    assert verdicts(redact_snapshot(snapshot, OTHER)) == verdicts(snapshot)


# --- one host with everything that names somebody -------------------------------------------------

CONF = """name: payroll
hostpci0: 0000:01:00.0,pcie=1,romfile=payroll-gpu.rom
machine: q35
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0
scsi0: local-lvm:vm-101-disk-0,serial=WD-SER1
smbios1: uuid=11111111-2222-3333-4444-555555555555
searchdomain: acme.example.com
ipconfig0: ip=10.9.8.7/24
"""
XML = b"""<domain type='kvm'><name>ledger-db</name><title>ledger-db</title>
<uuid>11111111-2222-3333-4444-555555555555</uuid><memory unit='KiB'>1024</memory>
<os><type machine='q35'>hvm</type></os></domain>"""

NAMED = (
    "pve-berlin",
    "berlin.acme.example.com",
    "payroll",
    "ledger-db",
    "bc:24:11:aa:bb:cc",
    "BC:24:11:AA:BB:CC",
    "bc2411aabbcc",
    "10.9.8.7",
    "2001:db8::17",
    "vm-101-disk-0",
    "WD-SER1",
    "alice",
    "luks-secret",
    "DEADBEEF-1234",
    "11111111-2222-3333-4444-555555555555",
    "nas.example.org",
    "00-1b-21-ff-ff-68-4c-e0",
    "ASSET-77",
    "tank-of-bob",
    "backup-bob",
)


def named_host() -> Host:
    vms = (
        parse_proxmox(CONF, name="101", source="/etc/pve/qemu-server/101.conf"),
        libvirt_vm(),
    )
    host = make_host(nic("0000:01:00.0", driver="vfio-pci"), function("0000:02:00.0", group=9))
    facts = host.facts
    functions = tuple(
        replace(f, config=replace(f.config, serial_number="00-1b-21-ff-ff-68-4c-e0"))
        if f.address == "0000:01:00.0" and f.config is not None
        else f
        for f in facts.functions or ()
    )
    firmware: Firmware = replace(
        facts.firmware,
        product_uuid="11111111-2222-3333-4444-555555555555",
        attributes=(("AssetTag", "ASSET-77"), ("VTd", "Enabled")),
    )
    cmdline = (
        "root=/dev/mapper/luks-secret ro intel_iommu=on iommu=pt hostname=pve-berlin "
        "resume=UUID=DEADBEEF-1234 BOOTIF=01-bc-24-11-aa-bb-cc ip=10.9.8.7::10.9.8.1 "
        "inst.repo=http://nas.example.org/x vfio-pci.ids=8086:10d3"
    )
    facts = replace(
        facts,
        host="pve-berlin.berlin.acme.example.com",
        cmdline=cmdline,
        firmware=firmware,
        functions=functions,
        vms=vms,
        mappings=(
            PciMapping(
                name="gpu",
                source="/etc/pve/mapping/pci.cfg",
                line=1,
                live_migration=False,
                mediated=False,
                entries=(MappingEntry("pve-berlin", ("0000:01:00.0",), "8086:10d3", "", 1, 2),),
            ),
        ),
        network=(
            NetDevice(
                name="enxbc2411aabbcc",
                function=None,
                mac="bc:24:11:aa:bb:cc",
                uppers=(),
                lowers=(),
                addresses=("10.9.8.7", "2001:db8::17"),
                routes=("default", "10.9.8.0/24", "::/0"),
            ),
        ),
        storage_uses=(
            StorageUse("/home/alice (ext4)", "storage", (), (), ""),
            StorageUse("zpool tank-of-bob", "storage", (), (), "swap area /mnt/backup-bob/x gone"),
        ),
    )
    log = KernelLog(
        source="dmesg",
        from_boot=True,
        reached_userspace=True,
        total_lines=2,
        lines=(
            LogLine(1, 0.0, f"Command line: {cmdline}"),
            LogLine(2, 1.0, "vfio-pci 0000:01:00.0: owned by payroll at 2001:db8::17 (alice@nas)"),
        ),
    )
    readings = replace(
        host.readings,
        boot_id="11111111-2222-3333-4444-555555555555",
        kernel_log=log,
        holders=(
            Holder(
                "/dev/vfio/1",
                7,
                "qemu",
                control_group="/machine.slice/machine-qemu\\x2d1\\x2dledger\\x2ddb.scope",
            ),
        ),
    )
    return Host(replace(host.snapshot, facts=facts, readings=readings))


def libvirt_vm() -> VmConfig:
    vm = parse_libvirt(XML, source="/etc/libvirt/qemu/ledger-db.xml", autostart=True)
    assert isinstance(vm, VmConfig)
    return vm


def test_every_name_is_gone() -> None:
    snapshot = named_host().snapshot
    before = encode_artifact(snapshot).decode()
    after = encode_artifact(redact_snapshot(snapshot, KEY)).decode()
    assert [name for name in NAMED if name not in before] == []
    assert [name for name in NAMED if name.lower() in after.lower()] == []


def test_the_named_host_is_judged_the_same() -> None:
    snapshot = named_host().snapshot
    assert verdicts(redact_snapshot(snapshot, KEY)) == verdicts(snapshot)


def test_what_was_one_name_is_one_pseudonym() -> None:
    shown = redact_snapshot(named_host().snapshot, KEY)
    facts = shown.facts
    short = facts.host.partition(".")[0]
    mappings, vms, network = facts.mappings, facts.vms, facts.network
    assert mappings is not None
    assert vms is not None
    assert network is not None
    assert mappings[0].entries[0].node == short
    assert facts.cmdline is not None
    assert f"hostname={short}" in facts.cmdline
    assert "intel_iommu=on iommu=pt" in facts.cmdline
    assert "vfio-pci.ids=8086:10d3" in facts.cmdline
    assert f"BOOTIF={network[0].mac}" in facts.cmdline
    assert network[0].name == f"enx{network[0].mac}"
    assert network[0].routes is not None
    assert network[0].routes[0] == "default"
    assert network[0].routes[1].endswith("/24")
    by_kind = {vm.kind: vm for vm in vms}
    assert by_kind["proxmox"].name == "101"
    assert by_kind["libvirt"].source == f"/etc/libvirt/qemu/{by_kind['libvirt'].name}.xml"
    holders = shown.readings.holders
    assert holders is not None
    assert by_kind["libvirt"].name in (holders[0].control_group or "")


def test_serial_numbers_keep_what_identities_are_made_of() -> None:
    shared = "00-1b-21-ff-ff-68-4c-e0"
    host = make_host(
        nic("0000:01:00.0"), nic("0000:01:00.1"), nic("0000:02:00.0"), nic("0000:03:00.0")
    )
    serials = (shared, shared, "00-00-00-00-00-00-00-00", "ff-ff-ff-ff-ff-ff-ff-ff")
    ends = {a: s for a, s in zip(("1:00.0", "1:00.1", "2:00.0", "3:00.0"), serials, strict=True)}
    functions = tuple(
        replace(f, config=replace(f.config, serial_number=ends.get(f.address[6:])))
        if f.config is not None
        else f
        for f in host.functions
    )
    snapshot = replace(host.snapshot, facts=replace(host.facts, functions=functions))
    shown = redact_snapshot(snapshot, KEY).facts.functions
    assert shown is not None
    before = {a: i.method for a, i in identify(functions).items()}
    assert {a: i.method for a, i in identify(shown).items()} == before
    assert "dsn" in before.values()


@pytest.mark.parametrize("host", ["pve", "iommu", "vm", "on"])
def test_a_host_named_like_a_word_spoils_no_evidence(host: str) -> None:
    snapshot = named_host().snapshot
    snapshot = replace(snapshot, facts=replace(snapshot.facts, host=host))
    shown = redact_snapshot(snapshot, KEY)
    assert shown.facts.host.startswith("host-")
    assert verdicts(shown) == verdicts(snapshot)
    vms = shown.facts.vms
    assert vms is not None
    assert "/etc/pve/qemu-server/101.conf" in {vm.source for vm in vms}


@pytest.mark.parametrize(
    "text",
    [
        "0000:01:00.0",
        "10000:e1:00.0 and 0000:01:00",
        "vfio-pci 0000:41:00.0: not ready 65535ms after FLR; giving up",
        "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x7f8a2000",
        "10de:2204:1458:4000",
        "ITS@0x0000000008080000: using cache flushing",
        "iommu@fe801300: probed",
        "pcie_acs_override=downstream,multifunction root=/dev/sda1",
        "lun at pci0000:00, driver 1.2.3",
        "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
        "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
        "/proc/self and ::1 and 127.0.0.1 and 00:00:00:00:00:00",
        "vfio_pci: add [8086:10d3[ffffffff:ffffffff]] class 0x000000/00000000",
    ],
)
def test_evidence_is_not_taken_for_a_name(text: str) -> None:
    assert Masks(KEY).text(text) == text


@given(st.text(max_size=300))
def test_any_text_can_be_searched_twice(text: str) -> None:
    masks = Masks(KEY)
    once = masks.text(text)
    assert masks.text(once) == once
