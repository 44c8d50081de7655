"""Intel root ports that keep their ACS registers in dwords, not where PCI Express puts them."""

from __future__ import annotations

import pytest

from tests.fakes.config_bytes import make_config, pcie
from vfio_agent.collect.attribute_reads import gather_config
from vfio_agent.collect.config_space import parse_config
from vfio_contract.model import Acs


@pytest.mark.parametrize(
    ("device", "expected"),
    [(0xA113, Acs(0x1F, 0x1D, wide=True)), (0xA340, Acs(0x1F, 0))],
)
def test_intel_ports_that_keep_acs_in_dwords(device: int, expected: Acs) -> None:
    registers = (0x0D, (0x1F).to_bytes(4, "little") + (0x1D).to_bytes(4, "little"))
    data = make_config(size=4096, header_type=1, plain=(pcie(port_type=4),), extended=(registers,))
    named = b"\x86\x80" + device.to_bytes(2, "little") + data[4:]
    assert parse_config(named).acs == expected

    def fetch(offset: int, length: int) -> bytes:
        return named[offset : offset + length]

    gathered = gather_config(named[:256], 4096, fetch)
    assert gathered is not None
    assert parse_config(gathered).acs == expected
