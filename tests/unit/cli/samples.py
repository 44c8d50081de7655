"""Clusters for the screens: the fleet of the target screens, made once for all golden tests."""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.findings import Verdict
from vfio_contract.views import (
    BaselineView,
    ChangeView,
    ClusterStatus,
    Decision,
    Event,
    FindingView,
    GateProof,
    HealthItem,
    Nearest,
    NodeRefusal,
    NodeView,
    PlacedUnit,
    Placement,
    Reason,
    Refusal,
    StageCount,
    UnitCount,
    UnitView,
    VmView,
)

AT = "2026-11-22T14:32:07Z"
DIGEST = "sha256:" + "3f" * 32


def unit(number: int, *, state: str = "free", why: str = "", vm: str = "") -> UnitView:
    """A GPU."""
    return UnitView(
        id=f"gpu-0000000{number}",
        kind="gpu",
        model="NVIDIA RTX A5000",
        ids="10de:2231",
        addresses=(f"0000:{number}1:00.0", f"0000:{number}1:00.1"),
        numa_node=number % 2,
        intended=True,
        state=state,
        why=why,
        needs=("acs-override",) if state == "unfit" else (),
        vm=vm,
    )


def node(
    name: str,
    state: str = "ready",
    *reasons: Reason,
    verdict: Verdict = Verdict.PASS,
    heard_age_s: float = 2.0,
    vms: tuple[str, ...] = (),
    detail: bool = False,
) -> NodeView:
    """A node."""
    return NodeView(
        name=name,
        state=state,
        reasons=reasons,
        verdict=verdict,
        heard_age_s=heard_age_s,
        evidence_age_s=41.0,
        firmware="F10 01/02/2025",
        kernel="6.12.0-1-amd64",
        boot_id="11111111-2222-4333-8444-555555555555",
        agent="0.1.0",
        baseline=DIGEST,
        units_free=2,
        units_total=4,
        vms=vms,
        units=(
            unit(1),
            unit(2, state="claimed", vm="train-2"),
            unit(3, state="unfit", why="group 17: isolation is artificial"),
        )
        if detail
        else (),
        drift=drift() if detail else (),
        findings=(
            FindingView(
                check="group-isolation",
                subject="group:17",
                verdict=Verdict.FAIL,
                code="GROUP_DIRTY",
                evidence=("0000:41:00.0: [0300] 10de:2231 on vfio-pci", "viable now: no"),
                meaning="Members can reach each other's DMA.",
                decision="Move the card to another slot.",
                intended=True,
            ),
            FindingView(
                check="host-critical",
                subject="function:0000:01:00.0",
                verdict=Verdict.FAIL,
                code="HOST_CRITICAL",
                evidence=("mount: /",),
                meaning="",
                decision="",
                intended=False,
            ),
        )
        if detail
        else (),
    )


def drift() -> tuple[ChangeView, ...]:
    """F10 to F11: firmware, a moved GPU, a widened group."""
    gpu = "dsn-00-11-22-33-44-55-66-77.0"
    return (
        ChangeView(
            "FIRMWARE_CHANGED", "", "", "", "BIOS", "F10 01/02/2025", "F11 06/07/2025", False
        ),
        ChangeView("FIRMWARE_CHANGED", "", "", "", "ACPI DMAR", "ab" * 32, "cd" * 32, False),
        ChangeView(
            "DEVICE_MOVED",
            gpu,
            "0000:11:00.0",
            "0000:41:00.0",
            "",
            "0000:11:00.0",
            "0000:41:00.0",
            False,
        ),
        ChangeView(
            "GROUP_WIDENED",
            gpu,
            "0000:11:00.0",
            "0000:41:00.0",
            "merged",
            "group 8: 0000:11:00.0",
            "group 2: 0000:00:17.0 0000:41:00.0",
            True,
        ),
    )


def cluster_status() -> ClusterStatus:
    """The target screen's cluster of 12 nodes and 31 VMs."""
    cordoned = Reason("GROUP_WIDENED", "auto:GROUP_WIDENED", "landing reserved on pve02")
    stays = Reason("GROUP_WIDENED", "auto:GROUP_WIDENED", "stays: disk on local-lvm")
    rebooted = Reason("FIRMWARE_CHANGED", "auto:FIRMWARE_CHANGED", "no new placements")
    nodes = (
        node("pve12", "lost", verdict=Verdict.UNKNOWN, heard_age_s=364.0, vms=("a", "b")),
        node("pve09", "revalidating", rebooted),
        node("pve07", "cordoned", cordoned, verdict=Verdict.FAIL, vms=("render-4",)),
        node("pve08", "cordoned", stays, verdict=Verdict.FAIL, vms=("train-2",)),
        *(node(f"pve{n:02d}") for n in (1, 2, 3, 4, 5, 6, 10, 11)),
    )
    risk = "pve07 widened: 0000:41:00.0 is grouped with 0000:00:17.0"
    vms = (
        *(vm(f"run-{n:02d}") for n in range(27)),
        vm("render-4", at_risk=risk, node_name="pve07"),
        vm("train-2", at_risk="pve08 widened", node_name="pve08"),
        vm("a", state="unknown", node_name="pve12"),
        vm("b", state="unknown", node_name="pve12"),
    )
    return ClusterStatus(
        cluster="prod-gpu",
        health="HEALTH_ERR",
        coordinator="co1",
        revision=88213,
        epoch=4,
        at=AT,
        items=(
            HealthItem(
                "ERR",
                "GROUP_WIDENED",
                "3 nodes",
                "INC-7, 14:19: pve07 pve08 pve09: GPU now grouped with AHCI",
                "vfioctl incident show INC-7",
                count=3,
                since="2026-11-22T14:19:00Z",
                incident="INC-7",
                common="common: BIOS F10 -> F11; 5 peers still on F10",
            ),
            HealthItem(
                "ERR",
                "NODE_LOST",
                "1 node",
                "pve12: heard 6m04s ago; its 2 VMs may still run",
                "",
                count=1,
                since="2026-11-21T14:26:00Z",
            ),
            HealthItem(
                "WARN",
                "ACS_OVERRIDE",
                "2 nodes",
                "pve03 pve04: isolation is artificial",
                "vfioctl node show pve03",
                count=2,
                since="2026-10-01T08:00:00Z",
                muted="by ops until 2027-02-01: one tenant; the boards are replaced in "
                "February, see TICKET-12",
            ),
            HealthItem(
                "WARN",
                "LINK_DOWNGRADED",
                "1 node",
                "pve05: x8 of x16",
                "",
                muted="by ann until 2026-11-22T18:32:07Z: known",
            ),
        ),
        nodes=nodes,
        units=(UnitCount("gpu", 48, 14, 23, 2, 5, 4), UnitCount("nic", 24, 9, 13, 0, 0, 2)),
        vms=vms,
        recent=(
            Event(
                9,
                "2026-11-22T14:24:00Z",
                "node:pve09",
                "GROUP_WIDENED",
                "widened: 0000:41:00.0 + 0000:00:17.0",
                "auto:drift",
            ),
            Event(
                8,
                "2026-11-22T14:21:00Z",
                "node:pve08",
                "NODE_CORDONED",
                "cordoned by auto:GROUP_WIDENED",
                "auto:GROUP_WIDENED",
            ),
            Event(
                7, "2026-11-21T23:19:00Z", "vm:train-2", "VM_PLACED", "placed on pve08", "user:ops"
            ),
        ),
        next="vfioctl incident show INC-7",
    )


def vm(name: str, *, state: str = "running", at_risk: str = "", node_name: str = "pve01") -> VmView:
    """A VM with one GPU."""
    return VmView(
        name=name,
        node=node_name,
        generation=1,
        token=17179869185,
        state=state,
        kind="placed",
        units=("gpu-00000001",),
        addresses=("0000:41:00.0", "0000:41:00.1"),
        at_risk=at_risk,
        requested="gpu:a5000=1",
        owner="user:ops",
        at=AT,
    )


def refusal() -> Refusal:
    """The target screen's refusal; its stages add up to 12."""
    stages = (
        ("heard", 1, "pve12: lost 6m59s; unknown is never free"),
        ("admitted", 3, "pve07 pve08 cordoned (INC-7); pve09 revalidating"),
        ("model", 2, "pve10 pve11: no a5000"),
        ("isolation", 1, "pve03: ACS_OVERRIDE; request lacks --allow acs-override"),
        ("binding", 1, "pve04: 0000:81:00.0 on nvidia, not vfio-pci"),
        (
            "reset",
            1,
            'pve05: 0000:41:00.0 wedged since 13:02; evidence 91m: "not ready 65535ms after FLR; '
            'giving up"',
        ),
        ("free", 2, "pve01 pve06: 1 of 2 free"),
        ("topology", 1, "pve02: 2 free, NUMA 0 and NUMA 1"),
    )
    return Refusal(
        vm="train-9",
        revision=88217,
        at="2026-11-22T14:33:02Z",
        nodes_total=12,
        stages=tuple(StageCount(*row) for row in stages),
        nearest=(
            Nearest(
                "pve04",
                "fits if 0000:81:00.0 is bound",
                "vfioctl device bind pve04 0000:81:00.0",
            ),
            Nearest("pve02", "fits without --same-numa", ""),
        ),
        nodes=(
            NodeRefusal("pve03", "isolation", "ACS_OVERRIDE", ("kernel log: overrides enabled",)),
            NodeRefusal("pve12", "heard", "lost 6m59s", ()),
        ),
    )


def placement() -> Placement:
    """Two GPUs on pve02: what is proved of the node, and what of each unit."""
    node_proof = (
        GateProof("iommu-active", Verdict.PASS, "IOMMU_ACTIVE", ("/sys/class/iommu: dmar0",), 12.0),
        GateProof("cpu-virtualization", Verdict.PASS, "CPU_VIRT_READY", ("flags: vmx",), 12.0),
    )

    def proof(address: str, group: int) -> tuple[GateProof, ...]:
        place = f"/sys/bus/pci/devices/{address}"
        what = f"{address} [0300] 10de:2231 NVIDIA RTX A5000, driver vfio-pci"
        isolation = (f"{group} {place}: {what}", f"{group} viable now: yes")
        reset = (f"{address} {place}: {what}", f"{address} {place}/reset_method: bus")
        return (
            *node_proof,
            GateProof("group-isolation", Verdict.WARN, "ACS_OVERRIDE", isolation, 12.0),
            GateProof("reset-capability", Verdict.PASS, "RESET_SLOT", reset, 91.0),
            GateProof("host-critical", Verdict.PASS, "X", (f"{address} {place}: {what}",), 12.0),
        )

    gpus = (
        PlacedUnit(
            "gpu-00000004",
            "gpu",
            "NVIDIA Corporation RTX A5000",
            ("0000:41:00.0", "0000:41:00.1"),
            ("0000:40:01.0",),
            0,
            proof("0000:41:00.0", 17),
        ),
        PlacedUnit("gpu-00000005", "gpu", "", ("0000:81:00.0",), (), -1, proof("0000:81:00.0", 18)),
    )
    return Placement("train-9", "pve02", 1, 17179869185, 88218, gpus)


REFUSED = Decision(placement=None, refusal=refusal())
PLACED = Decision(placement=placement(), refusal=None)


def baseline(*, drifted: bool, why: str = "") -> BaselineView:
    """An accepted baseline."""
    return BaselineView(
        node="pve07",
        digest=DIGEST,
        accepted_at=AT,
        accepted_by="user:ops",
        firmware=("BIOS: F10 01/02/2025", "kernel: 6.12.0-1-amd64", "cmdline: intel_iommu=on"),
        intended_units=(unit(1), unit(2)),
        passed=("gpu-00000001", "gpu-00000002"),
        drift=drift() if drifted else (),
        compared=not why,
        why=why,
        present_digest=DIGEST,
    )


def judged_now(verdict: Verdict, *texts: str) -> Decision:
    """The placement, with one row of proof about now."""
    whole = placement()
    proof = (GateProof("heard", verdict, "", texts, -1.0),)
    units = tuple(replace(unit, proof=proof) for unit in whole.units)
    return Decision(placement=replace(whole, units=units), refusal=None)
