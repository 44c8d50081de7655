"""`vfioctl vm lint`: the VM configurations of this host, judged against this host."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vfio_agent.inspect import Inspection
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.look import check_view, look
from vfio_cli.output import WITHOUT_NAME, emit, output_option, report_document
from vfio_cli.screens.lint import LintView, lint_screen
from vfio_contract.findings import NODE, summarise


@click.command(
    "lint",
    cls=Taught,
    examples=(
        "sudo vfioctl vm lint",
        "sudo vfioctl vm lint 101 web-1",
        "vfioctl vm lint --root host.tar.gz",
        "vfioctl vm lint -o json",
    ),
    exits="0 fine, 1 warnings, 2 a VM will not start or takes from the host, 3 not known, "
    "64 no such VM or wrong usage.",
)
@click.argument("names", metavar="[VM]...", nargs=-1)
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@output_option(*WITHOUT_NAME)
def lint(names: tuple[str, ...], root: str | None, form: str) -> int:
    """Are this host's VM configurations right for its devices?

    Proxmox files, libvirt files and running QEMU processes, each finding with its file and line.
    Reads only; a VM is named as its hypervisor names it (VMID, domain name).
    """
    view = _view(look(root), names, root)
    emit(
        form,
        screen=lambda wide: lint_screen(view, wide=wide),
        document=lambda: report_document(view.report),
    )
    return view.report.exit_code


def _view(seen: Inspection, names: Sequence[str], root: str | None) -> LintView:
    facts = seen.snapshot.facts
    known = {vm.name: vm for vm in facts.vms or ()}
    unknown = [name for name in names if name not in known]
    if unknown and facts.vms is not None:
        raise Mistake(f"no VM {unknown[0]!r} here; there are: {', '.join(known) or 'none'}")
    subjects = {NODE, *(f"vm:{name}" for name in names or known)}
    findings = [
        f for f in seen.report.findings if f.check.startswith("vm-") and f.subject in subjects
    ]
    shown = [known[name] for name in names or known if name in known]
    wanted = [vm for vm in shown if names or (vm.devices and not vm.template)]
    return LintView(
        report=summarise(seen.report.host, findings),
        vms=[(vm.name, vm.title, vm.source) for vm in wanted],
        seen_by=check_view(seen, root).seen_by,
    )
