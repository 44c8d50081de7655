"""Pages of the report to look at, and what a browser would make of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from vfio_agent.inspect import Inspection, inspect_host, judge_snapshot
from vfio_cli.report.page import render_page
from vfio_cli.report.view import PageView, build_page
from vfio_contract.model import Snapshot

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"


def view_of(seen: Inspection, *, collected: str = "") -> PageView:
    return build_page(seen.host, seen.report, unread=(), given=seen.given, collected=collected)


@cache
def view_captured(name: str) -> PageView:
    return view_of(inspect_host(str(HOSTS / f"{name}.tar.gz")))


def render_captured(name: str) -> str:
    return render_page(view_captured(name))


def render_snapshot(snapshot: Snapshot) -> str:
    return render_page(view_of(judge_snapshot(snapshot)))


@dataclass(frozen=True)
class Element:
    """One start tag with what stands in it directly, as text."""

    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)


class Parsed(HTMLParser):
    """The elements of a page in order; an element that is not closed properly is an error."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(page)
        self.close()
        assert not self._open, [e.tag for e in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, (tag, self._open[-1])
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text.append(data)

    def find(self, tag: str, **attributes: str) -> list[Element]:
        """Elements of this tag with these attributes (`_` for `-`, `class_` for class)."""
        wanted = {n.rstrip("_").replace("_", "-"): v for n, v in attributes.items()}
        return [
            e
            for e in self.elements
            if e.tag == tag and all(e.attributes.get(n) == v for n, v in wanted.items())
        ]

    def values(self, name: str) -> list[str]:
        """An attribute's values, in order."""
        return [e.attributes[name] for e in self.elements if name in e.attributes]

    def text(self) -> str:
        """All of the page's text but its style sheet, in order of the elements."""
        rows = (" ".join(e.text) for e in self.elements if e.tag != "style")
        return " ".join(" ".join(rows).split())
