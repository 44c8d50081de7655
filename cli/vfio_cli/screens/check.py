"""The screen of `vfioctl check`: one host's verdict, worst first, each line saying what to do next.

The counts in the first line are of the findings that move the verdict (node and intended devices);
every one of them appears below, so that the sums add up. Candidates are summarised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfio_cli.screens.given import GivenEvidence, given_lines
from vfio_cli.screens.layout import (
    UNLIMITED,
    VERDICT_TONES,
    WIDTH,
    Line,
    Lines,
    blank,
    count_words,
    cut,
    join_addresses,
    plural,
    toned,
    two_ends,
    wrap,
)
from vfio_cli.screens.missing import INDENT, LABEL, missing_lines, unread_lines
from vfio_cli.survey import Candidate, Intended, Unread
from vfio_contract.findings import NODE, Evidence, Finding, Report, Verdict

HEADINGS = {
    Verdict.PASS: ("READY", "good"),
    Verdict.NOT_APPLICABLE: ("READY", "good"),
    Verdict.WARN: ("READY WITH WARNINGS", "warn"),
    Verdict.FAIL: ("NOT READY", "bad"),
    Verdict.UNKNOWN: ("UNKNOWN", "unsure"),
    Verdict.BLOCKED: ("UNKNOWN", "unsure"),
}
"""Verdict -> the words of the first line and their tone."""

MAX_EVIDENCE = 6
"""Evidence lines shown per block; `-o wide` shows all."""

MAX_SUBJECTS = 4

_MAX_HOST = 28
"""Letters of a host's name in the first line; fewer where the counts need the room."""

_MIN_HOST = 8

_MIN_SEEN_BY = 16
"""Fewer letters of a long right end say nothing."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Ages of what a coordinator keeps of a node, -1 for never; `note` says why it is not new."""

    heard_age_s: float
    evidence_age_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckView:
    """What the screen shows. `seen_by` is the right end of its first line (`uid 1000`).

    `devices_known` is False where the functions could not be listed at all. `kept` is there for
    what a coordinator shows of a node: findings that are not PASS. `given` accounts for the
    evidence of `--from`. `elsewhere` is True for evidence that was captured or given: what is
    missing of it must be got on the host that it is of. `silent` says why what is kept of a node
    is not of now, "" when it is.
    """

    report: Report
    intended: tuple[Intended, ...]
    candidates: tuple[Candidate, ...]
    unread: tuple[Unread, ...]
    seen_by: str
    devices_known: bool = True
    kept: Kept | None = None
    given: tuple[GivenEvidence, ...] = ()
    elsewhere: bool = False
    silent: str = ""


def check_screen(view: CheckView, *, wide: bool = False) -> Lines:
    """The whole screen."""
    width = UNLIMITED if wide else WIDTH
    counted = [f for f in view.report.findings if f.intended is not False]
    lines = [heading(view.report, counted, view.seen_by, width=width)]
    lines += given_lines(view.given, width)
    lines += _intended(view, width)
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        lines += _blocks(counted, verdict, wide=wide)
    blank(lines)
    lines += _blocked(counted, width)
    if lines[-1].text:
        blank(lines)
    lines += _blocks(counted, Verdict.WARN, wide=wide)[1:]
    blank(lines)
    lines += _named(counted, Verdict.PASS, "PASS", width)
    lines += _named(counted, Verdict.NOT_APPLICABLE, "NOT APPLICABLE", width)
    if view.kept is not None:
        lines += _not_listed(view)
    lines += unread_lines(view.unread, wide=wide)
    lines += _candidates(view.candidates, wide=wide)
    lines += _stop_digging(counted, width)
    lines += _where_to_run(view, counted, width)
    return lines


def heading(
    report: Report, counted: Sequence[Finding], seen_by: str, *, width: int = WIDTH
) -> Line:
    """`pve07  NOT READY   2 fail  1 unknown  3 blocked  5 pass     uid 1000`."""
    words, tone = HEADINGS[report.verdict]
    counts = f"  {words}   {count_words(_counts(counted))}"
    if len(counts) + _MIN_HOST > width:
        counts = counts.replace(" not applicable", " n/a")
    host = cut(report.host, min(_MAX_HOST, max(_MIN_HOST, width - len(counts)))) or "(no name)"
    left = f"{host}{counts}"
    room = width - len(left) - 2
    fits = room >= min(len(seen_by), _MIN_SEEN_BY)
    text = two_ends(left, cut(seen_by, room), width=width) if fits else left
    start = len(host) + 2
    return Line(text, tone, start, start + len(words))


def _counts(findings: Iterable[Finding]) -> list[tuple[int, str]]:
    kept = [f.verdict for f in findings]
    order = (
        (Verdict.FAIL, "fail"),
        (Verdict.UNKNOWN, "unknown"),
        (Verdict.BLOCKED, "blocked"),
        (Verdict.WARN, "warn"),
        (Verdict.PASS, "pass"),
        (Verdict.NOT_APPLICABLE, "not applicable"),
    )
    return [(kept.count(verdict), word) for verdict, word in order]


def _not_listed(view: CheckView) -> Lines:
    """What the coordinator does not show; of a silent node nothing is known to pass."""
    if not view.silent:
        whole = f"vfioctl collect --node {view.report.host} -o FILE; vfioctl check --from FILE"
        return wrap("PASS  ", f"not listed here. All of it: {whole}")
    made = wrap("UNKNOWN  ", f"{view.silent}: nothing of it is known to pass now")
    return [Line(made[0].text, VERDICT_TONES["UNKNOWN"], 0, len("UNKNOWN")), *made[1:]]


def _intended(view: CheckView, width: int) -> Lines:
    first = "Intended: "
    if not view.devices_known:
        return wrap(first, "not known, the PCI functions could not be listed", width=width)
    if not view.intended and view.kept is not None:
        return wrap(first, "none known to the coordinator", width=width)
    if not view.intended:
        return wrap(
            first,
            "none (no vfio driver, vfio ids or driver_override names a device)",
            width=width,
        )
    lines: Lines = []
    for row in view.intended:
        reasons = ", ".join(r.removeprefix("/etc/") for r in row.reasons)
        text = f"{join_addresses(row.addresses)} {row.name}"
        if reasons:
            text += f" ({reasons})"
        lines += wrap(first, text, width=width)
        first = " " * len(first)
    return lines


def _blocks(findings: Sequence[Finding], verdict: Verdict, *, wide: bool) -> Lines:
    lines: Lines = []
    for rows in group_alike(f for f in findings if f.verdict is verdict):
        lines += [Line(""), *finding_block(rows, wide=wide)]
    return lines


def group_alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that say the same of different subjects, together; order kept.

    Checks that all lack the same evidence about the node are one group too.
    """
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        meaning, decision = generalise(finding)
        lacking = finding.missing if finding.subject == NODE else ()
        check = "" if lacking else finding.check
        groups.setdefault((check, finding.code, meaning, decision, lacking), []).append(finding)
    return list(groups.values())


def generalise(finding: Finding) -> tuple[str, str]:
    """Meaning and decision with the subject's own address replaced by `ADDRESS`."""
    kind, _, address = finding.subject.partition(":")
    if kind != "function" or not address:
        return finding.meaning, finding.decision
    return finding.meaning.replace(address, "ADDRESS"), finding.decision.replace(address, "ADDRESS")


def finding_block(rows: Sequence[Finding], *, wide: bool = False) -> Lines:
    """Findings that differ only in subject and evidence, as one block."""
    width = UNLIMITED if wide else WIDTH
    first = rows[0]
    word = str(first.verdict)
    lines = _head(f"{word}  ", rows, width=width)
    lines += _evidence(rows if first.subject != NODE else rows[:1], wide=wide)
    missing = tuple(dict.fromkeys(m for row in rows for m in row.missing))
    lines += missing_lines(missing, wide=wide)
    if first.verdict is not Verdict.UNKNOWN or not missing:
        meaning, decision = generalise(first) if len(rows) > 1 else (first.meaning, first.decision)
        for label, text in (("meaning", meaning), ("decision", decision)):
            if text:
                lines += wrap(LABEL.format(label), text, width=width, hang=INDENT)
    return lines


def _evidence(rows: Sequence[Finding], *, wide: bool) -> Lines:
    if len(rows) > 1 and not wide:
        return _evidence_of_many(rows)
    lines: Lines = []
    label = "evidence"
    hidden = 0
    for row in rows:
        shown = row.evidence if wide else row.evidence[:MAX_EVIDENCE]
        for item in shown:
            front = LABEL.format(label)
            text = f"{item.source}: {item.text}" if wide else evidence_text(item)
            width = UNLIMITED if wide else WIDTH
            lines += wrap(front, text, width=width, hang=INDENT + 2)
            label = ""
        hidden += len(row.evidence) - len(shown)
    if hidden:
        lines.append(Line(" " * INDENT + f"and {plural(hidden, 'more line')}: -o wide"))
    return lines


def _evidence_of_many(rows: Sequence[Finding]) -> Lines:
    """One line for each subject: its first evidence."""
    lines: Lines = []
    label = "evidence"
    for row in rows[:MAX_SUBJECTS]:
        text = evidence_text(row.evidence[0]) if row.evidence else ""
        subject = short_subject(row.subject)
        if not text.startswith(subject):
            text = f"{subject}: {text}" if text else subject
        lines.append(Line(LABEL.format(label) + cut(text, WIDTH - INDENT)))
        label = ""
    if len(rows) > MAX_SUBJECTS:
        more = plural(len(rows) - MAX_SUBJECTS, f"more {subject_kind(rows[0].subject)}")
        lines.append(Line(" " * INDENT + f"and {more}: -o wide"))
    return lines


def evidence_text(item: Evidence) -> str:
    """`source: text`, without the sysfs folder that all devices share (`-o wide` has it)."""
    source = item.source.removeprefix("/sys/bus/pci/devices/")
    if source != item.source and item.text.startswith(source.partition("/")[0]):
        return item.text
    return f"{source}: {item.text}"


def subject_kind(subject: str) -> str:
    """`function`, `group`, `unit`, `vm` or `node`."""
    return subject.partition(":")[0]


def short_subject(subject: str) -> str:
    """A function by its bare address; anything else as `group 17`, `unit gpu-1a2b3c4d`."""
    kind, _, rest = subject.partition(":")
    return rest if kind == "function" else f"{kind} {rest}".strip()


def _blocked(findings: Sequence[Finding], width: int) -> Lines:
    by_cause: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict is Verdict.BLOCKED:
            by_cause.setdefault(finding.blocked_by or "?", []).append(finding.check)
    lines: Lines = []
    for cause, checks in by_cause.items():
        first = f"BLOCKED by {cause}: "
        made = wrap(first, _tally(checks), width=width, hang=8)
        lines.append(toned("BLOCKED", "unsure", made[0].text[len("BLOCKED") :]))
        lines += made[1:]
    return lines


def _named(findings: Sequence[Finding], verdict: Verdict, word: str, width: int) -> Lines:
    checks = [f.check for f in findings if f.verdict is verdict]
    if not checks:
        return []
    made = wrap(f"{word}  ", _tally(checks), width=width)
    tone = VERDICT_TONES[str(verdict)]
    return [Line(made[0].text, tone, 0, len(word)), *made[1:]]


def _tally(checks: Iterable[str]) -> str:
    """`iommu-active, group-isolation (4)`: each check once, with its number of subjects."""
    counts: dict[str, int] = {}
    for check in checks:
        counts[check] = counts.get(check, 0) + 1
    return ", ".join(c if n == 1 else f"{c} ({n})" for c, n in counts.items())


def _candidates(candidates: Sequence[Candidate], *, wide: bool) -> Lines:
    if not candidates:
        return []
    bindable = sum(c.only_binding for c in candidates)
    unsure = sum(_is_unsure(c) for c in candidates)
    parts = (
        (bindable, "could be passed once bound"),
        (len(candidates) - bindable - unsure, "could not"),
        (unsure, "not known"),
    )
    text = f"{plural(len(candidates), 'unit')} nobody means to pass: " + ", ".join(
        f"{number} {words}" for number, words in parts if number
    )
    if not wide:
        return wrap("CANDIDATES  ", f"{text} (-o wide)", hang=12)
    lines = wrap("CANDIDATES  ", text, width=UNLIMITED)
    places = max(len(join_addresses(c.addresses)) for c in candidates)
    for row in candidates:
        where = join_addresses(row.addresses)
        front = f"  {where:<{places}}  {cut(row.name, 40):<40}  "
        word = str(row.verdict)
        why = "bind it to vfio-pci" if row.only_binding else f"{row.check} {row.code}"
        tone = VERDICT_TONES[word]
        lines.append(Line(f"{front}{word:<7}  {why}", tone, len(front), len(front) + len(word)))
    return lines


def _is_unsure(candidate: Candidate) -> bool:
    return candidate.verdict in (Verdict.UNKNOWN, Verdict.BLOCKED)


def _stop_digging(findings: Sequence[Finding], width: int) -> Lines:
    if not any(f.check == "iommu-active" and f.verdict is Verdict.FAIL for f in findings):
        return []
    text = "Stop digging: leave VM arguments alone until iommu-active passes."
    return [Line(""), *wrap("", text, width=width)]


def _where_to_run(view: CheckView, findings: Sequence[Finding], width: int) -> Lines:
    asked = any(f.missing for f in findings) or any(row.remedies for row in view.unread)
    if not view.elsewhere or not asked:
        return []
    text = "Get what is missing on the host that this evidence is of, not on this one."
    return [Line(""), *wrap("", text, width=width)]


def short_screen(view: CheckView) -> Lines:
    """`vfioctl status` of this host: the first line and a line for each finding that is not OK."""
    counted = [f for f in view.report.findings if f.intended is not False]
    lines = [heading(view.report, counted, view.seen_by)]
    lines += _intended(view, WIDTH)
    blank(lines)
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN):
        for rows in group_alike(f for f in counted if f.verdict is verdict):
            lines += _short_block(rows)
    blank(lines)
    lines += _blocked(counted, WIDTH)
    lines += _named(counted, Verdict.PASS, "PASS", WIDTH)
    lines += _candidates(view.candidates, wide=False)
    blank(lines)
    lines.append(Line("All of the evidence: vfioctl check"))
    return lines


def _short_block(rows: Sequence[Finding]) -> Lines:
    first = rows[0]
    word = str(first.verdict)
    what = generalise(first)[1] if len(rows) > 1 else first.decision
    if first.missing:
        what = "; ".join(f"{m.evidence}: {m.command}" for m in first.missing)
    return [*_head(f"{word:<8} ", rows, width=WIDTH), *wrap(" " * 9, what)]


def _head(front: str, rows: Sequence[Finding], *, width: int) -> Lines:
    """`FAIL  check  CODE  3 functions`; several checks, about the node alone, are wrapped."""
    word = str(rows[0].verdict)
    checks = list(dict.fromkeys(row.check for row in rows))
    if len(checks) == 1:
        text = f"{front}{checks[0]}  {rows[0].code}{_whom(rows)}"
        return [Line(text, VERDICT_TONES[word], 0, len(word))]
    made = wrap(front, f"{rows[0].code} of {', '.join(checks)}", width=width)
    return [Line(made[0].text, VERDICT_TONES[word], 0, len(word)), *made[1:]]


def _whom(rows: Sequence[Finding]) -> str:
    """`  3 functions`, `  group 17`, nothing for the node."""
    if len(rows) > 1 and rows[0].subject != NODE:
        return f"  {plural(len(rows), subject_kind(rows[0].subject))}"
    return "" if rows[0].subject == NODE else f"  {short_subject(rows[0].subject)}"
