"""`vfioctl node revalidate`: have a node looked at anew, and see what still speaks against it.

The look and the reset tests are the agent's; whether the node takes VMs again is the coordinator's
judgement of what they show. Nothing here lifts anything. A reset test that is refused, or whose end
nobody saw, is a line of the answer and never left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from vfio_cli.client import Coordinator, connect
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Stop
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.remote import act_on_node, look_at_node
from vfio_cli.screens.nodes import heard_verdict, is_sound
from vfio_cli.screens.revalidate import ResetTest, Revalidation, revalidate_screen, takes_vms
from vfio_contract.action import ActionReport, Outcome
from vfio_contract.address import parse_address
from vfio_contract.codes import EVENTS_LOST, EVIDENCE_LOST, REVALIDATING
from vfio_contract.findings import EXIT_CODES
from vfio_contract.views import NodeView, UnitView

_AGAIN_S = 0.5
"""Between two looks at what the coordinator says; a judgement follows its evidence within one."""

_PASSES = frozenset({REVALIDATING.name, EVENTS_LOST.name, EVIDENCE_LOST.name})
"""Reasons that end by themselves when the evidence is there: worth waiting for."""


@click.command(
    "revalidate",
    cls=Taught,
    examples=(
        "vfioctl node revalidate pve07",
        "vfioctl node revalidate pve07 --reset-tests    each intended, free unit",
    ),
    exits="0 ready, 1 not ready, or no unit qualifies, or a reset test was refused; 2 cordoned, or "
    "its verdict is FAIL, or a reset test failed; 3 not heard, or its verdict is not known, or the "
    "coordinator cannot be reached; 64 no such node or wrong usage.",
)
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option(
    "--reset-tests",
    is_flag=True,
    help="First reset each intended unit that nobody uses, one by one (admins only).",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 3600),
    default=30,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the node after the look.",
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def revalidate(
    name: str,
    reset_tests: bool,
    timeout_s: int,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """Look at a node anew, and say what still speaks against it.

    A node that booted takes no VM before this boot is validated. It comes back by itself where its
    isolation is the same, only renumbered, or moved with no VM left that names an old address; all
    else waits for a person, and each line says for what.
    """
    with connect(endpoint, tls) as coordinator:
        node = coordinator.show_node(name)
        look_at_node(coordinator, node.name, verb="check")
        tests: tuple[ResetTest, ...] = ()
        if reset_tests:
            tests = tuple(_test_units(coordinator, coordinator.show_node(node.name)))
            look_at_node(coordinator, node.name, verb="check")
        found = _await_judgement(coordinator, node.name, time.monotonic() + timeout_s)
    result = Revalidation(found, tests, asked=reset_tests)
    emit(
        form,
        screen=lambda wide: revalidate_screen(result, wide=wide),
        document=lambda: make_document("revalidation", node=found, reset_tests=tests),
    )
    return exit_code(result)


def _await_judgement(coordinator: Coordinator, name: str, until_s: float) -> NodeView:
    """The node once it is ready, or waits for something that no look can bring."""
    while True:
        node = coordinator.show_node(name)
        passes = all(reason.code in _PASSES for reason in node.reasons)
        waits = node.state == "revalidating" and passes
        if not waits or time.monotonic() + _AGAIN_S >= until_s:
            return node
        time.sleep(_AGAIN_S)


def _test_units(coordinator: Coordinator, node: NodeView) -> Iterator[ResetTest]:
    for unit in node.units:
        if unit.intended:
            yield _test(coordinator, node.name, unit)


def _test(coordinator: Coordinator, node: str, unit: UnitView) -> ResetTest:
    address = unit.addresses[0]
    if unit.vm:
        return ResetTest(unit.id, address, "skipped", f"VM {unit.vm} has it")
    if unit.state == "foreign":
        return ResetTest(unit.id, address, "skipped", unit.why or "a process has it")
    try:
        report = act_on_node(coordinator, node, verb="reset-test", address=parse_address(address))
    except Stop as stop:
        word = "unknown" if stop.status == UNKNOWN else "refused"
        return ResetTest(unit.id, address, word, stop.message)
    return ResetTest(unit.id, address, report.outcome.value, _words(report))


def _words(report: ActionReport) -> str:
    """How a reset test ended in a few words."""
    proof = report.reset
    if report.outcome is Outcome.DONE and proof is not None:
        method = proof.method or "method not told"
        return f"{method}, {proof.outcome} in {proof.seconds:.3f} s"
    first = report.reasons[0] if report.reasons else None
    return report.detail or (f"{first.code}: {first.meaning}" if first is not None else "")


def exit_code(result: Revalidation) -> int:
    """What the screen's first line says, as a number."""
    node, outcomes = result.node, {test.outcome for test in result.tests}
    if node.state == "lost" or node.heard_age_s < 0:
        return UNKNOWN
    if node.state in ("cordoned", "draining", "drained") or outcomes & {"failed", "undone"}:
        return FAILURE
    if node.state == "ready" and not is_sound(node):
        return EXIT_CODES[heard_verdict(node)]
    if not takes_vms(node) or outcomes - {"done", "skipped"}:
        return WARNING
    return OK
