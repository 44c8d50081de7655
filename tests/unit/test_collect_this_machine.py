"""The host collectors on the machine that runs the tests: no error and no nonsense."""

from __future__ import annotations

from vfio_agent.collect.block import collect_block
from vfio_agent.collect.cpu import collect_cpu, collect_kvm_device
from vfio_agent.collect.firmware import collect_firmware
from vfio_agent.collect.interrupts import collect_interrupt_chips
from vfio_agent.collect.kernel import collect_boot_id, collect_kernel, collect_uptime
from vfio_agent.collect.kernel_log import collect_kernel_log
from vfio_agent.collect.keyboards import collect_keyboards
from vfio_agent.collect.memory import collect_memory, collect_memory_total
from vfio_agent.collect.modules import collect_modules
from vfio_agent.collect.network import collect_network
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot
from vfio_agent.collect.storage import collect_storage_uses
from vfio_contract.address import is_address
from vfio_contract.artifact import encode


def test_what_every_linux_machine_has() -> None:
    reader = Reader(LiveRoot())
    kernel = collect_kernel(reader)
    assert kernel.version is not None
    assert kernel.build
    assert collect_cpu(reader).flags is not None
    assert (collect_uptime(reader) or 0) > 0
    assert collect_boot_id(reader)
    total, memory = collect_memory_total(reader), collect_memory(reader)
    assert total is not None
    assert memory is not None
    assert memory.available_bytes is not None
    assert 0 < memory.available_bytes < total
    assert collect_interrupt_chips(reader) is not None


def test_names_and_functions_fit_together() -> None:
    reader = Reader(LiveRoot())
    block, network = collect_block(reader), collect_network(reader)
    uses = collect_storage_uses(reader, block, network)
    assert block is not None
    assert network is not None
    names = {device.name for device in block}
    for device in block:
        assert names.issuperset(device.parents)
        assert all(map(is_address, device.functions or ()))
    for interface in network:
        assert interface.function in (None, "") or is_address(interface.function or "")
    for use in uses or ():
        assert use.kind in ("storage", "network")
        assert names.issuperset(use.devices)
    assert all(map(is_address, collect_keyboards(reader) or ()))


def test_twice_gives_the_same_facts() -> None:
    def facts() -> list[bytes]:
        reader = Reader(LiveRoot())
        block, network = collect_block(reader), collect_network(reader)
        return [
            encode(collect_firmware(reader)),
            encode(collect_modules(reader)),
            encode(collect_kvm_device(reader)),
            encode(block),
            encode(network),
            encode(collect_storage_uses(reader, block, network)),
        ]

    assert facts() == facts()


def test_the_kernel_log_or_the_reason_why_not() -> None:
    reader = Reader(LiveRoot())
    log = collect_kernel_log(reader)
    if log is None:
        assert [gap.path for gap in reader.gaps] == ["/dev/kmsg"]
        assert reader.gaps[0].remedy == "sudo dmesg"
    else:
        assert log.total_lines > 0
