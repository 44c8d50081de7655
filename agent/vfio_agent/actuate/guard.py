"""Whether something may be done to a unit: every reason against it, each with its evidence.

Pure. No reason means consent, for the snapshot that was looked at; so the caller collects one just
before it acts, and gives the unit that was asked about as `expected`. UNKNOWN refuses like FAIL.

What can still change between that look and the effect, and what closes it: a VM that opens the
group (a reset test holds all groups of the domain itself, so one of the two gets EBUSY; unbinding
waits for the holder, in a child process that nobody waits for for ever); a driver that takes a
member (VFIO refuses the group as not viable, or the hot reset with EINVAL); VFs that are made (the
kernel takes them away again before it unbinds the PF). What nothing closes: a disk that somebody
mounts, or an address that somebody sets, in these milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfio_agent.actuate.allowance import EXAMPLE, Allowance
from vfio_agent.actuate.plan import spoils_group
from vfio_agent.actuate.steps import Verb
from vfio_agent.checks import device_holders, host_critical, reset_capability
from vfio_agent.checks.holding import find_holders
from vfio_agent.checks.inventory import (
    attribute,
    describe,
    group_of,
    missing_attribute,
    missing_groups,
    strangers,
    subject_of,
)
from vfio_agent.checks.virtual_functions import PF_HAS_VFS, judge_vfs
from vfio_contract.action import AskedUnit
from vfio_contract.action_codes import (
    ACTION_CODES,
    ACTION_EVIDENCE_MISSING,
    ACTION_HELD,
    ACTION_HOLDER_UNKNOWN,
    ACTION_HOST_DRIVER,
    ACTION_NO_GROUP,
    ACTION_NOT_BOUND,
    ACTION_NOT_PERMITTED,
    UNIT_CHANGED,
)
from vfio_contract.address import Address, address_key
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import NO_GROUP, PciFunction
from vfio_contract.units import Unit, reset_domain

ID = "actuate"

CODES = ACTION_CODES

_NO_RESET = frozenset(
    code.name
    for code in (
        reset_capability.RESET_SHARED,
        reset_capability.RESET_NONE,
        reset_capability.RESET_DISABLED,
        reset_capability.RESET_UNKNOWN,
    )
)


def find_unit(host: Host, address: Address) -> Unit | None:
    """The unit that has this function, None for a bridge, a platform function or nothing."""
    return host.unit_of.get(address)


def judge(
    verb: Verb,
    host: Host,
    unit: Unit,
    allowance: Allowance,
    *,
    expected: AskedUnit | None = None,
) -> tuple[Finding, ...]:
    """Every reason against it; () is consent. `expected` is the unit as it was asked about."""
    touched = touched_by(verb, host, unit)
    reasons = [*_judge_permission(verb, host, unit, allowance)]
    if expected is not None and not _is_same(unit, expected):
        reasons.append(_changed(unit, expected))
    reasons += _judge_use(host, touched)
    reasons += _judge_holders(host, touched)
    for function in touched:
        reasons += _judge_virtual(host, function)
        reasons += _judge_group(host, function, verb)
    reasons += _judge_drivers(verb, host, unit, touched)
    if verb is Verb.RESET_TEST:
        reasons += _judge_reset(host, unit)
    return tuple(dict.fromkeys(reasons))


def touched_by(verb: Verb, host: Host, unit: Unit) -> list[PciFunction]:
    """Functions that this concerns: the unit; its whole groups; for a reset, what goes along.

    A reset's upstream bridges are among them.
    """
    found = set(unit.addresses)
    for address in unit.addresses:
        group = group_of(host, host.by_address[address])
        if group is not None and group != NO_GROUP:
            found.update(m.address for m in host.members.get(group, ()))
    if verb is Verb.RESET_TEST:
        for address in unit.assign:
            function = host.by_address[address]
            domain = reset_domain(function, host.by_address)
            found.update(a for a in domain if a in host.by_address)
            if function.parent and function.parent in host.by_address:
                found.add(function.parent)
    return [host.by_address[a] for a in sorted(found, key=address_key)]


def _judge_permission(
    verb: Verb, host: Host, unit: Unit, allowance: Allowance
) -> Iterator[Finding]:
    for address in unit.assign:
        function = host.by_address[address]
        if not allowance.permits(verb, function):
            yield make_finding(
                ID,
                subject_of(function),
                ACTION_NOT_PERMITTED,
                Evidence(allowance.source, f"no line permits {verb} of {describe(function, host)}"),
                decision=f"{ACTION_NOT_PERMITTED.decision} Such as:\n{EXAMPLE}",
            )


def _is_same(unit: Unit, expected: AskedUnit) -> bool:
    return (unit.keys, unit.assign, unit.hold) == (expected.keys, expected.assign, expected.hold)


def _changed(unit: Unit, expected: AskedUnit) -> Finding:
    return make_finding(
        ID,
        f"unit:{expected.id}",
        UNIT_CHANGED,
        Evidence("asked about", " ".join(expected.addresses)),
        Evidence("there now", " ".join(unit.addresses)),
    )


def _judge_use(host: Host, touched: Iterable[PciFunction]) -> Iterator[Finding]:
    """What the check says of each, and for a bridge of everything below it.

    It also refuses where the lists may be excerpts.
    """
    concerned = {f.address for f in touched}
    for function in touched:
        if function.is_bridge:
            concerned.update(host.by_address.below.get(function.address, ()))
    by_subject = {f.subject: f for f in host_critical.judge(host)}
    for address in sorted(concerned, key=address_key):
        function = host.by_address[address]
        if function.is_bridge:
            continue
        found = by_subject[subject_of(function)]
        if found.verdict is not Verdict.PASS:
            yield found


def _judge_holders(host: Host, touched: Iterable[PciFunction]) -> Iterator[Finding]:
    for function in touched:
        found = find_holders(host, function)
        if found is None:
            yield make_finding(
                ID,
                subject_of(function),
                ACTION_HOLDER_UNKNOWN,
                missing=(
                    Missing(device_holders.OPEN_FILES, "sudo ls -l /proc/*/fd | grep /dev/vfio"),
                ),
            )
        elif found:
            evidence = [Evidence(h.path, f"{h.command} (pid {h.pid})") for h in found]
            yield make_finding(ID, subject_of(function), ACTION_HELD, *evidence)


def _judge_virtual(host: Host, function: PciFunction) -> Iterator[Finding]:
    if function.is_bridge:
        return
    enabled = judge_vfs(host, function)
    count = attribute(function, "sriov_numvfs", str(function.sriov_num_vfs))
    if enabled:
        virtual = host.by_address.virtual.get(function.address, ())
        names = " ".join(v.address for v in virtual)
        evidence = [count, *([attribute(function, "virtfn*", names)] if names else [])]
        decision = PF_HAS_VFS.decision.replace("ADDRESS", function.address)
        yield make_finding(ID, subject_of(function), PF_HAS_VFS, *evidence, decision=decision)
    elif enabled is None:
        yield _unread(host, function, "sriov_numvfs")


def _judge_group(host: Host, function: PciFunction, verb: Verb) -> Iterator[Finding]:
    group = group_of(host, function)
    if function.is_bridge is None:
        yield _unread(host, function, "config")
    if group is None:
        yield make_finding(
            ID, subject_of(function), ACTION_EVIDENCE_MISSING, missing=(missing_groups(host),)
        )
    elif group == NO_GROUP:
        if verb is not Verb.UNBIND and not function.is_bridge:
            evidence = attribute(function, "iommu_group", "does not exist")
            yield make_finding(ID, subject_of(function), ACTION_NO_GROUP, evidence)
    elif names := strangers(host, group):
        evidence = Evidence(f"group {group}", f"also holds {' '.join(names)}, which were not read")
        yield make_finding(
            ID,
            f"group:{group}",
            ACTION_EVIDENCE_MISSING,
            evidence,
            missing=(missing_groups(host),),
        )


def _judge_drivers(
    verb: Verb, host: Host, unit: Unit, touched: Iterable[PciFunction]
) -> Iterator[Finding]:
    for function in touched:
        if function.driver is None:
            yield _unread(host, function, "driver")
        elif function.driver_override is None and function.address in unit.addresses:
            yield _unread(host, function, "driver_override")
        elif verb is Verb.RESET_TEST and spoils_group(host, function) is not False:
            yield _refuse(host, function, ACTION_HOST_DRIVER)
        elif (
            verb is Verb.RESET_TEST
            and function.address in unit.assign
            and not is_vfio_bound(function)
        ):
            yield _refuse(host, function, ACTION_NOT_BOUND)


def _judge_reset(host: Host, unit: Unit) -> Iterator[Finding]:
    wanted = {subject_of(host.by_address[a]) for a in unit.assign}
    for found in reset_capability.judge(host):
        if found.subject in wanted and found.code in _NO_RESET:
            yield found


def _refuse(host: Host, function: PciFunction, code: Code) -> Finding:
    return make_finding(
        ID,
        subject_of(function),
        code,
        attribute(function, "driver", describe(function, host)),
        decision=code.decision.replace("ADDRESS", function.address),
    )


def _unread(host: Host, function: PciFunction, name: str) -> Finding:
    return make_finding(
        ID,
        subject_of(function),
        ACTION_EVIDENCE_MISSING,
        attribute(function, name, "not read"),
        missing=(missing_attribute(host, function, name),),
    )
