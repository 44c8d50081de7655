"""What goes wrong inside, for the tests of the harness itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Nobody waits longer for a go-ahead that never comes.
LIMIT_S = 300.0


def fail(*, words: str) -> None:
    """Raise, as an action does that met what it did not expect."""
    raise ValueError(words)


def say(*, count: int) -> str:
    """An answer of this many bytes and some."""
    return "x" * count


def names(*, path: str) -> list[str]:
    """What is in this folder."""
    return os.listdir(path)


def remove(*, path: str) -> str | bool:
    """Whether the file is there afterwards, or why it could not be removed."""
    try:
        os.unlink(path)
    except OSError as error:
        return str(error.strerror)
    return os.path.exists(path)


def wait_for(*, path: str) -> bool:
    """Answer when this file is there: a request that takes its time."""
    end = time.monotonic() + LIMIT_S
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.1)
    return True
