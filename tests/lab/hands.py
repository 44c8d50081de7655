"""A guest whose agent may act: asked through `vfioctl device ...`, and what became of it.

Nothing here acts by itself: every answer is the product's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.lab.cluster import Cluster
from tests.lab.harness.machine import Guest

EVERYTHING = """
actuate = true
verbs = ["bind", "unbind", "reset-test"]
devices = ["*"]
"""
# A command takes 2-5 s in there, many times that on a busy host.
ACT_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Hands:
    """A machine with its agent, the cluster that hears of it, and its name there."""

    guest: Guest
    cluster: Cluster
    node: str

    def act(self, verb: str, address: str, *options: str) -> dict[str, Any]:
        """`vfioctl device VERB ADDRESS`: {"status", "report", "err"}."""
        found: dict[str, Any] = self.guest.call(
            "acting.device", limit_s=ACT_LIMIT_S, verb=verb, address=address, options=options
        )
        return found

    def driver(self, address: str) -> str:
        """The function's driver, "" for none."""
        return str(self.guest.call("host.driver_of", address=address))

    def await_events(self, count: int, code: str, *words: str) -> None:
        """Wait until the cluster's log has so many rows of this code with these words, no more."""

        def rows() -> list[str]:
            texts = [e.text for e in self.cluster.events() if e.code == code]
            return [text for text in texts if all(word in text for word in words)]

        what = f"told of {code} {words}"
        self.cluster.until(self.node, lambda _: len(rows()) >= count, what=what)
        assert len(rows()) == count


def codes(acted: dict[str, Any]) -> set[str]:
    return {reason["code"] for reason in acted["report"]["reasons"]}


def require(acted: dict[str, Any], outcome: str) -> dict[str, Any]:
    """The report of an action that ended like this."""
    report: dict[str, Any] = acted["report"]
    assert report.get("outcome") == outcome, acted
    assert acted["status"] == {"done": 0, "planned": 0, "refused": 2}[outcome]
    return report
