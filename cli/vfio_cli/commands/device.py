"""`vfioctl device ...`: this host's PCI functions, one by one; `actions` has what changes them."""

from __future__ import annotations

import click

from vfio_agent.inspect import Inspection
from vfio_cli.commands.actions import bind, reset_test, unbind
from vfio_cli.commands.history import history
from vfio_cli.completion import complete_address
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.look import from_options, look, look_at_evidence, source_words
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.devices import DeviceView, list_screen, show_screen
from vfio_cli.survey import (
    capability_text,
    function_facts,
    function_findings,
    group_by_subject,
    list_devices,
)
from vfio_contract.address import Address, parse_address
from vfio_contract.findings import EXIT_CODES, NODE, Verdict


@click.group("device", no_args_is_help=True)
def device() -> None:
    """The PCI functions of this host, one by one."""


root_option = click.option(
    "--root", metavar="PATH", help="A captured host: a directory or a tar of its root."
)


def _seen(root: str | None, evidence: tuple[str, ...], more: tuple[str, ...]) -> Inspection:
    if more and not evidence:
        raise Mistake(f"{more[0]}: to look at a file's evidence: --from {more[0]}")
    if root is not None and evidence:
        raise Mistake("--root and --from: give one of them")
    return look_at_evidence((*evidence, *more)) if evidence else look(root)


@device.command(
    "list",
    cls=Taught,
    examples=(
        "vfioctl device list",
        "vfioctl device list -o wide         with bridges, ids and units",
        "vfioctl device list -o name         addresses only",
    ),
    exits="0 listed, 3 the functions could not be read, 64 wrong usage.",
)
@root_option
@from_options
@output_option()
def list_(root: str | None, evidence: tuple[str, ...], more: tuple[str, ...], form: str) -> int:
    """List the PCI functions: group, driver, reset, verdict."""
    seen = _seen(root, evidence, more)
    rows = list_devices(seen.host, seen.report)
    known = seen.snapshot.facts.functions is not None
    emit(
        form,
        screen=lambda wide: list_screen(seen.report.host, rows, known=known, wide=wide),
        document=lambda: make_document("devices", host=seen.report.host, devices=rows),
        names=lambda: [row.address for row in rows if not row.bridge],
    )
    return 0 if known else EXIT_CODES[Verdict.UNKNOWN]


@device.command(
    "show",
    cls=Taught,
    examples=("vfioctl device show 01:00.0", "vfioctl device show 0000:41:00.0 -o json"),
    exits="as for check, of this function: 0 pass, 1 warning, 2 fail, 3 not known; 64 no such "
    "function.",
)
@click.argument("address", shell_complete=complete_address)
@root_option
@from_options
@output_option(*WITHOUT_NAME)
def show(
    address: str, root: str | None, evidence: tuple[str, ...], more: tuple[str, ...], form: str
) -> int:
    """Show one function with all evidence about it."""
    try:
        wanted = parse_address(address)
    except ValueError as error:
        raise Mistake(f"ADDRESS {error}") from None
    seen = _seen(root, evidence, more)
    if wanted not in seen.host.by_address:
        there = f"vfioctl device list{source_words(root, (*evidence, *more))}"
        raise Mistake(f"ADDRESS {wanted}: no such function here: {there}")
    view = device_view(seen, wanted)
    emit(
        form,
        screen=lambda wide: show_screen(view, wide=wide),
        document=lambda: make_document(
            "device",
            device=view.row,
            function=seen.host.by_address[wanted],
            group_members=[m.address for m in view.members],
            assign=view.assign,
            hold=view.hold,
            findings=view.findings,
        ),
    )
    return EXIT_CODES[view.row.verdict]


for command in (history, bind, unbind, reset_test):
    device.add_command(command)


def device_view(seen: Inspection, address: Address) -> DeviceView:
    """What the screen shows of one function of an inspected host."""
    host = seen.host
    function = host.by_address[address]
    by_subject = group_by_subject(seen.report.findings)
    rows = {row.address: row for row in list_devices(host, seen.report)}
    group = function.group
    members = host.members.get(group, ()) if group is not None else ()
    unit = host.unit_of.get(function.address)
    node = by_subject.get(NODE, ())
    return DeviceView(
        row=rows[function.address],
        facts=(*function_facts(host, function), ("capabilities", capability_text(function))),
        members=tuple(rows[m.address] for m in members),
        assign=() if unit is None else unit.assign,
        hold=() if unit is None else unit.hold,
        findings=function_findings(host, function, by_subject),
        node_findings=tuple(f for f in node if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)),
    )
