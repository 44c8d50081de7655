"""Which VMs run: their QEMU processes, with a device of the host or without.

A process is known by its number and the moment of its start, so that a VM that was started again is
another one. It must never say of a process table that hides some that nothing else runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vfio_agent.collect.holders import ENDED, PROC, parse_stat, why_hidden
from vfio_agent.collect.reader import Reader, decode
from vfio_contract.model import VmProcess
from vfio_contract.vm import QEMU, VmConfig

_NO_MACHINE = "none"
"""`-machine none`: libvirt asks a QEMU what it can do, no VM runs."""


def collect_vm_processes(
    reader: Reader, running: Mapping[int, VmConfig] | None, vms: Iterable[VmConfig] | None
) -> tuple[VmProcess, ...] | None:
    """By pid; None where some may be hidden or could not be read.

    `running` are the QEMU processes, `vms` all VMs, whose configurations tell the hypervisor.
    """
    if running is None or why_hidden(reader):
        return None
    if not reader.root.authoritative(PROC):
        return None  # a capture: of processes it has what it was asked for
    kinds = {vm.name: vm.kind for vm in vms or ()}
    pids = [pid for pid, vm in running.items() if vm.machine != _NO_MACHINE]
    stats = reader.root.read_many([f"{PROC}/{pid}/stat" for pid in pids])
    found = []
    for pid, data in zip(pids, stats, strict=True):
        if isinstance(data, OSError):
            if data.errno in ENDED:
                continue
            reader.gap(f"{PROC}/{pid}/stat", data)
            return None
        started = parse_stat(decode(data))[1]
        if started is None:
            reader.gap(f"{PROC}/{pid}/stat", "its start cannot be read")
            return None
        name = running[pid].name
        found.append(VmProcess(pid, name, kinds.get(name, QEMU), started))
    return tuple(sorted(found, key=lambda process: process.pid))
