"""Every parser against broken evidence: a short run always, a long one in `make nightly`.

VFIOCTL_FUZZ_SECONDS is the budget of each target; without it a few examples run. The long run also
measures: a second and a second per MB is the limit for one input. A failing example is kept in
.hypothesis and tried first the next time; the printed seed repeats a run.
"""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.mutation import Broken, mutations
from tests.fuzz.targets import TARGETS

BUDGET_S = float(os.environ.get("VFIOCTL_FUZZ_SECONDS", "0"))
SHORT, ROUND = 12, 200


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(max(300.0, 10 * BUDGET_S))
def test_broken_evidence(name: str, request: pytest.FixtureRequest) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    inputs = mutations(seeds)
    target.run(seeds[0])  # what is only made once is no input's time
    first: int = request.getfixturevalue("seed")
    slowest = [0.0, 0]
    count = 0

    def run_round(number: int, examples: int) -> None:
        @seed(first + number)
        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def check(broken: Broken) -> None:
            nonlocal count
            count += 1
            # processor time: a busy machine is no hang, and a sleep ends by the test's timeout
            began = time.process_time()
            target.run(broken.data)
            spent = time.process_time() - began
            if BUDGET_S:
                slowest[:] = max(slowest, [spent, len(broken.data)])
                assert spent < 1 + len(broken.data) / 1e6, (
                    f"{spent:.1f} s for {len(broken.data)} bytes"
                )

        check()

    end = time.monotonic() + BUDGET_S
    run_round(0, ROUND if BUDGET_S else SHORT)
    rounds = 1
    while time.monotonic() < end:
        run_round(rounds, ROUND)
        rounds += 1
    if BUDGET_S:
        print(
            f"\nfuzz.{name}.inputs {count} inputs; slowest {slowest[0]:.3f} s, {slowest[1]} bytes"
        )
