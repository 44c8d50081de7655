"""What the cluster may do by itself: each setting, its values, and what a value means.

A setting exists only where something acts on it. The first value is the default: what holds until a
person says otherwise, and always the one that leaves more to people. Nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `values` are (value, what it means), the default first."""

    name: str
    values: tuple[tuple[str, str], ...]

    @property
    def default(self) -> str:
        """What holds while nobody has said anything."""
        return self.values[0][0]

    def meaning_of(self, value: str) -> str:
        """What a value means; "" for one that this version does not know."""
        return dict(self.values).get(value, "")


BASELINE = Setting(
    "baseline",
    (
        ("person", "A baseline is accepted by a person only."),
        (
            "auto",
            "A node whose boot is validated, whose intended units pass every gate and that lost "
            "nothing against its baseline is accepted by itself.",
        ),
    ),
)
BASELINE_RESETS = Setting(
    "baseline-resets",
    (
        ("any", "What baseline=auto accepts passes its gates; resets need no proof beyond that."),
        (
            "proven",
            "baseline=auto accepts only a node all of whose intended units have proven resets.",
        ),
    ),
)

SETTINGS: dict[str, Setting] = {s.name: s for s in (BASELINE, BASELINE_RESETS)}
"""All there are, by name."""


@dataclass(frozen=True, slots=True)
class PolicySetting:
    """A setting as it is now. `values` begin with the default; `by` and `at` are "" for it."""

    name: str
    value: str
    values: tuple[str, ...]
    by: str
    at: str
    meaning: str


@dataclass(frozen=True, slots=True)
class PolicyView:
    """All settings, by name. Not a message of its own."""

    settings: tuple[PolicySetting, ...]
