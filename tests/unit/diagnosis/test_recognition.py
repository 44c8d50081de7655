"""Any text: nothing crashes, nothing is counted twice, causes stand before what follows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.diagnosis import MESSAGES, Reading, recognise
from vfio_agent.diagnosis.message import ANY
from vfio_agent.diagnosis.recognition import BLOCK_BYTES, MAX_NAMED, MAX_SEEN

EXAMPLES = [example for message in MESSAGES for example in message.examples]
GAVE_UP = "vfio-pci 0000:0d:00.3: not ready 65535ms after FLR; giving up"


def read(*lines: str) -> Reading:
    return recognise(["\n".join(lines).encode()])


def names(reading: Reading) -> list[str]:
    return [s.message.id for s in reading.sightings]


pieces = st.one_of(
    st.sampled_from(EXAMPLES).map(str.encode),
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\n", b"\r\n", b"\0", b"\x1b[31m", b"> ", b"<6>", b"\n> > ", b" "]),
)


@given(st.lists(pieces, max_size=30), st.integers(1, 50))
def test_any_text_is_read_and_its_division_into_blocks_does_not_matter(
    parts: list[bytes], size: int
) -> None:
    text = b"".join(parts)
    whole = recognise([text])
    assert recognise(text[i : i + size] for i in range(0, len(text), size)) == whole
    assert whole.lines - text.count(b"\n") in (0, 1)
    assert whole.unknown_lines <= whole.lines
    for sighting in whole.sightings:
        assert sighting.count >= len(sighting.seen) >= 1
        assert len(sighting.seen) <= MAX_SEEN
        assert len(sighting.addresses) <= MAX_NAMED


@given(st.permutations(EXAMPLES), st.integers(1, 12))
def test_causes_come_before_what_follows_from_them(lines: list[str], number: int) -> None:
    reading = read(*lines[:number])
    order = names(reading)
    for place, sighting in enumerate(reading.sightings):
        for cause in sighting.follows:
            assert order.index(cause) < place or sighting.message.kind != "FAULT"
            assert cause in sighting.message.follows or sighting.message.follows == ANY
    if reading.root is not None:
        assert not reading.root.follows


@given(st.permutations(EXAMPLES))
def test_the_order_of_lines_does_not_change_what_is_recognised(lines: list[str]) -> None:
    assert names(read(*lines)) == names(read(*sorted(lines)))


def test_nothing_is_recognised_in_nothing() -> None:
    for text in (b"", b"\n\n", b"hello", b"\0\0\0", b"\xff\xfe"):
        reading = recognise([text])
        assert reading.sightings == ()
        assert reading.root is None
    assert recognise([]).lines == 0


def test_a_consequence_is_marked_and_the_wrapper_is_last() -> None:
    reading = read(
        "error: internal error: qemu unexpectedly closed the monitor: vfio 0000:01:00.0: no "
        "iommu_group found: No such file or directory",
        "vfio-pci: probe of 0000:01:00.0 failed with error -22",
        "DMAR: No DMAR devices found",
    )
    assert names(reading) == ["no-dmar-table", "vfio-probe-22", "no-group", "vm-process-ended"]
    assert reading.sightings[1].follows == ("no-dmar-table",)
    assert reading.sightings[3].follows == ("no-dmar-table", "vfio-probe-22", "no-group")


def test_trouble_of_another_device_explains_nothing() -> None:
    inaccessible = "0000:01:00.0: Unable to change power state from D3cold to D0, device inaccess"
    same = read(GAVE_UP, inaccessible.replace("01:00.0", "0d:00.0") + "ible")
    other = read(GAVE_UP, inaccessible + "ible")
    assert same.sightings[1].follows == ("not-ready-gave-up",)
    assert [s.follows for s in other.sightings] == [(), ()]


def test_addresses_groups_and_vms_are_named_once() -> None:
    reading = read(
        "vfio 0000:0b:00.0: Could not open '/dev/vfio/21': Device or resource busy",
        "vfio 0000:0B:00.0: Could not open '/dev/vfio/21': Device or resource busy",
        "PCI device '10000:e1:00.0' already in use by VMID '101'",
        "PCI device 0000:01:00.0 is in use by driver QEMU, domain Win-10",
        "DMAR: [DMA Read] Request device [01:00.0] fault addr 7c3e5000",
    )
    told = {s.message.id: s for s in reading.sightings}
    assert told["group-busy"].count == 2
    assert told["group-busy"].addresses == ("0000:0b:00.0",)
    assert told["group-busy"].groups == ("21",)
    assert told["pve-in-use"].addresses == ("10000:e1:00.0",)
    assert told["pve-in-use"].vms == ("101",)
    assert told["libvirt-in-use"].vms == ("Win-10",)
    assert told["dma-fault"].addresses == ("01:00.0",)


def test_times_are_no_addresses() -> None:
    (found,) = read(f"2026-06-03 10:04:12.7 12:34:16.5 {GAVE_UP}").sightings
    assert found.addresses == ("0000:0d:00.3",)


def test_lines_that_a_mail_or_a_terminal_broke_are_put_together() -> None:
    mail = read("> vfio 0000:0b:00.0: group 21 is", "> not viable")
    assert names(mail) == ["group-not-viable"]
    assert mail.sightings[0].seen[0].line == 1
    assert mail.unknown_lines == 0
    terminal = read("vfio 0000:0b:00.0: group 21 is not via", "ble")
    assert names(terminal) == ["group-not-viable"]
    apart = read("vfio 0000:0b:00.0: group 21 is", "", "not viable")
    assert apart.sightings == ()


def test_what_is_not_known_is_counted_and_shown() -> None:
    reading = read(GAVE_UP, "vfio: something nobody ever saw", "", "another line")
    assert reading.unknown_lines == 2
    assert [(s.line, s.text) for s in reading.unknown] == [(2, "vfio: something nobody ever saw")]


def test_wide_characters_nuls_colours_and_carriage_returns() -> None:
    for text in (
        GAVE_UP.encode("utf-16"),
        b"\0".join(GAVE_UP.encode().split(b" ")).replace(b"\0", b" \0"),
        GAVE_UP.replace("giving", "\x1b[31mgiving\x1b[0m").encode(),
        b"progress 10%\r" + GAVE_UP.encode() + b"\r\n",
        b"\xff\xfe\x80 " + GAVE_UP.encode() + b"\xe2\x82",
    ):
        assert names(recognise([text])) == ["not-ready-gave-up"], text


def test_a_flood_is_counted_exactly_and_shown_once() -> None:
    flood = b"".join(b"[%5d.123456] %s\n" % (i, GAVE_UP.encode()) for i in range(40_000))
    assert len(flood) > 2 * BLOCK_BYTES
    reading = recognise([b"first\n", flood, b"DMAR: No DMAR devices found\n"])
    assert reading.lines == 40_002
    assert names(reading) == ["no-dmar-table", "not-ready-gave-up"]
    assert reading.sightings[1].count == 40_000
    assert [s.line for s in reading.sightings[1].seen] == [2]
    assert reading.sightings[0].seen[0].line == 40_002
    assert reading.unknown_lines == 1


def test_a_line_of_megabytes_is_read_to_its_end() -> None:
    line = b"x" * (BLOCK_BYTES * 2 + 77) + b" " + GAVE_UP.encode() + b" " + b"y" * 9000
    for text in (line, line + b"\n" + line):
        reading = recognise([text])
        assert names(reading) == ["not-ready-gave-up"]
        assert reading.sightings[0].count == text.count(b"giving up")
    (seen,) = recognise([line]).sightings[0].seen
    assert "giving up" in seen.text
    assert len(seen.text) < 500


def test_a_message_at_every_place_of_a_long_line_is_counted_once() -> None:
    for before in range(3000, 4400, 37):
        text = b"z" * before + b" " + GAVE_UP.encode() + b" " + b"z" * 5000
        (found,) = recognise([text]).sightings
        assert found.count == 1


def test_what_is_announced_is_unproved_until_the_proof_is_there() -> None:
    announced = "DMAR: IOMMU enabled"
    assert read(announced).unproved == ("iommu-active",)
    assert read(announced, "DMAR-IR: Enabled IRQ remapping in xapic mode").unproved == (
        "iommu-active",
    )
    proof = "DMAR: Intel(R) Virtualization Technology for Directed I/O"
    assert read(announced, proof).unproved == ()
