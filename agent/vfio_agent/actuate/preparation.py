"""From a look at the host to a plan that may be carried out, or to all reasons why not.

The one way to a plan: guard and plan see the same snapshot. What stands in our files is read
through the root like everything else. This module must never return a plan beside a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.guard import ID, find_unit, judge
from vfio_agent.actuate.persistence import UDEV_FOLDER, UDEV_PREFIX, Written, paths_for
from vfio_agent.actuate.plan import PlanError, plan_bind, plan_unbind
from vfio_agent.actuate.steps import Plan, Verb
from vfio_agent.collect.root import Root
from vfio_contract.action import AskedUnit
from vfio_contract.action_codes import ACTION_EVIDENCE_MISSING, NO_UNIT
from vfio_contract.address import Address
from vfio_contract.codes import make_finding
from vfio_contract.findings import Evidence, Finding, Missing
from vfio_contract.host import Host
from vfio_contract.units import Unit

DRIVERCTL_PROGRAMS = ("/usr/sbin/driverctl", "/sbin/driverctl", "/usr/bin/driverctl")
DRIVERCTL_RULES = (
    "/usr/lib/udev/rules.d/05-driverctl.rules",
    "/lib/udev/rules.d/05-driverctl.rules",
)
SYSTEMD = "/run/systemd/system"
"""Exists where systemd runs (sd_booted(3)); driverctl's overrides are loaded by a service of it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, or the reasons against it; never both. `unit` is None where there is none.

    A reset test has no plan: no reasons is all there is to it.
    """

    verb: Verb
    unit: Unit | None
    plan: Plan | None
    reasons: tuple[Finding, ...]

    @property
    def consented(self) -> bool:
        """True when it may be done, on the evidence that was looked at."""
        return self.unit is not None and not self.reasons


def prepare(
    verb: Verb,
    host: Host,
    address: Address,
    allowance: Allowance,
    written: Written,
    *,
    expected: AskedUnit | None = None,
) -> Prepared:
    """What would be done about the unit of this function. `expected` is the unit as asked about."""
    unit = find_unit(host, address)
    if unit is None:
        evidence = Evidence("asked for", f"{address} is in none of {len(host.units)} units")
        meaning = ""
        if host.by_address and address not in host.by_address:
            evidence = Evidence("/sys/bus/pci/devices", f"no {address} among {len(host.functions)}")
            meaning = "Nothing is there: no PCI function has this address."
        reason = make_finding(ID, f"function:{address}", NO_UNIT, evidence, meaning=meaning)
        return Prepared(verb, None, None, (reason,))
    reasons = judge(verb, host, unit, allowance, expected=expected)
    if reasons or verb is Verb.RESET_TEST:
        return Prepared(verb, unit, None, reasons)
    make = plan_bind if verb is Verb.BIND else plan_unbind
    return Prepared(verb, unit, make(host, unit, written), ())


def prepare_on(
    root: Root,
    host: Host,
    verb: Verb,
    address: Address,
    allowance: Allowance,
    *,
    expected: AskedUnit | None = None,
) -> Prepared:
    """`prepare` with what stands in our files now; what could not be read is a reason."""
    unit = find_unit(host, address)
    written = Written(False, ())
    unread: tuple[Finding, ...] = ()
    try:
        if unit is not None:
            written = read_written(root, unit)
    except OSError as error:
        unread = (_unread(address, error.filename or "our files", error.strerror or str(error)),)
    try:
        prepared = prepare(verb, host, address, allowance, written, expected=expected)
    except PlanError as error:
        return Prepared(verb, unit, None, (_unread(address, "plan", str(error)), *unread))
    if unread and unit is not None:
        return Prepared(verb, unit, None, (*prepared.reasons, *unread))
    return prepared


def _unread(address: Address, what: str, why: str) -> Finding:
    return make_finding(
        ID,
        f"function:{address}",
        ACTION_EVIDENCE_MISSING,
        Evidence(what, why),
        missing=(Missing(what, f"sudo vfioctl device show {address}"),),
    )


def read_written(root: Root, unit: Unit) -> Written:
    """What stands in the files that a plan about this unit may touch; OSError if one is not read.

    A path that the root does not know about (a capture) is an OSError too: unknown is not absent.
    """
    ours = [f"{UDEV_FOLDER}/{name}" for name in _names(root) if name.startswith(UDEV_PREFIX)]
    files = []
    for path in dict.fromkeys((*paths_for(unit.addresses), *ours)):
        try:
            data = root.read(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        files.append((path, data.decode("utf-8", "surrogateescape")))
    works = all(_exists(root, paths) for paths in (DRIVERCTL_PROGRAMS, DRIVERCTL_RULES, (SYSTEMD,)))
    return Written(works, tuple(sorted(files)))


def _names(root: Root) -> list[str]:
    try:
        return root.list(UDEV_FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _exists(root: Root, paths: tuple[str, ...]) -> bool:
    return any(isinstance(found, str) for found in root.real_many(paths))
