"""The guest's side of a scenario: carries out one request after the other until told to end.

A request names a function of `tests.lab.actions` as `module.function` and its keyword arguments;
the answer is what it returned, or what it raised. Nothing is decided here.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.lab.harness.channel import put, take

ACTIONS = "tests.lab.actions"
FOREVER_S = 24 * 3600.0


def serve(folder: Path) -> None:
    """Answer `request-N` with `answer-N`, N from 1, until one says `end`."""
    put(folder, "answer-0", {"ready": True})
    for number in itertools.count(1):
        request = take(folder, f"request-{number}", limit_s=FOREVER_S)
        if request.get("end"):
            return
        print(f"-> {request['action']} {request['arguments']}", flush=True)
        put(folder, f"answer-{number}", _answer(request))
        sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, _, name = request["action"].rpartition(".")
    try:
        function = getattr(importlib.import_module(f"{ACTIONS}.{module}"), name)
        return {"result": function(**request["arguments"])}
    # Whatever an action raises is its answer: the host shows it where the scenario failed.
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
