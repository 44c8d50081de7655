"""The account of given evidence: which PATH held what, and what was made of it.

It stands above the findings, so that nobody reads a verdict without seeing what it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vfio_cli.screens.layout import Lines, wrap


class GivenEvidence(Protocol):
    """What one PATH of `--from` held: its kinds, and what was made of them."""

    @property
    def path(self) -> str:
        """See `pasted.Given`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `pasted.Given`."""

    @property
    def text(self) -> str:
        """See `pasted.Given`."""


def given_lines(given: Sequence[GivenEvidence], width: int) -> Lines:
    """One entry a PATH; nothing where no evidence was given."""
    lines: Lines = []
    first = "From: "
    for row in given:
        kinds = ", ".join(row.kinds) or "nothing known"
        text = f"{row.path}: {kinds}{f' ({row.text})' if row.text else ''}"
        lines += wrap(first, text, width=width, hang=8)
        first = " " * len(first)
    return lines
