"""`iommu-faults`: per device with counts, and never silent because the log was."""

from dataclasses import replace

import pytest

from tests.fakes.snapshots import behind, bridge, make_host, make_log, nic, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.iommu_faults import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.host import Host

CARD = "function:0000:01:00.0"
PORT = bridge("0000:00:02.0", group=9)
ROWS = behind(PORT, nic("0000:01:00.0"))


def host(*lines: str, complete: bool = True) -> Host:
    return make_host(*ROWS, kernel_log=make_log(*lines, complete=complete))


def of_card(*lines: str) -> Finding:
    return find(judge(host(*lines)), CARD)


def test_a_quiet_complete_log() -> None:
    noise = (
        "pcieport 0000:00:02.0: AER: enabled with IRQ 26",
        "pci 0000:01:00.0: vgaarb: setting as boot VGA device",
        "pci 0000:01:00.0: save config 0x3c: 0x000001ff",
        "_OSC: OS now controls [PME AER DPC]",
    )
    (finding,) = judge(host(*noise))
    assert (finding.subject, finding.verdict, finding.code) == ("node", Verdict.PASS, "NO_FAULTS")


@pytest.mark.parametrize(
    "line",
    [
        "DMAR: [DMA Read] Request device [01:00.0] PASID ffffffff fault addr 6c800000 [fault "
        "reason 06] PTE Read access is not set",
        "DMAR: [DMA Write NO_PASID] Request device [0000:01:00.0] fault addr 0x0",
        "ahci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0x423d8da00]",
        "AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0 domain=0x000a address=0x0 flags=0x0]",
        "AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=0000:01:00.0 pasid=0x00000 address=0x",
        "DMAR: [INTR-REMAP] Request device [01:00.0] fault index 0x0 [fault reason 0x25] Blocked",
        "DMAR:[DMA Read] Request device [01:00.0] fault addr ff0",
        "arm-smmu-v3 arm-smmu-v3.0.auto: event: F_TRANSLATION client: 0000:01:00.0 sid: 0x100",
    ],
)
def test_dma_faults_of_a_device_are_counted(line: str) -> None:
    finding = of_card(line, line, line)
    assert (finding.verdict, finding.code, finding.intended) == (Verdict.WARN, "DMA_FAULTS", True)
    assert f"{line} (3 such lines)" in texts(finding)


@pytest.mark.parametrize(
    "line",
    [
        "vfio-pci 0000:01:00.0: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction",
        "pcieport 0000:00:02.0: AER: Uncorrected (Fatal) error message received from 0000:01:00.0",
        "pcieport 0000:00:02.0: AER: Multiple Uncorrectable (Fatal) error received: 0000:01:00.0",
    ],
)
def test_fatal_pcie_errors(line: str) -> None:
    assert of_card(line).code == "PCIE_ERRORS"


def test_corrected_errors_count_only_when_they_are_many() -> None:
    line = "vfio-pci 0000:01:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer"
    assert find(judge(host(*[line] * 99))).code == "NO_FAULTS"
    finding = of_card(*[line] * 100)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "PCIE_CORRECTED")
    worse = "vfio-pci 0000:01:00.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=x"
    finding = of_card(line, line, worse)
    assert finding.code == "PCIE_ERRORS"
    assert f"{line} (2 such lines)" in texts(finding)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "DMAR: [DMA Read] Request device [01:00.0] PASID ffffffff fault addr 6c800000 [fault",
            "refused DMA: 0x6c800000",
        ),
        (
            "vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x1 address=0x0 f=",
            "0x0 (a pointer that was never set",
        ),
        (
            "DMAR: [DMA Write NO_PASID] Request device [01:00.0] fault addr 0xfee00000 [fault",
            "0xfee00000 (0xfee00000 is where interrupts go",
        ),
    ],
)
def test_the_refused_address_is_decoded(line: str, words: str) -> None:
    assert words in texts(of_card(line))


def test_many_refused_addresses_are_a_range() -> None:
    start = "DMAR: [DMA Read] Request device [01:00.0] fault addr "
    assert "2 addresses from 0x1000 to 0xff000" in texts(of_card(f"{start}ff000", f"{start}1000"))


def test_what_the_rate_limit_hid_is_told() -> None:
    line = "vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x1 address=0x9 f=0]"
    hidden = "amd_iommu_report_page_fault: 41 callbacks suppressed"
    noise = "kauditd_printk_skb: 7 callbacks suppressed"
    finding = of_card(line, hidden, hidden, noise)
    assert f"{hidden} (82 lines in all were not printed)" in texts(finding)


def test_a_port_is_intended_with_what_is_below_it() -> None:
    line = "pcieport 0000:00:02.0: DPC: containment event, status:0x1f01 source:0x0000"
    finding = find(judge(host(line)), "function:0000:00:02.0")
    assert (finding.code, finding.intended) == ("PCIE_ERRORS", True)


def test_a_candidates_faults_do_not_move_the_host() -> None:
    other = nic("0000:05:00.0", driver="igb", group=5, device=0x1521)
    log = make_log("DMAR: [DMA Read] Request device [05:00.0] fault addr 0")
    (finding,) = judge(make_host(*ROWS, other, kernel_log=log))
    assert (finding.subject, finding.intended) == ("function:0000:05:00.0", False)


def test_what_names_no_device_is_the_hosts() -> None:
    for line, code in (
        ("{1}[Hardware Error]: event severity: recoverable", "HARDWARE_ERRORS"),
        ("DMAR: [DMA Read] Request device [7f:00.0] fault addr 0", "DMA_FAULTS"),
        ("arm-smmu-v3 arm-smmu-v3.0.auto: event 0x10 received:", "DMA_FAULTS"),
        ("pcieport 0000:00:1c.0: AER: Uncorrected (Fatal) error received: id=0100", "PCIE_ERRORS"),
    ):
        assert find(judge(host(line))).code == code


def test_a_stuck_iommu_fails_the_host() -> None:
    finding = find(judge(host("AMD-Vi: Completion-Wait loop timed out")))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "IOMMU_STUCK")


def test_a_log_that_lost_lines_is_not_quiet() -> None:
    finding = find(judge(host("anything", complete=False)))
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "FAULTS_UNKNOWN")
    assert commands(finding) == ["sudo journalctl -k -b 0"]
    assert commands(find(judge(silent_host()))) == ["sudo dmesg"]


def test_left_out_lines_make_the_count_a_lower_bound() -> None:
    log = make_log("DMAR: [DMA Read] Request device [01:00.0] fault addr 0")
    made = make_host(*ROWS, kernel_log=replace(log, omitted_lines=7))
    assert "(at least 1 such lines)" in texts(find(judge(made), CARD))


def test_an_interrupt_that_nobody_handled_is_told_about_the_node() -> None:
    line = 'irq 16: nobody cared (try booting with the "irqpoll" option)'
    finding = find(judge(host(line)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "IRQ_IGNORED")
    assert line in texts(finding)
    assert find(judge(host(line, complete=False))).verdict is Verdict.UNKNOWN
