"""Kernel log lines that tell how a reset ended.

Pure: lines in, `ResetTrace` values out. A line that only says that the kernel is still waiting is
not a failure; one that says that a function answered again is not a success, because nobody has
used it since; and no line at all is neither. Drivers' words about their own resets are left out:
they are not what VFIO will do. Strings: `pci_dev_wait()`, `pci_power_up()`,
`pci_raw_set_power_state()`, `pcie_wait_for_link_delay()` in drivers/pci/pci.c and
`pcie_do_recovery()` in drivers/pci/pcie/err.c, Linux 4.15 to 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vfio_contract.address import Address
from vfio_contract.ledger import Outcome
from vfio_contract.model import LogLine

_ADDRESS = r"(?P<address>[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]): "

_METHODS = {
    "flr": "flr",
    "af_flr": "af_flr",
    "pm d3hot->d0": "pm",
    "pm d3->d0": "pm",
    "bus reset": "bus",
}
"""What the kernel writes after "not ready ... after" -> `reset_method` name.

Other words (`resume`, `DPC`, `D3cold->D0`) are no method that anybody chose.
"""


@dataclass(frozen=True, slots=True)
class ResetTrace:
    """One outcome seen in the log. `method` is "" when the line does not tell.

    `below` is True when the line, if `address` is a bridge, speaks of everything below it: what
    was reset is the bus behind the bridge.
    """

    address: Address
    method: str
    outcome: Outcome
    below: bool
    line: LogLine


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    outcome: Outcome
    below: bool
    method: str = ""


def _pattern(text: str, outcome: Outcome, *, below: bool, method: str = "") -> _Pattern:
    return _Pattern(re.compile(_ADDRESS + text, re.IGNORECASE), outcome, below, method)


_PATTERNS = (
    # It answered nothing but ~0 for a minute. Only a cold start helps. After the reset of a bus the
    # kernel asks the first function on it, which may be the upper port of a switch.
    _pattern(
        r"not ready \d+ms after (?P<words>[^;]+); giving up",
        Outcome.WEDGED,
        below=True,
    ),
    # It answers nothing at all. 5.19 and later, then 5.5 to 5.18.
    _pattern(
        r"Unable to change power state from \S+ to \S+, device inaccessible",
        Outcome.WEDGED,
        below=False,
    ),
    _pattern(
        r"can't change power state from \S+ to \S+ \(config space inaccessible\)",
        Outcome.WEDGED,
        below=False,
    ),
    # It answers and does not wake up; 5.5 and later, then before. Refusing to fall asleep
    # (`from D0 to D3hot`, `currently in D0`) is common and harmless.
    _pattern(r"refused to change power state from \S+ to D0", Outcome.FAILED, below=False),
    _pattern(
        r"refused to change power state, currently in D[1-3]",
        Outcome.FAILED,
        below=False,
    ),
    # A port whose link did not come back after the bus behind it was reset; and the same said by
    # error recovery for whatever reason.
    _pattern(
        r"(?:\w+: )?Data Link Layer Link Active not set in \d+ msec",
        Outcome.FAILED,
        below=True,
        method="bus",
    ),
    _pattern(
        r"(?:\w+: )?subordinate device reset failed",
        Outcome.FAILED,
        below=True,
        method="bus",
    ),
)


def find_traces(lines: Iterable[LogLine]) -> list[ResetTrace]:
    """Outcomes in the order of the log."""
    found: list[ResetTrace] = []
    for line in lines:
        for pattern in _PATTERNS:
            match = pattern.regex.search(line.text)
            if match is None:
                continue
            words = match.groupdict().get("words", "").strip().lower()
            found.append(
                ResetTrace(
                    address=Address(match["address"].lower()),
                    method=pattern.method or _METHODS.get(words, ""),
                    outcome=pattern.outcome,
                    below=pattern.below,
                    line=line,
                )
            )
            break
    return found
