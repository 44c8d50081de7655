"""The process that makes one reset and may have to be left alone: `python -m ... REQUEST`.

It opens the functions through VFIO, notes their config space, resets, notes it again, and prints
one line of JSON. A reset can hang in the kernel for minutes where no signal ends it, which must not
be the agent's own process. It must never reset what the request does not list.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from vfio_agent.actuate.vfio import DEVICES, Opened, VfioError, open_functions
from vfio_contract.address import Address, parse_address

FUNCTION, HOT = "function", "hot"
_SPACE = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """What to reset. `opened` are functions to be held meanwhile, the target among them; `domain`
    all that may be affected."""

    target: Address
    how: str
    opened: tuple[Address, ...]
    domain: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """How far it came: `step` is "done" or where it stopped, `errno` 0 or the kernel's.

    `detail` is for people. `seconds` of the reset alone. Config spaces are hex by address.
    """

    step: str
    errno: int
    detail: str
    seconds: float
    before: dict[str, str]
    after: dict[str, str]


def perform(request: Request) -> Answer:
    """Make the reset; whatever the kernel says is an answer."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    seconds = 0.0
    step, number, detail = "done", 0, ""
    try:
        with open_functions(request.opened) as opened:
            refused = _refuse(request, opened)
            if refused:
                return Answer("domain", 0, refused, 0.0, {}, {})
            before = _read_config(request.opened)
            began = time.monotonic()
            try:
                if request.how == HOT:
                    opened.hot_reset(request.target)
                else:
                    opened.reset(request.target)
            except VfioError as error:
                step, number, detail = error.step, error.errno, str(error)
            seconds = time.monotonic() - began
            after = _read_config(request.opened)
    except VfioError as error:
        step, number, detail = error.step, error.errno, str(error)
    return Answer(step, number, detail, round(seconds, 6), before, after)


def _refuse(request: Request, opened: Opened) -> str:
    """ "" when the kernel's view of what goes along is within what was consented to."""
    if request.how == HOT:
        more = set(opened.hot_reset_domain(request.target)) - set(request.domain)
        return f"the reset would take along {' '.join(sorted(more))}" if more else ""
    if request.target not in opened.resettable:
        return "VFIO offers no reset of this function alone"
    return ""


def _read_config(addresses: Iterable[Address]) -> dict[str, str]:
    found = {}
    for address in addresses:
        descriptor = os.open(f"{DEVICES}/{address}/config", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found[str(address)] = os.pread(descriptor, _SPACE, 0).hex()
        finally:
            os.close(descriptor)
    return found


def parse_request(text: str) -> Request:
    """The request in a line of JSON; ValueError or KeyError where it is none."""
    row = json.loads(text)
    request = Request(
        target=parse_address(row["target"]),
        how=str(row["how"]),
        opened=tuple(map(parse_address, row["opened"])),
        domain=tuple(map(parse_address, row["domain"])),
    )
    if request.how not in (FUNCTION, HOT) or request.target not in request.opened:
        raise ValueError(f"not a reset: {text}")
    return request


def parse_answer(text: str) -> Answer:
    """The answer in a line of JSON; ValueError, KeyError or TypeError where it is none."""
    row = json.loads(text)
    return Answer(
        step=str(row["step"]),
        errno=int(row["errno"]),
        detail=str(row["detail"]),
        seconds=float(row["seconds"]),
        before={str(k): str(v) for k, v in row["before"].items()},
        after={str(k): str(v) for k, v in row["after"].items()},
    )


if __name__ == "__main__":
    print(json.dumps(asdict(perform(parse_request(sys.argv[1])))))
