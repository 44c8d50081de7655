"""What cohorts cost an inventory, and what a forecast costs, at 10,000 nodes: `name value unit`.

Ten boards, half of the nodes with a VM; on one board a BIOS widened groups of 300. `cohorts.*` is
what a changed and an unchanged node adds to a report, and finding all outliers; `forecast.*` the
whole answer about all nodes, with the homes of every VM concerned. `_cpu` lines are the thread's
own processor time. No limits are asserted. It runs under `make bench`, or alone:
`python -m tests.bench.bench_forecast`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import pytest

from tests.unit.state.cluster import ask_for
from tests.unit.state.crowd import Crowd, make_kind
from vfio_contract.forecast_views import ForecastView
from vfio_contract.host import Host
from vfio_coordinator.state.cohorts import AGENT, learn, traits_of_host
from vfio_coordinator.state.events import PlaceRequested
from vfio_coordinator.state.forecast import Question, forecast
from vfio_coordinator.state.outliers import find_outlier, find_outliers

NODES = 10_000
BOARDS = 10
WIDENED = 300
ROUNDS = 300


def fill() -> tuple[Crowd, list[str]]:
    crowd = Crowd()
    kinds = [make_kind(board=f"B{number}") for number in range(BOARDS)]
    names = [f"n{number:05}" for number in range(NODES)]
    for number, name in enumerate(names):
        crowd.join(name, kinds[number % BOARDS])
        crowd.accept(name)
        crowd.clear()
    for number in range(NODES // 2):
        request = ask_for(f"vm{number}")
        crowd.send(PlaceRequested(ticket=1, request=request, actor="bench"))
        crowd.clear()
    wide = make_kind(board="B0", bios="F11", wide=True)
    for name in names[::BOARDS][-WIDENED:]:
        crowd.reboot(name, wide)
        crowd.clear()
    return crowd, names


def timed(name: str, call: Callable[[], object], *, unit: str = "ms", rounds: int = 5) -> None:
    wall, cpu = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.thread_time()
        call()
        cpu.append(time.thread_time() - spent)
        wall.append(time.perf_counter() - began)
    scale = {"ms": 1e3, "us": 1e6}[unit]
    print(f"{name} {median(wall) * scale:.1f} {unit}")
    print(f"{name}_cpu {median(cpu) * scale:.1f} {unit}")


def show_cohorts(crowd: Crowd, names: list[str]) -> None:
    cohorts = crowd.state.cohorts
    changed = make_kind(board="B3", kernel="6.14.2")
    host = Host(changed.snapshot)
    told = traits_of_host(host)
    same = traits_of_host(Host(make_kind(board="B3").snapshot))
    timed("cohorts.traits_of_host", lambda: traits_of_host(Host(changed.snapshot)), unit="us")
    spent: dict[str, list[float]] = {"changed": [], "unchanged": [], "observation": []}
    for name in names[3 : ROUNDS * BOARDS : BOARDS]:
        for case, parts in (
            ("unchanged", same),
            ("changed", told),
            ("observation", {AGENT: "0.1.0"}),
        ):
            began = time.perf_counter()
            learn(cohorts, name, parts)
            spent[case].append((time.perf_counter() - began) * 1e6)
    for case, values in spent.items():
        print(f"cohorts.learn_{case} {median(values):.1f} us")
    timed("cohorts.find_outliers", lambda: find_outliers(crowd.state), unit="us")
    timed("cohorts.find_outlier", lambda: find_outlier(crowd.state, names[7]), unit="us")


def show_forecasts(crowd: Crowd) -> None:
    def ask(*nodes: str, bios: str = "", kernel: str = "") -> ForecastView:
        return forecast(crowd.state, Question(bios, kernel, nodes), crowd.now)

    view = ask(bios="F11")
    counts = Counter(row.outcome for row in view.nodes)
    assert counts == {"bad": 700, "unknown": 9_000, "fails": 300}, counts
    print(f"forecast.bios_all_vms {len(view.moves) + view.untried} VMs")
    timed("forecast.bios_all", lambda: ask(bios="F11"))
    bad = ask("board=Supermicro B0", bios="F11")
    homes = sum(bool(move.to) for move in bad.moves)
    print(f"forecast.bios_one_board_homes {homes} of {len(bad.moves)}")
    timed("forecast.bios_one_board", lambda: ask("board=Supermicro B0", bios="F11"))
    timed("forecast.kernel_unknown_all", lambda: ask(kernel="6.14.2"))
    timed("forecast.one_node", lambda: ask("n00001", kernel="6.14.2"))
    timed("forecast.known_good", lambda: ask(kernel="6.8.12"))


@pytest.mark.bench
@pytest.mark.timeout(1200)
def test_forecast_figures() -> None:
    crowd, names = fill()
    print()
    show_cohorts(crowd, names)
    show_forecasts(crowd)


if __name__ == "__main__":
    test_forecast_figures()
