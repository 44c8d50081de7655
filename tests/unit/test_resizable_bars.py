"""The Resizable BAR capability: current and possible sizes, and what is out of reach."""

from __future__ import annotations

import pytest

from tests.fakes.config_bytes import acs, make_config, pcie, rebar
from vfio_agent.collect.attribute_reads import gather_config
from vfio_agent.collect.config_space import parse_config
from vfio_contract.model import ResizableBar


def test_resizable_bars() -> None:
    # 256 MiB of 256 MiB to 32 GiB, and 32 MiB of 32 MiB to 512 TiB
    rows = (1, 8, 0xFF00), (3, 5, 1 << 29 | 1 << 5)
    config = parse_config(make_config(plain=(pcie(),), extended=(acs(), rebar(*rows))))
    assert config.resizable == (
        ResizableBar(1, 256 << 20, 0xFF00),
        ResizableBar(3, 32 << 20, 1 << 29 | 1 << 5),
    )


@pytest.mark.parametrize("size", [64, 256, 0x104])
def test_resizable_bars_out_of_reach_are_not_known(size: int) -> None:
    data = make_config(size=size, plain=(pcie(),), extended=(rebar((1, 8, 0xFF00)),))
    assert parse_config(data).resizable is None


def test_gathering_reads_resizable_bars() -> None:
    data = make_config(plain=(pcie(),), extended=(acs(), rebar((1, 8, 0xFF00), (2, 4, 0x30))))
    read = gather_config(data[:256], len(data), lambda at, length: data[at : at + length])
    assert read is not None
    assert parse_config(read) == parse_config(data)
