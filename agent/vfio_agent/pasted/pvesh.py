"""The table that Proxmox prints: `pvesh get /nodes/NODE/hardware/pci`, in its box of lines.

Its columns come in any order and by their own names. It leaves out bridges, memory and processors
unless `--pci-class-blacklist ""` was said, which the table does not show: it is never a whole list.
"""

from __future__ import annotations

from vfio_agent.pasted.group_listing import TableRow
from vfio_contract.address import parse_address
from vfio_contract.model import NO_GROUP

NOT_WHOLE = 'pvesh leaves out bridges unless it is told --pci-class-blacklist ""'

_BARS = "│|"
_NEEDED = frozenset({"class", "device", "id", "iommugroup", "vendor"})
_MAX_CELLS = 64


class PveshTable:
    """Reads one line after the other; `rows` are what it found."""

    def __init__(self) -> None:
        self.rows: list[TableRow] = []
        self._columns: dict[str, int] = {}

    def take(self, line: str) -> bool:
        """True when the line belongs to such a table."""
        text = line.strip()
        if not text or text[0] not in _BARS:
            return False
        cells = [cell.strip() for cell in text.replace("│", "|").split("|", _MAX_CELLS)[1:]]
        if set(cells) >= _NEEDED:
            self._columns = {name: number for number, name in enumerate(cells) if name}
            return True
        row = self._read(cells) if self._columns else None
        if row is not None:
            self.rows.append(row)
        return row is not None

    def _read(self, cells: list[str]) -> TableRow | None:
        found = {name: cells[n] for name, n in self._columns.items() if n < len(cells)}
        try:
            return TableRow(
                group=max(NO_GROUP, int(found["iommugroup"])),
                address=parse_address(found["id"]),
                vendor=_hex(found["vendor"], 4),
                device=_hex(found["device"], 4),
                class_code=_hex(found["class"], 6),
                name=found.get("device_name", ""),
            )
        except (KeyError, ValueError):
            return None


def _hex(text: str, digits: int) -> int:
    if not text.startswith("0x") or len(text) != digits + 2:
        raise ValueError(text)
    return int(text, 16)
