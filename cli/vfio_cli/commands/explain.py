"""`vfioctl explain`: whatever name vfioctl prints, without any server.

A check, a code, a symptom or a message of `diagnose`, an error of the coordinator, an event. Where
one name is two things, both are told.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from vfio_agent.checks import CATALOGUE, Check, list_codes
from vfio_agent.checks import explain as find
from vfio_agent.diagnosis import MESSAGES, SYMPTOMS, Message, Symptom, find_message, find_symptom
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.explain import (
    CheckNotes,
    Index,
    check_screen,
    code_screen,
    error_screen,
    index_screen,
    message_screen,
    symptom_screen,
    words_screen,
)
from vfio_cli.screens.layout import Line, Lines
from vfio_contract.action_codes import ACTION_CODES
from vfio_contract.codes import CLUSTER_CODES, Code
from vfio_contract.command_codes import COMMAND_CODES
from vfio_contract.errors import CATALOGUE as ERRORS
from vfio_contract.errors import ErrorCode
from vfio_contract.event_codes import EVENT_WORDS, OTHER_WORDS


def complete_name(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids and codes that begin with what was typed."""
    return [CompletionItem(n) for n in _names() if n.lower().startswith(incomplete.lower())]


@click.command(
    "explain",
    cls=Taught,
    examples=(
        "vfioctl explain group-isolation",
        "vfioctl explain GROUP_WIDENED",
        "vfioctl explain group-not-viable    a message of: vfioctl diagnose --error",
        "vfioctl explain                     all that there is",
    ),
    exits="0 explained, 64 there is no such name.",
)
@click.argument("name", required=False, metavar="[NAME]", shell_complete=complete_name)
@output_option()
def explain(name: str | None, form: str) -> int:
    """What a check looks at, what a code asks for, what a symptom, message or error is."""
    if name is None:
        checks = [notes_of(check) for check in CATALOGUE]
        index = Index(
            checks=checks,
            actions=ACTION_CODES,
            commands=COMMAND_CODES,
            cluster=CLUSTER_CODES,
            symptoms=[symptom.name for symptom in SYMPTOMS],
            messages=[message.id for message in MESSAGES],
            errors=[str(code) for code in ERRORS],
            events=list(EVENT_WORDS),
            others=list(OTHER_WORDS),
        )
        emit(
            form,
            screen=lambda _: index_screen(index),
            document=lambda: make_document(
                "explain",
                checks=checks,
                action_codes=ACTION_CODES,
                command_codes=COMMAND_CODES,
                cluster_codes=CLUSTER_CODES,
                symptoms=index.symptoms,
                messages=index.messages,
                errors=index.errors,
                events=index.events,
                others=index.others,
            ),
            names=_names,
        )
        return 0
    topics = _find_topics(name)
    if not topics:
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in _names()], n=1)
        hint = next((f" Did you mean {n}?" for n in _names() if [n.lower()] == near), "")
        raise Mistake(
            f"{name!r} is no check, code, symptom, message or error.{hint} All of them: vfioctl "
            "explain"
        )
    emit(
        form,
        screen=lambda _: _joined(topics),
        document=lambda: make_document("explain", **{k: v for t in topics for k, v in t.document}),
        names=lambda: [topic.name for topic in topics],
    )
    return 0


@dataclass(frozen=True, slots=True)
class _Topic:
    """One thing that a name is: its screen, and its part of the document as (key, value)."""

    name: str
    screen: Callable[[], Lines]
    document: tuple[tuple[str, Any], ...]


def _find_topics(name: str) -> list[_Topic]:
    """All that the name is; written exactly so first, for a message may be called as a code is."""
    lower, upper = name.lower(), name.upper().replace("-", "_")
    topics: list[_Topic] = []
    found = find(name)
    if isinstance(found, Code):
        topics.append(_code_topic(found))
    elif found is not None:
        topics.append(_check_topic(found))
    if upper in ERRORS:
        topics.append(_error_topic(ErrorCode(upper)))
    symptom, message = find_symptom(lower), find_message(lower)
    for kind, words in (("event", EVENT_WORDS), ("code", OTHER_WORDS)):
        if upper in words:
            topics.append(_words_topic(upper, kind, words[upper]))
    if symptom is not None:
        topics.append(_symptom_topic(symptom))
    if message is not None:
        topics.append(_message_topic(message))
    return sorted(topics, key=lambda topic: topic.name != name)


def _check_topic(check: Check) -> _Topic:
    notes = notes_of(check)
    return _Topic(notes.id, lambda: check_screen(notes), (("check", notes),))


def _code_topic(code: Code) -> _Topic:
    shown = givers = _givers(code)
    if code in ACTION_CODES:
        shown = ["vfioctl device bind, unbind and reset-test, which it refuses"]
    if code in COMMAND_CODES:
        shown = ["a node that was asked for something, or the coordinator that asked"]
    document = (("code", code), ("given_by", givers))
    return _Topic(code.name, lambda: code_screen(code, shown), document)


def _error_topic(code: ErrorCode) -> _Topic:
    text = ERRORS[code]
    document = (("error", {"name": str(code), "status": text.status, "text": text.text}),)
    return _Topic(str(code), lambda: error_screen(str(code), text), document)


def _words_topic(name: str, kind: str, text: str) -> _Topic:
    key = "event" if kind == "event" else "word"
    document = ((key, {"name": name, "text": text}),)
    return _Topic(name, lambda: words_screen(name, kind, text), document)


def _symptom_topic(symptom: Symptom) -> _Topic:
    return _Topic(symptom.name, lambda: symptom_screen(symptom), (("symptom", symptom),))


def _message_topic(message: Message) -> _Topic:
    document = {
        "id": message.id,
        "kind": message.kind,
        "examples": message.examples,
        "causes": message.causes,
        "follows": message.follows,
        "source": message.source,
    }
    return _Topic(message.id, lambda: message_screen(message), (("message", document),))


def _joined(topics: list[_Topic]) -> Lines:
    lines: Lines = []
    for topic in topics:
        lines += [Line("")] * bool(lines) + topic.screen()
    return lines


def _givers(code: Code) -> list[str]:
    return [check.id for check in CATALOGUE if code in check.codes]


def notes_of(check: Check) -> CheckNotes:
    """A check's declaration as the screen shows it; its docstring states the notes."""
    notes: list[tuple[str, str]] = []
    for line in check.explanation.splitlines():
        head, mark, text = line.partition(":")
        if mark and head in ("Evidence", "Meaning", "Decision", "Source"):
            notes.append((head.lower(), text.strip()))
        elif notes and line.strip():
            label, before = notes[-1]
            notes[-1] = (label, f"{before} {line.strip()}")
    return CheckNotes(
        id=check.id,
        question=f"{check.title} (field guide, step {check.step})",
        notes=tuple(notes),
        blocked_by=check.blocked_by,
        codes=check.codes,
    )


def _names() -> list[str]:
    return list(
        dict.fromkeys(
            (
                *(check.id for check in CATALOGUE),
                *(code.name for code in list_codes()),
                *(symptom.name for symptom in SYMPTOMS),
                *(message.id for message in MESSAGES),
                *(str(code) for code in ERRORS),
                *EVENT_WORDS,
                *OTHER_WORDS,
            )
        )
    )
