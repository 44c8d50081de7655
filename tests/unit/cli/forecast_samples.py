"""Forecasts for the screens: a BIOS that breaks a board, an unseen kernel, a silent fleet."""

from __future__ import annotations

from vfio_contract.forecast_views import (
    ForecastBoard,
    ForecastMove,
    ForecastNode,
    ForecastView,
)
from vfio_contract.views import StageCount

AT = "2026-11-22T14:32:07Z"
X13, TWIN = "Acme X13-GPU", "Acme X13-TWIN"
F10, F11 = "F10 01/02/2025", "F11 06/07/2025"
KERNEL = "6.1.0-56-amd64"
BROKEN = tuple(f"pve{n:02}" for n in (7, 8, 9, 10, 11))


def board(name: str, outcome: str, **changes: object) -> ForecastBoard:
    values: dict[str, object] = {
        "bios": F11,
        "kernel": "",
        "passed": (),
        "failed": (),
        "unjudged": (),
        "codes": (),
        "incidents": (),
        "weaker": (),
        "known": (),
        "nodes": 4,
    }
    return ForecastBoard(board=name, outcome=outcome, **(values | changes))  # type: ignore[arg-type]


def node(name: str, outcome: str, why: str, *vms: str, on: str = X13) -> ForecastNode:
    bios = F11 if outcome in ("there", "fails") else F10
    return ForecastNode(name, on, bios, KERNEL, outcome, why, vms)


def refused(*counts: tuple[str, int]) -> tuple[StageCount, ...]:
    return tuple(StageCount(stage, number, "") for stage, number in counts)


def bad() -> ForecastView:
    """F11 widens groups on one board, and stands well on the other."""
    why = "GROUP_WIDENED on 5"
    return ForecastView(
        at=AT,
        revision=88213,
        bios="F11",
        kernel="",
        boards=(
            board(
                X13,
                "bad",
                failed=BROKEN,
                codes=("GROUP_WIDENED",),
                incidents=("INC-7",),
                unjudged=("pve12",),
                nodes=9,
            ),
            board(TWIN, "good", passed=("twin1", "twin2"), nodes=3),
        ),
        nodes=(
            node("pve01", "bad", why, "train-1", "render-4"),
            node("pve02", "bad", why, "train-2"),
            node("pve03", "bad", why),
            *(node(name, "fails", "runs it and fails") for name in BROKEN),
            node("twin3", "good", "passed on 2", on=TWIN),
            node("pve12", "there", "runs it"),
            *(node(name, "there", "runs it and passes", on=TWIN) for name in ("twin1", "twin2")),
        ),
        moves=(
            ForecastMove("render-4", "pve01", "bad", "twin1", "", ()),
            ForecastMove("train-1", "pve01", "bad", "twin2", "", ()),
            ForecastMove(
                "train-2",
                "pve02",
                "bad",
                "",
                "9 nodes refuse: admitted 6, free 3",
                refused(("admitted", 6), ("free", 3)),
            ),
        ),
        heard=12,
        untried=0,
        next="vfioctl incident show INC-7",
    )


def unknown() -> ForecastView:
    """A kernel that no node of the board has run."""
    weaker = "kernel 6.14.2 on other boards: passed on 40, failed on 2: RESET_LOST"
    return ForecastView(
        at=AT,
        revision=88213,
        bios="",
        kernel="6.14.2",
        boards=(
            board(
                X13, "unknown", bios="", kernel="6.14.2", known=(KERNEL,), weaker=(weaker,), nodes=2
            ),
        ),
        nodes=(
            node("pve01", "unknown", "never seen on its board", "train-1"),
            node("pve02", "unknown", "never seen on its board"),
        ),
        moves=(ForecastMove("train-1", "pve01", "unknown", "pve05", "", ()),),
        heard=2,
        untried=0,
        next="try it on one node first: pve02 has no VM",
    )


def silent() -> ForecastView:
    """Just after a start: nobody was heard yet."""
    why = "not heard since the start"
    return ForecastView(
        at=AT,
        revision=88213,
        bios="F11",
        kernel="",
        boards=(board("", "unknown", bios="F11", nodes=2),),
        nodes=tuple(
            ForecastNode(name, "", "", "", "unknown", why, ()) for name in ("pve01", "pve02")
        ),
        moves=(),
        heard=0,
        untried=0,
        next="vfioctl node list",
    )
