"""Exit codes, and the ways in which a command ends early with one line.

0 ok, 1 warning, 2 failure, 3 unknown, 64 usage (the convention of monitoring plugins and
sysexits.h). A user's mistake never shows a traceback; a fault of vfioctl itself shows one and
is 70, which a monitoring system takes for unknown.

What was typed and cannot be is 64, everywhere: an option, a value, a path that is no host, and a
name that does not exist: a function, VM, check or code of this host as well as a node or VM of the
cluster (`UNKNOWN_NODE`, `UNKNOWN_VM`: all refusals `UNKNOWN_...`). 2 is for what exists and failed,
was refused or may not be done; 3 for an answer that could not be had. A thing that does not exist
can so never be taken for one that is broken.

With `-o json` and `-o yaml` an early end is a document too: `output.write_error`.
"""

from __future__ import annotations

import click

OK, WARNING, FAILURE, UNKNOWN, USAGE = 0, 1, 2, 3, 64
FAULT = 70
"""EX_SOFTWARE of sysexits.h."""

INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 + SIGINT and 128 + SIGPIPE, as a shell reports them."""

WORDS = {FAILURE: "FAILED", UNKNOWN: "NO_ANSWER", USAGE: "USAGE"}
"""The `code` of an early end that has none of its own."""


class Mistake(click.UsageError):
    """What the user typed cannot be done; the text names the field and the fix."""

    exit_code = USAGE

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or WORDS[USAGE]


class Stop(click.ClickException):
    """The command cannot go on; `status` says which kind of answer that is, `code` names it."""

    def __init__(self, message: str, *, status: int = FAILURE, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code or WORDS[status]


class OutputLost(Stop):
    """Stdout cannot be written: the command stops, and there is no place for a document."""


class PipeClosed(Exception):
    """Whoever read our output went away; nothing is said about it."""
