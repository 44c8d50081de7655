"""A machine captured twice by our own collector: nothing differs but what is declared volatile.

What one boot says, the next one of the same machine says again, or `make lab-capture` would replace
the committed hosts for no reason.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.conftest import find_kernel
from tests.lab.harness import scenarios
from tests.lab.harness.machine import boot
from tests.lab.harness.volatile import compare

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]


def test_two_captures_of_one_machine_are_the_same(tmp_path: Path) -> None:
    machine = replace(scenarios.AMD_SMALL, name="captured-twice")
    kernel = find_kernel(machine.kernel)
    captures = []
    for name in ("one", "two"):
        done = boot(machine, kernel)
        captures.append(tmp_path / f"{name}.tar.gz")
        shutil.copyfile(done.out / f"{machine.name}.tar.gz", captures[-1])
    one, two = captures
    assert one.read_bytes() != two.read_bytes()
    assert compare(one, two) == []
