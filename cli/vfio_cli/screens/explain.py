"""The screens of `vfioctl explain`: a check, a code, a symptom, a message, an error; the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_agent.diagnosis import ANY, Message, Symptom
from vfio_cli.screens.layout import VERDICT_TONES, Line, Lines, blank, table, title, toned, wrap
from vfio_cli.screens.messages import KIND_WORDS, cause_lines
from vfio_contract.codes import Code
from vfio_contract.errors import ErrorText


@dataclass(frozen=True, slots=True)
class CheckNotes:
    """One check: its id, its question and notes (paragraphs), what blocks it, its codes."""

    id: str
    question: str
    notes: tuple[tuple[str, str], ...]
    blocked_by: tuple[str, ...]
    codes: tuple[Code, ...]


def code_screen(code: Code, given_by: Sequence[str]) -> Lines:
    """One code."""
    word = str(code.verdict)
    lines: Lines = [
        Line(f"{code.name}  {word}", VERDICT_TONES[word], len(code.name) + 2, len(code.name) + 9)
    ]
    giver = ", ".join(given_by) if given_by else "the cluster: drift and node states"
    lines += wrap("  given by  ", giver)
    for label, text in (
        ("evidence", code.evidence),
        ("meaning", code.meaning),
        ("decision", code.decision),
    ):
        lines += wrap(f"  {label:<10}", text)
    return lines


def check_screen(check: CheckNotes) -> Lines:
    """One check with its codes, worst first as the check declares them."""
    lines: Lines = [Line(check.id, "title", 0, len(check.id))]
    if check.question:
        lines += wrap("  ", check.question)
    for label, text in check.notes:
        lines += wrap(f"  {label:<10}", text)
    if check.blocked_by:
        lines += wrap("  blocked by ", ", ".join(check.blocked_by))
    for code in check.codes:
        blank(lines)
        word = str(code.verdict)
        lines.append(toned(word, VERDICT_TONES[word], f"  {code.name}"))
        lines += wrap("  meaning   ", code.meaning)
        lines += wrap("  decision  ", code.decision)
    blank(lines)
    lines.append(Line("One code with its evidence: vfioctl explain CODE"))
    return lines


def symptom_screen(symptom: Symptom) -> Lines:
    """One symptom: in which order its checks are looked at, and what explains it."""
    lines: Lines = [Line(f"{symptom.name}  symptom", "title", 0, len(symptom.name))]
    lines += wrap("  ", f"{symptom.title} (field guide, {symptom.source})")
    if symptom.displays:
        lines += wrap(
            "  ", "Only displays (class 03xx) are looked at, unless another is asked for."
        )
    lines += [Line(""), Line("The checks, in this order, until one explains it:")]
    rows = []
    for step in symptom.steps:
        words = ["FAIL", *step.causes]
        not_it = f"; not {', '.join(step.other)}" if step.other else ""
        rows += wrap(f"  {step.check:<23} ", f"{', '.join(words)}{not_it}", hang=26)
    lines += rows
    lines += [Line(""), Line("What no check of a host can show:")]
    for sentence in symptom.beyond:
        lines += wrap("  - ", sentence)
    lines += [Line(""), Line(f"Ask: vfioctl diagnose --symptom {symptom.name}")]
    return lines


def message_screen(message: Message) -> Lines:
    """One message: how it reads, what it means, and what explains it."""
    word, tone = KIND_WORDS[message.kind]
    lines: Lines = [Line(f"{word}  {message.id}  message", tone, 0, len(word))]
    for number, example in enumerate(message.examples):
        lines += wrap("  text      " if number == 0 else " " * 12, example, hang=14)
    lines += cause_lines(message)
    if message.follows == ANY:
        lines += wrap("  follows   ", "any other failure in the same text")
    elif message.follows:
        lines += wrap("  follows   ", ", ".join(message.follows))
    lines += wrap("  source    ", message.source)
    return lines


def error_screen(name: str, error: ErrorText) -> Lines:
    """One error of the coordinator."""
    lines: Lines = [Line(f"{name}  error of the coordinator", "title", 0, len(name))]
    lines += wrap("  meaning   ", error.text)
    lines += wrap("  status    ", f"gRPC {error.status}")
    return lines


def words_screen(name: str, kind: str, text: str) -> Lines:
    """A code that only tells something: `COMMAND_SENT  event`."""
    return [Line(f"{name}  {kind}", "title", 0, len(name)), *wrap("  meaning   ", text)]


@dataclass(frozen=True, slots=True)
class Index:
    """All that can be explained."""

    checks: Sequence[CheckNotes]
    actions: Sequence[Code]
    commands: Sequence[Code]
    cluster: Sequence[Code]
    symptoms: Sequence[str]
    messages: Sequence[str]
    errors: Sequence[str]
    events: Sequence[str]
    others: Sequence[str]


def index_screen(index: Index) -> Lines:
    """All that can be explained."""
    lines: Lines = [title("CHECKS")]
    rows = [[c.id, ", ".join(code.name for code in c.codes)] for c in index.checks]
    lines += table(["", ""], rows, indent=2)
    for heading, names in (
        ("CODES OF ACTIONS, of device bind and the like", [code.name for code in index.actions]),
        ("CODES OF COMMANDS, of what a node is asked for", [code.name for code in index.commands]),
        ("CLUSTER CODES", [code.name for code in index.cluster]),
        ("SYMPTOMS, of diagnose --symptom", index.symptoms),
        ("MESSAGES, of diagnose --error", index.messages),
        ("ERRORS OF THE COORDINATOR", index.errors),
        ("EVENTS, of vfioctl events", index.events),
        ("OTHER CODES, of error documents and placement", index.others),
    ):
        lines += [Line(""), title(heading)]
        lines += wrap("  ", ", ".join(names))
    lines += [Line(""), Line("vfioctl explain NAME")]
    return lines
