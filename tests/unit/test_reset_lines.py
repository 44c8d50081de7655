"""Which kernel lines tell of a reset that failed, word for word, and which do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfio_agent.collect.kernel_log import extract_log
from vfio_agent.reset_lines import ResetTrace, find_traces
from vfio_contract.ledger import Outcome
from vfio_contract.model import LogLine

FAILED, WEDGED = Outcome.FAILED, Outcome.WEDGED


def read(*texts: str) -> list[ResetTrace]:
    return find_traces(LogLine(n, float(n), text) for n, text in enumerate(texts, 1))


def read_file(path: Path) -> list[ResetTrace]:
    """The traces in a captured log, through the extract that the agent makes."""
    return find_traces(extract_log(path.read_bytes(), "dmesg").lines)


@pytest.mark.parametrize(
    ("text", "outcome", "method", "below"),
    [
        # pci_dev_wait(), 4.15 to 7.2
        ("not ready 65535ms after FLR; giving up", WEDGED, "flr", True),
        ("not ready 65535ms after AF_FLR; giving up", WEDGED, "af_flr", True),
        ("not ready 65535ms after PM D3hot->D0; giving up", WEDGED, "pm", True),
        ("not ready 65535ms after PM D3->D0; giving up", WEDGED, "pm", True),
        ("not ready 65535ms after bus reset; giving up", WEDGED, "bus", True),
        ("not ready 65535ms after resume; giving up", WEDGED, "", True),
        ("not ready 65535ms after DPC; giving up", WEDGED, "", True),
        # pci_power_up() since 5.19, pci_raw_set_power_state() since 5.5
        ("Unable to change power state from D3cold to D0, device inaccessible", WEDGED, "", False),
        ("Unable to change power state from D0 to D3hot, device inaccessible", WEDGED, "", False),
        (
            "can't change power state from D3hot to D0 (config space inaccessible)",
            WEDGED,
            "",
            False,
        ),
        ("refused to change power state from D3hot to D0", FAILED, "", False),
        ("Refused to change power state from D3hot to D0", FAILED, "", False),
        ("Refused to change power state, currently in D3", FAILED, "", False),
        # pcie_wait_for_link_delay(), dpc_reset_link(), pcie_do_recovery()
        ("Data Link Layer Link Active not set in 1000 msec", FAILED, "bus", True),
        ("Data Link Layer Link Active not set in 100 msec", FAILED, "bus", True),
        ("DPC: Data Link Layer Link Active not set in 1000 msec", FAILED, "bus", True),
        ("AER: subordinate device reset failed", FAILED, "bus", True),
    ],
)
def test_a_failure(text: str, outcome: Outcome, method: str, below: bool) -> None:
    (trace,) = read(f"vfio-pci 10000:e1:00.0: {text}")
    assert (trace.address, trace.outcome) == ("10000:e1:00.0", outcome)
    assert (trace.method, trace.below) == (method, below)
    assert trace.line.text.endswith(text)


@pytest.mark.parametrize(
    "text",
    [
        "vfio-pci 0000:0c:00.3: not ready 1023ms after FLR; waiting",
        "vfio-pci 0000:0c:00.3: not ready 32767ms after FLR; waiting",
        "vfio-pci 0000:0c:00.3: ready 2047ms after FLR",
        "vfio-pci 0000:65:00.0: vfio_bar_restore: reset recovery - restoring BARs",
        "vfio-pci 0000:65:00.0: resetting",
        "vfio-pci 0000:65:00.0: reset done",
        # falling asleep was refused: every suspend of some GPUs says so
        "snd_hda_intel 0000:c4:00.1: Refused to change power state from D0 to D3hot",
        "snd_hda_intel 0000:c4:00.1: Refused to change power state, currently in D0",
        "pci 0000:0c:00.1: D0 power state depends on 0000:0c:00.0",
        "pcieport 0000:00:02.0: Data Link Layer Link Active not cleared in 1000 msec",
        "vfio-pci 0000:01:00.0: timed out waiting for pending transaction; performing function "
        "level reset anyway",
        "vfio-pci 0000:0b:00.0: Unsupported reset method 'bus'",
        "nvme nvme2: Device not ready; aborting initialisation, CSTS=0x2",
        "amdgpu 0000:06:00.0: [drm:drm_dp_dpcd_access [drm_display_helper]] AMDGPU DM aux hw bus 0:"
        " Too many retries, giving up. First error: -5",
        "amdgpu 0000:03:00.0: amdgpu: GPU reset(2) failed",
        "not ready 65535ms after FLR; giving up",
        "vfio-pci 01:00.0: not ready 65535ms after FLR; giving up",
        "pcieport 0000:00:02.0: pciehp: Slot(1): Link Down",
    ],
)
def test_no_failure(text: str) -> None:
    assert read(text) == []


def test_traces_keep_the_order_of_the_log() -> None:
    traces = read(
        "vfio-pci 0000:84:00.0: not ready 65535ms after bus reset; giving up",
        "something else",
        "vfio-pci 0000:84:00.1: Unable to change power state from D3cold to D0, device "
        "inaccessible",
        "vfio-pci 0000:84:00.0: Unable to change power state from D0 to D3hot, device inaccessible",
    )
    assert [(t.line.number, t.address[-1]) for t in traces] == [(1, "0"), (3, "1"), (4, "0")]


@pytest.mark.shared
def test_the_mails_of_people_whose_resets_failed(shared: Path) -> None:
    errors = shared / "captures" / "errors"
    hang = read_file(errors / "matisse-flr-hang.mailbody.txt")
    assert [(t.address, t.method, t.outcome, t.line.seconds) for t in hang] == [
        ("0000:0c:00.3", "flr", WEDGED, 2496.387544),
        ("0000:0d:00.3", "flr", WEDGED, 149.417712),
    ]
    for name in ("since-6.1.16", "quadro-p1000-nointxmask"):
        assert read_file(errors / f"{name}.mailbody.txt") == []


@pytest.mark.shared
def test_the_lab_s_runs_with_resets_that_worked_or_were_refused(shared: Path) -> None:
    logs = sorted((shared / "captures" / "lab").glob("*/run.log"))
    counts = {}
    for path in logs:
        rows = path.read_text("utf-8", "backslashreplace").splitlines()
        kernel = "\n".join(row.strip() for row in rows if row.startswith("   K ["))
        log = extract_log(kernel.replace("K [", "[").encode(), "dmesg")
        counts[path.parent.name] = log.total_lines
        assert find_traces(log.lines) == [], path
    assert sum(counts.values()) > 100, "the kernel's lines were not found"


@pytest.mark.shared
def test_real_boots_tell_only_of_functions_that_were_really_lost(shared: Path) -> None:
    found = {
        path.name: {t.address for t in traces}
        for path in sorted((shared / "captures" / "dmesg").glob("*"))
        if (traces := read_file(path))
    }
    assert found == {
        # a dock that was unplugged while the machine slept
        "dell-xps13-9360__6.9__ir-on-dma-off.dmesg": {
            "0000:01:00.0",
            "0000:02:00.0",
            "0000:02:01.0",
            "0000:02:02.0",
            "0000:39:00.0",
        },
        # Thunderbolt ports that were powered off when the kernel started
        "thinkpad-21lv-mtl__6.11__intel-on.dmesg": {
            "0000:20:00.0",
            "0000:21:02.0",
            "0000:21:03.0",
            "0000:21:04.0",
        },
    }
