"""`vfioctl explain`: every name that vfioctl prints is known to it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from vfio_agent.diagnosis import MESSAGES, SYMPTOMS
from vfio_cli.main import run
from vfio_cli.selectors import RISK_CODES
from vfio_contract.command_codes import COMMAND_CODES
from vfio_contract.errors import CATALOGUE as ERRORS
from vfio_contract.event_codes import EVENT_WORDS, OTHER_WORDS

Captured = pytest.CaptureFixture[str]

NAMES = [
    *RISK_CODES,
    *(symptom.name for symptom in SYMPTOMS),
    *(message.id for message in MESSAGES),
    *ERRORS,
    *(code.name for code in COMMAND_CODES),
    *EVENT_WORDS,
    *OTHER_WORDS,
]


@pytest.mark.parametrize("name", [str(name) for name in NAMES])
def test_every_other_name_that_is_printed_can_be_explained(name: str, capsys: Captured) -> None:
    assert run(["explain", name]) == 0
    text = capsys.readouterr().out
    assert name in text.splitlines()[0]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.isascii()
    assert run(["explain", name, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"code", "error", "event", "word", "symptom", "message"} & set(document)
    assert run(["explain", name, "-o", "name"]) == 0
    assert name in capsys.readouterr().out.split()


COORDINATOR = Path(__file__).resolve().parents[3] / "coordinator" / "vfio_coordinator"

HEALTH = {"HEALTH_OK", "HEALTH_WARN", "HEALTH_ERR"}


def test_every_code_that_the_coordinator_writes_itself_can_be_explained(capsys: Captured) -> None:
    words = {
        node.value
        for part in ("state", "scheduler")
        for path in (COORDINATOR / part).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", node.value)
    }
    assert {"COMMAND_SENT", "NODE_JOINED", "VM_RELEASED"} <= words
    assert {word for word in words - HEALTH if run(["explain", word]) != 0} == set()
    capsys.readouterr()


def test_one_name_of_two_things_explains_both(capsys: Captured) -> None:
    assert run(["explain", "no-group", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == ["no-group", "NO_GROUP"]
    assert run(["explain", "NODE_CLONED", "-o", "json"]) == 0
    assert {"code", "error"} <= set(json.loads(capsys.readouterr().out))
