"""`vfioctl explain`: every name that vfioctl prints is known to it."""

from __future__ import annotations

import json

import pytest

from vfio_agent.diagnosis import MESSAGES, SYMPTOMS
from vfio_cli.main import run
from vfio_cli.selectors import RISK_CODES
from vfio_contract.errors import CATALOGUE as ERRORS

Captured = pytest.CaptureFixture[str]

NAMES = [
    *RISK_CODES,
    *(symptom.name for symptom in SYMPTOMS),
    *(message.id for message in MESSAGES),
    *ERRORS,
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
    assert {"code", "error", "symptom", "message"} & set(document)
    assert run(["explain", name, "-o", "name"]) == 0
    assert name in capsys.readouterr().out.split()


def test_one_name_of_two_things_explains_both(capsys: Captured) -> None:
    assert run(["explain", "no-group", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == ["no-group", "NO_GROUP"]
    assert run(["explain", "NODE_CLONED", "-o", "json"]) == 0
    assert {"code", "error"} <= set(json.loads(capsys.readouterr().out))
