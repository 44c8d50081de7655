"""What `vfioctl vm` asks the coordinator: places for VMs with devices, and why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_node, complete_vm
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import FORMATS, emit, make_document, output_option
from vfio_cli.screens.decision import CLAIMED, DRY_RUN, PLACED, decision_screen
from vfio_cli.screens.vms import explain_screen, list_screen, released_screen
from vfio_cli.selectors import RISKS, RiskChoice, parse_devices
from vfio_cli.watching import Picture, watch_cluster
from vfio_contract.address import check_name
from vfio_contract.views import Decision, PlaceRequest, VmView, WatchKind

Command = TypeVar("Command", bound=Callable[..., Any])


vm_argument = click.argument("name", metavar="VM", shell_complete=complete_vm)

_PLACE_EXITS = (
    "0 reserved (or fits, with --dry-run), 2 refused: the screen says by which stage, 3 the "
    "coordinator cannot be reached, 64 no such node or wrong usage."
)


def place_options(command: Command) -> Command:
    """What `place` and `claim` have in common."""
    for decorate in (
        coordinator_options,
        output_option(*FORMATS),
        click.option("--dry-run", is_flag=True, help="Decide only; reserve nothing."),
        click.option(
            "--node",
            default="",
            metavar="NODE",
            shell_complete=complete_node,
            help="Only this node.",
        ),
        click.option(
            "--allow",
            multiple=True,
            type=RiskChoice(RISKS),
            help="Accept this risk for this VM. Repeatable.",
        ),
        click.option("--same-numa", is_flag=True, help="All devices on one NUMA node."),
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="KIND[:MODEL][=N]",
            help="What it needs: gpu, gpu:a5000=2, nic:8086:10d3. Repeatable; all or nothing.",
        ),
        click.argument("name", metavar="VM"),
    ):
        command = decorate(command)
    return command


@click.command(
    "place",
    cls=Taught,
    examples=(
        "vfioctl vm place train-9 --device gpu:a5000=2 --same-numa",
        "vfioctl vm place render-1 --device gpu --device nic --dry-run",
        "vfioctl vm place old-1 --device nvme --allow acs-override",
    ),
    exits=_PLACE_EXITS,
)
@place_options
def place(**options: Any) -> int:
    """Decide where a VM goes and reserve its devices there.

    Only a node whose gates all pass on fresh evidence qualifies; the answer carries the proof, or
    the reasons of every node by stage.
    """
    return _place(external=False, word=PLACED, **options)


@click.command(
    "claim",
    cls=Taught,
    examples=("vfioctl vm claim train-9 --device gpu:a5000=2 -o json",),
    exits=_PLACE_EXITS,
)
@place_options
def claim(**options: Any) -> int:
    """Reserve devices for another orchestrator.

    As place, but this cluster never starts the VM: the orchestrator does.
    """
    return _place(external=True, word=CLAIMED, **options)


def _place(
    *,
    external: bool,
    word: str,
    name: str,
    devices: Sequence[str],
    same_numa: bool,
    allow: Sequence[str],
    node: str,
    dry_run: bool,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    try:
        request = PlaceRequest(
            vm=check_name(name, field="VM"),
            devices=parse_devices(devices),
            same_numa=same_numa,
            allow=tuple(dict.fromkeys(allow)),
            node=node,
            external=external,
            dry_run=dry_run,
            request_id=str(uuid4()),
        )
    except ValueError as error:
        raise Mistake(str(error)) from None
    with connect(endpoint, tls) as coordinator:
        decision = coordinator.place(request)
    emit(
        form,
        screen=lambda wide: decision_screen(decision, word=DRY_RUN if dry_run else word, wide=wide),
        document=lambda: make_document("decision", decision=decision),
        names=lambda: [] if decision.placement is None else [decision.placement.node],
    )
    return exit_code(decision)


def exit_code(decision: Decision) -> int:
    """0 for a placement, 2 for a refusal."""
    return OK if decision.placement is not None else FAILURE


@click.command(
    "release",
    cls=Taught,
    examples=("vfioctl vm release train-9",),
    exits="0 freed, 2 not allowed, 3 the coordinator cannot be reached, 64 no such VM or wrong "
    "usage.",
)
@vm_argument
@output_option()
@coordinator_options
def release(name: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Give a VM's devices back. Stop the VM first: this does not."""
    with connect(endpoint, tls) as coordinator:
        freed = coordinator.release(name)
    emit(
        form,
        screen=lambda _: released_screen(freed),
        document=lambda: make_document("vm", vm=freed),
        names=lambda: [freed.name],
    )
    return OK


@click.command(
    "list",
    cls=Taught,
    examples=("vfioctl vm list", "vfioctl vm list -o wide --watch"),
    exits="0 listed, 3 the coordinator cannot be reached, 64 wrong usage.",
)
@click.option("--watch", is_flag=True, help="Go on and show what changes, until Ctrl-C.")
@output_option()
@coordinator_options
def list_(watch: bool, form: str, endpoint: str | None, tls: str | None) -> int:
    """List the VMs that hold devices, those at risk first."""

    if watch:
        return watch_cluster(
            form,
            kinds=(WatchKind.VMS,),
            endpoint=endpoint,
            tls=tls,
            draw=lambda live, _: _picture(live.vms()),
        )
    with connect(endpoint, tls) as coordinator:
        shown = _picture(coordinator.list_vms())
    emit(form, screen=shown.screen, document=shown.document, names=shown.names)
    return OK


def _picture(vms: Sequence[VmView]) -> Picture:
    return Picture(
        screen=lambda wide: list_screen(vms, wide=wide),
        document=lambda: make_document("vms", vms=vms),
        names=lambda: [v.name for v in vms],
    )


@click.command(
    "explain",
    cls=Taught,
    examples=("vfioctl vm explain train-9", "vfioctl vm explain train-9 -o wide   every node"),
    exits="0 it holds a claim or would fit now, 2 refused, 3 the coordinator cannot be reached, 64 "
    "no such VM or wrong usage.",
)
@vm_argument
@output_option(*FORMATS)
@coordinator_options
def explain(name: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Why a VM is where it is, or why nothing fits it.

    Judged now, on the evidence of now; what was proved when it was placed stands apart, with its
    time. -o wide names every node.
    """
    with connect(endpoint, tls) as coordinator:
        decision, found, placed = coordinator.explain(name)
    emit(
        form,
        screen=lambda wide: explain_screen(decision, found, placed=placed, wide=wide),
        document=lambda: make_document("explanation", vm=found, decision=decision, placed=placed),
        names=lambda: [] if decision.placement is None else [decision.placement.node],
    )
    return OK if found is not None else exit_code(decision)
