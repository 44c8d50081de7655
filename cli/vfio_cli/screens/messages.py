"""The screen of `vfioctl diagnose --error`: what the messages of a text mean, the cause first.

Each has its lines, its meaning, what to do, and the check that proves it. What was not recognised
is counted and shown: nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfio_agent.diagnosis import Kind, Message, Reading, Sighting, symptom_for
from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    blank,
    plural,
    two_ends,
    wrap,
)
from vfio_cli.screens.missing import LABEL

KIND_WORDS = {
    Kind.FAULT: ("FAILURE", "bad"),
    Kind.RISK: ("RISK", "warn"),
    Kind.NO_PROOF: ("PROVES NOTHING", "unsure"),
    Kind.HARMLESS: ("HARMLESS", "faint"),
    Kind.PROOF: ("PROOF", "good"),
}
"""Kind -> its word on the screen and its tone."""

_KIND_COUNTS = {
    Kind.FAULT: ("failure",),
    Kind.RISK: ("risk",),
    Kind.NO_PROOF: ("line that proves nothing", "lines that prove nothing"),
    Kind.HARMLESS: ("harmless message",),
    Kind.PROOF: ("proof",),
}
"""Kind -> its noun, and its plural where an s is not enough."""

MAX_ADDRESSES = 6
_HANG = 12


def error_screen(reading: Reading, *, wide: bool = False) -> Lines:
    """The whole screen of a text's messages."""
    width = UNLIMITED if wide else WIDTH
    lines: Lines = _error_heading(reading)
    for sighting in reading.sightings:
        lines += [Line(""), *_sighting(sighting, reading, width)]
    blank(lines)
    lines += _unknown(reading, width)
    lines += _error_end(reading, width)
    return lines


def _error_heading(reading: Reading) -> Lines:
    kinds = [s.message.kind for s in reading.sightings]
    said = ", ".join(
        plural(number, *words) for k, words in _KIND_COUNTS.items() if (number := kinds.count(k))
    )
    read = f"{plural(reading.lines, 'line')} read"
    if not kinds:
        return [Line(f"NOT RECOGNISED   {read}", "unsure", 0, 14)]
    root = reading.root
    word, tone = KIND_WORDS[kinds[0]]
    if root is not None:
        word = "ROOT CAUSE" if len(kinds) > 1 else "CAUSE"
        left = f"{word}: {root.message.id}"
    elif reading.unproved:
        word, tone = "NOT PROVED", "unsure"
        left = f"{word}: {', '.join(reading.unproved)}"
    else:
        word = "NO FAILURE"
        left = f"{word} in what was recognised"
    right = f"{said}; {read}"
    if len(left) + len(right) + 2 > WIDTH:
        return [Line(left, tone, 0, len(word)), *wrap("  ", right)]
    return [Line(two_ends(left, right), tone, 0, len(word))]


def _sighting(sighting: Sighting, reading: Reading, width: int) -> Lines:
    message = sighting.message
    word, tone = KIND_WORDS[message.kind]
    times = f"  {plural(sighting.count, 'line')}" if sighting.count > 1 else ""
    lines: Lines = [Line(f"{word}  {message.id}{times}", tone, 0, len(word))]
    for label, seen in zip(_labels("text"), sighting.seen, strict=False):
        front = LABEL.format(label)
        lines += wrap(front, f"{seen.line}: {seen.text}", width=width, hang=_HANG + 2)
    about = _about(sighting)
    if about:
        lines += wrap(LABEL.format("about"), about, width=width, hang=_HANG)
    lines += cause_lines(message, width)
    if sighting.follows:
        text = f"from {', '.join(sighting.follows)}, which the same text shows"
        lines += wrap(LABEL.format("follows"), text, width=width, hang=_HANG)
    return lines


def cause_lines(message: Message, width: int = WIDTH) -> Lines:
    """What a message means, what to do, and which check proves it; each of its causes."""
    lines: Lines = []
    for label, cause in zip(_cause_labels(len(message.causes)), message.causes, strict=False):
        lines += wrap(LABEL.format(label), cause.meaning, width=width, hang=_HANG)
        lines += wrap(LABEL.format("decision"), cause.decision, width=width, hang=_HANG)
        if cause.check and message.kind is not Kind.HARMLESS:
            text = f"check {cause.check}: vfioctl explain {cause.check}"
            lines += wrap(LABEL.format("proof"), text, width=width, hang=_HANG)
        elif message.kind is not Kind.HARMLESS:
            lines += wrap(LABEL.format("proof"), "no check of the host shows this", width=width)
    return lines


def _cause_labels(number: int) -> Iterable[str]:
    word = "meaning"
    return [word] if number == 1 else [f"cause {n}" for n in range(1, number + 1)]


def _about(sighting: Sighting) -> str:
    parts = []
    for names, word in (
        (sighting.addresses, ""),
        (sighting.groups, "group "),
        (sighting.vms, "VM "),
    ):
        if names:
            more = f" and {len(names) - MAX_ADDRESSES} more" if len(names) > MAX_ADDRESSES else ""
            parts.append(word + ", ".join(names[:MAX_ADDRESSES]) + more)
    return "; ".join(parts)


def _unknown(reading: Reading, width: int) -> Lines:
    if not reading.unknown_lines or not reading.sightings:
        return []
    lines = wrap("", f"{plural(reading.unknown_lines, 'line')} not recognised.", width=width)
    if reading.unknown:
        lines[-1] = Line(lines[-1].text[:-1] + ", of those about passthrough first:")
    for seen in reading.unknown:
        lines += wrap("  ", f"{seen.line}: {seen.text}", width=width, hang=6)
    return lines


def _error_end(reading: Reading, width: int) -> Lines:
    root = reading.root
    if root is not None:
        checks = [c.check for c in root.message.causes if c.check]
        symptom = next((s for s in map(symptom_for, checks) if s is not None), None)
        if symptom is None:
            return []
        text = f"sudo vfioctl diagnose --symptom {symptom.name}"
        device = next((a for a in root.addresses if a.count(":") == 2), "")
        if device:
            text += f" --device {device}"
        return wrap("Next: ", text, width=width, hang=2)
    if reading.sightings:
        return wrap("Next: ", "what the host itself shows: sudo vfioctl check", width=width)
    lines: Lines = []
    for seen in reading.unknown:
        lines += wrap("  ", f"{seen.line}: {seen.text}", width=width, hang=6)
    blank(lines)
    lines += wrap("", "No message of the kernel, QEMU, libvirt or Proxmox that is known here.")
    for sentence in (
        "Give the whole text, not only its last line: what comes before often says why.",
        "Translated messages are not known: LC_ALL=C, and start the VM again.",
        "The kernel's side: sudo dmesg | vfioctl diagnose --error -",
        "What the host itself shows, without any message: sudo vfioctl check",
        "What you see, without any message: vfioctl diagnose --symptom NAME",
    ):
        lines += wrap("  - ", sentence, width=width)
    return lines


def _labels(word: str) -> Iterable[str]:
    yield word
    while True:
        yield ""
