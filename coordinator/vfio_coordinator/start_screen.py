"""What a coordinator that serves says once to whoever started it: who it is and what to do next.

The first line, `listening HOST:PORT`, is also for programs: `vfioctl up` waits for it. Nothing here
may name a key, or say that a node is well: none has been heard yet.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from vfio_coordinator.state.model import State

WIDTH = 80
_FRONT = "           "


def start_screen(state: State, *, endpoint: str, directory: Path, nodes: Sequence[str]) -> str:
    """Lines of at most 80 columns, but for paths and commands, which are there to be copied.

    `directory` is the coordinator's own, absolute; `nodes` those that were named at this start.
    """
    known = f"{_count(len(state.nodes), 'node')} and {_count(len(state.vms), 'VM')} known"
    rows = [
        ("cluster", f"{state.cluster_id}, epoch {state.epoch}; {known}"),
        ("state", f"{directory}"),
        ("admin", f"{directory}/users/admin (for --tls from another machine)"),
        ("nodes", _nodes(directory / "nodes", nodes)),
        ("look", f"vfioctl status --cluster --endpoint unix:{directory}/api.sock"),
    ]
    return f"listening {endpoint}\n" + "".join(_row(name, text) for name, text in rows)


def _nodes(directory: Path, names: Sequence[str]) -> str:
    if not names:
        return "no bundle asked for: --node NAME makes one for that node's agent"
    return (
        f"{directory}/ has {' '.join(names)}: copy each to its host; there: "
        "vfioctl agent run --tls DIR"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _row(name: str, text: str) -> str:
    if name == "look":  # never wrapped
        return f"  {name:<9}{text}\n"
    return (
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=f"  {name:<9}",
            subsequent_indent=_FRONT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )
