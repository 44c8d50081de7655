"""The catalogue of messages and the symptoms: complete, consistent with the checks, and linear."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from vfio_agent.checks import CATALOGUE
from vfio_agent.diagnosis import (
    MESSAGES,
    SYMPTOMS,
    Kind,
    Message,
    Symptom,
    find_message,
    find_symptom,
    recognise,
    symptom_for,
)
from vfio_agent.diagnosis.message import ANY
from vfio_contract.findings import Verdict

PREFIXES = (
    "",
    "[   76.905410] ",
    "<6>[    0.251990] ",
    "> > [149.417712] ",
    "Jun  3 10:00:01 pve07 kernel: ",
    "\x1b[32m[    5.1]\x1b[0m ",
    "2026-06-03T10:00:01.123456Z qemu-system-x86_64: -device vfio-pci,host=01:00.0: ",
)
CHECKS = {check.id: {code.name: code.verdict for code in check.codes} for check in CATALOGUE}

by_id = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.id)
by_name = pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda s: s.name)


def test_ids_are_unique() -> None:
    assert len({m.id for m in MESSAGES}) == len(MESSAGES)
    assert find_message("group-busy") is not None
    assert find_message("nonsense") is None


@by_id
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_example_is_that_message_and_no_other(message: Message, prefix: str) -> None:
    for example in message.examples:
        reading = recognise([(prefix + example + "\n").encode()])
        assert [s.message.id for s in reading.sightings] == [message.id], example
        assert reading.unknown_lines == 0
        (seen,) = reading.sightings[0].seen
        assert seen.line == 1
        assert "\x1b" not in seen.text


@by_id
def test_an_example_is_recognised_in_any_case(message: Message) -> None:
    for example in message.examples:
        for text in (example.upper(), example.lower()):
            reading = recognise([text.encode()])
            assert message.id in [s.message.id for s in reading.sightings], text


@by_id
def test_a_message_is_whole(message: Message) -> None:
    assert message.examples
    assert message.source
    assert message.causes
    for stem in message.stems:
        assert stem == stem.lower()
        assert len(stem) >= 3
    for cause in message.causes:
        assert cause.meaning.endswith((".", "?"))
        assert cause.decision
        assert (cause.meaning + cause.decision).isascii()
        assert cause.check in {"", *CHECKS}
    for name in () if message.follows == ANY else message.follows:
        explaining = find_message(name)
        assert explaining is not None
        assert explaining.kind is Kind.FAULT


@by_id
def test_causes_of_one_wording_are_told_apart_by_different_checks(message: Message) -> None:
    checks = [cause.check for cause in message.causes]
    assert len(set(checks)) == len(checks)
    assert len(checks) == 1 or "" not in checks


def test_nothing_explains_itself() -> None:
    graph = {m.id: () if m.follows == ANY else m.follows for m in MESSAGES}

    def above(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, path
        for cause in graph[name]:
            above(cause, (*path, name))

    for name in graph:
        above(name, ())


def repeats(tree: Any, inside: int = 1) -> Iterator[int]:
    """For each repetition the largest number of times that it and those around it may run."""
    parser: Any = importlib.import_module("re._parser")
    for operation, argument in tree:
        if operation in (parser.MAX_REPEAT, parser.MIN_REPEAT):
            _, most, below = argument
            times = inside * int(most)
            yield times if inside > 1 else 1
            yield from repeats(below, times)
        elif operation is parser.BRANCH:
            for branch in argument[1]:
                yield from repeats(branch, inside)
        elif operation is parser.SUBPATTERN:
            yield from repeats(argument[3], inside)
        elif operation in (parser.ASSERT, parser.ASSERT_NOT):
            yield from repeats(argument[1], inside)


@by_id
def test_no_pattern_repeats_within_a_repetition(message: Message) -> None:
    parser: Any = importlib.import_module("re._parser")
    assert all(times == 1 for times in repeats(parser.parse(message.pattern.pattern)))


def test_the_test_for_repetitions_can_fail() -> None:
    parser: Any = importlib.import_module("re._parser")
    assert any(times > 1 for times in repeats(parser.parse(r"(?:a+b)*")))
    assert any(times > 1 for times in repeats(parser.parse(r"(?:x|(?:a{1,9}b)){0,9}")))


def test_the_seven_symptoms() -> None:
    assert [s.name for s in SYMPTOMS] == [
        "wont-start",
        "device-missing",
        "works-once",
        "host-freezes",
        "slow",
        "group-with-everything",
        "black-screen",
    ]
    assert find_symptom("slow") is SYMPTOMS[4]
    assert find_symptom("fast") is None


@by_name
def test_a_symptom_names_checks_and_their_warnings(symptom: Symptom) -> None:
    names = [step.check for step in symptom.steps]
    assert len(set(names)) == len(names)
    assert symptom.beyond
    for step in symptom.steps:
        for code in step.causes:
            assert CHECKS[step.check][code] is Verdict.WARN, code
        for check in step.because:
            assert check in CHECKS


@by_name
def test_a_blocker_is_looked_at_before_what_it_blocks(symptom: Symptom) -> None:
    names = [step.check for step in symptom.steps]
    blockers = {check.id: check.blocked_by for check in CATALOGUE}
    for place, name in enumerate(names):
        for blocker in blockers[name]:
            assert blocker not in names[place:]


def test_every_check_that_a_message_names_leads_to_a_symptom() -> None:
    checks = {c.check for m in MESSAGES if m.kind is Kind.FAULT for c in m.causes if c.check}
    assert checks - {"kernel-cmdline"} == {c for c in checks if symptom_for(c) is not None}
    assert symptom_for("reset-history") is find_symptom("works-once")
    assert symptom_for("group-isolation") is find_symptom("wont-start")
