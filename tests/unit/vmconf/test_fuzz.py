"""Whatever the text is: no parser raises, none is slower than the text is long, and a redacted
configuration reads like the original.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfio_agent.vmconf.libvirt import parse_libvirt
from vfio_agent.vmconf.mapping import parse_mappings
from vfio_agent.vmconf.properties import parse_size, parse_switch, split_properties
from vfio_agent.vmconf.proxmox import parse_proxmox
from vfio_agent.vmconf.qemu_cmdline import parse_qemu, split_cmdline
from vfio_agent.vmconf.secrets import redact_cmdline, redact_conf, redact_file, redact_xml
from vfio_contract.artifact import decode, encode
from vfio_contract.vm import VmConfig

_WORDS = st.sampled_from(
    [
        "hostpci0: ",
        "hostpci1: mapping=",
        "01:00",
        "0000:01:00.1",
        ",pcie=1",
        ",x-vga=on",
        ";",
        ",,",
        "=",
        "machine: ",
        "type=q35",
        "memory: 99999999999999999999",
        "balloon: -1",
        "args: -device vfio-pci,host=",
        " -cpu host,kvm=off",
        "cipassword: ",
        "password=hunter2",
        "[PENDING]",
        "\n",
        "\r\n",
        "#",
        "\0",
        "\tmap id=10de:2204,node=a,path=",
        "gpu\n",
        "<domain type='kvm'>",
        "<name>",
        "</name>",
        "<devices><hostdev type='pci'>",
        "<source><address bus='1' slot='2' function='3'/></source>",
        "</hostdev></devices></domain>",
        "<!--",
        "-device",
        '{"driver":"vfio-pci","host":"01:00.0"}',
        "kvm",
        "-drive\0if=pflash",
        "\udcff",
    ]
)
TEXTS = st.lists(st.one_of(_WORDS, st.text(max_size=12)), max_size=30).map("".join)


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def conf(data: bytes) -> VmConfig:
    text = data.decode("utf-8", "backslashreplace")
    return parse_proxmox(text, name="1", source="/etc/pve/qemu-server/1.conf")


def domain(data: bytes) -> VmConfig | str:
    return parse_libvirt(data, source="/etc/libvirt/qemu/a.xml", autostart=None)


def process(data: bytes) -> VmConfig | None:
    return parse_qemu(split_cmdline(data), source="/proc/1/cmdline", fallback_name="pid-1")


@settings(max_examples=400)
@given(TEXTS)
def test_conf(text: str) -> None:
    data = to_bytes(text)
    vm = conf(data)
    assert decode(VmConfig, encode(vm)) == vm
    lines = data.count(b"\n") + 1
    assert all(1 <= d.line <= lines for d in vm.devices)
    assert redact_conf(data).count(b"\n") == data.count(b"\n")


@settings(max_examples=300)
@given(TEXTS)
def test_mapping_properties_and_sizes(text: str) -> None:
    for mapping in parse_mappings(text, source="pci.cfg"):
        assert mapping.name
    split_properties(text, first="x")
    parse_switch(text)
    assert (parse_size(text, unit="M") or 0) >= 0


@settings(max_examples=300)
@given(st.one_of(TEXTS.map(to_bytes), st.binary(max_size=200)))
def test_domain(data: bytes) -> None:
    found = domain(data)
    assert isinstance(found, str) or decode(VmConfig, encode(found)) == found
    assert redact_xml(data).count(b"\n") == data.count(b"\n")


@settings(max_examples=300)
@given(st.lists(TEXTS, max_size=8))
def test_process(words: list[str]) -> None:
    data = b"\0".join(map(to_bytes, ["kvm", *words]))
    vm = process(data)
    assert vm is None or decode(VmConfig, encode(vm)) == vm
    assert redact_cmdline(data).count(b"\0") == data.count(b"\0")


def test_redacted_files_read_like_the_originals() -> None:
    text = (
        "#pw hunter2\nhostpci0: 01:00,pcie=1\ncipassword: hunter2\nmachine: q35\nnonsense\n"
        "args: -vnc :1,password=hunter2 -device vfio-pci,host=02:00.0 -cpu host\n"
        "[snap]\ncipassword: hunter2\ndescription: hunter2\n"
    )
    data = text.encode()
    path = "/etc/pve/nodes/a/qemu-server/1.conf"
    assert b"hunter2" not in redact_file(path, data)
    assert conf(redact_file(path, data)) == conf(data)
    xml = (
        b"<domain type='kvm'><name>a</name><description>hunter2\n</description>\n"
        b"<metadata><x>hunter2</x></metadata><devices><graphics passwd='hunter2'/>"
        b"<hostdev type='pci'><source><address bus='1' slot='2' function='3'/></source></hostdev>"
        b"</devices><qemu:commandline xmlns:qemu='q'><qemu:arg value='a,password=hunter2'/>"
        b"<qemu:arg value='secret,id=s,data=hunter2'/>"
        b"</qemu:commandline></domain>"
    )
    path = "/etc/libvirt/qemu/a.xml"
    assert b"hunter2" not in redact_file(path, xml)
    assert isinstance(domain(xml), VmConfig)
    assert domain(redact_file(path, xml)) == domain(xml)
    words = [
        b"/usr/bin/kvm",
        b"-id\x00101",
        b"-object\0secret,id=a,data=hunter2",
        b"-drive\0if=pflash,file=hunter2",
        b"-vnc\0:1,password=hunter2",
        b"-append\0token=hunter2",
        b"-device\0vfio-pci,host=01:00.0",
        b"-m\x004096",
        b"-object\0memory-backend-file,mem-path=/dev/hugepages",
        b"",
    ]
    cmdline = b"\0".join(words)
    assert b"hunter2" not in redact_file("/proc/7/cmdline", cmdline)
    assert process(redact_file("/proc/7/cmdline", cmdline)) == process(cmdline)
    assert redact_file("/proc/cmdline", cmdline) == cmdline


@pytest.mark.timeout(60)
def test_long_texts_take_time_in_proportion() -> None:
    """1 MiB of each form; anything quadratic takes hours and runs into the limit."""
    conf(b"hostpci0: " + b"01:00.0;" * 130_000)
    conf(b"args: " + b"-device vfio-pci,host=01:00.0 " * 30_000)
    conf(b"hostpci0: " + b"," * 1_000_000)
    parse_mappings("gpu\n" + "\tmap node=a,path=01:00.0\n" * 40_000, source="pci.cfg")
    domain(b"<domain><devices>" + b"<hostdev type='pci'/>" * 50_000 + b"</devices></domain>")
    domain(b"<domain " + b"a" * 1_000_000 + b"='1'/>")
    process(b"kvm\0" + b"-device\0vfio-pci,host=1\0" * 40_000)
    redact_xml(b"<metadata>" * 100_000)
    redact_xml(b"<passwd " * 100_000)
    redact_xml(b"secret" * 170_000)
    redact_xml(b"<a secret='" * 90_000)
    redact_xml(b"<qemu:arg value=\"'" * 50_000)
    redact_cmdline(b"kvm\0-append\0" + b"a=\"b='" * 150_000)
    redact_conf(b"password" * 130_000)
    redact_conf(b"a: " + b"pass-" * 200_000)
