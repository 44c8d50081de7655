"""The command tree of `vfioctl`, and how every command ends.

The map is closed: a command that is not in `TREE` does not exist. However a command ends, stdout
holds what was asked for or nothing but the one document that says why not; people read stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import StringIO

import click

from vfio_cli import terminal
from vfio_cli.exits import (
    BROKEN_PIPE,
    FAILURE,
    FAULT,
    INTERRUPTED,
    OK,
    USAGE,
    WORDS,
    OutputLost,
    PipeClosed,
    Stop,
)
from vfio_cli.tree import LazyGroup, explain_missing
from vfio_contract.version import VERSION

TREE: dict[str, dict[str, tuple[str, str]]] = {
    "Look at a host": {
        "check": ("check:check", "Is this host ready for PCI passthrough, and why (not)?"),
        "device": ("device:device", "The PCI functions of this host, one by one."),
        "collect": ("collect:collect", "Write this host's evidence to one file."),
        "diff": ("diff:diff", "What changed between two hosts' evidence, and does it matter?"),
        "diagnose": ("diagnose:diagnose", "From a symptom or a message to its root cause."),
        "explain": ("explain:explain", "What a check looks at, or what a code means."),
        "report": ("report:report", "This host as one HTML page, its PCI tree as a picture."),
    },
    "Run": {
        "up": ("run:up", "Coordinator and this host's agent together, in the foreground."),
        "agent": ("run:agent", "The agent of a node."),
        "coordinator": ("run:coordinator", "The coordinator of a cluster."),
    },
    "Cluster": {
        "status": ("status:status", "This host, or with --cluster all of them, on one screen."),
        "events": ("events:events", "What happened, when, and who did it."),
        "incident": ("incident:incident", "One cause on several nodes, and what to do about it."),
        "mute": ("mute:mute", "Health codes that nobody wants to hear of for a while."),
        "node": ("node:node", "The hosts of the cluster."),
    },
    "VMs": {"vm": ("vm:vm", "Places for VMs that need devices.")},
    "Knowledge": {
        "baseline": ("baseline:baseline", "What a node was accepted as."),
        "forecast": ("forecast:forecast", "What would happen with a BIOS or a kernel?"),
        "policy": ("policy:policy", "What the cluster may do by itself."),
        "risk": ("risk:risk", "Risks of a node that somebody carries, why and until when."),
    },
}
"""Section -> command -> (module:attribute below `vfio_cli.commands`, purpose)."""

EPILOG = """\b
Shell completion (bash; zsh and fish likewise):
  eval "$(_VFIOCTL_COMPLETE=bash_source vfioctl)"

\b
Exit codes: 0 ok, 1 warning, 2 failure, 3 unknown, 64 wrong usage,
130 after Ctrl-C.
Start here: vfioctl check
"""


@click.group(
    cls=LazyGroup,
    sections=TREE,
    name="vfioctl",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(VERSION, message="vfioctl %(version)s")
def cli() -> None:
    """Keeps hypervisors honest about PCI passthrough (VFIO).

    A command that looks at a host works on this host; with --cluster or --node it asks the
    coordinator.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a user's mistake is one line on stderr."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            code = cli.main(args=given, prog_name="vfioctl", standalone_mode=False)
        except ModuleNotFoundError as error:
            stop = explain_missing(error)
            if stop is None:
                raise
            raise stop from None
    except click.ClickException as error:
        return _end(error, given)
    except click.Abort:
        return INTERRUPTED
    except PipeClosed:
        _silence_stdout()
        return BROKEN_PIPE
    return code if isinstance(code, int) else OK


def _end(error: click.ClickException, given: Sequence[str]) -> int:
    """Say why: one line for people, and the document that `-o json` or `-o yaml` asked for."""
    if isinstance(error, Stop):
        terminal.note(f"vfioctl: {error.format_message()}")
    else:
        said = StringIO()
        error.show(said)
        terminal.note(said.getvalue().rstrip("\n"))
    status = FAILURE
    if isinstance(error, click.UsageError):
        status = USAGE
    elif isinstance(error, Stop):
        status = error.status
    if isinstance(error, OutputLost | click.exceptions.NoArgsIsHelpError):
        return status
    from vfio_cli.output import find_form, write_error

    code = getattr(error, "code", WORDS[status])
    try:
        write_error(find_form(given), code=code, message=error.format_message(), status=status)
    except OutputLost as lost:
        terminal.note(f"vfioctl: {lost.format_message()}")
    except PipeClosed:
        _silence_stdout()
        return BROKEN_PIPE
    return status


def _silence_stdout() -> None:
    """So that the interpreter's own last flush does not complain about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The console script. Python's own status for a traceback is 1, which says warning here."""
    try:
        status = run()
    except Exception:
        import traceback

        traceback.print_exc()
        status = FAULT
    sys.exit(status)


if __name__ == "__main__":
    main()
