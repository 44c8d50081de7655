"""Having a node do something through the coordinator, and waiting for it.

A command is the cluster's once it was asked for: whoever stops waiting changes nothing about it. So
every way out of a wait says how to see what became of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from vfio_cli.client import Coordinator
from vfio_cli.exits import FAILURE, UNKNOWN, Stop
from vfio_cli.terminal import note
from vfio_contract.action import ActionReport, Outcome, unpack_report
from vfio_contract.address import Address
from vfio_contract.artifact import ArtifactError, decode, decompress, digest_bytes
from vfio_contract.command import LOOKS
from vfio_contract.model import Facts, Readings, Snapshot
from vfio_contract.views import CommandView

LOOK_S = 60.0
"""For a look, the way to the node and back included; one takes a second."""

ACTION_S = 600.0
"""For an action; a reset can take three minutes, and others may be before it."""

STEP_S = 5.0
"""One question to the coordinator; less than a call may take."""

AGAIN_S = 1.0
"""Between two attempts to reach a coordinator that restarts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended, and its report (`action.pack_report`), b"" for none."""

    command: CommandView
    report: bytes


def run_on_node(
    coordinator: Coordinator, node: str, *, verb: str, address: str = "", unit: str = ""
) -> Ended:
    """Ask, and wait for the end; Stop where it was not sent or its end was not seen."""
    asked = coordinator.run_command(node, verb=verb, address=address, unit=unit)
    limit_s = LOOK_S if verb in LOOKS else ACTION_S
    until = time.monotonic() + limit_s
    hint = f"see what became of command {asked.id}: vfioctl node show {asked.node}"
    try:
        ended = _await(coordinator, asked, until, hint)
    except KeyboardInterrupt:
        note(f"vfioctl: {verb} on {asked.node} goes on without you; {hint}")
        raise
    if ended is None:
        text = f"{verb} on {asked.node} has not ended after {limit_s:.0f}s; {hint}"
        raise Stop(text, status=UNKNOWN)
    return ended


def look_at_node(coordinator: Coordinator, node: str, *, verb: str) -> CommandView:
    """Have the node look at itself now; Stop where it did not."""
    command = run_on_node(coordinator, node, verb=verb).command
    if command.outcome == Outcome.DONE:
        return command
    status = UNKNOWN if command.outcome == Outcome.UNKNOWN else FAILURE
    text = f"{command.node} did not look: {command.code}: {command.text}"
    raise Stop(text, status=status, code=command.code or "NO_ANSWER")


def act_on_node(
    coordinator: Coordinator, node: str, *, verb: str, address: Address
) -> ActionReport:
    """Have the node's hands do it; Stop where it was refused before they judged it, or lost."""
    unit = _show_unit(coordinator, node, verb=verb, address=address)
    ended = run_on_node(coordinator, node, verb=verb, address=address, unit=unit)
    command = ended.command
    if not ended.report:
        status = UNKNOWN if command.outcome == Outcome.UNKNOWN else FAILURE
        text = f"{verb} of {address} on {command.node}: {command.text}"
        more = f"; more: vfioctl explain {command.code}" if command.code else ""
        raise Stop(f"{command.code}: {text}{more}", status=status, code=command.code)
    try:
        return unpack_report(ended.report)
    except ArtifactError as error:
        text = f"{verb} of {address} on {command.node} {command.outcome}: {command.text}"
        raise Stop(f"{text} (its report cannot be read: {error})", status=UNKNOWN) from None


def _show_unit(coordinator: Coordinator, node: str, *, verb: str, address: Address) -> str:
    """Say which device it will be, and give its unit's id; "" where the node shows none."""
    view = coordinator.show_node(node)
    for unit in view.units:
        if address in unit.addresses:
            device = f"{unit.model or unit.ids} ({unit.id}, {' '.join(unit.addresses)})"
            note(f"vfioctl: {verb} on {view.name}: {device}")
            return unit.id
    return ""


def fetch_artifact(coordinator: Coordinator, node: str) -> Snapshot:
    """What a look of now sees on the node; Stop where there is none."""
    command = look_at_node(coordinator, node, verb="collect")
    digest, facts_zlib, readings_zlib = coordinator.artifact(command.id)
    try:
        facts = decompress(facts_zlib)
        if digest_bytes(facts) != digest:
            raise ArtifactError(f"the facts are not those of {digest}")
        return Snapshot(decode(Facts, facts), decode(Readings, decompress(readings_zlib)))
    except ArtifactError as error:
        raise Stop(f"the artifact of {command.node}: {error}", status=FAILURE) from None


def _await(coordinator: Coordinator, asked: CommandView, until: float, hint: str) -> Ended | None:
    """The end, None where the time was over before."""
    shown = asked
    while time.monotonic() < until:
        doing = f"{asked.verb} on {asked.node}: {shown.text or shown.state}"
        try:
            shown, report = coordinator.get_command(asked.id, wait_s=STEP_S, doing=doing)
        except Stop as stop:
            if stop.status != UNKNOWN or time.monotonic() + AGAIN_S >= until:
                raise Stop(f"{stop.message}; {hint}", status=stop.status, code=stop.code) from None
            time.sleep(AGAIN_S)
            continue
        looked = asked.verb in LOOKS and shown.outcome == Outcome.DONE
        if shown.state == "ended" and (shown.seen or not looked):
            return Ended(shown, report)
    return None
