"""The page in a real browser: no complaint, no request, no sideways scrolling, no clipped word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.snapshots import make_snapshot, nic
from tests.unit.report.chromium import Chromium, Seen, open_chromium
from tests.unit.report.hosts import make_chain
from tests.unit.report.pages import render_captured, render_snapshot
from vfio_agent.inspect import inspect_evidence
from vfio_cli.report.page import render_page
from vfio_cli.report.view import build_page

pytestmark = pytest.mark.browser

SCREEN = 1280
"""Pixels; the page must be readable on it without scrolling sideways."""

QUESTIONS = {
    "width": "document.documentElement.scrollWidth",
    "title": "document.title",
    "font": "getComputedStyle(document.querySelector('h1')).fontSize",
    "outside": """Array.from(document.querySelectorAll('svg.band text')).filter(t => {
        const band = t.closest('svg.band').getBoundingClientRect();
        const box = t.getBoundingClientRect();
        return box.left < band.left || box.right > band.right
            || box.top < band.top - 1 || box.bottom > band.bottom + 1;
    }).map(t => t.textContent)""",
    "clipped": """Array.from(document.querySelectorAll('g.card')).flatMap(g => {
        const box = g.querySelector('rect.box').getBoundingClientRect();
        return Array.from(g.querySelectorAll('text')).filter(t => {
            const r = t.getBoundingClientRect();
            return r.right > box.right + 1 || r.left < box.left - 1;
        }).map(t => t.textContent);
    })""",
    "crossed": """Array.from(document.querySelectorAll('g.card')).flatMap(g => {
        const rects = Array.from(g.querySelectorAll('text')).map(t => t.getBoundingClientRect());
        return rects.some((a, i) => rects.some((b, j) => i < j
            && a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 3 && b.top < a.bottom - 3)) ? [g.dataset.function] : [];
    })""",
}


@pytest.fixture(scope="module")
def browser(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with open_chromium(chromium, tmp_path_factory.mktemp("profile")) as running:
        yield running


def visit(browser: Chromium, folder: Path, page: str, *, width: int = SCREEN) -> Seen:
    file = folder / "page.html"
    file.write_text(page, encoding="ascii")
    return browser.visit(file, width=width, ask=QUESTIONS, picture=True)


def expect_clean(seen: Seen) -> None:
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.endswith("/page.html")] == []
    assert len(seen.requests) == 1
    assert seen.values["font"] == "30px"  # the style sheet's hash was accepted
    assert seen.values["outside"] == []
    assert seen.values["clipped"] == []
    assert seen.values["crossed"] == []
    assert seen.screenshot.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["m3-intel-6.12", "gpubox-f11", "iommu-off", "numa-2gpu"])
def test_a_captured_host_is_shown_whole(browser: Chromium, tmp_path: Path, name: str) -> None:
    seen = visit(browser, tmp_path, render_captured(name))
    expect_clean(seen)
    assert seen.values["width"] == SCREEN
    assert seen.values["title"].startswith(f"{name} - ")


def test_256_functions_are_still_usable(browser: Chromium, tmp_path: Path) -> None:
    rows = [nic(f"0000:{n // 64:02x}:{n // 8 % 8:02x}.{n % 8}", group=n // 3) for n in range(256)]
    seen = visit(browser, tmp_path, render_snapshot(make_snapshot(*rows)))
    expect_clean(seen)
    assert seen.values["width"] == SCREEN


def test_a_tree_deeper_than_the_page_is_wide(browser: Chromium, tmp_path: Path) -> None:
    seen = visit(browser, tmp_path, render_snapshot(make_chain(24)))
    expect_clean(seen)
    assert seen.values["width"] == SCREEN


def test_a_long_name_does_not_widen_the_page(browser: Chromium, tmp_path: Path) -> None:
    snapshot = make_snapshot(nic("0000:01:00.0", driver="d" * 300), host="h" * 500)
    seen = visit(browser, tmp_path, render_snapshot(snapshot))
    expect_clean(seen)
    assert seen.values["width"] == SCREEN


@pytest.mark.shared
@pytest.mark.parametrize(
    "paste", ["lspci/vm-254dev.lspci-vv.txt", "groups/dell-t440.from-dmesg.tsv"]
)
def test_a_paste_of_a_big_server_is_shown_whole(
    browser: Chromium, tmp_path: Path, shared: Path, paste: str
) -> None:
    given = inspect_evidence([str(shared / "captures" / paste)])
    page = render_page(build_page(given.host, given.report, unread=(), given=given.given))
    seen = visit(browser, tmp_path, page)
    expect_clean(seen)
    assert seen.values["width"] == SCREEN


# --- the witness can accuse ----------------------------------------------------------------------


def test_a_page_that_breaks_its_own_policy_is_noticed(browser: Chromium, tmp_path: Path) -> None:
    page = render_captured("gpubox-f11").replace("<style>", "<style>/* changed */", 1)
    seen = visit(browser, tmp_path, page)
    assert any("Content Security Policy" in text for text in seen.complaints)
    assert seen.values["font"] != "30px"


def test_a_request_and_a_script_are_noticed(browser: Chromium, tmp_path: Path) -> None:
    page = "<!DOCTYPE html><title>x</title><h1>x</h1><script>console.error('no')</script>"
    page += '<img src="missing.png"><p style="width:3000px">wide</p>'
    seen = visit(browser, tmp_path, page)
    assert any(url.endswith("/missing.png") for url in seen.requests)
    assert seen.blocked == []
    assert any("console.error" in text for text in seen.complaints)
    assert seen.values["width"] > SCREEN


def test_the_policy_stops_what_evidence_might_smuggle_in(browser: Chromium, tmp_path: Path) -> None:
    page = render_captured("gpubox-f11")
    smuggled = '<img src="missing.png"><script>document.title = "taken"</script></body>'
    seen = visit(browser, tmp_path, page.replace("</body>", smuggled))
    assert [url for url in seen.blocked if url.endswith("/missing.png")]
    assert "taken" not in seen.values["title"]
