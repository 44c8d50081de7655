"""Kernel lines as device events, with the catalogue's own examples as the witness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.collect.log_line import ParsedLine
from vfio_agent.diagnosis import recognise
from vfio_agent.diagnosis.message import Kind
from vfio_agent.reset_lines import find_traces
from vfio_agent.watch.device_events import (
    MAX_TEXT,
    MESSAGES,
    TOLD,
    WORDS,
    DeviceEvent,
    classify,
    resolve,
)
from vfio_contract.address import Address
from vfio_contract.ledger import Outcome
from vfio_contract.model import LogLine

GPU = Address("0000:01:00.0")
EXAMPLES = [(message, text) for message in MESSAGES for text in message.examples]


def tell(text: str, *known: str, foreign: bool = False) -> DeviceEvent | None:
    line = ParsedLine(text, 12.5, stamped=True, foreign=foreign, init_ran=False)
    return classify(line, seq=7, known=[Address(address) for address in known])


@pytest.mark.parametrize("text", [text for _, text in EXAMPLES])
def test_a_known_line_is_what_the_diagnosis_says_it_is(text: str) -> None:
    (sighting,) = recognise([text.encode()]).sightings
    event = tell(text)
    if sighting.message.kind not in TOLD:
        assert event is None
        return
    assert event is not None
    assert (event.message, event.kind) == (sighting.message.id, sighting.message.kind)
    assert event.named == (sighting.addresses[-1] if sighting.addresses else "")
    assert any(word in text.lower() for word in WORDS)


@pytest.mark.parametrize("text", [text for _, text in EXAMPLES])
def test_every_outcome_of_a_reset_travels_with_its_event(text: str) -> None:
    traces = find_traces((LogLine(7, 12.5, text),))
    event = tell(text)
    assert (event.trace if event is not None else None) == (traces[0] if traces else None)


@pytest.mark.parametrize(
    ("text", "message", "function"),
    [
        ("vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up", "not-ready-gave-up", GPU),
        (
            "vfio-pci 0000:01:00.0: Unable to change power state from D3cold to D0, device "
            "inaccessible",
            "device-inaccessible",
            GPU,
        ),
        (
            "pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0",
            "pcie-uncorrected",
            GPU,
        ),
        (
            "DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x7c3e5000 [fault "
            "reason 0x06] PTE Read access is not set",
            "dma-fault",
            GPU,
        ),
        (
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0 domain=0x000d address=0x7f3a0000 "
            "flags=0x0000]",
            "dma-fault",
            GPU,
        ),
        (
            "vfio-pci 0000:01:00.0: No device request channel registered, blocked until released "
            "by user",
            "device-still-used",
            GPU,
        ),
        (
            "pcieport 0000:00:02.0: Data Link Layer Link Active not set in 1000 msec",
            "link-did-not-return",
            Address("0000:00:02.0"),
        ),
        ("AMD-Vi: Completion-Wait loop timed out", "iommu-stuck", None),
    ],
)
def test_the_lines_that_matter_most(text: str, message: str, function: Address | None) -> None:
    event = tell(text, GPU, "0000:00:01.0")
    assert event is not None
    assert (event.message, event.function) == (message, function)
    assert (event.seq, event.seconds, event.count) == (7, 12.5, 1)
    assert event.text == text


def test_a_reset_that_failed_brings_its_outcome() -> None:
    event = tell("vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up")
    assert event is not None
    assert event.trace is not None
    assert (event.trace.outcome, event.trace.method) == (Outcome.WEDGED, "flr")


def test_a_line_that_a_process_wrote_is_told_as_such() -> None:
    event = tell("vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up", foreign=True)
    assert event is not None
    assert event.foreign


@pytest.mark.parametrize(
    "text",
    [
        "",
        "usb 1-1: new high-speed USB device number 4 using xhci_hcd",
        "vfio-pci 0000:01:00.0: reset done",
        "pcieport 0000:00:1c.0: AER: enabled with IRQ 122",
        "vfio-pci 0000:01:00.0: vgaarb: VGA decodes changed: olddecodes=io+mem,decodes=none",
    ],
)
def test_ordinary_work_is_no_event(text: str) -> None:
    assert tell(text, GPU) is None


@pytest.mark.parametrize(
    ("named", "known", "expected"),
    [
        ("01:00.0", [GPU], GPU),
        ("01:00.0", [GPU, "0001:01:00.0"], None),  # which of both, nobody knows
        ("01:00.0", ["0000:02:00.0"], None),
        ("01:00.0", ["10000:01:00.0"], "10000:01:00.0"),
        ("0000:01:00.0", [], GPU),  # it has just vanished
        ("", [GPU], None),
    ],
)
def test_an_address_without_its_domain_needs_one_single_function(
    named: str, known: list[str], expected: str | None
) -> None:
    assert resolve(named, [Address(address) for address in known]) == expected


@given(st.text(max_size=300), st.sampled_from([text for _, text in EXAMPLES]), st.text())
def test_no_text_is_too_odd(before: str, text: str, after: str) -> None:
    event = tell(f"{before} {text} {after}", GPU)
    if event is not None:
        assert event.kind in (Kind.FAULT, Kind.RISK)
        assert len(event.text) <= MAX_TEXT
        assert event.function is None or event.function.endswith(event.named)


def test_of_two_messages_in_a_line_the_longer_wording_counts() -> None:
    event = tell("VF token required; 0000:01:00.0: not ready 65535ms after FLR; giving up")
    assert event is not None
    assert event.message == "not-ready-gave-up"
