"""The switch of `-o`: a table or wide screen for people, json, yaml or names for programs.

Documents carry `schema`, a name with a version; that of a check is a fixed shape. Everything
written is ASCII: what is not is escaped by the format itself.

With `-o json` and `-o yaml` stdout always holds one whole document (with --watch: one after the
other; those of a cluster a line each in json, and begun by `---` in yaml), also when the command
ends early: then it is `vfioctl.error/v1` with `code` (a stable word), `message` (the line that
stderr shows too) and `exit_code`. So a script that keeps only stdout keeps the reason, one that
parses never meets an empty text, and one that looks for a verdict finds none: look at `schema` or
the exit code first. Only a Ctrl-C, a closed pipe, a full disk and a fault of vfioctl itself leave
no document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from vfio_cli import terminal
from vfio_cli.exits import Stop
from vfio_cli.screens.layout import Lines, clean
from vfio_contract.artifact import to_plain
from vfio_contract.findings import REPORT_SCHEMA, Finding, Report

FORMATS = ("table", "wide", "json", "yaml", "name")
WITHOUT_NAME = ("table", "wide", "json", "yaml")
DOCUMENTS = ("json", "yaml")

ERROR_SCHEMA = "vfioctl.error/v1"

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(*formats: str) -> Callable[[Command], Command]:
    """`-o`, with the formats that the command has."""
    chosen = formats or FORMATS
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(chosen),
        default="table",
        show_default=True,
        help="What to print.",
    )


def emit(
    form: str,
    *,
    screen: Callable[[bool], Lines],
    document: Callable[[], Mapping[str, Any]],
    names: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Print the value in the form asked for. `screen` is told whether it is the wide one."""
    if form in DOCUMENTS:
        _write_document(form, document())
    elif form == "name":
        terminal.write("".join(f"{clean(name)}\n" for name in names()))
    else:
        terminal.show(screen(form == "wide"))


def _write_document(form: str, document: Mapping[str, Any]) -> None:
    if form == "json":
        terminal.write(json.dumps(document, indent=2, ensure_ascii=True) + "\n")
        return
    import yaml

    terminal.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=False))


def find_form(arguments: Sequence[str]) -> str:
    """What these arguments ask for with `-o`; "" where they do not. The last one counts.

    From the arguments as typed, because those that cannot be parsed end a command early too.
    """
    found = ""
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word in ("-o", "--output"):
            found = next(words, "")
        elif word.startswith("--output="):
            found = word.removeprefix("--output=")
        elif word.startswith("-o"):
            found = word[2:]
    return found


def write_error(form: str, *, code: str, message: str, status: int) -> None:
    """The document of a command that ended early; nothing in any other form than json and yaml."""
    if form in DOCUMENTS:
        _write_document(form, _error(code=code, message=message, status=status))


def error_document(stop: Stop) -> dict[str, Any]:
    """Why there is nothing to show now."""
    return _error(code=stop.code, message=stop.format_message(), status=stop.status)


def _error(*, code: str, message: str, status: int) -> dict[str, Any]:
    document = {"schema": ERROR_SCHEMA, "code": code, "message": clean(message)}
    return document | {"exit_code": status}


def write_next(form: str, document: Mapping[str, Any]) -> None:
    """One document of many: json on a line of its own, yaml begun by `---`."""
    if form == "json":
        terminal.write(json.dumps(document, ensure_ascii=True) + "\n")
    else:
        terminal.write("---\n")
        _write_document(form, document)


def tell_stop(form: str) -> Callable[[Stop], None]:
    """How a `--watch` in this form says that one of its looks gave no answer."""

    def tell(stop: Stop) -> None:
        if form in DOCUMENTS:
            message = stop.format_message()
            write_error(form, code=stop.code, message=message, status=stop.status)
        else:
            terminal.write(f"{stop.format_message()}\n")

    return tell


def make_document(schema: str, **parts: object) -> dict[str, Any]:
    """`{"schema": "vfioctl.<schema>/v1", ...}` with values as plain JSON."""
    plain = {name: to_plain(value) for name, value in parts.items()}
    return {"schema": f"vfioctl.{schema}/v1", **plain}


def report_document(
    report: Report, *, given: Sequence[object] = (), kept: object = None
) -> dict[str, Any]:
    """The JSON of a check, exactly as CHECKS.md fixes it.

    `given` is there for given evidence, `kept` (how old it is, and why) for a node's.
    """
    document: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "host": report.host,
        "verdict": str(report.verdict),
        "findings": [_finding(f) for f in report.findings],
        "missing": [to_plain(m) for m in report.missing],
    }
    if given:
        document["given"] = [to_plain(g) for g in given]
    if kept is not None:
        document["kept"] = to_plain(kept)
    return document


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "subject": finding.subject,
        "verdict": str(finding.verdict),
        "code": finding.code,
        "evidence": [to_plain(e) for e in finding.evidence],
        "meaning": finding.meaning,
        "decision": finding.decision,
        "blocked_by": finding.blocked_by,
        "intended": finding.intended,
    }
