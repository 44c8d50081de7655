"""Hosts for the report: random forests with any parent, group and shape, and one of each oddity."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from tests.fakes.snapshots import bridge, function, make_snapshot
from vfio_contract.address import Address
from vfio_contract.model import NO_GROUP, PciFunction, Snapshot

_GROUPS = st.one_of(st.none(), st.just(NO_GROUP), st.integers(0, 6), st.integers(0, 2))


@st.composite
def addresses(draw: st.DrawFn) -> list[str]:
    """Up to forty functions on few buses, so that slots have several."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 7)),
            min_size=1,
            max_size=40,
            unique=True,
        )
    )
    return [f"0000:{bus:02x}:{device:02x}.{number}" for bus, device, number in rows]


@st.composite
def forests(draw: st.DrawFn) -> Snapshot:
    """Functions whose parent is anything: the host bridge, each other, absent, unknown, circles."""
    names = draw(addresses())
    near = st.sampled_from(names)
    parents = st.one_of(st.just(""), near, near, st.none(), st.just("0000:77:00.0"))
    rows = [_function(draw, name, draw(parents)) for name in names]
    return make_snapshot(*rows)


@st.composite
def chains(draw: st.DrawFn) -> Snapshot:
    """Real trees: a parent is always an earlier function, so that depth is common."""
    names = draw(addresses())
    rows: list[PciFunction] = []
    for index, name in enumerate(names):
        back = draw(st.integers(1, 3))
        parent = names[index - back] if index >= back else ""
        rows.append(_function(draw, name, parent))
    return make_snapshot(*rows)


def _function(draw: st.DrawFn, name: str, parent: str | None) -> PciFunction:
    make = bridge if draw(st.booleans()) else function
    row = make(name, group=0)
    classes = st.sampled_from([row.class_code, 0x060000, 0x0C0500, None])
    return replace(
        row,
        parent=None if parent is None else Address(parent),
        group=draw(_GROUPS),
        root=draw(st.sampled_from(["pci0000:00", "pci0000:00", "pci0000:80", ""])),
        class_code=draw(classes),
        config=draw(st.sampled_from([row.config, row.config, None])),
        numa_node=draw(st.sampled_from([None, -1, 0, 1])),
    )


def make_chain(depth: int) -> Snapshot:
    """One bridge below the other, `depth` of them, and a function below the last."""
    places = ((n >> 8, n >> 3 & 31, n & 7) for n in range(depth))
    names = [f"0000:{bus:02x}:{device:02x}.{number}" for bus, device, number in places]
    rows = [
        bridge(name, group=n, parent=Address(names[n - 1] if n else ""))
        for n, name in enumerate(names)
    ]
    end = function("ffff:00:00.0", group=depth, parent=Address(names[-1]), root=rows[0].root)
    return make_snapshot(*rows, end)
