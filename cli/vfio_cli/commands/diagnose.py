"""`vfioctl diagnose`: from a symptom, or from a message, to the root cause and what to do."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from vfio_agent.diagnosis import (
    DISPLAY,
    SYMPTOMS,
    Kind,
    Reading,
    Symptom,
    Walk,
    find_symptom,
    recognise,
    subjects_of_device,
    subjects_of_displays,
    subjects_of_vm,
    walk,
)
from vfio_agent.inspect import Inspection
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.look import check_view, from_options, look, look_at_evidence, source_words
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.diagnose import SymptomView, symptom_screen
from vfio_cli.screens.layout import plural
from vfio_cli.screens.messages import error_screen
from vfio_cli.terminal import note, progress
from vfio_contract.address import Address, parse_address
from vfio_contract.findings import NODE
from vfio_contract.vm import VmConfig

_NAMES = [symptom.name for symptom in SYMPTOMS]
_BLOCK_BYTES = 1 << 20
_MAX_MEMBERS = 24


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
    exits="0 nothing found, 1 a warning may explain it or the host has another failure, 2 a cause "
    "was found, 3 not known (evidence is missing, or no message was recognised), 64 wrong usage.",
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
@click.option("--vm", metavar="VM", help="Only what concerns this VM (its id or name).")
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
    source = source_words(root, paths)
    return _walk_symptom(chosen, seen, device=device, vm=vm, root=root, source=source, form=form)


def _walk_symptom(
    symptom: Symptom,
    seen: Inspection,
    *,
    device: str | None,
    vm: str | None,
    root: str | None,
    source: str,
    form: str,
) -> int:
    question = _narrow(seen, symptom, device=device, vm=vm, source=source)
    went = walk(seen.report, symptom, question.subjects)
    shown = check_view(seen, root)
    view = SymptomView(
        walk=went,
        host=seen.report.host,
        seen_by=shown.seen_by,
        about=question.about,
        given=seen.given,
        note=question.note,
        source=source,
        option=question.option,
        elsewhere=shown.elsewhere,
    )
    emit(
        form,
        screen=lambda wide: symptom_screen(view, wide=wide),
        document=lambda: _walk_document(view),
    )
    return went.exit_code


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked for: its name for the screen, its subjects (None: the whole host).

    `note` is one sentence about what the question can rest on, `option` how it was asked.
    """

    about: str = ""
    subjects: frozenset[str] | None = None
    note: str = ""
    option: str = ""


def _narrow(
    seen: Inspection, symptom: Symptom, *, device: str | None, vm: str | None, source: str
) -> _Question:
    if device is not None:
        try:
            address = parse_address(device)
        except ValueError as error:
            raise Mistake(f"--device {error}") from None
        return _about_device(seen, address, source)
    if vm is not None:
        found = _find_vm(seen, vm)
        about = f"VM {found.name}" + (f" ({vm})" if vm != found.name else "")
        subjects = subjects_of_vm(seen.host, found)
        return _Question(about, subjects, option=f" --vm {shlex.quote(vm)}")
    if symptom.displays:
        displays = subjects_of_displays(seen.host)
        if displays is None:
            return _Question(subjects=frozenset({NODE}), note=_no_display(seen))
        return _Question(subjects=displays)
    return _Question()


def _about_device(seen: Inspection, address: Address, source: str) -> _Question:
    option = f" --device {address}"
    if address in seen.host.by_address:
        return _Question(address, subjects_of_device(seen.host, address), option=option)
    if seen.snapshot.facts.functions is not None:
        raise Mistake(f"--device {address}: no such function here: vfioctl device list{source}")
    for group in seen.host.groups.values():
        if address in group.members:
            about = frozenset({NODE, f"function:{address}", f"group:{group.number}"})
            others = [member for member in group.members if member != address]
            shown = ", ".join(others[:_MAX_MEMBERS])
            rest = len(others) - _MAX_MEMBERS
            shown += f" and {rest} more" if rest > 0 else ""
            with_it = f"{plural(len(others), 'other')}: {shown}" if others else "nothing else"
            note = f"Group {group.number}, as it was given, holds {address} and {with_it}."
            return _Question(address, about, note=note, option=option)
    raise Mistake(f"--device {address}: the functions are not known: lspci -nnk")


def _find_vm(seen: Inspection, vm: str) -> VmConfig:
    """The VM of that id, else the only one of that name."""
    rows = seen.snapshot.facts.vms or ()
    found = [row for row in rows if row.name == vm] or [row for row in rows if row.title == vm]
    if not vm or not found:
        there = ", ".join(
            f"{row.name} ({row.title})" if row.title not in ("", row.name) else row.name
            for row in rows
        )
        there = there or "none that could be read (vfioctl vm lint)"
        raise Mistake(f"--vm {vm!r}: no such VM here; there are: {there}")
    if len(found) > 1:
        ids = ", ".join(row.name for row in found)
        raise Mistake(f"--vm {vm!r}: several VMs have that name: give one of {ids}")
    return found[0]


def _no_display(seen: Inspection) -> str:
    if seen.snapshot.facts.functions is None:
        return "Which functions are displays (class 03xx) is not known: lspci -nnk"
    there = [f.address for f in seen.host.functions if f.base_class == DISPLAY]
    if not there:
        return "No display (class 03xx) was found on this host, so none can be passed."
    names = ", ".join(there)
    return f"No display (class 03xx) here is known to be meant for passthrough; there are: {names}."


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
        not_this_symptom=went.other,
        not_judged=went.unjudged,
        not_looked_at=went.left,
        beyond_this_host=() if went.found else went.symptom.beyond,
        **({"note": view.note} if view.note else {}),
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
    if not reading.sightings and not reading.unknown_lines:
        raise Mistake(
            "--error -: stdin was empty: sudo dmesg | vfioctl diagnose --error -"
            if text == "-"
            else "--error: the text is empty: give the message, or - for stdin"
        )
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
