"""One host's whole evidence, in the order in which it may be read.

Holders come before PCI functions, because what may be read of a sleeping function depends on who
has it open. Facts are what should still hold in an hour; what moves by itself goes into the
readings. This module must never raise for what a host can look like, nor put one host's evidence in
place of another's: the collecting machine's own name, kernel or clock never stands in.
"""

from __future__ import annotations

from vfio_agent.collect.address_widths import collect_address_widths
from vfio_agent.collect.boot_options import collect_boot_options, collect_boot_path
from vfio_agent.collect.contention import collect_cpu_time, collect_disks
from vfio_agent.collect.cpu import collect_cpu, collect_kvm, collect_kvm_device
from vfio_agent.collect.firmware import collect_firmware
from vfio_agent.collect.framebuffers import collect_framebuffers
from vfio_agent.collect.groups import collect_groups, collect_iommu_units
from vfio_agent.collect.holders import collect_holders
from vfio_agent.collect.hugepages import collect_hugepages
from vfio_agent.collect.initramfs import collect_initramfs
from vfio_agent.collect.intents import collect_intents
from vfio_agent.collect.interrupts import (
    collect_cpu_isolation,
    collect_device_interrupts,
    collect_interrupt_chips,
)
from vfio_agent.collect.kernel import (
    collect_boot_id,
    collect_cmdline,
    collect_kernel,
    collect_uptime,
    parse_version_line,
)
from vfio_agent.collect.kernel_log import collect_kernel_log
from vfio_agent.collect.keyboards import collect_keyboards
from vfio_agent.collect.memory import collect_memory, collect_memory_total
from vfio_agent.collect.module_rules import collect_module_rules
from vfio_agent.collect.modules import collect_modules
from vfio_agent.collect.names import find_names
from vfio_agent.collect.network import collect_network
from vfio_agent.collect.pci import collect_functions
from vfio_agent.collect.pressure import collect_pressure
from vfio_agent.collect.reader import Reader, decode
from vfio_agent.collect.root import Root
from vfio_agent.collect.sriov_rules import collect_sriov_rules
from vfio_agent.collect.storage import collect_block, collect_storage_uses
from vfio_agent.collect.vm_processes import collect_vm_processes
from vfio_agent.collect.vms import collect_mappings, collect_vms, read_qemus
from vfio_contract.model import Facts, Kernel, KernelLog, PciFunction, Readings, Snapshot
from vfio_contract.version import VERSION

UNKNOWN_HOST = "unknown"
"""The name of a host that none of its files tells."""

_PRINTED_BYTES = 900
"""A command line this long may have been cut by the log (LOG_LINE_MAX is 1024 with the prefix)."""


def collect_host(
    root: Root, *, host: str | None = None, previous: Snapshot | None = None
) -> Snapshot:
    """The snapshot of the host under `root`; `readings.ledger` is None.

    `host` overrides the name that the host gives itself. `previous` is this host's last snapshot:
    if it is of the same boot, config space of sleeping functions is taken from it.
    """
    reader = Reader(root)
    boot_id = collect_boot_id(reader)
    if previous is not None and (boot_id is None or previous.readings.boot_id != boot_id):
        previous = None
    log = collect_kernel_log(reader)
    kernel = _complete(collect_kernel(reader), log)
    cmdline = collect_cmdline(reader)
    if cmdline is None:
        cmdline = _printed_cmdline(log)
    holders = collect_holders(reader)
    pci = collect_functions(reader, kernel=kernel, holders=holders, previous=previous)
    network = collect_network(reader)
    block = collect_block(reader)
    name = host or _host_name(reader)
    qemus = read_qemus(reader)
    vms = collect_vms(reader, qemus)
    units = collect_iommu_units(reader)
    boot_options = collect_boot_options(reader)
    facts = Facts(
        host=name,
        kernel=kernel,
        firmware=collect_firmware(reader),
        cpu=collect_cpu(reader),
        cmdline=cmdline,
        kvm_device=collect_kvm_device(reader),
        modules=collect_modules(reader),
        iommu_units=units,
        groups=collect_groups(reader),
        functions=pci.functions,
        intents=collect_intents(reader, cmdline),
        block=block,
        storage_uses=collect_storage_uses(reader, block, network, vms=vms, host=name),
        network=network,
        keyboards=collect_keyboards(reader),
        memory_total_bytes=collect_memory_total(reader),
        boot_options=boot_options,
        module_rules=collect_module_rules(reader),
        sriov_rules=collect_sriov_rules(reader),
        vms=vms,
        mappings=collect_mappings(reader),
        address_widths=collect_address_widths(reader, units),
        boot_path=collect_boot_path(reader, boot_options, cmdline),
    )
    return Snapshot(
        facts=facts,
        readings=Readings(
            boot_id=boot_id,
            live=root.live,
            privileged=_is_privileged(root, pci.functions),
            collector=collector_name(),
            uptime_seconds=collect_uptime(reader),
            kernel_log=log,
            interrupt_chips=collect_interrupt_chips(reader),
            memory=collect_memory(reader),
            holders=holders,
            functions=pci.readings,
            names=find_names(f.ids for f in pci.functions or ()),
            ledger=None,
            hugepages=collect_hugepages(reader),
            pressure=collect_pressure(reader),
            interrupts=collect_device_interrupts(reader),
            framebuffers=collect_framebuffers(reader),
            kvm=collect_kvm(
                reader, device=facts.kvm_device, modules=facts.modules, previous=previous
            ),
            initramfs=collect_initramfs(
                reader, release=kernel.release, rules=facts.module_rules, intents=facts.intents
            ),
            cpu_time=collect_cpu_time(reader),
            disks=collect_disks(reader),
            cpu_isolation=collect_cpu_isolation(reader),
            vm_processes=collect_vm_processes(reader, qemus, vms),
            gaps=reader.gaps,
        ),
    )


def collector_name() -> str:
    """`vfioctl 0.1.0`."""
    return f"vfioctl {VERSION}"


def _host_name(reader: Reader) -> str:
    """The host's own name; a name with unusual characters is shown as it is."""
    for path in ("/proc/sys/kernel/hostname", "/etc/hostname"):
        try:
            name = decode(reader.root.read(path))
        except OSError:
            continue
        if name:
            return name
    reader.gap("/proc/sys/kernel/hostname", "the host's name is in none of its files", "hostname")
    return UNKNOWN_HOST


def _is_privileged(root: Root, functions: tuple[PciFunction, ...] | None) -> bool:
    """Whether it was read as root; a capture that does not say is judged by its config spaces."""
    if root.privileged is not None:
        return root.privileged
    # without CAP_SYS_ADMIN the kernel hands out 64 bytes (drivers/pci/pci-sysfs.c)
    return any(f.config is not None and f.config.length > 64 for f in functions or ())


def _complete(kernel: Kernel, log: KernelLog | None) -> Kernel:
    """The kernel's own first line names it where /proc was not captured."""
    if log is None or (kernel.release is not None and kernel.build is not None):
        return kernel
    printed = [line.text for line in log.lines if line.text.startswith("Linux version ")]
    if not printed:
        return kernel
    said = parse_version_line(printed[-1])
    return Kernel(
        release=kernel.release or said.release,
        build=kernel.build or said.build,
        machine=kernel.machine,
    )


def _printed_cmdline(log: KernelLog | None) -> str | None:
    for line in reversed(log.lines if log is not None else ()):
        for start in ("Command line: ", "Kernel command line: "):
            if line.text.startswith(start) and len(line.text) < _PRINTED_BYTES:
                return line.text.removeprefix(start).strip()
    return None
