"""Exit codes, and the two ways in which a command ends early with one line.

0 ok, 1 warning, 2 failure, 3 unknown, 64 usage (the convention of monitoring plugins and
sysexits.h). A user's mistake never shows a traceback.
"""

from __future__ import annotations

import click

OK, WARNING, FAILURE, UNKNOWN, USAGE = 0, 1, 2, 3, 64
INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 + SIGINT and 128 + SIGPIPE, as a shell reports them."""


class Mistake(click.UsageError):
    """What the user typed cannot be done; the text names the field and the fix."""

    exit_code = USAGE


class Stop(click.ClickException):
    """The command cannot go on; `status` says which kind of answer that is."""

    def __init__(self, message: str, *, status: int = FAILURE) -> None:
        super().__init__(message)
        self.status = status


class PipeClosed(Exception):
    """Whoever read our output went away; nothing is said about it."""
