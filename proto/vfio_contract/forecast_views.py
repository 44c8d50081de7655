"""What the coordinator says would happen with a BIOS or kernel: what is known, whom it concerns.

The values of `vfio_contract.views` for one subject: names and fields are those of the messages in
`vfioctl.v1`. What was never seen is unknown, never good. Nothing is worked out here.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_contract.views import StageCount

GOOD, BAD, MIXED, UNKNOWN, THERE = "good", "bad", "mixed", "unknown", "there"
FAILS = "fails"
OUTCOMES = (BAD, FAILS, MIXED, UNKNOWN, GOOD, THERE)
"""What would happen to a node, worst first. `there`: it runs that already; `fails`: it does, and
fails now, whatever the reason."""


@dataclass(frozen=True, slots=True)
class ForecastBoard:
    """What is known of the versions asked for on one board, "" for a board that is not known.

    `bios` and `kernel` are in full, as typed where nothing like it is known, "" where not asked
    for. `outcome` is good, bad, mixed or unknown. `passed` nodes had every intended unit pass every
    gate with them, now or when they were accepted so; `failed` ones show the `codes` with them now,
    under these `incidents`; of `unjudged` ones, which run them, neither is known. `weaker` says in
    words what is known of a part of it only, or on other boards; it decides nothing. `known` are
    versions known of this board where the one asked for is not. `nodes` are those asked about.
    """

    board: str
    bios: str
    kernel: str
    outcome: str
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    unjudged: tuple[str, ...]
    codes: tuple[str, ...]
    incidents: tuple[str, ...]
    weaker: tuple[str, ...]
    known: tuple[str, ...]
    nodes: int


@dataclass(frozen=True, slots=True)
class ForecastNode:
    """A node asked about. `outcome` is one of OUTCOMES, `why` says what it rests on.

    `bios` and `kernel` are what it runs, "" for not known; `vms` those with a claim there.
    """

    node: str
    board: str
    bios: str
    kernel: str
    outcome: str
    why: str
    vms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForecastMove:
    """A VM whose node would not vouch for it any more, and where its request would fit now.

    `outcome` is its node's: with `bad` it loses its home, else only if the node fails. `to` is ""
    where it fits nowhere: then `stages` count the other nodes by what refuses it, and `why` says
    it in words.
    """

    vm: str
    node: str
    outcome: str
    to: str
    why: str
    stages: tuple[StageCount, ...]


@dataclass(frozen=True, slots=True)
class ForecastView:
    """The answer, as of `revision` and `at`. `bios` and `kernel` are as they were asked for.

    `boards` are worst first, `nodes` worst first and by name, `moves` those that lose their home
    first. `heard` of the nodes were heard since the coordinator's start. `untried` more VMs are
    concerned and were not placed. `next` is a command, or words, "" for nothing to do.
    """

    at: str
    revision: int
    bios: str
    kernel: str
    boards: tuple[ForecastBoard, ...]
    nodes: tuple[ForecastNode, ...]
    moves: tuple[ForecastMove, ...]
    heard: int
    untried: int
    next: str
