"""How VMs' starts went with the functions that they got: the reset history's best witness.

VFIO resets a function when it is opened and when it is closed. So where a VM let go of one and a VM
has it again in the same boot, a reset was made in between; and it went well if the VM still has the
function at a later look, the function answers, and the kernel's log, read without a gap since, does
not complain. It works for VMs that somebody else starts, and over a hostd that was away: what was
known at the last look is one row of the journal, changed in the transaction that adds the attempts,
and an attempt is named by its VM's process and the look that first saw it with the function: a
crash counts none twice, and a function that a VM is given again is another use. It must never call
success what was not seen from all sides, nor add to what the kernel's own lines tell.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vfio_agent.checks.holding import find_vm
from vfio_agent.collect.holders import HELD_NODE
from vfio_agent.collect.vms import is_qemu_command
from vfio_agent.journal import Journal, JournalFull
from vfio_agent.reset_history import find_attempts
from vfio_contract.artifact import ArtifactError, decode, encode
from vfio_contract.durable import Stamp
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.ledger import (
    VM_CYCLE,
    VM_START,
    Outcome,
    ResetAttempt,
    firmware_digest,
    firmware_words,
    kernel_seconds,
)
from vfio_contract.model import Holder, PciFunction
from vfio_contract.vm import covers

log = logging.getLogger("vfio-hostd")

SETTLED_MS = 10_000
"""Between the look that first sees a VM with a function and the one that may call that a success: a
QEMU that fails to set its device up ends well before."""

_ASLEEP = ("D1", "D2", "D3hot", "D3cold")
"""Then config space is not read again: reading it would wake the function."""

_READY = re.compile(r"(?P<address>\S+): ready (?P<waited>\d{1,9})ms after")
"""How long the kernel waited for a function that came back (drivers/pci/pci.c pci_dev_wait())."""


@dataclass(frozen=True, slots=True)
class Use:
    """A VM that has a function. `cycle`: one before it let go of it in this boot.

    `since_ms` is the look that saw it first, in CLOCK_BOOTTIME. `doubt` is why nobody can tell how
    it went, "" so far. `told` once an attempt stands for it, its own or the kernel's line.
    """

    identity: str
    place: str
    address: str
    pid: int
    started_seconds: float
    vm: str
    cycle: bool
    since_ms: int
    doubt: str = ""
    duration_ms: int | None = None
    told: bool = False

    @property
    def of(self) -> tuple[str, int, float]:
        """The function and the VM's process, which a number alone does not name."""
        return self.address, self.pid, self.started_seconds


@dataclass(frozen=True, slots=True)
class Uses:
    """What is known at one look, of one boot. The log is read up to `heard_s` of its own time;
    `past` are the identities of functions that a VM has let go of."""

    boot_id: str
    firmware: str
    firmware_text: str
    heard_s: float = 0.0
    held: tuple[Use, ...] = ()
    past: tuple[str, ...] = ()


def follow_uses(
    before: Uses | None, host: Host, *, at: Stamp
) -> tuple[Uses, list[ResetAttempt]] | None:
    """What is known after this look, and the attempts that can be told now; None where it cannot be
    seen who holds what, or how the log went on: then all stays as it was."""
    boot_id, holders = host.readings.boot_id, host.readings.holders
    heard = host.readings.kernel_log
    if not boot_id or holders is None or heard is None or host.facts.functions is None:
        return None
    rows: list[ResetAttempt] = []
    if before is None or before.boot_id != boot_id:
        if before is not None:
            why = "the host was started anew before it could be told how it went"
            rows += [_unobserved(before, use, why) for use in before.held if not use.told]
        before = Uses(boot_id, firmware_digest(host.facts), firmware_words(host.facts))
    whole = heard.from_boot or (
        heard.first_seconds is not None and heard.first_seconds <= before.heard_s
    )
    now = {use.of: use for use in find_uses(host, since_ms=at.boottime_ms)}
    known = {use.of: use for use in before.held}
    failed = _find_failed(host, before.heard_s) if now or known else set()
    past = set(before.past)
    for use in before.held:
        if use.of in now:
            continue
        past.add(use.identity)
        if not (use.told or failed & {use.identity, use.place}):
            rows.append(_unobserved(before, use, use.doubt or "it ended before that could be told"))
    held: list[Use] = []
    for new in now.values():
        use = known.get(new.of) or replace(new, cycle=new.identity in past)
        if not use.told:
            use = _take_log(use, host, failed=failed, whole=whole, since_s=before.heard_s)
            outcome, why = _judge(use, host, at)
            if outcome is not None:
                rows.append(_attempt(before, use, outcome, why))
                use = replace(use, told=True)
        held.append(use)
    after = replace(
        before,
        heard_s=max(before.heard_s, heard.last_seconds or 0.0),
        held=tuple(held),
        past=tuple(sorted(past - {""})),
    )
    return after, rows


def find_uses(host: Host, *, since_ms: int) -> Iterator[Use]:
    """The functions that VMs have now. Of a group whose VM does not say which of several functions
    it has, each is one in doubt."""
    for holder in host.readings.holders or ():
        if not is_qemu_command(holder.command) or holder.started_seconds is None:
            continue  # not a QEMU, or nobody knows whether it is the same one
        for function, doubt in _had_by(host, holder):
            identified = host.identities[function.address]
            yield Use(
                identity=identified.identity,
                place=identified.place,
                address=function.address,
                pid=holder.pid,
                started_seconds=holder.started_seconds,
                vm=find_vm(holder),
                cycle=False,
                since_ms=since_ms,
                doubt=doubt,
            )


def _had_by(host: Host, holder: Holder) -> Iterator[tuple[PciFunction, str]]:
    node = HELD_NODE.fullmatch(holder.path)
    if node is None:
        return
    if node[2]:
        for reading in host.readings.functions:
            if node[2] in (reading.vfio_nodes or ()) and reading.address in host.by_address:
                yield host.by_address[reading.address], ""
        return
    members = host.members.get(int(node[1]), ())
    bound = [f for f in members if not f.is_bridge and is_vfio_bound(f)]
    if len(bound) == 1:
        yield bound[0], ""
        return
    written = _written_for(host, find_vm(holder))
    for function in bound:
        if written is None:
            yield function, "which functions of its group its VM has is not known"
        elif any(covers(address, function.address) for address in written):
            yield function, ""


def _written_for(host: Host, vm: str) -> list[str] | None:
    """The addresses in the configuration of this VM; None where it has none, or names mappings."""
    found = next((row for row in host.facts.vms or () if row.name == vm), None)
    if found is None or any(device.mapping for device in found.devices):
        return None
    return [address for device in found.devices for address in device.addresses]


def _find_failed(host: Host, since_s: float) -> set[str]:
    """Identities and places of functions that the kernel complained of since then."""
    found: set[str] = set()
    for row in find_attempts(host):
        seconds = kernel_seconds(row.evidence)
        if seconds is None or seconds > since_s:
            found |= {row.identity, row.place}
    return found


def _take_log(use: Use, host: Host, *, failed: set[str], whole: bool, since_s: float) -> Use:
    """What the log since the last look says of it."""
    if failed & {use.identity, use.place}:
        return replace(use, told=True)
    if not whole:
        doubt = "kernel lines of that time were overwritten before they were read"
        return replace(use, doubt=use.doubt or doubt)
    waited = _find_waited(host, use.address, since_s)
    return use if waited is None else replace(use, duration_ms=waited)


def _find_waited(host: Host, address: str, since_s: float) -> int | None:
    kernel_log = host.readings.kernel_log
    waited = None
    for line in kernel_log.lines if kernel_log is not None else ():
        match = _READY.search(line.text) if (line.seconds or 0.0) > since_s else None
        if match is not None and match["address"] == address:
            waited = int(match["waited"])
    return waited


def _judge(use: Use, host: Host, at: Stamp) -> tuple[Outcome | None, str]:
    """How it went and why, None while that cannot be told."""
    if use.told or at.boottime_ms - use.since_ms < SETTLED_MS:
        return None, ""
    if use.doubt:
        return Outcome.UNOBSERVED, use.doubt
    function = next((f for f in host.functions if f.address == use.address), None)
    if function is None or function.config is None or not _is_awake(host, function):
        return None, ""  # what was read of it is of an earlier time
    if function.config.dead:
        return Outcome.WEDGED, "it answers nothing but ones"
    return Outcome.SUCCESS, "it answers, and the kernel did not complain"


def _is_awake(host: Host, function: PciFunction) -> bool:
    reading = host.reading_of.get(function.address)
    if reading is None or (reading.power_state is None and reading.runtime_status is None):
        return False
    return reading.power_state not in _ASLEEP and reading.runtime_status != "suspended"


def _unobserved(uses: Uses, use: Use, why: str) -> ResetAttempt:
    return _attempt(uses, use, Outcome.UNOBSERVED, why)


def _attempt(uses: Uses, use: Use, outcome: Outcome, why: str) -> ResetAttempt:
    who = f"VM {use.vm or 'without a name'} (pid {use.pid}"
    return ResetAttempt(
        key=f"vm-{use.pid}-{use.started_seconds:.2f}-{use.since_ms}",
        identity=use.identity,
        place=use.place,
        firmware=uses.firmware,
        boot_id=uses.boot_id,
        method=VM_CYCLE if use.cycle else VM_START,
        outcome=outcome,
        evidence=f"{who}, started {use.started_seconds:.2f} s after boot) had it: {why}",
        address=use.address,
        duration_ms=use.duration_ms,
        firmware_text=uses.firmware_text,
    )


class VmUses:
    """The journal's row of who has what. Used by one thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known = self._read()

    def tell(self, host: Host, *, at: Stamp) -> bool:
        """Make durable what this look shows; True where it added to the reset history. What a full
        disk keeps back is told with the next look."""
        found = follow_uses(self._known, host, at=at)
        if found is None or (found[0] == self._known and not found[1]):
            return False
        after, rows = found
        if not rows and self._known is not None and _is_alike(self._known, after):
            self._known = after
            return False
        try:
            added = self._journal.record_uses(rows, uses=encode(after).decode("ascii"), at=at)
        except JournalFull as error:
            log.error("how %d starts of VMs went waits: %s", len(rows), error)
            return False
        self._known = after
        return added > 0

    def settles_in_s(self, *, at: Stamp) -> float | None:
        """Until a look can tell how the next start went; None where no VM is new enough."""
        held = self._known.held if self._known is not None else ()
        left = [use.since_ms + SETTLED_MS - at.boottime_ms for use in held if not use.told]
        # what could not be told at that look waits for one of the others
        return min((ms / 1000 for ms in left if ms > 0), default=None)

    def _read(self) -> Uses | None:
        text = self._journal.uses()
        try:
            return decode(Uses, text.encode()) if text else None
        except ArtifactError as error:
            log.warning("which functions VMs had at the last look is not known: %s", error)
            return None


def _is_alike(one: Uses, other: Uses) -> bool:
    """Whether they differ in nothing but how far the log was read, with nobody to be judged."""
    watching = any(not use.told for use in other.held)
    return not watching and replace(one, heard_s=0.0) == replace(other, heard_s=0.0)
