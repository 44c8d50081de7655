"""The product's own hands in the guest: prepared on a fresh look, carried out, and what they left.

Nothing here decides or retries; every answer is what the product said.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.unit.actuate_runner import FileDiary
from vfio_agent.actuate.allowance import Allowance, load_allowance
from vfio_agent.actuate.execution import Outcome, carry_out, take_back
from vfio_agent.actuate.hands import Hands
from vfio_agent.actuate.preparation import Prepared, read_written
from vfio_agent.actuate.preparation import prepare as prepare_plan
from vfio_agent.actuate.records import Operation
from vfio_agent.actuate.reset_trial import try_reset
from vfio_agent.actuate.steps import Verb, describe_change
from vfio_agent.collect import collect_host
from vfio_agent.collect.root import open_root
from vfio_contract.address import Address
from vfio_contract.host import Host

DEVICES = Path("/sys/bus/pci/devices")
ALLOWANCE = Path("/etc/vfioctl/actuate.toml")

_operations: dict[str, Operation] = {}
_hands = Hands()


def allow(*, text: str) -> None:
    """Write the owner's file."""
    ALLOWANCE.parent.mkdir(parents=True, exist_ok=True)
    ALLOWANCE.write_text(text)


def prepare(*, verb: str, address: str) -> dict[str, Any]:
    """What would be done: {"consented", "reasons": [[code, subject, evidence]], "dry", ...}."""
    prepared, _ = _look(verb, address)
    return _describe(prepared)


def carry(*, verb: str, address: str, name: str, within_s: float = 30) -> dict[str, Any]:
    """Prepare and carry out; {"state", "entries", ...} beside what `prepare` gives."""
    answer = plan_ahead(verb=verb, address=address, name=name)
    if not answer["consented"]:
        return answer | {"state": "refused", "entries": []}
    return answer | resume(name=name, within_s=within_s)


def plan_ahead(*, verb: str, address: str, name: str) -> dict[str, Any]:
    """Prepare, and keep the operation for `resume`."""
    prepared, host = _look(verb, address)
    if prepared.plan is not None:
        _operations[name] = Operation(name, host.readings.boot_id or "", prepared.plan)
    return _describe(prepared)


def resume(*, name: str, within_s: float = 30) -> dict[str, Any]:
    """Begin an operation that was kept, or go on with one that waited."""
    global _hands
    _hands = Hands(deadline_s=within_s)
    operation = _operations[name]
    return _tell(carry_out(operation, _hands, _diary(name), boot_id=operation.boot_id))


def undo(*, name: str) -> dict[str, Any]:
    """Take an operation back."""
    return _tell(take_back(_operations[name], Hands(), _diary(name)))


def reset(*, address: str, name: str, guarded: bool = True) -> dict[str, Any]:
    """A reset test; without the guard as it would be after a holder came just too late."""
    prepared, host = _look("reset-test", address)
    if guarded and not prepared.consented:
        return _describe(prepared) | {"ending": "refused by the guard"}
    result = try_reset(host, Address(address), operation=name)
    return _describe(prepared) | {
        "ending": str(result.ending),
        "outcome": str(result.outcome or ""),
        "method": result.method,
        "why": result.why,
        "seconds": result.seconds,
        "changes": {a: [str(c) for c in rows] for a, rows in result.changes},
        "lines": None if result.lines is None else [line.text for line in result.lines],
        "attempts": [asdict(a) for a in result.attempts],
    }


def footprint() -> dict[str, Any]:
    """What must be as it was: mounts, addresses, routes, drivers and overrides, files in /etc."""
    files = [
        path
        for folder in ("modprobe.d", "modules-load.d", "driverctl.d", "udev/rules.d")
        for path in sorted(Path("/etc", folder).glob("*"))
    ]
    return {
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
        # one without an address may come back under another name: nobody uses it
        "addresses": [
            line for line in _run("ip", "-brief", "address").splitlines() if len(line.split()) > 2
        ],
        "routes": _run("ip", "route").splitlines(),
        "drivers": {p.name: _driver(p) for p in sorted(DEVICES.iterdir())},
        "overrides": {p.name: (p / "driver_override").read_text() for p in DEVICES.iterdir()},
        "files": {str(path): path.read_text() for path in files},
    }


def _look(verb: str, address: str) -> tuple[Prepared, Host]:
    root = open_root("/")
    host = Host(collect_host(root))
    unit = host.unit_of.get(Address(address))
    if unit is None:
        raise ValueError(f"{address} is in no unit: {[u.addresses for u in host.units]}")
    allowance: Allowance = load_allowance(ALLOWANCE)
    written = read_written(root, unit)
    return prepare_plan(Verb(verb), host, Address(address), allowance, written), host


def _describe(prepared: Prepared) -> dict[str, Any]:
    plan = prepared.plan
    return {
        "consented": prepared.consented,
        "reasons": [
            [r.code, r.subject, "; ".join(f"{e.source}: {e.text}" for e in r.evidence)]
            for r in prepared.reasons
        ],
        "method": plan.method if plan else "",
        "notes": list(plan.notes) if plan else [],
        "dry": [line for step in plan.steps for line in describe_change(step)] if plan else [],
    }


def _tell(outcome: Outcome) -> dict[str, Any]:
    rows = [[e.step, str(e.state), e.detail, e.undoing] for e in outcome.entries]
    return {"state": str(outcome.state), "entries": rows}


def _diary(name: str) -> FileDiary:
    return FileDiary(Path(f"/tmp/diary-{name}"))


def _driver(path: Path) -> str:
    link = path / "driver"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
