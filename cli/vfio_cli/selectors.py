"""What a person types to ask for devices: `gpu`, `gpu:a5000=2`, `nic:8086:10d3=1`.

`KIND[:MODEL][=N]`. The model is a word of the device's name or its ids. Errors name the option,
what is wrong with it, and what to write.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vfio_contract.units import KINDS
from vfio_contract.views import DeviceRequest

RISKS = ("acs-override", "unsafe-interrupts", "one-shot-reset")
"""Words of `--allow`."""

RISK_CODES = ("ACS_OVERRIDE", "UNSAFE_INTERRUPTS", "RESET_ONE_SHOT")
"""The findings that they are about, as `risk accept` names them."""


class RiskChoice(click.Choice[str]):
    """One of `RISKS` or of `RISK_CODES`, typed as either: a word and its code are one risk."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(choices)
        self._meant = {
            typed: choice
            for pair in zip(RISKS, RISK_CODES, strict=True)
            for choice in choices
            if choice in pair
            for typed in map(_fold, pair)
        }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The choice that is meant; UsageError lists them."""
        return super().convert(self._meant.get(_fold(str(value)), value), param, ctx)


def _fold(text: str) -> str:
    return text.strip().lower().replace("_", "-")


MAX_COUNT = 64
"""Units in one request; the coordinator holds the same limit."""

EXAMPLE = "like gpu, gpu:a5000=2 or nic:8086:10d3=1"


def parse_device(text: str) -> DeviceRequest:
    """One `--device`; ValueError names what is wrong and the fix."""
    rest, mark, number = text.strip().rpartition("=")
    if not mark:
        rest, number = number, "1"
    kind, mark_model, model = rest.partition(":")
    kind = kind.strip().lower()
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.65)
        hint = f"did you mean {near[0]}?" if near else f"write one of {', '.join(KINDS)}"
        raise ValueError(f"--device {text!r}: {kind!r} is no kind of device: {hint}")
    if mark_model and not model.strip():
        raise ValueError(f"--device {text!r}: the model is empty: leave out the colon, {EXAMPLE}")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:9]) <= MAX_COUNT:
        raise ValueError(
            f"--device {text!r}: {number!r} is no number from 1 to {MAX_COUNT}: {EXAMPLE}"
        )
    if not model.isascii() or not model.isprintable() or len(model) > 100:
        raise ValueError(f"--device {text!r}: the model is not plain text: {EXAMPLE}")
    return DeviceRequest(kind=kind, model=model.strip().lower(), count=int(number))


def parse_devices(texts: Iterable[str]) -> tuple[DeviceRequest, ...]:
    """All of them; the same kind and model twice are added up."""
    counts: dict[tuple[str, str], int] = {}
    for text in texts:
        found = parse_device(text)
        key = (found.kind, found.model)
        counts[key] = counts.get(key, 0) + found.count
    if not counts:
        raise ValueError(f"--device is missing: say what the VM needs, {EXAMPLE}")
    if sum(counts.values()) > MAX_COUNT:
        raise ValueError(f"--device: more than {MAX_COUNT} units in one request")
    return tuple(DeviceRequest(kind, model, n) for (kind, model), n in counts.items())
