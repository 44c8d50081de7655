"""The screen of `vfioctl diagnose --symptom`: a symptom's walk to its root cause.

What was looked at stands in the order of looking, one line each; the cause is shown whole; what
could not be decided is named with the command that decides it. "Nothing found" is never said while
anything is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfio_agent.diagnosis import (
    Look,
    Walk,
    symptom_of,
)
from vfio_cli.screens.check import evidence_text, finding_block, group_alike, short_subject
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
from vfio_cli.screens.missing import LABEL, missing_lines
from vfio_contract.findings import NODE, Finding, Missing, Verdict

MAX_SUBJECTS = 3
MAX_MEMBERS = 12
_ABOUT_GROUPS = "group-with-everything"
_HANG = 12
_WORDS = 8
_MIN_SEEN_BY = 7


@dataclass(frozen=True, slots=True)
class SymptomView:
    """A walk and what it rests on. `about` names the device or VM asked for, "" for the host.

    `note` is a sentence about what the question can rest on. `source` and `option` are the words
    with which the same is asked again. `elsewhere` is True for evidence that is not this host's.
    """

    walk: Walk
    host: str
    seen_by: str
    about: str = ""
    given: tuple[GivenEvidence, ...] = ()
    note: str = ""
    source: str = ""
    option: str = ""
    elsewhere: bool = False


def symptom_screen(view: SymptomView, *, wide: bool = False) -> Lines:
    """The whole screen of one symptom."""
    width = UNLIMITED if wide else WIDTH
    walk = view.walk
    lines: Lines = [_heading(view, width)]
    title = f"{walk.symptom.title} (field guide, {walk.symptom.source})"
    lines += wrap("", title, width=width)
    lines += given_lines(view.given, width)
    if view.note:
        lines += wrap("", view.note, width=width, hang=2)
    lines += [Line(""), Line("Looked at, in the field guide's order:")]
    lines += [line for look in walk.looks for line in _look(look, width)]
    lines += _blocks(walk.found, wide=wide)
    if walk.because:
        lines += _because(walk, wide=wide)
    lines += _other(walk, wide=wide)
    lines += _doubts(view, wide=wide)
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
    elif walk.other:
        words, tone, rest = "NO CAUSE FOUND", "warn", ", but failures of another kind"
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


def _other(walk: Walk, *, wide: bool) -> Lines:
    """Failures that are none of this symptom, and the symptom that is theirs."""
    lines: Lines = []
    for rows in group_alike(walk.other):
        first = rows[0]
        symptom = symptom_of(first.check, first.code)
        theirs = f" (that is {symptom.name})" if symptom is not None else ""
        words = "NOT THIS SYMPTOM"
        text = f"{words}, but wrong all the same{theirs}:"
        lines += [Line(""), Line(text, "warn", 0, len(words)), *finding_block(rows, wide=wide)]
    return lines


def _doubts(view: SymptomView, *, wide: bool) -> Lines:
    """Each check that could not be decided, and what decides it; the same is asked for once."""
    width = UNLIMITED if wide else WIDTH
    walk = view.walk
    blocks = group_alike(walk.doubts)
    if walk.symptom.name == _ABOUT_GROUPS:
        blocks.sort(key=lambda rows: not rows[0].subject.startswith("group:"))
    lines: Lines = []
    told: set[Missing] = set()
    for rows in blocks:
        checks = ", ".join(dict.fromkeys(f.check for f in rows))
        blank(lines)
        first = "NOT EXCLUDED  "
        text = f"{checks}{_whom(rows)}: not known"
        made = wrap(first, text, width=width, hang=_HANG)
        lines += [Line(made[0].text, "unsure", 0, len(first.rstrip())), *made[1:]]
        if rows[0].subject.startswith("group:"):
            lines += _members(rows, wide=wide)
        missing = dict.fromkeys(m for f in rows for m in f.missing)
        fresh = [m for m in missing if m not in told]
        lines += missing_lines(fresh, wide=wide)
        if len(fresh) < len(missing):
            label = LABEL.format("" if fresh else "missing")
            lines.append(Line(f"{label}{'and ' if fresh else ''}what is missing above"))
        told |= set(missing)
        if not missing:
            lines += wrap(LABEL.format("decision"), rows[0].decision, width=width, hang=_HANG)
    return [Line(""), *lines] if lines else []


def _members(rows: Sequence[Finding], *, wide: bool) -> Lines:
    """What is known of the groups: their members."""
    width = UNLIMITED if wide else WIDTH
    texts = [evidence_text(item) for row in rows for item in row.evidence]
    shown = texts if wide else texts[:MAX_MEMBERS]
    lines: Lines = []
    for label, text in zip(_labels("evidence"), shown, strict=False):
        lines += wrap(LABEL.format(label), text, width=width, hang=_HANG + 2)
    if len(texts) > len(shown):
        more = plural(len(texts) - len(shown), "more line")
        lines.append(Line(f"{' ' * _HANG}and {more}: -o wide"))
    return lines


def _labels(word: str) -> Iterable[str]:
    yield word
    while True:
        yield ""


def _end(view: SymptomView, width: int, *, wide: bool) -> Lines:
    walk = view.walk
    lines: Lines = [Line("")]
    asked = f"vfioctl diagnose --symptom {walk.symptom.name}{view.source}"
    again = f"{asked}{view.option}"
    if view.elsewhere and any(f.missing for f in walk.doubts):
        text = "Get what is missing on the host that this evidence is of, not on this one."
        lines += [*wrap("", text, width=width), Line("")]
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
            listed = f"vfioctl device list{view.source}"
            lines += wrap("Name it: ", f"{asked} --device ADDRESS ({listed})", width=width)
    if walk.doubts:
        lines += wrap("", "No cause found, but what is listed as not excluded may be it.")
    elif not walk.unjudged:
        text = "Every check of this symptom was looked at; none explains it on this host."
        if walk.other:
            text = "None of it explains this symptom; what is wrong above is another one."
        elif walk.notes:
            text = "Nothing explains it alone; the warnings may have a part in it."
        lines += wrap("", text, width=width)
    lines += [Line(""), Line("What this host's evidence cannot show:")]
    for sentence in walk.symptom.beyond:
        lines += wrap("  - ", sentence, width=width)
    return lines


def _why_unjudged(view: SymptomView) -> str:
    if not view.about and view.note:
        return "see what is said of displays above."
    if not view.about:
        return "no device here is known to be meant for passthrough."
    if all(check.startswith("vm-") for check in view.walk.unjudged):
        return f"no VM that was read names {view.about}."
    return f"the evidence says nothing about {view.about}."
