"""The screens of `vfioctl diagnose`: a symptom's walk to its root cause, and what a message means.

What was looked at stands in the order of looking, one line each; the cause is shown whole; what
could not be decided is named with the command that decides it. "Nothing found" is never said while
anything is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfio_agent.diagnosis import Kind, Look, Reading, Sighting, Walk, symptom_for
from vfio_cli.screens.check import finding_block, group_alike, short_subject
from vfio_cli.screens.given import GivenEvidence, given_lines
from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    blank,
    cut,
    plural,
    two_ends,
    wrap,
)
from vfio_contract.findings import NODE, Finding, Verdict

KIND_WORDS = {
    Kind.FAULT: ("FAILURE", "bad"),
    Kind.RISK: ("RISK", "warn"),
    Kind.NO_PROOF: ("PROVES NOTHING", "unsure"),
    Kind.HARMLESS: ("HARMLESS", "faint"),
    Kind.PROOF: ("PROOF", "good"),
}
"""Kind -> its word on the screen and its tone."""

MAX_SUBJECTS = 3
MAX_ADDRESSES = 6
_LABEL = "  {:<10}"
_HANG = 12
_WORDS = 8
_MIN_SEEN_BY = 7


@dataclass(frozen=True, slots=True)
class SymptomView:
    """A walk and what it rests on. `about` names the device or VM asked for, "" for the host."""

    walk: Walk
    host: str
    seen_by: str
    about: str = ""
    given: tuple[GivenEvidence, ...] = ()


def symptom_screen(view: SymptomView, *, wide: bool = False) -> Lines:
    """The whole screen of one symptom."""
    width = UNLIMITED if wide else WIDTH
    walk = view.walk
    lines: Lines = [_heading(view, width)]
    title = f"{walk.symptom.title} (field guide, {walk.symptom.source})"
    lines += wrap("", title, width=width)
    lines += given_lines(view.given, width)
    lines += [Line(""), Line("Looked at, in the field guide's order:")]
    lines += [line for look in walk.looks for line in _look(look, width)]
    lines += _blocks(walk.found, wide=wide)
    if walk.because:
        lines += _because(walk, wide=wide)
    lines += _doubts(walk, width)
    lines += _end(view, width, wide=wide)
    return lines


def _heading(view: SymptomView, width: int) -> Line:
    walk = view.walk
    if walk.found:
        worst = walk.found[0]
        fails = worst.verdict is Verdict.FAIL
        words = "ROOT CAUSE" if fails else "LIKELY CAUSE"
        tone, rest = ("bad" if fails else "warn"), f": {worst.check}"
    elif walk.verdict is Verdict.UNKNOWN:
        words, tone, rest = "NOT KNOWN", "unsure", ": evidence is missing"
    else:
        words, tone, rest = "NOTHING FOUND", "good", " on this host"
    name = cut(view.host, 28) or "(no name)"
    about = f" of {view.about}" if view.about else ""
    left = f"{name}  {walk.symptom.name}{about}  "
    front = f"{left}{words}{rest}"
    room = width - len(front) - 2
    seen_by = cut(view.seen_by, room) if room >= _MIN_SEEN_BY else ""
    text = two_ends(front, seen_by, width=width) if seen_by else front
    return Line(text, tone, len(left), len(left) + len(words))


def _look(look: Look, width: int) -> Lines:
    """`  PASS     iommu-active   IOMMU_ACTIVE`; one line, the findings below tell the rest."""
    if not look.judged:
        front = f"  {'-':<{_WORDS}} {look.check:<22} "
        what = "no VM that was read" if look.check.startswith("vm-") else "nothing to judge"
        return [Line(cut(front + what, width))]
    verdict = look.verdict
    blocked = [f for f in look.findings if f.verdict is Verdict.BLOCKED]
    word = "BLOCKED" if blocked else str(verdict).replace("NOT_APPLICABLE", "N/A")
    front = f"  {word:<{_WORDS}} {look.check:<22} "
    if blocked:
        text = f"by {blocked[0].blocked_by}"
    else:
        rows = [f for f in look.findings if f.verdict is verdict]
        text = ", ".join(dict.fromkeys(f.code for f in rows))
        if verdict in (Verdict.PASS, Verdict.NOT_APPLICABLE):
            text += f" ({len(rows)})" if len(rows) > 1 else ""
        else:
            text += _whom(rows)
    return [Line(cut(front + text, width), VERDICT_TONES[str(verdict)], 2, 2 + len(word))]


def _whom(rows: Sequence[Finding]) -> str:
    names = [short_subject(f.subject) for f in rows if f.subject != NODE]
    if not names:
        return ""
    rest = len(names) - MAX_SUBJECTS
    more = f" and {rest} more" if rest > 0 else ""
    return f": {', '.join(names[:MAX_SUBJECTS])}{more}"


def _blocks(findings: Iterable[Finding], *, wide: bool) -> Lines:
    lines: Lines = []
    for rows in group_alike(findings):
        lines += [Line(""), *finding_block(rows, wide=wide)]
    return lines


def _because(walk: Walk, *, wide: bool) -> Lines:
    """The checks that tell why; of one that cannot tell, only what is missing."""
    width = UNLIMITED if wide else WIDTH
    told = [f for f in walk.because if f.verdict in (Verdict.FAIL, Verdict.WARN)]
    lines: Lines = [Line(""), Line(f"Why {walk.found[0].check} says so:")]
    lines += _blocks(told, wide=wide)[1:]
    for check in dict.fromkeys(f.check for f in walk.because if f not in told):
        missing = dict.fromkeys(m for f in walk.because if f.check == check for m in f.missing)
        commands = "; ".join(dict.fromkeys(m.command for m in missing)) or "vfioctl check"
        lines += wrap("  ", f"{check} cannot tell more without: {commands}", width=width, hang=4)
    return lines


def _doubts(walk: Walk, width: int) -> Lines:
    """Each check that could not be decided, and what decides it."""
    lines: Lines = []
    for rows in group_alike(walk.doubts):
        checks = ", ".join(dict.fromkeys(f.check for f in rows))
        blank(lines)
        first = "NOT EXCLUDED  "
        text = f"{checks}{_whom(rows)}: not known"
        made = wrap(first, text, width=width, hang=_HANG)
        lines += [Line(made[0].text, "unsure", 0, len(first.rstrip())), *made[1:]]
        missing = dict.fromkeys(m for f in rows for m in f.missing)
        for label, item in zip(_labels("missing"), missing, strict=False):
            text = f"{item.evidence}: {item.command}"
            lines += wrap(_LABEL.format(label), text, width=width, hang=_HANG + 2)
        if not missing:
            lines += wrap(_LABEL.format("decision"), rows[0].decision, width=width, hang=_HANG)
    return [Line(""), *lines] if lines else []


def _labels(word: str) -> Iterable[str]:
    yield word
    while True:
        yield ""


def _end(view: SymptomView, width: int, *, wide: bool) -> Lines:
    walk = view.walk
    lines: Lines = [Line("")]
    again = f"vfioctl diagnose --symptom {walk.symptom.name}"
    if walk.found:
        if walk.left:
            lines += wrap(
                "Not looked at, because the digging stops here: ",
                ", ".join(walk.left),
                width=width,
                hang=2,
            )
        if walk.doubts or walk.unjudged:
            text = "What is not known above may be a cause too; this one is certain."
            if walk.found[0].verdict is not Verdict.FAIL:
                text = "What is not known above may be the cause as well."
            lines += wrap("", text, width=width)
        lines += wrap("Next: ", f"decide this first, then again: {again}", width=width)
        return lines
    lines += _blocks(walk.notes, wide=wide)[1:]
    blank(lines)
    if walk.unjudged:
        lines += wrap(
            "",
            f"{plural(len(walk.unjudged), 'check')} had nothing to judge: {_why_unjudged(view)}",
            width=width,
        )
        if not view.about:
            lines += wrap("Name it: ", f"{again} --device ADDRESS (vfioctl device list)")
    if walk.doubts:
        lines += wrap("", "No cause found, but what is listed as not excluded may be it.")
    elif not walk.unjudged:
        text = "Every check of this symptom was looked at; none explains it on this host."
        if walk.notes:
            text = "Nothing explains it alone; the warnings may have a part in it."
        lines += wrap("", text, width=width)
    lines += [Line(""), Line("What this host's evidence cannot show:")]
    for sentence in walk.symptom.beyond:
        lines += wrap("  - ", sentence, width=width)
    return lines


def _why_unjudged(view: SymptomView) -> str:
    if not view.about:
        return "no device here is known to be meant for passthrough."
    if all(check.startswith("vm-") for check in view.walk.unjudged):
        return f"no VM that was read names {view.about}."
    return f"the evidence says nothing about {view.about}."


# --- messages ------------------------------------------------------------------------------------


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
    counts = [(kinds.count(k), word.lower()) for k, (word, _) in KIND_WORDS.items()]
    said = ", ".join(f"{number} {word}" for number, word in counts if number)
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
        front = _LABEL.format(label)
        lines += wrap(front, f"{seen.line}: {seen.text}", width=width, hang=_HANG + 2)
    about = _about(sighting)
    if about:
        lines += wrap(_LABEL.format("about"), about, width=width, hang=_HANG)
    for label, cause in zip(_cause_labels(len(message.causes)), message.causes, strict=False):
        lines += wrap(_LABEL.format(label), cause.meaning, width=width, hang=_HANG)
        lines += wrap(_LABEL.format("decision"), cause.decision, width=width, hang=_HANG)
        if cause.check and message.kind is not Kind.HARMLESS:
            text = f"check {cause.check}: vfioctl explain {cause.check}"
            lines += wrap(_LABEL.format("proof"), text, width=width, hang=_HANG)
        elif message.kind is not Kind.HARMLESS:
            lines += wrap(_LABEL.format("proof"), "no check of the host shows this", width=width)
    if sighting.follows:
        text = f"from {', '.join(sighting.follows)}, which the same text shows"
        lines += wrap(_LABEL.format("follows"), text, width=width, hang=_HANG)
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
