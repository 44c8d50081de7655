"""Many PATHs, one snapshot: honest about what is missing, in part, doubled or contradictory."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.unit.pasted.pastes import (
    BANNER,
    CMDLINE,
    DMESG,
    LOOP,
    LSPCI_VV,
    UNAME,
    by_subject,
    judge_stdin,
    judge_text,
)
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_agent.inspect import inspect_evidence
from vfio_agent.pasted import EvidenceError
from vfio_contract.artifact import encode_artifact
from vfio_contract.findings import Verdict

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"


def test_a_bare_log_decides_the_iommu_and_names_what_else_is_needed(tmp_path: Path) -> None:
    seen = judge_text(DMESG, tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.PASS
    assert by_subject(seen, "interrupt-remapping")["node"].verdict is Verdict.PASS
    assert by_subject(seen, "group-isolation")["node"].code == "INVENTORY_UNKNOWN"
    assert seen.report.verdict is Verdict.UNKNOWN
    commands = {m.command for m in seen.report.missing}
    assert {"sudo lspci -nnvvxxxx", "lscpu", "lsmod", "ls -l /dev/kvm"} <= commands
    assert seen.given[0].text == "113 lines, whole boot"


def test_a_whole_paste_is_judged_and_a_dirty_loop_fails(tmp_path: Path) -> None:
    seen = judge_text(LSPCI_VV, CMDLINE, UNAME, tmp_path=tmp_path)
    groups = by_subject(seen, "group-isolation")
    assert groups["group:1"].code == "GROUP_CLEAN"
    assert groups["group:1"].intended is True
    assert (
        by_subject(judge_text(LOOP, tmp_path=tmp_path), "group-isolation")["group:1"].code
        == "GROUP_DIRTY"
    )


@pytest.mark.parametrize("kept", [LSPCI_VV[LSPCI_VV.index("01:00.0") :], LSPCI_VV.rstrip("\n")])
def test_of_an_excerpt_nothing_that_needs_the_whole_passes(kept: str, tmp_path: Path) -> None:
    seen = judge_text(kept, CMDLINE, UNAME, tmp_path=tmp_path)
    needs_all = ("group-isolation", "device-functions", "host-critical")
    passed = [f for f in seen.report.findings if f.check in needs_all and f.verdict is Verdict.PASS]
    assert passed == []
    assert any(m.evidence == "/sys/bus/pci/devices" for m in seen.report.missing)


def test_of_two_boots_the_last_counts_and_that_is_said(tmp_path: Path) -> None:
    off = f"[    0.000000] {BANNER}\n[    1.000000] Run /sbin/init as init process\n"
    seen = judge_text(DMESG + off, tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is not Verdict.PASS
    assert "the last of 2 boots" in seen.given[0].text
    seen = judge_text(off + DMESG, tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.PASS


def test_a_journals_mark_ends_the_boot_before_it(tmp_path: Path) -> None:
    later = "-- Boot 0123456789abcdef0123456789abcdef --\n[    9.000000] usb 1-1: new device\n"
    seen = judge_text(DMESG + later, tmp_path=tmp_path)
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.UNKNOWN
    assert "its beginning is lost" in seen.given[0].text
    log = seen.snapshot.readings.kernel_log
    assert log is not None
    assert log.total_lines == 115


def test_a_cut_log_is_called_cut(tmp_path: Path) -> None:
    head = DMESG[: DMESG.index("[    0.300000]")]
    seen = judge_text(head, tmp_path=tmp_path)
    assert "cut" in seen.given[0].text
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("extra", ["", "HELLO\n", "\n"])
def test_a_command_line_of_another_boot_does_not_count(extra: str, tmp_path: Path) -> None:
    other = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro iommu=off\n"
    seen = judge_text(DMESG + extra, other, tmp_path=tmp_path)
    said = [g.reason for g in seen.snapshot.readings.gaps if g.path == "--from"]
    assert said == [
        "contradiction, so neither counts: /proc/cmdline is not the command line in the kernel log"
    ]


def test_parameters_of_loaded_modules_come_from_the_command_line(tmp_path: Path) -> None:
    unsafe = CMDLINE.rstrip() + " vfio_iommu_type1.allow_unsafe_interrupts=1\n"
    lsmod = "Module Size Used by\nvfio_iommu_type1 1 0\n"
    log = DMESG.replace("quiet intel_iommu=on", unsafe.split("ro ")[1].strip())
    seen = judge_text(log, unsafe, lsmod, tmp_path=tmp_path)
    assert by_subject(seen, "interrupt-remapping")["node"].code == "UNSAFE_INTERRUPTS"


def test_nothing_known_is_unknown_and_says_so() -> None:
    seen = judge_stdin(b"hello\n")
    assert seen.report.verdict is Verdict.UNKNOWN
    assert seen.given[0].kinds == ()
    assert "not recognised" in seen.given[0].text
    assert [f for f in seen.report.findings if f.verdict is Verdict.PASS] == []
    assert judge_stdin(b"").given[0].text == "empty"


# --- whole hosts ---------------------------------------------------------------------------------


def test_tar_directory_and_artifact_give_the_same_report(tmp_path: Path) -> None:
    packed = HOSTS / "m3-intel-6.1.tar.gz"
    snapshot = collect_host(open_root(str(packed)))
    artifact = tmp_path / "x"
    artifact.write_bytes(encode_artifact(snapshot))
    folder = tmp_path / "root"
    with tarfile.open(packed) as tar:
        tar.extractall(folder)  # our own capture; Debian 12's Python has no filters yet
    reports = [inspect_evidence([str(path)]).report for path in (packed, artifact, folder)]
    codes = [[(f.check, f.subject, f.code) for f in report.findings] for report in reports]
    assert codes[0] == codes[1] == codes[2]


def test_a_paste_fills_what_a_capture_lacks(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cmdline").write_text(CMDLINE)
    log = tmp_path / "log"
    log.write_text(DMESG)
    alone = inspect_evidence([str(root)])
    assert by_subject(alone, "iommu-active")["node"].verdict is Verdict.UNKNOWN
    seen = inspect_evidence([str(root), str(log)])
    assert by_subject(seen, "iommu-active")["node"].verdict is Verdict.PASS
    assert not [g for g in seen.snapshot.readings.gaps if g.path == "/dmesg"]


def test_two_hosts_are_refused() -> None:
    one, other = HOSTS / "gpubox-f10.tar.gz", HOSTS / "gpubox-f11.tar.gz"
    with pytest.raises(EvidenceError, match="vfioctl diff"):
        inspect_evidence([str(one), str(other)])


def test_a_damaged_artifact_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'{"schema": "vfioctl.artifact/v1", "digest": "sha256:00", "facts": {}}')
    with pytest.raises(EvidenceError, match="digest"):
        inspect_evidence([str(path)])


def test_an_archive_on_standard_input_is_a_host() -> None:
    path = HOSTS / "gpubox-f10.tar.gz"
    seen = judge_stdin(path.read_bytes())
    assert seen.given[0].kinds == ("captured root",)
    assert seen.report == inspect_evidence([str(path)]).report
