"""Proxmox resource mappings of PCI devices: /etc/pve/mapping/pci.cfg.

A mapping says for each node which functions stand for its name; entries of one node are
alternatives. Total: unknown keys are passed over, a line that fits nowhere becomes a fault of its
mapping. Source: PVE::Mapping::PCI (a section is a name alone on its line, its properties indented).
"""

from __future__ import annotations

import re

from vfio_agent.vmconf.properties import find_property, parse_switch, split_properties
from vfio_contract.vm import MappingEntry, PciMapping, complete_address

_HEADER = re.compile(r"(?:pci:\s*)?([A-Za-z][\w-]{0,127})\s*")
_PROPERTY = re.compile(r"\s+(\S+)(?:\s+(.*))?")
_GROUP = re.compile(r"[0-9]{1,9}")


def parse_mappings(text: str, *, source: str) -> tuple[PciMapping, ...]:
    """Every mapping in the file's order; of a repeated name only the first, as Proxmox reads it."""
    found: dict[str, _Section] = {}
    section: _Section | None = None
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip()
        if not line or line.lstrip().startswith("#"):
            continue
        header = _HEADER.fullmatch(line)
        if header is not None:
            section = _Section(header[1], number)
            found.setdefault(header[1], section)
            continue
        inside = _PROPERTY.fullmatch(line)
        if section is None:
            continue  # what stands before the first section belongs to nothing
        if inside is None:
            section.faults.append((number, "neither a name nor an indented property"))
            continue
        section.add(inside[1], inside[2] or "", number)
    return tuple(section.finish(source) for section in found.values())


class _Section:
    def __init__(self, name: str, line: int) -> None:
        self.name, self.line = name, line
        self.live_migration = self.mediated = False
        self.entries: list[MappingEntry] = []
        self.faults: list[tuple[int, str]] = []

    def add(self, key: str, value: str, line: int) -> None:
        if key == "live-migration-capable":
            self.live_migration = parse_switch(value) is True
        elif key == "mdev":
            self.mediated = parse_switch(value) is True
        elif key == "map":
            self._add_entry(value, line)

    def _add_entry(self, value: str, line: int) -> None:
        properties = split_properties(value, first="id")
        addresses: list[str] = []
        for text in find_property(properties, "path").split(";"):
            address = complete_address(text)
            if address:
                addresses.append(address)
            else:
                self.faults.append((line, f"not a PCI address: {text.strip()[:40]!r}"))
        group = find_property(properties, "iommugroup")
        self.entries.append(
            MappingEntry(
                node=find_property(properties, "node"),
                addresses=tuple(addresses),
                ids=find_property(properties, "id").lower(),
                subsystem_ids=find_property(properties, "subsystem-id").lower(),
                group=int(group) if _GROUP.fullmatch(group) else -1,
                line=line,
            )
        )

    def finish(self, source: str) -> PciMapping:
        return PciMapping(
            name=self.name,
            source=source,
            line=self.line,
            live_migration=self.live_migration,
            mediated=self.mediated,
            entries=tuple(self.entries),
            faults=tuple(self.faults),
        )
