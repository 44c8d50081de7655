"""`--watch` of what the coordinator shows: drawn again when it changes, not when time has passed.

On a terminal the screen stays where it is and only lines that changed are written. Elsewhere each
change is a screen, or a document of its own: `-o json` one line each, `-o yaml` begun by `---`.
When the coordinator cannot be reached that is said, on the screen or on stderr, and the watch goes
on. Ctrl-C ends it (130).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfio_cli import terminal
from vfio_cli.client import connect
from vfio_cli.exits import Stop
from vfio_cli.follow import Break, follow
from vfio_cli.live import Live
from vfio_cli.output import DOCUMENTS, error_document, write_next
from vfio_cli.screens.layout import Line, Lines, clean, wrap
from vfio_contract.views import ClusterChange, WatchKind

PACE_S = 0.25
"""Between two drawings at the least: a storm of changes is shown as its result."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown at one moment, in each form."""

    screen: Callable[[bool], Lines]
    document: Callable[[], Mapping[str, Any]]
    names: Callable[[], Iterable[str]]


Draw = Callable[[Live, float], Picture | None]
"""The picture of the rows at a moment of the monotonic clock; None while there is none."""


def watch_cluster(
    form: str, *, kinds: Sequence[WatchKind], endpoint: str | None, tls: str | None, draw: Draw
) -> int:
    """Until Ctrl-C. Raises Stop where there is nothing to watch."""
    live, show = Live(), _Shown(form)
    changed, drawn_s = False, 0.0
    for word in follow(lambda: connect(endpoint, tls), kinds=kinds):
        now_s = time.monotonic()
        if isinstance(word, Break):
            show.lose(word.stop)
        elif isinstance(word, ClusterChange):
            changed = live.take(word, now_s=now_s) or changed
            show.regain()
        if changed and (word is None or now_s - drawn_s >= PACE_S):
            show.draw(draw(live, now_s), changed=True)
            changed, drawn_s = False, now_s
        elif not changed:
            show.draw(draw(live, now_s), changed=False)
    raise AssertionError("a watch does not end by itself")


class _Shown:
    """Where pictures go, and what is said when they are old."""

    def __init__(self, form: str) -> None:
        self._form = form
        people = form not in DOCUMENTS and form != "name"
        self._canvas = terminal.Canvas() if people and sys.stdout.isatty() else None
        self._lost = ""

    def lose(self, stop: Stop) -> None:
        again, self._lost = bool(self._lost), stop.format_message().rstrip(".")
        if again or self._canvas is not None:
            return  # said once, not for each attempt to come back
        terminal.note(f"vfioctl: {self._lost}; trying again")
        if self._form in DOCUMENTS:
            write_next(self._form, error_document(stop))

    def regain(self) -> None:
        if self._lost and self._canvas is None:
            terminal.note("vfioctl: connected again")
        self._lost = ""

    def draw(self, picture: Picture | None, *, changed: bool) -> None:
        """Show it; where nothing is drawn in place, only what changed."""
        if picture is None:
            return
        if self._canvas is not None:
            self._canvas.draw([*self._head(), *picture.screen(self._form == "wide")])
        elif not changed:
            return
        elif self._form in DOCUMENTS:
            write_next(self._form, picture.document())
        elif self._form == "name":
            terminal.write("".join(f"{clean(name)}\n" for name in picture.names()) + "\n")
        else:
            terminal.show([*picture.screen(self._form == "wide"), Line("")])

    def _head(self) -> Lines:
        """Above the rest: what stands below may be longer than the terminal."""
        if not self._lost:
            return []
        text = f"{self._lost}; trying again. What stands below is old."
        first, *more = wrap("NOT LIVE  ", text)
        return [Line(first.text, "bad", 0, len("NOT LIVE")), *more, Line("")]
