"""The screen of `vfioctl policy`: each setting, what it means, and who set it."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import UNLIMITED, WIDTH, Lines, cut, table, wrap
from vfio_contract.policy import PolicySetting


def policy_screen(settings: Sequence[PolicySetting], *, wide: bool = False) -> Lines:
    """A line a setting, and what its value means below it."""
    width = UNLIMITED if wide else WIDTH
    rows = table(
        ["SETTING", "VALUE", "CAN BE", "SET BY"],
        [
            [s.name, cut(s.value, 16), cut(" ".join(s.values), 24), _who(s, wide=wide)]
            for s in settings
        ],
        width=UNLIMITED,
    )
    lines = rows[:1]
    for row, setting in zip(rows[1:], settings, strict=True):
        text = setting.meaning or "This version does not know what that means."
        lines += [row, *wrap("    ", text, width=width)]
    return lines


def _who(setting: PolicySetting, *, wide: bool) -> str:
    if not setting.by:
        return "nobody: the default"
    at = setting.at if wide else setting.at[:10]
    return f"{setting.by if wide else cut(setting.by, 14)} {at}"
