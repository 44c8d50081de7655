"""`cpu-virtualization`: flags, module and node must all be there; what was not read is UNKNOWN."""

from typing import Any

import pytest

from tests.fakes.snapshots import make_host, make_log, nic, silent_host
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.cpu_virtualization import judge
from vfio_contract.findings import Verdict
from vfio_contract.model import Cpu, Kernel, Module

NIC = nic("0000:01:00.0")
REFUSED = "KVM_CREATE_VM: Device or resource busy"
KVM_AMD = (Module("kvm", ()), Module("kvm_amd", ()))


def verdict(**changes: Any) -> tuple[Verdict, str]:
    finding = find(judge(make_host(NIC, **changes)))
    return finding.verdict, finding.code


def amd(*flags: str) -> Cpu:
    return Cpu("AuthenticAMD", "EPYC", flags)


def test_all_there() -> None:
    assert verdict() == (Verdict.PASS, "CPU_VIRT_READY")
    assert verdict(cpu=amd("svm"), modules=KVM_AMD) == (Verdict.PASS, "CPU_VIRT_READY")


def test_no_flag_stops_here() -> None:
    finding = find(judge(make_host(NIC, cpu=amd(), kvm=None)))
    assert (finding.verdict, finding.code) == (Verdict.FAIL, "CPU_VIRT_OFF")
    assert "firmware" in finding.decision


def test_a_guest_without_nested_virtualization_is_told_so() -> None:
    finding = find(judge(make_host(NIC, cpu=amd("hypervisor"), kvm=None)))
    assert finding.code == "CPU_VIRT_OFF"
    assert "-cpu host" in finding.decision


def test_a_vmware_guest_is_told_what_vmware_can() -> None:
    log = make_log("Hypervisor detected: VMware")
    finding = find(judge(make_host(NIC, cpu=amd("hypervisor"), kvm=None, kernel_log=log)))
    assert "vhv.enable" in finding.decision
    assert "qm set" not in finding.decision


def test_a_nested_host_is_labelled() -> None:
    assert verdict(cpu=amd("svm", "hypervisor"), modules=KVM_AMD) == (
        Verdict.WARN,
        "CPU_VIRT_NESTED",
    )


def test_kvm_without_flags_disagrees() -> None:
    pvm = (Module("kvm", ()), Module("kvm_pvm", ()))
    guest: dict[str, Any] = {"cpu": amd("hypervisor"), "kvm": None}
    assert verdict(**guest, modules=pvm) == (Verdict.WARN, "CPU_VIRT_DISAGREES")
    assert verdict(**guest, modules=None)[0] is Verdict.FAIL
    assert verdict(**guest, modules=pvm, kvm_device=False)[0] is Verdict.FAIL
    assert verdict(**guest | {"kvm": REFUSED}, modules=pvm)[0] is Verdict.FAIL
    assert verdict(**guest | {"kvm": ""}) == (Verdict.WARN, "CPU_VIRT_DISAGREES")


def test_flags_that_kvm_does_not_keep_disagree() -> None:
    finding = find(judge(make_host(NIC, kvm=REFUSED)))
    assert (finding.verdict, finding.code) == (Verdict.WARN, "CPU_VIRT_DISAGREES")
    assert "VirtualBox" in finding.decision
    assert REFUSED in texts(finding)
    arm = Kernel("6.12.0", "#1", "aarch64")
    assert verdict(kernel=arm, cpu=Cpu(None, None, ()), kvm=REFUSED)[0] is Verdict.FAIL


def test_a_live_kvm_that_nobody_asked_is_unknown_and_a_captured_one_is_not() -> None:
    finding = find(judge(make_host(NIC, kvm=None)))
    assert finding.verdict is Verdict.UNKNOWN
    assert commands(finding) == ["sudo vfioctl check"]
    assert verdict(kvm=None, live=False) == (Verdict.PASS, "CPU_VIRT_READY")


def test_a_node_without_the_vendor_module_is_no_kvm() -> None:
    """kmod makes /dev/kvm at boot, whether or not the processor is any good."""
    assert verdict(modules=(Module("kvm", ()),)) == (Verdict.FAIL, "KVM_MISSING")


def test_no_node_fails_with_the_kernels_reason() -> None:
    log = make_log("kvm: disabled by bios")
    finding = find(judge(make_host(NIC, kvm_device=False, kernel_log=log)))
    assert finding.code == "KVM_MISSING"
    assert "kvm: disabled by bios" in texts(finding)


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"kvm_device": None}, "ls -l /dev/kvm"),
        ({"modules": None}, "lsmod | grep kvm"),
        ({"cpu": Cpu(None, None, None)}, "grep -m1 ^flags /proc/cpuinfo"),
        ({"kvm_device": None, "modules": ()}, "ls -l /dev/kvm"),
    ],
)
def test_what_was_not_read_is_unknown(changes: dict[str, Any], command: str) -> None:
    finding = find(judge(make_host(NIC, **changes)))
    assert finding.verdict is Verdict.UNKNOWN
    assert command in commands(finding)


@pytest.mark.parametrize("machine", ["aarch64", "ppc64le", "s390x"])
@pytest.mark.parametrize(
    ("device", "expected"),
    [(True, Verdict.PASS), (False, Verdict.FAIL), (None, Verdict.UNKNOWN)],
)
def test_elsewhere_kvm_itself_decides(machine: str, device: bool | None, expected: Verdict) -> None:
    kernel = Kernel("6.12.0", "#1", machine)
    assert verdict(kernel=kernel, cpu=Cpu(None, None, ()), kvm_device=device)[0] is expected


def test_nothing_read() -> None:
    finding = find(judge(silent_host()))
    assert finding.verdict is Verdict.UNKNOWN
    assert "uname -m" in commands(finding)
