"""The checks: one file each, one pure function each, from a Host to findings.

`CATALOGUE` is the one list, in the order of the field guide; what blocks what stands beside it. A
check whose blocker failed is not discussed: it gives exactly one BLOCKED finding (stop digging).
This package must never read a file, a clock or the network, and never take the absence of evidence
for a PASS. A check that raises is a bug of ours and is not caught here.

Length: the catalogue is one list, in one place, and grows with every check.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from vfio_agent.checks import (
    acs_override,
    bar_and_rom,
    cpu_virtualization,
    device_functions,
    device_health,
    device_holders,
    driver_binding,
    group_isolation,
    host_contention,
    host_critical,
    interrupt_distribution,
    interrupt_remapping,
    iommu_active,
    iommu_faults,
    kernel_cmdline,
    memory_headroom,
    reserved_regions,
    reset_capability,
    reset_history,
    sriov,
    vfio_modules,
    vm_cpu,
    vm_display_rom,
    vm_functions,
    vm_guest_driver,
    vm_machine,
    vm_memory,
)
from vfio_agent.checks.inventory import INVENTORY_UNKNOWN, NO_DEVICES
from vfio_contract.action_codes import ACTION_CODES
from vfio_contract.codes import CLUSTER_CODES, Code
from vfio_contract.command_codes import COMMAND_CODES
from vfio_contract.findings import (
    NODE,
    Evidence,
    Finding,
    Report,
    Verdict,
    severity,
    summarise,
)
from vfio_contract.host import Host

BLOCKED = Code(
    "BLOCKED",
    Verdict.BLOCKED,
    "A check that this one depends on failed.",
    "What this check would say follows from that failure and would only repeat it.",
    "Fix the check that blocks it first, then: vfioctl check",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `step` is the field guide's; `gates` says whether placement refuses on it.

    `blocked_by` names checks whose FAIL about the node makes this one pointless. `version` rises
    when the same evidence may get another verdict, so that an upgrade is never taken for a
    regression. `judge` gives at most one finding per subject and never raises.
    """

    id: str
    step: str
    title: str
    judge: Callable[[Host], list[Finding]]
    blocked_by: tuple[str, ...]
    gates: bool
    version: int
    codes: tuple[Code, ...]

    @property
    def explanation(self) -> str:
        """Evidence, meaning and source, as the check's own docstring states them."""
        return inspect.cleandoc(self.judge.__doc__ or "")


_DEVICE_CODES = (INVENTORY_UNKNOWN, NO_DEVICES)
_VM_BLOCKERS = (cpu_virtualization.ID, iommu_active.ID)

CATALOGUE: tuple[Check, ...] = (
    Check(
        id=cpu_virtualization.ID,
        step="2",
        title="Can this host run VMs in hardware?",
        judge=cpu_virtualization.judge,
        blocked_by=(),
        gates=True,
        version=3,
        codes=cpu_virtualization.CODES,
    ),
    Check(
        id=iommu_active.ID,
        step="3",
        title="Is DMA remapping active in this boot?",
        judge=iommu_active.judge,
        blocked_by=(),
        gates=True,
        version=2,
        codes=iommu_active.CODES,
    ),
    Check(
        id=kernel_cmdline.ID,
        step="4",
        title="Was the kernel told what passthrough needs, and will the next boot be?",
        judge=kernel_cmdline.judge,
        blocked_by=(),
        gates=False,
        version=3,
        codes=kernel_cmdline.CODES,
    ),
    Check(
        id=interrupt_remapping.ID,
        step="5",
        title="Are interrupts of devices remapped?",
        judge=interrupt_remapping.judge,
        blocked_by=(),
        gates=True,
        version=3,
        codes=interrupt_remapping.CODES,
    ),
    Check(
        id=vfio_modules.ID,
        step="9",
        title="Are VFIO's modules there, and early enough?",
        judge=vfio_modules.judge,
        blocked_by=(),
        gates=False,
        version=3,
        codes=vfio_modules.CODES,
    ),
    Check(
        id=acs_override.ID,
        step="13",
        title="Is isolation the hardware's, and still switched on?",
        judge=acs_override.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=acs_override.CODES,
    ),
    Check(
        id=memory_headroom.ID,
        step="12",
        title="Is there memory that a VM with a device can pin?",
        judge=memory_headroom.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=memory_headroom.CODES,
    ),
    Check(
        id=host_contention.ID,
        step="11",
        title="Is the host itself short of cpu, io or memory?",
        judge=host_contention.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=host_contention.CODES,
    ),
    Check(
        id=interrupt_distribution.ID,
        step="story 2",
        title="Do the interrupts of passed devices drown one processor?",
        judge=interrupt_distribution.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=interrupt_distribution.CODES,
    ),
    Check(
        id=iommu_faults.ID,
        step="mistake 4",
        title="Did a device do DMA that it may not, or report errors?",
        judge=iommu_faults.judge,
        blocked_by=(),
        gates=False,
        version=3,
        codes=iommu_faults.CODES,
    ),
    Check(
        id=device_functions.ID,
        step="1",
        title="Which functions must be passed together?",
        judge=device_functions.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=(*device_functions.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=group_isolation.ID,
        step="6",
        title="Is every neighbour in the IOMMU group safe to hand to the same VM?",
        judge=group_isolation.judge,
        blocked_by=(iommu_active.ID,),
        gates=True,
        version=3,
        codes=(*group_isolation.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=host_critical.ID,
        step="6",
        title="Would the host lose something it needs?",
        judge=host_critical.judge,
        blocked_by=(),
        gates=True,
        version=2,
        codes=(*host_critical.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=reset_capability.ID,
        step="7",
        title="Can the function be reset between two VMs?",
        judge=reset_capability.judge,
        blocked_by=(),
        gates=True,
        version=2,
        codes=(*reset_capability.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=reset_history.ID,
        step="7",
        title="How did its resets go so far?",
        judge=reset_history.judge,
        blocked_by=(),
        gates=True,
        version=2,
        codes=(*reset_history.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=driver_binding.ID,
        step="8",
        title="Is the function on a vfio driver, and will it be after a reboot?",
        judge=driver_binding.judge,
        blocked_by=(iommu_active.ID,),
        gates=True,
        version=3,
        codes=(*driver_binding.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=device_holders.ID,
        step="16",
        title="Who has the device open?",
        judge=device_holders.judge,
        blocked_by=(),
        gates=False,
        version=3,
        codes=(*device_holders.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=sriov.ID,
        step="17",
        title="Are virtual functions as they are meant to be?",
        judge=sriov.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=(*sriov.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=bar_and_rom.ID,
        step="14",
        title="Is the device's memory assigned, and free of the boot screen?",
        judge=bar_and_rom.judge,
        blocked_by=(),
        gates=False,
        version=3,
        codes=(*bar_and_rom.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=reserved_regions.ID,
        step="-",
        title="Do direct regions (RMRR) stop the group's devices?",
        judge=reserved_regions.judge,
        blocked_by=(iommu_active.ID,),
        gates=False,
        version=1,
        codes=(*reserved_regions.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=device_health.ID,
        step="-",
        title="Does the device answer, with its whole link and without errors?",
        judge=device_health.judge,
        blocked_by=(),
        gates=False,
        version=2,
        codes=(*device_health.CODES, *_DEVICE_CODES),
    ),
    Check(
        id=vm_machine.ID,
        step="10",
        title="Can the VM's board carry its devices as PCI Express?",
        judge=vm_machine.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=2,
        codes=vm_machine.CODES,
    ),
    Check(
        id=vm_functions.ID,
        step="10",
        title="Does the VM get the right functions, all of them, and nothing the host needs?",
        judge=vm_functions.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=3,
        codes=vm_functions.CODES,
    ),
    Check(
        id=vm_cpu.ID,
        step="10",
        title="Does the guest run on the host's own CPU model, with KVM?",
        judge=vm_cpu.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=2,
        codes=vm_cpu.CODES,
    ),
    Check(
        id=vm_guest_driver.ID,
        step="15",
        title="Will the guest's driver accept the device?",
        judge=vm_guest_driver.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=3,
        codes=vm_guest_driver.CODES,
    ),
    Check(
        id=vm_memory.ID,
        step="12",
        title="Can all of the VM's memory be pinned?",
        judge=vm_memory.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=2,
        codes=vm_memory.CODES,
    ),
    Check(
        id=vm_display_rom.ID,
        step="14",
        title="Can the passed GPU show a picture in its VM?",
        judge=vm_display_rom.judge,
        blocked_by=_VM_BLOCKERS,
        gates=False,
        version=2,
        codes=vm_display_rom.CODES,
    ),
)
"""In the order of CHECKS.md; a blocker stands before what it blocks."""


def judge(host: Host) -> Report:
    """All checks on one host: findings worst first, then in the catalogue's order, and the verdict.

    Same host, same report. Blockers are judged before what they block; only their finding about the
    node blocks, so that one function without a group does not silence the others.
    """
    findings: list[Finding] = []
    failed: set[str] = set()
    for check in CATALOGUE:
        blockers = [name for name in check.blocked_by if name in failed]
        rows = [_block(check, blockers[0])] if blockers else check.judge(host)
        failed |= {f.check for f in rows if f.subject == NODE and f.verdict is Verdict.FAIL}
        findings.extend(rows)
    return summarise(host.facts.host, sort_findings(findings))


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first; equals in the order of the catalogue, and there as they were given."""
    return sorted(in_order(findings), key=lambda f: -severity(f.verdict))


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order of the catalogue, of each check as they are given."""
    ranks = {check.id: rank for rank, check in enumerate(CATALOGUE)}
    return tuple(sorted(findings, key=lambda f: ranks.get(f.check, len(ranks))))


def checks_version() -> str:
    """A digest of the catalogue's ids and versions: equal digests judge alike."""
    text = ",".join(f"{check.id}={check.version}" for check in CATALOGUE)
    return sha256(text.encode()).hexdigest()[:16]


def explain(name: str) -> Check | Code | None:
    """The check of that id or the code of that name, in any case; None when there is neither."""
    for check in CATALOGUE:
        if check.id == name.lower():
            return check
    wanted = name.upper().replace("-", "_")
    return next((code for code in list_codes() if code.name == wanted), None)


def list_codes() -> list[Code]:
    """Every code that a check, an action, a command or the cluster can give, each once."""
    own = (code for check in CATALOGUE for code in check.codes)
    return list(dict.fromkeys((*own, BLOCKED, *ACTION_CODES, *COMMAND_CODES, *CLUSTER_CODES)))


def _block(check: Check, blocker: str) -> Finding:
    return Finding(
        check=check.id,
        subject=NODE,
        verdict=Verdict.BLOCKED,
        code=BLOCKED.name,
        evidence=(Evidence(blocker, str(Verdict.FAIL)),),
        meaning=BLOCKED.meaning,
        decision=f"Fix {blocker} first, then: vfioctl check",
        blocked_by=blocker,
    )
