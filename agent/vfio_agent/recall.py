"""What this host's own journal tells of one function's resets, with no server and no agent needed.

It must never write, nor take a journal that cannot be read for one that holds nothing.
"""

from __future__ import annotations

from pathlib import Path

from vfio_agent.journal import Journal, JournalError
from vfio_agent.reset_history import Names, with_known_history
from vfio_contract.address import Address, parse_address
from vfio_contract.host import Host
from vfio_contract.ledger import ResetAttempt, Total, firmware_digest, read_state
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.model import Snapshot
from vfio_contract.reset_report import report_resets


class RecallError(Exception):
    """There is no journal, or it cannot be read; the text says which and why."""


def recall_resets(snapshot: Snapshot, device: str, *, journal: Path) -> DeviceHistory | None:
    """`device` is an identity, or an address where the function is or was; None for one of which
    nothing is known. The snapshot is of this host, as it is now. Raises RecallError.
    """
    try:
        opened = Journal.open_readonly(journal)
        if opened is None:
            raise RecallError(f"{journal}: there is none")
        try:
            rows, totals = opened.attempts(), opened.tuple_totals()
            host = Host(with_known_history(snapshot, opened))
        finally:
            opened.close()
    except JournalError as error:
        raise RecallError(str(error)) from error
    names = Names(host, rows)
    found = {str(i.identity): address for address, i in host.identities.items()}
    identity = _find_identity(host, rows, names, device)
    if identity is None:
        return None
    ledger = {row.identity: read_state(row.state) for row in host.readings.ledger or ()}
    return report_resets(
        [row for row in names.carry(rows) if row.identity == identity],
        _sum(totals, names, identity),
        node=host.facts.host,
        identity=identity,
        address=found.get(identity, ""),
        gone=identity not in found,
        boot_id=host.readings.boot_id,
        firmware=firmware_digest(host.facts),
        state=ledger.get(identity),
    )


def _find_identity(host: Host, rows: list[ResetAttempt], names: Names, device: str) -> str | None:
    """What is there now goes before what was."""
    now = {row.identity: names.now(row.identity) for row in rows}
    if device in {*now.values(), *(str(i.identity) for i in host.identities.values())}:
        return device
    try:
        address = parse_address(device)
    except ValueError:
        return now.get(device)
    if address in host.by_address:
        return str(host.identities[Address(address)].identity)
    return next((now[row.identity] for row in reversed(rows) if row.address == address), None)


def _sum(totals: dict[tuple[str, str], Total], names: Names, identity: str) -> dict[str, Total]:
    found: dict[str, Total] = {}
    for (name, firmware), total in totals.items():
        if names.now(name) != identity:
            continue
        if names.is_doubtful(name):
            total = Total(total.failures, total.failures, 0)
        found[firmware] = found.get(firmware, Total(0, 0, 0)) + total
    return found
