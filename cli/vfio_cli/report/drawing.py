"""The boxes of the picture with their words: cut to the room there is, whole in the title.

Colour never carries meaning alone: a verdict has a sign and a word, a group its number, a part of a
unit its word. What is not known is written as a question mark or in words. Widths of letters are
estimated on the wide side, since a page that asks for no font cannot know which one it gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfio_cli.report.geometry import Line, Rect
from vfio_cli.report.layout import Box, Bracket, Panel, Shape
from vfio_cli.report.outlines import TAB, Outline, has_group
from vfio_cli.screens.layout import clean
from vfio_contract.address import Address
from vfio_contract.findings import Verdict
from vfio_contract.model import PciFunction

PALETTE = 8
"""Colours for shared groups (classes `g0` to `g7`); further groups get another kind of line."""

UNKNOWN_DRIVER = "driver not known"

STROKES = ("solid", "dashed", "dotted")

_MONO = 0.61
"""Width of a letter of the widest common fixed font, in em (DejaVu Sans Mono 0.602)."""

_NARROW, _USUAL, _WIDE, _BOLD = 0.37, 0.62, 0.96, 1.13
"""Widths of DejaVu Sans's narrow, usual and widest letters, in em, rounded up; bold by how much."""

_NAME_SIZE, _SMALL = 12.5, 11.0
_VERDICT_ROOM = 112
_PILL_SIZE = 10.0


@dataclass(frozen=True, slots=True)
class Label:
    """Words at a place: baseline at `y`. `style` is a class of the style sheet."""

    x: float
    y: float
    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Pill:
    """A small mark with a word in it."""

    rect: Rect
    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Card:
    """One function's box. `role` is assign, hold or ""; `verdict` None where there is none."""

    address: str
    rect: Rect
    shape: str
    role: str
    title: str
    labels: tuple[Label, ...]
    pills: tuple[Pill, ...]
    verdict: Verdict | None
    sign: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """An outline with its label. `style` names colour and kind of line; `lines` are the label."""

    rect: Rect
    tab: Rect
    style: str
    outlined: bool
    labels: tuple[Label, ...]
    title: str
    group: str
    members: str


@dataclass(frozen=True, slots=True)
class Band:
    """A horizontal piece of a panel that is never cut by a page of paper."""

    top: float
    height: float
    lines: tuple[Line, ...]
    brackets: tuple[Bracket, ...]
    frames: tuple[Frame, ...]
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """What is written about one function. `numa` is "" where its panel says it for all.

    `kind` says what a bridge (or another function in its slot) is; `role` is assign, hold or "";
    `marks` are (word, style) pairs, the rightmost first; `verdict` is None where it is not judged.
    """

    name: str
    kind: str
    driver: str
    numa: str
    unit: str
    role: str
    marks: tuple[tuple[str, str], ...]
    extra: str
    verdict: Verdict | None
    title: str


def draw_bands(
    panel: Panel,
    words: Mapping[Address, Words],
    styles: Mapping[int, str],
) -> tuple[Band, ...]:
    """The panel in pieces. `styles` are those of groups with several members."""
    cards = [_card(box, words[box.address]) for box in panel.boxes]
    frames = [_frame(outline, styles) for outline in panel.outlines]
    bands = []
    for top, bottom in zip(panel.cuts, panel.cuts[1:], strict=False):
        # a pixel over, so that no seam shows where the page scales the picture
        pieces = (line.within(top, bottom + 1) for line in panel.lines)
        bands.append(
            Band(
                top=top,
                height=bottom - top,
                lines=tuple(p for p in pieces if p is not None),
                brackets=tuple(b for b in panel.brackets if top <= b.line.y1 < bottom),
                frames=tuple(f for f in frames if top <= f.rect.y < bottom),
                cards=tuple(c for c in cards if top <= c.rect.y < bottom),
            )
        )
    return tuple(bands)


def group_styles(members: Mapping[int, int]) -> dict[int, str]:
    """Classes for groups of more than one member (group -> how many), by number."""
    shared = sorted(n for n, count in members.items() if count > 1)
    return {
        number: f"g{index % PALETTE} {STROKES[index // PALETTE % len(STROKES)]}"
        for index, number in enumerate(shared)
    }


def _card(box: Box, words: Words) -> Card:
    make = {Shape.BRIDGE: _bridge_labels, Shape.FULL: _full_labels, Shape.LOW: _low_labels}
    labels, pills = make[box.shape](box, words)
    rect = box.rect
    return Card(
        address=box.address,
        rect=rect,
        shape=str(box.shape),
        role=words.role,
        title=words.title,
        labels=tuple(labels),
        pills=tuple(pills),
        verdict=words.verdict if box.shape is Shape.FULL else None,
        sign=(rect.right - _VERDICT_ROOM + 8, rect.y + 6),
    )


def _bridge_labels(box: Box, words: Words) -> tuple[list[Label], list[Pill]]:
    x, room = box.rect.x + 12, box.rect.width - 18
    below = words.kind
    if words.driver == UNKNOWN_DRIVER:
        doubtful = f"{words.kind}, driver ?"
        below = doubtful if text_width(doubtful, _SMALL) <= room else below
    elif words.driver not in ("pcieport", "no driver"):
        below += f", {words.driver}"
    return [
        Label(x, box.rect.y + 19, cut_mono(box.address, room, 12), "address"),
        Label(x, box.rect.y + 36, cut_text(below, room, _SMALL), "small"),
    ], []


def _full_labels(box: Box, words: Words) -> tuple[list[Label], list[Pill]]:
    x, y = box.rect.x + 14, box.rect.y
    after = x + len(box.address) * 12 * _MONO + 12
    labels = [
        Label(x, y + 19, box.address, "address"),
        Label(
            after,
            y + 19,
            cut_text(words.name, box.rect.right - _VERDICT_ROOM - after, _NAME_SIZE),
            "name",
        ),
    ]
    if words.verdict is not None:
        labels.append(
            Label(
                box.rect.right - _VERDICT_ROOM + 28,
                y + 18,
                words.verdict.replace("_", " "),
                f"verdict {words.verdict.lower()}",
            )
        )
    pills: list[Pill] = []
    right = box.rect.right - 8
    for text, style in words.marks:
        width = text_width(text, _PILL_SIZE) * _BOLD + 12
        right -= width
        pills.append(Pill(Rect(right, y + 25, width, 15), text, style))
        right -= 6
    unit = f"{words.unit}, {words.role}" if words.unit else ""
    below = _join(words.driver, unit and f"unit {unit}", words.numa, words.extra)
    if text_width(below, _SMALL) > right - x:
        below = _join(words.driver, unit, words.numa, words.extra)
    labels.append(Label(x, y + 36, cut_text(below, right - x, _SMALL), "small"))
    return labels, pills


def _join(*words: str) -> str:
    return " | ".join(word for word in words if word)


def _low_labels(box: Box, words: Words) -> tuple[list[Label], list[Pill]]:
    x, y = box.rect.x + 14, box.rect.y + 18
    after = x + len(box.address) * 12 * _MONO + 12
    end = box.rect.right - 8
    driver = cut_text(words.driver, 110, _SMALL)
    start = end - max(text_width(driver, _SMALL), _VERDICT_ROOM - 16)
    return [
        Label(x, y, box.address, "address thin"),
        Label(after, y, cut_text(words.name, start - after - 8, _NAME_SIZE), "name thin"),
        Label(start, y, driver, "small"),
    ], []


def _frame(outline: Outline, styles: Mapping[int, str]) -> Frame:
    rect = outline.rect
    inset = 0.6 if has_group(outline.group) else 0
    tab = Rect(rect.right - TAB, rect.y + inset, TAB - inset, rect.height - 2 * inset)
    number = "?" if outline.group is None else str(outline.group)
    style, title = "alone", f"IOMMU group {number}: this function alone"
    word = "group"
    if outline.group is None:
        style, title = "unknown-group", "its IOMMU group is not known"
    elif not outline.known:
        style, title, word, number = "none", "it is in no IOMMU group", "no", "group"
    elif outline.group in styles:
        style = f"shared {styles[outline.group]}"
        title = f"IOMMU group {number}: {', '.join(outline.members)}"
    lines = [(word, "tab"), (number, "tab" if number == "group" else "tab number")]
    if outline.parts > 1 and outline.known:
        lines.append((f"{outline.part} of {outline.parts}", "tab"))
        title += f"; part {outline.part} of {outline.parts}"
    middle = tab.x + TAB / 2
    first = tab.middle - (len(lines) - 1) * 6.0 + 3.5
    labels = tuple(
        Label(middle, first + 12 * row, text, kind) for row, (text, kind) in enumerate(lines)
    )
    return Frame(
        rect=rect,
        tab=tab,
        style=style,
        outlined=outline.known,
        labels=labels,
        title=title,
        group=number if outline.known else "",
        members=" ".join(outline.members),
    )


def describe_bridge(function: PciFunction, *, below: bool) -> str:
    """What kind of bridge it is, as far as its config space says."""
    config = function.config
    port = None if config is None or config.pcie is None else config.pcie.port_type
    if port in _PORTS:
        return _PORTS[port]
    if function.is_bridge:
        return "bridge"
    if function.sub_class in _HELPERS:
        return _HELPERS[function.sub_class]
    return "bridge?" if below else "not a bridge"


_PORTS = {
    4: "root port",
    5: "upstream port",
    6: "downstream port",
    7: "PCI bridge",
    8: "PCIe bridge",
}
_HELPERS = {0x0600: "host bridge", 0x0601: "ISA bridge", 0x0806: "IOMMU", 0x0C05: "SMBus"}


def text_width(text: str, size: float) -> float:
    """At most how wide the text is, in pixels at this size in pixels."""
    return sum(_letter(c) for c in text) * size


def cut_text(text: str, room: float, size: float) -> str:
    """The text, or as much of it as surely fits with `..` behind it."""
    return _cut(clean(text), room, [_letter(c) * size for c in clean(text)], 2 * _NARROW * size)


def cut_mono(text: str, room: float, size: float) -> str:
    """As `cut_text`, in letters of one width."""
    return _cut(clean(text), room, [_MONO * size] * len(clean(text)), 2 * _MONO * size)


def _cut(text: str, room: float, widths: Sequence[float], dots: float) -> str:
    if sum(widths) <= room:
        return text
    used, kept = dots, 0
    for width in widths:
        used += width
        if used > room:
            break
        kept += 1
    return f"{text[:kept].rstrip()}.." if kept else ""


def _letter(character: str) -> float:
    if character in " .,:;'|!ijl()[]ft/":
        return _NARROW
    return _WIDE if character in "mwMW@%" else _USUAL
