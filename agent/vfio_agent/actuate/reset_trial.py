"""A reset made on purpose, and what it proves.

The reset goes through VFIO in a child process, with the groups held, so that nobody else can have
the device. What is compared is config space before and after, and what the kernel said meanwhile.
SUCCESS is: the kernel reported success, it was heard and did not complain, and the function answers
as the one it was. This module must never call a reset good that was not watched from all sides, nor
count one twice that the kernel's own lines already tell.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from vfio_agent.actuate.config_change import BROKEN, Change, compare_config, is_dead
from vfio_agent.actuate.kernel_lines import KernelLines
from vfio_agent.actuate.reset_child import FUNCTION, HOT, Answer, Request, parse_answer
from vfio_agent.reset_lines import find_traces
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.ledger import Outcome, ResetAttempt, firmware_digest, firmware_words
from vfio_contract.model import LogLine, PciFunction
from vfio_contract.units import reset_domain, resets_alone

DEADLINE_S = 180.0
"""The kernel waits up to 60 s for a function after a reset (pci.c, PCIE_RESET_READY_POLL_MS), once
when it is opened, once for the reset and once when it is closed."""

CHILD = (sys.executable, "-P", "-m", "vfio_agent.actuate.reset_child")
"""-P: what lies in the folder in which root started this is never imported."""

AGAIN_S = 0.2
"""For a child that was left alone, to say what it has to say by now."""

LOST = "lost"
"""The step of an answer that never came: a reset may have been made, and nobody saw it."""

_NOT_BACK = frozenset({errno.ENOTTY, errno.EIO, errno.ETIMEDOUT})
"""Of a reset: it was made and the function, or its link, did not come back. Every other error
means that none was made (EINVAL and ENODEV: there is no such reset; EAGAIN: somebody has its lock;
EPERM: a group of the domain is not ours)."""


class Ending(StrEnum):
    """RESET: one was made. REFUSED: none was. WAITING: the kernel has not come back from it."""

    RESET = "reset"
    REFUSED = "refused"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class ResetResult:
    """What came of a reset test.

    `method` is a `reset_method` name, "" where the kernel does not tell. `outcome` is None when no
    reset was made or it has not ended. `changes` are by function. `lines` are None where the kernel
    could not be heard. `attempts` go into the ledger: () when the kernel's own lines do already.
    `again` asks how it stands now, for as long as it is WAITING; None once it has ended.
    """

    target: Address
    method: str
    ending: Ending
    outcome: Outcome | None
    why: str
    seconds: float
    changes: tuple[tuple[Address, tuple[Change, ...]], ...]
    lines: tuple[LogLine, ...] | None
    attempts: tuple[ResetAttempt, ...]
    again: Callable[[], ResetResult] | None = field(default=None, compare=False)


def plan_reset(host: Host, target: PciFunction) -> Request:
    """The reset that a VM start would make of this function; the guard has found that there is one.

    The function's own where it has one, else the hot reset of its bus.
    """
    domain = reset_domain(target, host.by_address)
    own = resets_alone(target) or "pm" in (target.reset_methods or ())
    if own:
        return Request(target.address, FUNCTION, (target.address,), (target.address,))
    opened = tuple(a for a in domain if is_vfio_bound(host.by_address[a]))
    return Request(target.address, HOT, opened, domain)


def method_of(target: PciFunction, how: str) -> str:
    """The `reset_method` name of what the kernel tries first; "" where it does not tell."""
    if how == HOT:
        return "bus"
    if target.reset_methods:
        return target.reset_methods[0]
    return "flr" if target.physfn else ""


def try_reset(
    host: Host,
    target: Address,
    *,
    operation: str,
    child: tuple[str, ...] = CHILD,
    deadline_s: float = DEADLINE_S,
) -> ResetResult:
    """Reset it and judge what came of it; the guard must have consented to `host`.

    `operation` keys the ledger's rows: the same operation is never counted twice.
    """
    request = plan_reset(host, host.by_address[target])
    return _Trial(host, request, operation, child).wait(deadline_s)


def foresee_loss(host: Host, target: Address, *, operation: str) -> tuple[ResetAttempt, ...]:
    """What the ledger gets of a reset that was made, or may have been, with nobody left to tell."""
    request = plan_reset(host, host.by_address[target])
    method = method_of(host.by_address[target], request.how)
    why = "the agent ended before it saw how it went"
    return tuple(_attempts(host, request, method, Outcome.UNOBSERVED, why, operation))


class _Trial:
    """One child with its reset, and what the kernel says from before it until its answer."""

    def __init__(
        self, host: Host, request: Request, operation: str, child: tuple[str, ...]
    ) -> None:
        self._host = host
        self._request = request
        self._operation = operation
        self._window = KernelLines()
        self._lines: tuple[LogLine, ...] | None = ()
        self._process = self._start(child)
        self._waited = False

    def wait(self, limit_s: float) -> ResetResult:
        """How it ended, or WAITING where it has not within that time."""
        answer = self._hear(limit_s)
        self._read_lines()
        result = judge_answer(
            self._host, self._request, answer, self._lines, operation=self._operation
        )
        if result.ending is Ending.WAITING:
            return replace(result, again=lambda: self.wait(AGAIN_S))
        self._window.close()
        return result

    def _start(self, child: tuple[str, ...]) -> subprocess.Popen[bytes] | str:
        try:
            return subprocess.Popen(
                (*child, json.dumps(asdict(self._request))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # half a reset is worse than one that nobody waits for
            )
        except OSError as error:
            return f"the process that makes it could not be started: {error.strerror or error}"

    def _hear(self, limit_s: float) -> Answer | int | str:
        """The child's answer; its pid when it has none in time; why it has none otherwise."""
        process = self._process
        if isinstance(process, str):
            return process
        try:
            out, said = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self._waited = True
            return process.pid
        try:
            return parse_answer(out.decode())
        except (ValueError, KeyError, TypeError):
            last = said.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2]
            why = f"the process that makes it ended with {process.returncode}: {last[:300]}"
            # one that was killed, or was in the kernel for long, may have made it
            lost = self._waited or process.returncode < 0
            return Answer(LOST, 0, why, 0.0, {}, {}) if lost else why

    def _read_lines(self) -> None:
        more = self._window.read()
        if more is None or self._lines is None:
            self._lines = None
        else:
            lines = (*self._lines, *more)
            self._lines = tuple(replace(line, number=n) for n, line in enumerate(lines, 1))


def judge_answer(
    host: Host,
    request: Request,
    answer: Answer | int | str,
    lines: tuple[LogLine, ...] | None,
    *,
    operation: str,
) -> ResetResult:
    """Pure: from what was seen to what it proves."""
    target = host.by_address[request.target]
    method = method_of(target, request.how)

    def result(
        ending: Ending,
        why: str,
        outcome: Outcome | None = None,
        changes: Mapping[Address, tuple[Change, ...]] | None = None,
        seconds: float = 0.0,
    ) -> ResetResult:
        rows: tuple[ResetAttempt, ...] = ()
        if outcome is not None and not _complaints(host, request, lines):
            took_ms = round(seconds * 1000) if seconds else None
            made = _attempts(host, request, method, outcome, why, operation)
            rows = tuple(replace(row, duration_ms=took_ms) for row in made)
        found = tuple((changes or {}).items())
        return ResetResult(
            request.target, method, ending, outcome, why, seconds, found, lines, rows
        )

    if isinstance(answer, int):
        return result(Ending.WAITING, f"the kernel has not come back from it (pid {answer})")
    if isinstance(answer, str):
        return result(Ending.REFUSED, answer)
    if answer.step == LOST:
        return result(Ending.RESET, answer.detail, Outcome.UNOBSERVED)
    if answer.step != "done" and not (answer.step == "reset" and answer.errno in _NOT_BACK):
        return result(Ending.REFUSED, _explain(answer))
    try:
        changes = _compare(answer)
    except ValueError as error:
        outcome, why, changes = Outcome.UNOBSERVED, f"config space: {error}", {}
    else:
        outcome, why = _decide(host, request, answer, lines, changes)
    return result(Ending.RESET, why, outcome, changes, answer.seconds)


def _compare(answer: Answer) -> dict[Address, tuple[Change, ...]]:
    if set(answer.before) != set(answer.after) or not answer.before:
        raise ValueError("was not read before and after")
    return {
        Address(a): compare_config(bytes.fromhex(old), bytes.fromhex(answer.after[a]))
        for a, old in answer.before.items()
    }


def _decide(
    host: Host,
    request: Request,
    answer: Answer,
    lines: tuple[LogLine, ...] | None,
    changes: Mapping[Address, tuple[Change, ...]],
) -> tuple[Outcome, str]:
    dead = [a for a, after in answer.after.items() if is_dead(bytes.fromhex(after))]
    if dead:
        return Outcome.WEDGED, f"{' '.join(dead)} answers nothing but ones afterwards"
    complaints = _complaints(host, request, lines)
    if complaints:
        return max(complaints, key=lambda row: row[0] is Outcome.WEDGED)
    if answer.step != "done":
        return Outcome.FAILED, _explain(answer)
    broken = [f"{a} {c}" for a, rows in changes.items() for c in rows if c.register in BROKEN]
    if broken:
        return Outcome.FAILED, f"came back changed: {'; '.join(broken[:4])}"
    if lines is None:
        return Outcome.UNOBSERVED, "the kernel's log could not be read meanwhile"
    return Outcome.SUCCESS, "answers as before, and the kernel did not complain"


def _complaints(
    host: Host, request: Request, lines: tuple[LogLine, ...] | None
) -> list[tuple[Outcome, str]]:
    """What the kernel said of the functions concerned and of the bridges above them."""
    concerned = set(request.domain)
    for address in request.domain:
        concerned.update(f.address for f in host.ancestors(host.by_address[address]))
    return [
        (trace.outcome, trace.line.text)
        for trace in find_traces(lines or ())
        if trace.address in concerned
    ]


def _attempts(
    host: Host, request: Request, method: str, outcome: Outcome, why: str, operation: str
) -> Iterable[ResetAttempt]:
    firmware, words = firmware_digest(host.facts), firmware_words(host.facts)
    for address in request.domain:
        function = host.by_address[address]
        if function.is_bridge:
            continue
        identified = host.identities[address]
        yield ResetAttempt(
            key=operation,
            identity=identified.identity,
            firmware=firmware,
            boot_id=host.readings.boot_id or "",
            method=method,
            outcome=outcome,
            evidence=f"reset-test of {request.target}: {why}",
            place=identified.place,
            address=address,
            firmware_text=words,
        )


def _explain(answer: Answer) -> str:
    if answer.errno == errno.EBUSY and answer.step in ("group", "device"):
        return "somebody has it open (EBUSY)"
    if not answer.errno:
        return answer.detail
    return f"{answer.detail} ({errno.errorcode.get(answer.errno, os.strerror(answer.errno))})"
