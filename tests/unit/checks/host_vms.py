"""Random VMs of a random host: entries that name its functions, slots, mappings, or nothing."""

from dataclasses import replace

from hypothesis import strategies as st

from tests.fakes.vms import make_device, make_mapping, make_vm
from vfio_contract.address import slot_of
from vfio_contract.model import PciFunction
from vfio_contract.vm import PciMapping, VmConfig


def find_mappings(rows: list[PciFunction]) -> tuple[PciMapping, ...]:
    """One that is true, one that has another group, for what was plugged in first and last."""
    found = []
    for number, row in enumerate(f for f in (rows[0], rows[-1]) if f.group is not None):
        group = row.group + number if row.group is not None and row.group >= 0 else 3
        found.append(make_mapping(f"map{number}", row.address, group=group))
    return tuple(found)


def draw_vms(draw: st.DrawFn, rows: list[PciFunction]) -> tuple[VmConfig, ...]:
    """Up to three VMs that name functions, slots, mappings or what is not there."""
    addresses = [f.address for f in rows]
    written = [*addresses, *(slot_of(a) for a in addresses), "0000:77:00.0"]
    found = []
    for number in range(draw(st.integers(0, 3))):
        devices = []
        for index in range(draw(st.integers(1, 3))):
            device = make_device(draw(st.sampled_from(written)), key=f"hostpci{index}")
            if draw(st.integers(0, 4)) == 0:
                name = draw(st.sampled_from(["map0", "map1", "map2"]))
                device = replace(device, addresses=(), mapping=name)
            devices.append(
                replace(
                    device,
                    managed=draw(st.booleans()),
                    pcie=draw(st.booleans()),
                    rom_file=draw(st.sampled_from(["", "a.rom"])),
                    rom_bar=draw(st.sampled_from([None, False])),
                )
            )
        vm = make_vm(
            *devices,
            name=str(100 + number),
            autostart=draw(st.sampled_from([True, False, None])),
            cpu=draw(st.sampled_from(["host", ""])),
            guest=draw(st.sampled_from(["win11", "l26"])),
            machine=draw(st.sampled_from(["q35", "pc"])),
            hugepages=draw(st.sampled_from([0, -1, 2 << 20])),
            balloon_bytes=draw(st.sampled_from([8 << 30, 1 << 30])),
        )
        found.append(vm)
    return tuple(found)
