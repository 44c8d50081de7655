"""`vfioctl device history`: how the resets of a function went, here or on a node of the cluster."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vfio_agent.inspect import JOURNAL
from vfio_cli.completion import complete_place
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.look import look
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.history import history_screen
from vfio_contract.ledger import BAD, ResetState, read_state
from vfio_contract.ledger_views import DeviceHistory


@click.command(
    "history",
    cls=Taught,
    examples=(
        "sudo vfioctl device history 41:00.0",
        "vfioctl device history pve03 0000:41:00.0    as the cluster keeps it",
        "vfioctl device history pve03 dsn-00-1b-21-ff-ff-5f-12-34.0 -o json",
    ),
    exits="0 capable or proven, 1 probation or one-shot, 2 failing or wedged, 3 the history could "
    "not be read; 64 wrong usage, or no such function.",
)
@click.argument(
    "place",
    nargs=-1,
    required=True,
    metavar="[NODE] ADDRESS|IDENTITY",
    shell_complete=complete_place,
)
@click.option(
    "--state",
    metavar="DIR",
    help="Where this host's agent keeps its journal [default /var/lib/vfioctl/agent].",
)
@coordinator_options
@output_option(*WITHOUT_NAME)
def history(
    place: tuple[str, ...], state: str | None, endpoint: str | None, tls: str | None, form: str
) -> int:
    """Show how the resets of a function went, by firmware.

    Of this host from its agent's journal; with NODE from the coordinator, which keeps it also when
    the host is lost. A function that moved or left is found by its identity, by an address at which
    it was reset, and with NODE by its address at the baseline.
    """
    if len(place) > 2:
        raise Mistake(f"{place[0]}: give one ADDRESS or IDENTITY, and at most one NODE before it")
    if len(place) == 2 and state is not None:
        raise Mistake("--state is about this host: leave out NODE, or --state")
    if len(place) == 2:
        found = _ask(place[0], place[1], endpoint, tls)
    else:
        found = _recall(place[0], Path(state) / JOURNAL.name if state else JOURNAL)
    emit(
        form,
        screen=lambda wide: history_screen(found, wide=wide),
        document=lambda: make_document("device-history", history=found),
    )
    return exit_of(found)


def exit_of(found: DeviceHistory) -> int:
    """By the class; one of a newer version is unknown."""
    known = read_state(found.state)
    if known is None:
        return UNKNOWN
    if known in BAD:
        return FAILURE
    return WARNING if known in (ResetState.PROBATION, ResetState.ONE_SHOT) else OK


def _ask(node: str, device: str, endpoint: str | None, tls: str | None) -> DeviceHistory:
    # Here, not above: gRPC takes 150 ms to import, which a look at this host need not pay.
    from vfio_cli.client import connect

    with connect(endpoint, tls) as coordinator:
        return coordinator.device_history(node, device)


def _recall(device: str, journal: Path) -> DeviceHistory:
    from vfio_agent.recall import RecallError, recall_resets

    try:
        found = recall_resets(look(None).snapshot, device, journal=journal)
    except RecallError as error:
        hint = "" if os.geteuid() == 0 else "; ask as root (sudo)"
        raise Stop(
            f"the reset history of this host cannot be read: {error}{hint}. The agent keeps it "
            "(vfioctl agent run); with NODE the coordinator's is shown",
            status=UNKNOWN,
        ) from None
    if found is None:
        raise Mistake(
            f"{device}: no such function here, and no reset of one: vfioctl device list",
            code="UNKNOWN_DEVICE",
        )
    return found
