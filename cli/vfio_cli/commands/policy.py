"""`vfioctl policy ...`: what the cluster may do by itself."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from vfio_cli.client import connect
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import OK, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.policy import policy_screen
from vfio_contract.policy import SETTINGS, PolicySetting


@click.group("policy", no_args_is_help=True)
def policy() -> None:
    """What the cluster may do by itself, and who said so."""


@policy.command(
    "show",
    cls=Taught,
    examples=("vfioctl policy show", "vfioctl policy show -o json"),
    exits="0 shown, 3 the coordinator cannot be reached, 64 wrong usage.",
)
@output_option()
@coordinator_options
def show(form: str, endpoint: str | None, tls: str | None) -> int:
    """Show every setting, what it means, and who set it."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.show_policy()
    _emit(form, found)
    return OK


def _complete(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    pairs = [
        (f"{setting.name}={value}", meaning)
        for setting in SETTINGS.values()
        for value, meaning in setting.values
    ]
    return [CompletionItem(p, help=help) for p, help in pairs if p.startswith(incomplete)]


@policy.command(
    "set",
    cls=Taught,
    examples=(
        "vfioctl policy set baseline=auto",
        "vfioctl policy set baseline=auto baseline-resets=proven",
        "vfioctl policy set baseline=person      as it was",
    ),
    exits="0 set, 2 not allowed, 3 the coordinator cannot be reached, 64 no such setting or value.",
)
@click.argument(
    "settings", metavar="NAME=VALUE...", nargs=-1, required=True, shell_complete=_complete
)
@output_option()
@coordinator_options
def set_(settings: tuple[str, ...], form: str, endpoint: str | None, tls: str | None) -> int:
    """Change settings, all of them or none. It holds from each node's next evidence on.

    \b
    baseline         person or auto: who accepts what a node is
    baseline-resets  any or proven: what auto asks of resets
    """
    changes = []
    for text in settings:
        name, mark, value = text.partition("=")
        if not mark or not name or not value:
            known = ", ".join(sorted(SETTINGS))
            raise Mistake(f"{text}: write NAME=VALUE; there are {known}")
        changes.append((name, value))
    with connect(endpoint, tls) as coordinator:
        found = coordinator.set_policy(changes)
    _emit(form, found)
    return OK


def _emit(form: str, found: tuple[PolicySetting, ...]) -> None:
    emit(
        form,
        screen=lambda wide: policy_screen(found, wide=wide),
        document=lambda: make_document("policy", settings=found),
        names=lambda: [f"{setting.name}={setting.value}" for setting in found],
    )
