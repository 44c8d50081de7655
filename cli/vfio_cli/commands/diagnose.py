"""`vfioctl diagnose`: from a symptom, or from a message, to the root cause and what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from vfio_agent.diagnosis import (
    SYMPTOMS,
    Kind,
    Reading,
    Symptom,
    Walk,
    find_symptom,
    recognise,
    subjects_of_device,
    subjects_of_vm,
    walk,
)
from vfio_agent.inspect import Inspection
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.look import check_view, from_options, look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.diagnose import SymptomView, error_screen, symptom_screen
from vfio_cli.terminal import note, progress
from vfio_contract.address import parse_address

_NAMES = [symptom.name for symptom in SYMPTOMS]
_BLOCK_BYTES = 1 << 20


@click.command(
    "diagnose",
    cls=Taught,
    examples=(
        "sudo vfioctl diagnose --symptom wont-start",
        "vfioctl diagnose --symptom works-once --device 01:00.0",
        "vfioctl diagnose --symptom black-screen --from dmesg.txt lspci.txt",
        'vfioctl diagnose --error "vfio 0000:01:00.0: group 1 is not viable"',
        "sudo journalctl -k -b -1 | vfioctl diagnose --error -",
    ),
    exits="0 nothing found, 1 a warning may explain it, 2 a cause was found, 3 not known (evidence "
    "is missing, or no message was recognised), 64 wrong usage.",
)
@click.option(
    "--symptom",
    type=click.Choice(_NAMES),
    metavar="NAME",
    help="What you see: " + ", ".join(_NAMES) + ".",
)
@click.option(
    "--error",
    metavar="TEXT",
    help="A message, or many lines of a log; - reads stdin.",
)
@click.option("--device", metavar="ADDRESS", help="Only what concerns this function.")
@click.option("--vm", metavar="VM", help="Only what concerns this VM and its devices.")
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@from_options
@output_option(*WITHOUT_NAME)
def diagnose(
    symptom: str | None,
    error: str | None,
    device: str | None,
    vm: str | None,
    root: str | None,
    evidence: tuple[str, ...],
    more: tuple[str, ...],
    form: str,
) -> int:
    """What is the root cause, and what do I do about it?

    --symptom looks at this host (or at captured evidence) in the field guide's order and stops at
    the first check that explains it. --error explains messages of the kernel, QEMU, libvirt and
    Proxmox; it looks at no host.
    """
    paths = (*evidence, *more)
    if more and not evidence:
        raise Mistake(f"{more[0]}: to look at a file's evidence: --from {more[0]}")
    if (symptom is None) == (error is None):
        raise Mistake(
            "give --error TEXT, or --symptom NAME with one of: " + ", ".join(_NAMES)
            if symptom is None
            else "--symptom and --error: give one of them"
        )
    if error is not None:
        if root is not None or paths or device is not None or vm is not None:
            raise Mistake(
                "--error looks at no host: leave --root, --from, --device and --vm out, or ask "
                "with --symptom"
            )
        return _explain_error(error, form)
    chosen = find_symptom(symptom or "")
    if chosen is None:
        raise Mistake(f"--symptom {symptom!r}: one of: {', '.join(_NAMES)}")
    if root is not None and paths:
        raise Mistake("--root and --from: give one of them")
    if device is not None and vm is not None:
        raise Mistake("--device and --vm: give one of them")
    seen = look_at_evidence(paths) if paths else look(root)
    return _walk_symptom(chosen, seen, device=device, vm=vm, root=root, form=form)


def _walk_symptom(
    symptom: Symptom,
    seen: Inspection,
    *,
    device: str | None,
    vm: str | None,
    root: str | None,
    form: str,
) -> int:
    about, subjects = _narrow(seen, device=device, vm=vm)
    went = walk(seen.report, symptom, subjects)
    view = SymptomView(
        walk=went,
        host=seen.report.host,
        seen_by=check_view(seen, root).seen_by,
        about=about,
        given=seen.given,
    )
    emit(
        form,
        screen=lambda wide: symptom_screen(view, wide=wide),
        document=lambda: _walk_document(view),
    )
    return went.exit_code


def _narrow(
    seen: Inspection, *, device: str | None, vm: str | None
) -> tuple[str, frozenset[str] | None]:
    """(name for the screen, subjects) of what was asked for; None for the whole host."""
    if device is not None:
        try:
            address = parse_address(device)
        except ValueError as error:
            raise Mistake(f"--device {error}") from None
        if address not in seen.host.by_address:
            known = seen.snapshot.facts.functions is not None
            why = (
                "no such function here: vfioctl device list"
                if known
                else ("the functions are not known: lspci -nnk")
            )
            raise Mistake(f"--device {address}: {why}")
        return address, subjects_of_device(seen.host, address)
    if vm is not None:
        known_vms = {row.name: row for row in seen.snapshot.facts.vms or ()}
        if vm not in known_vms:
            there = ", ".join(known_vms) or "none that could be read (vfioctl vm lint)"
            raise Mistake(f"--vm {vm!r}: no such VM here; there are: {there}")
        return f"VM {vm}", subjects_of_vm(seen.host, known_vms[vm])
    return "", None


def _walk_document(view: SymptomView) -> dict[str, Any]:
    went: Walk = view.walk
    looks = [
        {
            "check": row.check,
            "verdict": row.verdict,
            "judged": row.judged,
            "codes": list(dict.fromkeys(f.code for f in row.findings)),
            "subjects": [f.subject for f in row.findings],
        }
        for row in went.looks
    ]
    return make_document(
        "diagnosis",
        question="symptom",
        host=view.host,
        symptom=went.symptom.name,
        title=went.symptom.title,
        about=view.about,
        verdict=went.verdict,
        looked_at=looks,
        found=went.found,
        because=went.because,
        not_excluded=went.doubts,
        warnings=went.notes,
        not_judged=went.unjudged,
        not_looked_at=went.left,
        beyond_this_host=() if went.found else went.symptom.beyond,
        **({"given": view.given} if view.given else {}),
    )


# --- messages ------------------------------------------------------------------------------------


def _explain_error(text: str, form: str) -> int:
    if text == "-":
        with progress("reading the text"):
            reading = recognise(_stdin())
    else:
        reading = recognise([text.encode("utf-8", "surrogateescape")])
        if not reading.sightings and os.path.isfile(text):
            raise Mistake(f"--error {text}: that is a file: vfioctl diagnose --error - < {text}")
    emit(
        form,
        screen=lambda wide: error_screen(reading, wide=wide),
        document=lambda: _error_document(reading),
    )
    return _status(reading)


def _stdin() -> Iterator[bytes]:
    if sys.stdin.isatty():
        note("Paste the text, then Ctrl-D on a line of its own.")
    try:
        while block := sys.stdin.buffer.read(_BLOCK_BYTES):
            yield block
    except OSError as error:
        raise Mistake(f"--error -: stdin cannot be read: {error.strerror}") from error


def _status(reading: Reading) -> int:
    """2 a failure, 1 a risk, 0 harmless or a proof; 3 where nothing is known or proved."""
    kinds = {s.message.kind for s in reading.sightings}
    if Kind.FAULT in kinds:
        return FAILURE
    if Kind.RISK in kinds:
        return WARNING
    return UNKNOWN if reading.unproved or not kinds else OK


def _error_document(reading: Reading) -> dict[str, Any]:
    messages = [
        {
            "id": s.message.id,
            "kind": s.message.kind,
            "lines": s.count,
            "text": s.seen,
            "addresses": s.addresses,
            "groups": s.groups,
            "vms": s.vms,
            "causes": s.message.causes,
            "follows": s.follows,
            "source": s.message.source,
        }
        for s in reading.sightings
    ]
    return make_document(
        "diagnosis",
        question="error",
        not_proved=reading.unproved,
        root_cause=None if reading.root is None else reading.root.message.id,
        messages=messages,
        lines=reading.lines,
        unrecognised_lines=reading.unknown_lines,
        unrecognised=reading.unknown,
    )
