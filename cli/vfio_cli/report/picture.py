"""The words and marks of the PCI tree's picture: evidence and report put side by side, box by box.

Verdicts are those of the report, groups and units those of the contract; what the evidence does not
say is written as not known. This module must never derive a group, a unit or a place itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfio_cli.report.drawing import (
    UNKNOWN_DRIVER,
    Band,
    Words,
    describe_bridge,
    draw_bands,
    group_styles,
)
from vfio_cli.report.forest import Forest, Place, Tree, plant
from vfio_cli.report.layout import lay_out
from vfio_cli.screens.layout import plural
from vfio_cli.survey import DeviceRow, driver_text, group_text, list_devices
from vfio_contract.address import Address, bus_of
from vfio_contract.findings import Report, Verdict
from vfio_contract.host import Host
from vfio_contract.model import PciFunction

_HOST_CRITICAL = "host-critical"


@dataclass(frozen=True, slots=True)
class PanelView:
    """A tree of the picture with its heading. `known` is False where its place is not known."""

    title: str
    detail: str
    known: bool
    bands: tuple[Band, ...]


def draw_picture(host: Host, report: Report) -> tuple[PanelView, ...]:
    """A panel for each host bridge, then one for each place that is not known."""
    forest = plant(host)
    rows = {Address(row.address): row for row in list_devices(host, report)}
    low = {a for a, row in rows.items() if _is_never_passed(host, a, row)}
    styles = group_styles(_group_sizes(host))
    marks = _Marks(host, report)
    views = []
    for panel in lay_out(forest, low=low):
        functions = forest.members(panel.tree)
        nodes = {f.numa_node for f in functions}
        words = {
            f.address: _words(host, forest, f, rows[f.address], marks, several=len(nodes) > 1)
            for f in functions
        }
        views.append(
            PanelView(
                title=_title(panel.tree),
                detail=_detail(panel.tree, functions),
                known=panel.tree.place is Place.HOST_BRIDGE and bool(panel.tree.name),
                bands=draw_bands(panel, words, styles),
            )
        )
    return tuple(views)


def _is_never_passed(host: Host, address: Address, row: DeviceRow) -> bool:
    return row.verdict is Verdict.NOT_APPLICABLE and address not in host.unit_of


def _group_sizes(host: Host) -> dict[int, int]:
    """How many members each group has, those that are no PCI functions included."""
    sizes = {number: len(rows) for number, rows in host.members.items()}
    for number, group in host.groups.items():
        sizes[number] = max(sizes.get(number, 0), len(group.members))
    return sizes


def _title(tree: Tree) -> str:
    if tree.place is Place.HOST_BRIDGE:
        return f"Host bridge {tree.name}" if tree.name else "A host bridge without a known name"
    if tree.place is Place.BUS:
        return f"Bus {tree.name}: below which bridge it is, is not known"
    if tree.place is Place.ABSENT:
        return f"Below {tree.name}, which the evidence does not hold"
    return "In a circle: the evidence names these functions as each other's parents"


def _detail(tree: Tree, functions: Sequence[PciFunction]) -> str:
    parts = []
    paths = {f.root_path for f in functions}
    if tree.place is Place.HOST_BRIDGE and len(paths) == 1:
        parts += [path for path in paths if path]
    nodes = {f.numa_node for f in functions}
    if len(nodes) == 1:
        parts.append(_numa_text(nodes.pop()))
    parts.append(plural(len(functions), "function"))
    return ", ".join(parts)


def _numa_text(node: int | None) -> str:
    if node is None:
        return "NUMA node not known"
    return "no NUMA node" if node < 0 else f"NUMA node {node}"


class _Marks:
    """What stands out about a function: meant for a VM, needed by the host."""

    def __init__(self, host: Host, report: Report) -> None:
        self._intended = host.intentions
        self._critical: Mapping[str, Verdict] = {
            f.subject.partition(":")[2]: f.verdict
            for f in report.findings
            if f.check == _HOST_CRITICAL and f.subject.startswith("function:")
        }

    def of(self, address: Address) -> tuple[tuple[str, str], ...]:
        """(word, style) pairs, the rightmost first."""
        found = []
        if self._critical.get(address) is Verdict.FAIL:
            found.append(("host needs it", "critical"))
        elif self._critical.get(address) is Verdict.UNKNOWN:
            found.append(("host may need it", "perhaps"))
        if address in self._intended:
            found.append(("intended", "intended"))
        return tuple(found)


def _words(
    host: Host,
    forest: Forest,
    function: PciFunction,
    row: DeviceRow,
    marks: _Marks,
    *,
    several: bool,
) -> Words:
    address = function.address
    unit = host.unit_of.get(address)
    role = "" if unit is None else ("assign" if address in unit.assign else "hold")
    driver = driver_text(function)
    judged = row.verdict is not Verdict.NOT_APPLICABLE
    return Words(
        name=row.name,
        kind=describe_bridge(function, below=address in forest.below),
        driver={"-": "no driver", "?": UNKNOWN_DRIVER}.get(driver, driver),
        numa=_numa_text(function.numa_node) if several else "",
        unit=row.unit,
        role=role,
        marks=marks.of(address),
        extra=_virtual_text(function),
        verdict=row.verdict if judged else None,
        title=_tooltip(host, function, row, role),
    )


def _virtual_text(function: PciFunction) -> str:
    if function.physfn:
        domain = bus_of(function.address).partition(":")[0]
        return f"VF {function.vf_index} of {function.physfn.removeprefix(f'{domain}:')}"
    if function.sriov_total_vfs:
        used = "?" if function.sriov_num_vfs is None else str(function.sriov_num_vfs)
        return f"{used} of {function.sriov_total_vfs} VFs"
    return ""


def _tooltip(host: Host, function: PciFunction, row: DeviceRow, role: str) -> str:
    """All of it in one line, for whoever points at the box."""
    parts = [
        f"{row.address} {row.name}",
        row.ids,
        f"driver {driver_text(function)}",
        f"group {group_text(function)}",
        f"reset {row.reset}",
        _numa_text(function.numa_node),
    ]
    if row.unit:
        parts.append(f"unit {row.unit} ({role})")
    parts += host.intentions.get(function.address, ())
    return "; ".join(parts)
