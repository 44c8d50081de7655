"""What a line of configuration that makes virtual functions is about, and how many it wants.

A rule names a function by address, interface, ids or driver, or means all. This module must never
take a rule for another interface for one of this function: whether it applies may be not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfio_contract.host import Host
from vfio_contract.intention import is_vfio_bound
from vfio_contract.model import ConfigLine, PciFunction

_ADDRESS = re.compile(r"\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b", re.IGNORECASE)
_INTERFACE = re.compile(r"/net/([^/\s\"]+)/|^([\w.@-]+): ")
_IDS = re.compile(r"ATTRS?\{(vendor|device)\}\s*==\s*\"0x([0-9a-f]{1,4})\"", re.IGNORECASE)
_DRIVER = re.compile(r"DRIVERS?\s*==\s*\"([\w-]+)\"|^options\s+([\w-]+)\s")
_OPEN = re.compile(r"[$*%]|\{\w+\}\"")
"""Variables and patterns of shells and udev: what they stand for is not known here."""

_COUNTS = tuple(
    re.compile(text)
    for text in (
        r"sriov_numvfs\}?\s*=\s*\"?([0-9]{1,5})\b",
        r"echo\s+[\"']?([0-9]{1,5})[\"']?\s*(?:>|\|)\s*[^;&]*sriov_numvfs",
        r"sriov_numvfs\s+(?:\S+\s+){4}([0-9]{1,5})\b",
        r"SR-IOVVirtualFunctions\s*=\s*([0-9]{1,5})\b",
        r"virtual-function-count\s*:\s*([0-9]{1,5})\b",
        r"total-vfs\s*=\s*([0-9]{1,5})\b",
        r"(?:max|num)_vfs=([0-9]{1,5})(?![0-9,])",
    )
)


@dataclass(frozen=True, slots=True)
class VfRules:
    """The rules for one function: those about it, and those that may be."""

    own: tuple[ConfigLine, ...]
    unclear: tuple[ConfigLine, ...]

    @property
    def counts(self) -> frozenset[int]:
        """How many VFs its own rules want, as far as they say a number."""
        found = (count_of(rule) for rule in self.own)
        return frozenset(count for count in found if count is not None)


def find_rules(host: Host, function: PciFunction) -> VfRules:
    """The rules for this function; its own are those that name it, else those that mean all."""
    rules = host.facts.sriov_rules or ()
    judged = [(rule, _is_about(host, rule, function)) for rule in rules]
    named = [rule for rule, about in judged if about == "it"]
    general = [rule for rule, about in judged if about == "all"]
    unclear = [rule for rule, about in judged if about == "unclear"]
    return VfRules(tuple(named or general), tuple(unclear))


def names_device(host: Host, rule: ConfigLine, function: PciFunction) -> bool:
    """True when the rule is about this function and not about every one."""
    return _is_about(host, rule, function) == "it"


def count_of(rule: ConfigLine) -> int | None:
    """The number of VFs that the rule sets last, None when it shows none."""
    found = [
        (match.start(), int(match[1]))
        for pattern in _COUNTS
        for match in pattern.finditer(rule.text)
    ]
    return max(found)[1] if found else None


def _is_about(host: Host, rule: ConfigLine, function: PciFunction) -> str:
    """`it`, `all`, `other`, or `unclear`."""
    text = rule.text
    devices = host.facts.network or ()
    own = [d.name for d in devices if d.function == function.address]
    own += [d.mac for d in devices if d.function == function.address and d.mac]
    if any(_contains(text, name) for name in (function.address, *own)):
        return "it"
    if _ADDRESS.search(text):
        return "other"
    named = [a or b for a, b in _INTERFACE.findall(text)]
    if named:
        known = {d.name for d in devices if d.function is not None}
        return "other" if known.issuperset(named) else "unclear"
    return _by_kind(text, function)


def _by_kind(text: str, function: PciFunction) -> str:
    """Rules for every function of some ids or driver."""
    ids = {name.lower(): int(value, 16) for name, value in _IDS.findall(text)}
    have = {"vendor": function.vendor, "device": function.device}
    if ids:
        if any(have[name] not in (None, value) for name, value in ids.items()):
            return "other"
        return "unclear" if any(have[name] is None for name in ids) else "it"
    drivers = {(a or b).replace("-", "_") for a, b in _DRIVER.findall(text)}
    if drivers:
        if function.driver is None or is_vfio_bound(function):
            return "unclear"  # its host driver may be the one
        return "it" if function.driver.replace("-", "_") in drivers else "other"
    return "unclear" if _OPEN.search(text) else "all"


def _contains(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text, re.IGNORECASE) is not None
