"""The command tree of `vfioctl`, and how every command ends.

Commands load when they are called, so that `vfioctl check` starts fast and never imports gRPC. The
map is closed: a command that is not in `TREE` does not exist.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from vfio_cli.exits import BROKEN_PIPE, FAILURE, INTERRUPTED, OK, USAGE, PipeClosed, Stop

TREE: dict[str, dict[str, tuple[str, str]]] = {
    "Look at a host": {
        "check": ("check:check", "Is this host ready for PCI passthrough, and why (not)?"),
        "device": ("device:device", "The PCI functions of this host, one by one."),
        "collect": ("artifact:collect", "Write this host's evidence to one file."),
        "diff": ("artifact:diff", "What changed between two hosts' evidence, and does it matter?"),
        "explain": ("explain:explain", "What a check looks at, or what a code means."),
    },
    "Run": {
        "up": ("run:up", "Coordinator and this host's agent together, in the foreground."),
        "agent": ("run:agent", "The agent of a node."),
        "coordinator": ("run:coordinator", "The coordinator of a cluster."),
    },
    "Cluster": {
        "status": ("status:status", "This host, or with --cluster all of them, on one screen."),
        "events": ("events:events", "What happened, when, and who did it."),
        "node": ("node:node", "The hosts of the cluster."),
    },
    "VMs": {"vm": ("vm:vm", "Places for VMs that need devices.")},
    "Knowledge": {"baseline": ("baseline:baseline", "What a node was accepted as.")},
}
"""Section -> command -> (module:attribute below `vfio_cli.commands`, purpose)."""

EPILOG = """\b
Shell completion (bash; zsh and fish likewise):
  eval "$(_VFIOCTL_COMPLETE=bash_source vfioctl)"

\b
Exit codes: 0 ok, 1 warning, 2 failure, 3 unknown, 64 wrong usage.
Start here: vfioctl check
"""


class Tree(click.Group):
    """A group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names in the order of the map."""
        return [name for rows in TREE.values() for name in rows]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        for rows in TREE.values():
            if cmd_name in rows:
                module, _, attribute = rows[cmd_name][0].partition(":")
                loaded = importlib.import_module(f"vfio_cli.commands.{module}")
                command = getattr(loaded, attribute)
                if not isinstance(command, click.Command):
                    raise TypeError(f"{rows[cmd_name][0]} is no command")
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The map by section, without importing any of it."""
        for section, rows in TREE.items():
            with formatter.section(section):
                formatter.write_dl([(name, purpose) for name, (_, purpose) in rows.items()])


@click.group(
    cls=Tree,
    name="vfioctl",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(package_name="vfioctl", message="vfioctl %(version)s")
def cli() -> None:
    """Keeps hypervisors honest about PCI passthrough (VFIO).

    A command that looks at a host works on this host; with --cluster or --node it asks the
    coordinator.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a user's mistake is one line on stderr."""
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="vfioctl",
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.UsageError as error:
        error.show()
        return USAGE
    except Stop as stop:
        click.echo(f"vfioctl: {stop.format_message()}", err=True)
        return stop.status
    except click.ClickException as error:
        error.show()
        return FAILURE
    except click.Abort:
        return INTERRUPTED
    except PipeClosed:
        _silence_stdout()
        return BROKEN_PIPE
    return code if isinstance(code, int) else OK


def _silence_stdout() -> None:
    """So that the interpreter's own last flush does not complain about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
