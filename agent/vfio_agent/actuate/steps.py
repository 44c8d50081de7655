"""Steps and plans: what is written where, what stood there before, and the way back.

Values only. A step moves one thing that can be looked at (a function's driver, its override, a
file) from `old` to `new`, so that whoever finds a plan half done can tell how far it came. This
module must never hold a step whose way back is not known from the step itself.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from vfio_contract.address import Address, parse_address

PCI = "/sys/bus/pci"
VFIO_PCI = "vfio-pci"

NO_DRIVER = "none"
"""A driver_override that no driver is called: what driverctl(8) writes to keep all of them off."""

ANY_HOST_DRIVER = "*"
"""Whichever driver of the host takes the function; never a vfio driver."""

LOADED = "loaded"


class Verb(StrEnum):
    """What can be asked of the hands."""

    BIND = "bind"
    UNBIND = "unbind"
    RESET_TEST = "reset-test"


class Kind(StrEnum):
    """What a step does. Its `subject` is an address, for MODULE a module or alias, for FILE a path.

    MODULE loads a module, UNBIND takes a function from its driver, OVERRIDE says which driver alone
    may have it, BIND gives it to a driver, FORGET takes its ids out of vfio-pci's own list, FILE
    replaces or removes a file.
    """

    MODULE = "module"
    UNBIND = "unbind"
    OVERRIDE = "override"
    BIND = "bind"
    FORGET = "forget"
    FILE = "file"


_IRREVERSIBLE = frozenset({Kind.MODULE, Kind.FORGET})
"""A loaded module takes nothing by itself. Ids cannot be given back for one function alone: new_id
takes every function that has them and no driver, so the way back is an override."""


@dataclass(frozen=True, slots=True)
class Step:
    """One effect. `old` and `new` are what is seen before and after it.

    Drivers and overrides are names, "" for none; a file's are its text, None for no file. FORGET
    has the ids to forget as `new` (`8086 10d3`).
    """

    kind: Kind
    subject: str
    old: str | None
    new: str | None
    why: str

    @property
    def path(self) -> str:
        """What is written, as on the host; for MODULE the command."""
        device = f"{PCI}/devices/{self.subject}"
        match self.kind:
            case Kind.MODULE:
                return f"modprobe {self.subject}"
            case Kind.UNBIND:
                return f"{device}/driver/unbind"
            case Kind.OVERRIDE:
                return f"{device}/driver_override"
            case Kind.BIND if self.new == ANY_HOST_DRIVER:
                return f"{PCI}/drivers_probe"
            case Kind.BIND:
                return f"{PCI}/drivers/{self.new}/bind"
            case Kind.FORGET:
                return f"{PCI}/drivers/{VFIO_PCI}/remove_id"
            case Kind.FILE:
                return self.subject

    @property
    def thing(self) -> str:
        """What the step moves: steps with the same one form a chain of its values."""
        match self.kind:
            case Kind.UNBIND | Kind.BIND:
                return f"{PCI}/devices/{self.subject}/driver"
            case _:
                return self.path


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one request, in order.

    `method` is how the binding outlives a reboot (`driverctl`, `modprobe.d`, `udev`, "" for not at
    all), `reasons` why that one, `notes` what is left for a person to do or to know.
    """

    verb: Verb
    unit: str
    primary: Address
    steps: tuple[Step, ...]
    method: str = ""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    undoes: bool = False


def undo(plan: Plan) -> Plan:
    """The plan that brings back what this one found, whichever of its steps were done.

    A function that vfio-pci had by its ids alone comes back to it by an override.
    """
    overridden = {step.subject for step in plan.steps if step.kind is Kind.OVERRIDE}
    back = []
    for step in reversed(plan.steps):
        if step.kind is Kind.FORGET and step.subject not in overridden:
            why = "its ids cannot be given back for it alone"
            back.append(Step(Kind.OVERRIDE, step.subject, "", VFIO_PCI, why))
        elif step.kind not in _IRREVERSIBLE:
            back.append(_reverse(step))
    return replace(plan, steps=tuple(back), undoes=not plan.undoes, notes=())


def _reverse(step: Step) -> Step:
    kinds = {Kind.UNBIND: Kind.BIND, Kind.BIND: Kind.UNBIND}
    return Step(
        kind=kinds.get(step.kind, step.kind),
        subject=step.subject,
        old=step.new,
        new=step.old,
        why=f"as it was before: {step.why}",
    )


def only_files(plan: Plan) -> Plan:
    """The plan without what a reboot has already undone."""
    return replace(plan, steps=tuple(s for s in plan.steps if s.kind is Kind.FILE))


def describe_change(step: Step) -> Iterator[str]:
    """Lines for people: a unified diff of a file, else the command that would do it by hand."""
    match step.kind:
        case Kind.FILE:
            old, new = step.old or "", step.new or ""
            yield from difflib.unified_diff(
                old.splitlines(),
                new.splitlines(),
                "/dev/null" if step.old is None else step.subject,
                "/dev/null" if step.new is None else step.subject,
                lineterm="",
            )
        case Kind.MODULE:
            yield step.path
        case Kind.FORGET:
            yield f"echo {step.new} > {step.path}"
        case Kind.OVERRIDE:
            yield f"echo {step.new} > {step.path}".replace("echo  ", "echo ")
        case _:
            change = f"{_name(step.old)} -> {_name(step.new)}"
            yield f"echo {step.subject} > {step.path}  # {change}"


def _name(value: str | None) -> str:
    if value == ANY_HOST_DRIVER:
        return "the host's driver"
    return value or "nothing"


def encode_plan(plan: Plan) -> str:
    """One line of JSON with sorted keys; `decode_plan` is its inverse."""
    return json.dumps(asdict(plan), sort_keys=True)


def decode_plan(text: str) -> Plan:
    """The plan that was encoded; ValueError or KeyError for anything else."""
    row = json.loads(text)
    steps = tuple(Step(**{**step, "kind": Kind(step["kind"])}) for step in row["steps"])
    return Plan(
        verb=Verb(row["verb"]),
        unit=str(row["unit"]),
        primary=parse_address(row["primary"]),
        steps=steps,
        method=str(row["method"]),
        reasons=tuple(row["reasons"]),
        notes=tuple(row["notes"]),
        undoes=bool(row["undoes"]),
    )
