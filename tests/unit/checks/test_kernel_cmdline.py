"""`kernel-cmdline`: what runs against what the next boot will get."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import make_facts, make_host, make_log, nic, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.kernel_cmdline import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.model import NO_GROUP, BootOptions, BootPath, Cpu

GRUB = "/etc/default/grub:6"
AMD = Cpu("AuthenticAMD", "EPYC", ("svm",))
OFF: dict[str, Any] = {"iommu_units": (), "groups": (), "kernel_log": None}
"""Evidence that the IOMMU is off."""

AMD_FIRMWARE: dict[str, Any] = {"dmar_sha256": "", "ivrs_sha256": "d" * 64}


def judged(cmdline: str, configured: str | None = None, **changes: Any) -> Finding:
    """The finding for a running line and GRUB's; without `configured` both agree."""
    options = cmdline if configured is None else configured
    rows = changes.pop("boot_options", (BootOptions("grub", GRUB, options),))
    group = NO_GROUP if changes.get("groups") == () else 1
    card = nic("0000:01:00.0", group=group)
    return find(judge(make_host(card, cmdline=cmdline, boot_options=rows, **changes)))


def firmware(**changes: Any) -> Any:
    return replace(make_facts().firmware, **changes)


def test_what_runs_is_what_is_configured() -> None:
    finding = judged("ro quiet intel_iommu=on iommu=pt")
    assert (finding.verdict, finding.code) == (Verdict.PASS, "CMDLINE_GOOD")
    assert GRUB in texts(finding)


@pytest.mark.parametrize(
    "word", ["intel_iommu=off", "iommu=off", "intremap=off", "intel_iommu=on,off"]
)
def test_self_sabotage_is_named(word: str) -> None:
    finding = judged(f"ro {word}", **OFF)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "CMDLINE_SABOTAGE")
    assert GRUB in finding.decision
    assert "update-grub" in finding.decision


def test_sabotage_needs_no_boot_loader_to_be_seen() -> None:
    assert judged("intel_iommu=off", boot_options=None, **OFF).code == "CMDLINE_SABOTAGE"


def test_sabotage_that_is_removed_already_asks_for_a_reboot_only() -> None:
    finding = judged("intel_iommu=off", "intel_iommu=on", **OFF)
    assert "removed already" in finding.decision


def test_sabotage_that_waits_for_the_next_boot() -> None:
    finding = judged("intel_iommu=on", "intel_iommu=off")
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "CMDLINE_SABOTAGE_PENDING")


def test_written_but_not_booted() -> None:
    finding = judged("root=/dev/mapper/pve-root ro quiet", "quiet intel_iommu=on iommu=pt", **OFF)
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "CMDLINE_PENDING")
    assert f'{GRUB}: "quiet intel_iommu=on iommu=pt"' in texts(finding)
    assert finding.decision == "sudo update-grub, reboot, vfioctl check"


def test_a_difference_that_does_not_matter_now_is_a_warning() -> None:
    finding = judged("intel_iommu=on", "intel_iommu=on iommu=pt")
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CMDLINE_DIFFERS")
    assert "iommu=pt will come" in finding.meaning
    gone = judged("intel_iommu=on iommu=pt", "intel_iommu=on quiet splash")
    assert "iommu=pt will be gone" in gone.meaning


def test_the_other_vendors_switch() -> None:
    amd: dict[str, Any] = {
        "cpu": AMD,
        "firmware": firmware(**AMD_FIRMWARE),
        "iommu_units": ("ivhd0",),
    }
    finding = judged("ro intel_iommu=on", **amd)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CMDLINE_WRONG_VENDOR")
    assert judged("ro intel_iommu=off", **amd).code == "CMDLINE_WRONG_VENDOR"
    # a virtual IOMMU need not be of the processor's kind
    nested: dict[str, Any] = {"cpu": AMD, "iommu_units": ("dmar0",)}
    assert judged("ro intel_iommu=on", **nested).code == "CMDLINE_GOOD"


def test_last_one_wins_and_is_told() -> None:
    assert judged("intel_iommu=off intel_iommu=on").code == "CMDLINE_CONTRADICTS"
    assert judged("intel_iommu=on intel_iommu=off", **OFF).code == "CMDLINE_SABOTAGE"


def test_passthrough_mode_is_fine_but_for_snp() -> None:
    amd: dict[str, Any] = {"firmware": firmware(**AMD_FIRMWARE), "iommu_units": ("ivhd0",)}
    assert judged("iommu=pt", cpu=AMD, **amd).code == "CMDLINE_GOOD"
    snp = Cpu("AuthenticAMD", "EPYC", ("svm", "sev_snp"))
    assert judged("iommu=pt", cpu=snp, **amd).code == "CMDLINE_PT_ON_SNP"
    unread = Cpu("AuthenticAMD", "EPYC", None)
    assert judged("iommu=pt", cpu=unread, **amd).verdict is Verdict.UNKNOWN


def test_only_the_loader_that_was_used_counts() -> None:
    both = (
        BootOptions("grub", GRUB, "quiet"),
        BootOptions("systemd-boot", "/etc/kernel/cmdline:1", "root=ZFS=rpool intel_iommu=on"),
    )
    stub = judged("initrd=\\EFI\\proxmox\\initrd.img intel_iommu=on", boot_options=both)
    assert stub.code == "CMDLINE_GOOD"
    grub = judged("BOOT_IMAGE=/vmlinuz intel_iommu=on", boot_options=both)
    assert grub.code == "CMDLINE_DIFFERS"
    assert judged("BOOT_IMAGE=/vmlinuz", boot_options=both[1:]).verdict is Verdict.UNKNOWN


BOTH = (
    BootOptions("grub", GRUB, "quiet"),
    BootOptions("systemd-boot", "/etc/kernel/cmdline:1", "quiet intel_iommu=on"),
)


def test_two_loaders_that_differ_are_unknown_until_something_tells() -> None:
    finding = judged("quiet intel_iommu=on", boot_options=BOTH)
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == ["sudo efibootmgr -v; bootctl status"]
    for path, code in (
        (BootPath(efi=False, loader="", proxmox_boot=False), "CMDLINE_DIFFERS"),
        (BootPath(efi=True, loader="GRUB 2.12", proxmox_boot=None), "CMDLINE_DIFFERS"),
        (BootPath(efi=True, loader="systemd-boot 252.5", proxmox_boot=True), "CMDLINE_GOOD"),
        (BootPath(efi=True, loader="", proxmox_boot=True), "CMDLINE_UNKNOWN"),
    ):
        assert judged("quiet intel_iommu=on", boot_options=BOTH, boot_path=path).code == code
    alike = (BootOptions("grub", GRUB, "intel_iommu=on"), BOTH[1])
    assert judged("quiet intel_iommu=on", boot_options=alike).code == "CMDLINE_GOOD"
    assert judged("quiet", boot_options=alike, **OFF).code == "CMDLINE_PENDING"


def test_what_update_grub_made_counts_beside_what_was_written() -> None:
    written = BootOptions("grub", GRUB, "quiet intel_iommu=on")
    new, old = (
        BootOptions("grub.cfg", "/boot/grub/grub.cfg:140", f"root=/dev/sda2 ro {words}")
        for words in ("quiet intel_iommu=on", "quiet")
    )
    finding = judged("ro quiet", boot_options=(written, new), **OFF)
    assert (finding.code, finding.decision) == ("CMDLINE_PENDING", "reboot, vfioctl check")
    finding = judged("ro quiet", boot_options=(written, old), **OFF)
    assert finding.decision == "sudo update-grub, reboot, vfioctl check"
    # it runs and is written, but the next boot would lose it
    finding = judged("ro quiet intel_iommu=on", boot_options=(written, old))
    assert finding.code == "CMDLINE_DIFFERS"
    assert "intel_iommu=on will be gone" in finding.meaning
    assert "grub.cfg:140" in texts(finding)


def test_proxmox_copies_to_partitions_that_nobody_sees() -> None:
    written = BootOptions("grub", GRUB, "quiet intel_iommu=on")
    unread = BootOptions("grub.cfg", "/boot/grub/grub.cfg:140", "quiet")
    path = BootPath(efi=None, loader=None, proxmox_boot=True)
    rows = (written, unread)
    finding = judged("ro quiet intel_iommu=on", boot_options=rows, boot_path=path)
    assert finding.code == "CMDLINE_GOOD"
    finding = judged("ro quiet", boot_options=rows, boot_path=path, **OFF)
    assert "proxmox-boot-tool refresh" in finding.decision


def test_passthrough_mode_asked_for_and_not() -> None:
    for line in ("iommu=pt iommu=nopt", "iommu=pt iommu.passthrough=0"):
        assert judged(f"intel_iommu=on {line}").code == "CMDLINE_CONTRADICTS"


def test_grubs_variables_are_one_line() -> None:
    rows = (
        BootOptions("grub", "/etc/default/grub:5", "intel_iommu=on"),
        BootOptions("grub", GRUB, "quiet iommu=pt"),
    )
    assert judged("iommu=pt quiet intel_iommu=on", boot_options=rows).code == "CMDLINE_GOOD"


@pytest.mark.parametrize("rows", [None, ()])
def test_a_boot_loader_that_nobody_could_read(rows: Any) -> None:
    finding = judged("intel_iommu=on", boot_options=rows)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "CMDLINE_UNKNOWN")
    assert "/etc/default/grub" in " ".join(commands(finding))


def test_nothing_read() -> None:
    assert commands(find(judge(silent_host()))) == ["cat /proc/cmdline"]


GRUB_PARTS = (BootOptions("grub", "/etc/default/grub:3", ""),)


def test_the_line_that_switches_it_off_is_named_and_not_the_first_of_the_file() -> None:
    rows = (*GRUB_PARTS, BootOptions("grub", "/etc/default/grub:2", "quiet intel_iommu=off"))
    finding = judged("ro intel_iommu=on", boot_options=rows)
    assert finding.code == "CMDLINE_SABOTAGE_PENDING"
    assert "in /etc/default/grub:2;" in finding.decision
    finding = judged("ro intel_iommu=off", boot_options=rows, **OFF)
    assert finding.code == "CMDLINE_SABOTAGE"
    assert "in /etc/default/grub:2;" in finding.decision


def test_what_runs_and_is_not_written_must_be_written_before_anything_is_installed() -> None:
    rows = (*GRUB_PARTS, BootOptions("grub", "/etc/default/grub:2", "quiet"))
    finding = judged("BOOT_IMAGE=/vmlinuz ro quiet intel_iommu=on iommu=pt", boot_options=rows)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CMDLINE_DIFFERS")
    assert finding.decision.startswith("To keep intel_iommu=on iommu=pt: add it in ")
    assert "only then sudo update-grub" in finding.decision


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("intel_iommu=1", "intel_iommu=1:"),
        ("intel_iommu=ON", "intel_iommu=ON:"),
        ("intel_iommu=on,iommu=pt", "iommu=pt in intel_iommu=on,iommu=pt:"),
        ("intel_iommu=on iommu=on", "iommu=on:"),
    ],
)
def test_a_value_that_the_kernel_ignores_is_named(words: str, named: str) -> None:
    finding = judged(f"ro {words}")
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CMDLINE_IGNORED")
    assert finding.meaning.startswith(named)


@pytest.mark.parametrize("words", ["intel_iommu=on,sm_on,igfx_off iommu=pt,nomerge", "intel_iommu"])
def test_values_that_the_kernel_knows_are_good(words: str) -> None:
    assert judged(f"ro {words}").code == "CMDLINE_GOOD"


def test_amd_iommu_on_asks_for_what_is_so_anyway() -> None:
    finding = judged("ro amd_iommu=on iommu=pt", cpu=AMD, firmware=firmware(**AMD_FIRMWARE))
    assert finding.code == "CMDLINE_GOOD"


def test_bounce_buffers_in_place_of_the_iommu() -> None:
    finding = judged("ro intel_iommu=on iommu=soft")
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CMDLINE_SOFT")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("smpboot: CPU0: Intel(R) Xeon(R) Gold 5222 CPU @ 3.80GHz (family: 0x6)", "CMDLINE_GOOD"),
        ("smpboot: CPU0: 12th Gen Intel(R) Core(TM) i7-12700 (family: 0x6)", "CMDLINE_GOOD"),
        ("smpboot: CPU0: AMD EPYC 7302 16-Core (family: 0x17)", "CMDLINE_WRONG_VENDOR"),
        ("nothing of a processor", "CMDLINE_UNKNOWN"),
    ],
)
def test_the_log_tells_the_processors_vendor(line: str, code: str) -> None:
    cpu = Cpu(None, None, None)
    dark: dict[str, Any] = {"dmar_sha256": None, "ivrs_sha256": None}
    finding = judged(
        "ro intel_iommu=on iommu=pt",
        cpu=cpu,
        firmware=firmware(**dark),
        iommu_units=None,
        kernel_log=make_log(line, cmdline="ro intel_iommu=on iommu=pt"),
    )
    assert finding.code == code
