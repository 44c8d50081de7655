"""The lab's sabotage fits the code that it breaks and the scenarios that it names."""

from __future__ import annotations

import ast

import pytest

from tests.lab.harness.machine import CHECKOUT
from tests.lab.sabotage import BREAKS, Break


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_what_is_broken_is_there_once(broken: Break) -> None:
    whole = (CHECKOUT / broken.file).read_text()

    assert whole.count(broken.before) == 1
    assert broken.after != broken.before
    # A mistake in the agent, not in its grammar.
    ast.parse(whole.replace(broken.before, broken.after))


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_the_test_that_catches_it_is_in_its_scenario(broken: Break) -> None:
    scenario = ast.parse((CHECKOUT / "tests/lab" / broken.scenario).read_text())

    assert broken.caught_by in {f.name for f in scenario.body if isinstance(f, ast.FunctionDef)}
