"""The page: safe whatever the evidence says, complete, and the same for the same evidence."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.snapshots import behind, bridge, gpu, make_snapshot, nic, unread
from tests.unit.report.hosts import forests
from tests.unit.report.pages import (
    HOSTS,
    Parsed,
    render_captured,
    render_snapshot,
    view_captured,
    view_of,
)
from vfio_agent.inspect import judge_snapshot
from vfio_cli.report.drawing import cut_text, text_width
from vfio_cli.report.page import render_page
from vfio_cli.screens.layout import clean
from vfio_contract.address import Address
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, Snapshot

CAPTURED = sorted(path.name.removesuffix(".tar.gz") for path in HOSTS.glob("*.tar.gz"))

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>",
    '"]]>',
    "' onload='x",
    '" style="color:red',
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "\x1b[2J\x00\x07",
    "\u202eevil\u2066",
    "a\nb\r\nc",
    "\udcff\ud800",
    "javascript:alert(1)",
    "x" * 4000,
)


def hostile_snapshot(text: str) -> Snapshot:
    port = bridge("0000:00:01.0", group=1, driver=text)
    card = gpu("0000:01:00.0", group=2, driver=text, root=text)
    made = make_snapshot(*behind(port, card), host=text, cmdline=text)
    facts = replace(made.facts, firmware=replace(made.facts.firmware, bios_version=text))
    readings = replace(made.readings, names=((card.ids, text),), boot_id=text)
    return Snapshot(facts, readings)


# --- safety --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_of_a_host_becomes_markup(text: str) -> None:
    harmless = Parsed(render_snapshot(hostile_snapshot("harmless")))
    page = render_snapshot(hostile_snapshot(text))
    hostile = Parsed(page)
    assert page.isascii()
    assert not any(ord(c) < 32 and c != "\n" for c in page)
    assert {e.tag for e in hostile.elements} == {e.tag for e in harmless.elements}
    names = {n for e in hostile.elements for n in e.attributes}
    assert names == {n for e in harmless.elements for n in e.attributes}
    assert "style" not in names
    assert not any(name.startswith("on") for name in names)


@settings(max_examples=20)
@given(st.text(max_size=40))
def test_any_text_is_shown_as_plain_ascii(text: str) -> None:
    page = render_snapshot(hostile_snapshot(text))
    assert page.isascii()
    parsed = Parsed(page)
    assert not parsed.find("script")
    assert parsed.find("h1")[0].text == [clean(text) or "(no name)"]


@pytest.mark.parametrize("name", CAPTURED)
def test_the_policy_forbids_all_but_the_one_style_sheet(name: str) -> None:
    page = render_captured(name)
    parsed = Parsed(page)
    (style,) = parsed.find("style")
    digest = base64.b64encode(sha256("".join(style.text).encode()).digest()).decode()
    (policy,) = parsed.find("meta", http_equiv="Content-Security-Policy")
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    first = next(i for i, e in enumerate(parsed.elements) if e is policy)
    assert not any(e.tag in ("style", "link", "base", "img") for e in parsed.elements[:first])


@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_on_the_page_asks_for_anything(name: str) -> None:
    page = render_captured(name)
    for word in ("http://", "https://", "url(", "@import", "src=", "xlink", "javascript:"):
        assert word not in page
    parsed = Parsed(page)
    loading = {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "use"}
    assert not loading & {e.tag for e in parsed.elements}
    anchors = {e.attributes["id"] for e in parsed.elements if "id" in e.attributes}
    links = [e.attributes["href"] for e in parsed.find("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= anchors
    assert all("style" not in e.attributes for e in parsed.elements)


# --- the same for the same evidence --------------------------------------------------------------


def test_the_same_evidence_gives_the_same_page() -> None:
    assert render_captured("m3-intel-6.12") == render_captured("m3-intel-6.12")


def test_only_a_live_host_says_when_it_was_read() -> None:
    seen = judge_snapshot(make_snapshot(nic("0000:01:00.0")))
    at = "2026-11-22 14:00:00Z"
    assert at in render_page(view_of(seen, collected=at))
    assert "the evidence does not say when" in render_page(view_of(seen))


# --- complete ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPTURED)
def test_every_function_and_every_finding_is_on_the_page(name: str) -> None:
    page = render_captured(name)
    parsed = Parsed(page)
    view = view_captured(name)
    drawn = parsed.values("data-function")
    boxes = [c.address for p in view.panels for b in p.bands for c in b.cards]
    assert drawn == boxes
    assert len(set(drawn)) == len(drawn)
    text = parsed.text()
    for block in (*view.blocks, *view.passed, *view.not_applicable, *view.others):
        assert block.code in text
        for check in block.checks:
            assert check in text
    for unit in view.units:
        assert unit.id in text


@settings(max_examples=30)
@given(forests())
def test_any_forest_makes_a_whole_page(snapshot: Snapshot) -> None:
    parsed = Parsed(render_snapshot(snapshot))
    drawn = parsed.values("data-function")
    assert sorted(drawn) == sorted(f.address for f in snapshot.facts.functions or ())
    host = Host(snapshot)
    for frame in parsed.elements:
        if "data-group" in frame.attributes:
            members = frame.attributes["data-members"].split()
            groups = {host.by_address[Address(m)].group for m in members}
            assert groups == {int(frame.attributes["data-group"])}


def test_what_is_bad_is_open_and_what_passed_is_folded() -> None:
    parsed = Parsed(render_captured("iommu-off"))
    for element in parsed.find("details"):
        classes = element.attributes.get("class", "").split()
        if "fail" in classes and "open" not in element.attributes:
            continue
        if {"fold", "pass", "not_applicable"} & set(classes):
            assert "open" not in element.attributes
    opened = [e.attributes["class"] for e in parsed.find("details") if "open" in e.attributes]
    assert opened[:2] == ["finding fail"] * 2
    assert "finding blocked" in opened
    text = parsed.text()
    assert "Stop digging: leave VM arguments alone until iommu-active passes." in text
    assert "Settle iommu-active first" in text


@pytest.mark.parametrize("name", CAPTURED)
def test_whatever_fails_says_what_to_do_and_whatever_is_missing_how_to_get_it(name: str) -> None:
    view = view_captured(name)
    for block in view.blocks:
        if block.verdict is Verdict.FAIL:
            assert block.decision
        assert all(item.command for item in block.missing)
    asked = {item.command for block in view.blocks for item in block.missing}
    assert asked <= {command for command, _ in view.missing}


def test_what_is_not_known_is_drawn_as_not_known() -> None:
    port = bridge("0000:00:01.0", group=1)
    loose = unread(nic("0000:01:00.0", group=2), "parent", "group", "driver", "numa_node")
    out = nic("0000:02:00.0", group=NO_GROUP, parent=Address("0000:00:1c.0"))
    parsed = Parsed(render_snapshot(make_snapshot(port, loose, out)))
    text = parsed.text()
    assert "Bus 0000:01: below which bridge it is, is not known" in text
    assert "Below 0000:00:1c.0, which the evidence does not hold" in text
    assert "driver not known" in text
    assert "NUMA node not known" in text
    assert len(parsed.find("figure", class_="tree loose")) == 2
    unknown = parsed.find("g", class_="frame unknown-group", data_members="0000:01:00.0")
    assert len(unknown) == 1
    assert "data-group" not in unknown[0].attributes
    assert len(parsed.find("g", class_="frame none", data_members="0000:02:00.0")) == 1


def test_an_inventory_that_could_not_be_read_is_said_and_not_drawn() -> None:
    parsed = Parsed(render_snapshot(make_snapshot(functions=None)))
    assert not parsed.find("figure")
    assert "the PCI functions could not be listed" in parsed.text()


def test_marks_words_and_units_of_the_shared_group_machine() -> None:
    view = view_captured("gpubox-f11")
    cards = {c.address: c for p in view.panels for b in p.bands for c in b.cards}
    held = cards["0000:00:1f.0"]
    assert held.role == "hold"
    assert any("hold" in label.text for label in held.labels)
    assert [p.text for p in held.pills] == ["host needs it"]
    meant = cards["0000:04:00.0"]
    assert meant.role == "assign"
    assert meant.verdict is Verdict.FAIL
    assert [p.text for p in meant.pills] == ["intended"]
    frames = [f for p in view.panels for b in p.bands for f in b.frames]
    (shared,) = [f for f in frames if f.group == "2"]
    assert shared.style.startswith("shared g")
    assert shared.members == "0000:00:02.0 0000:04:00.0 0000:00:02.1 0000:05:00.0"


# --- readable ------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_enough_contrast() -> None:
    style = files("vfio_cli.report").joinpath("style.css").read_text()
    variables = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", style))
    for name in ("ink", "soft", "faint", "bad", "warn", "unsure", "good", "link"):
        for ground in ("#ffffff", variables["wash"]):
            assert contrast(variables[name], ground) >= 4.5, name
    groups = re.findall(r"\.g\d \{ color: (#[0-9a-f]{6}); \}", style)
    assert len(groups) == 8
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in groups)
    assert all(one != other for one, other in combinations(groups, 2))
    (single,) = re.findall(r"\.around \{[^}]*stroke: (#[0-9a-f]{6})", style)[:1]
    assert contrast(single, "#ffffff") >= 3


@given(st.text(max_size=80), st.floats(0, 400), st.floats(8, 20))
def test_a_cut_text_fits(text: str, room: float, size: float) -> None:
    assert text_width(cut_text(text, room, size), size) <= max(room, 0) + 0.001


def test_no_label_reaches_beyond_its_box() -> None:
    for name in CAPTURED:
        for panel in view_captured(name).panels:
            for card in (c for band in panel.bands for c in band.cards):
                for label in card.labels:
                    size = 12.0 if "address" in label.style else 11.0
                    end = label.x + text_width(label.text, size)
                    assert end <= card.rect.right + 1, (name, card.address, label.text)
                for pill in card.pills:
                    assert card.rect.holds(pill.rect)
