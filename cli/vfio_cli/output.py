"""The switch of `-o`: a table or wide screen for people, json, yaml or names for programs.

Documents carry `schema`, a name with a version; that of a check is fixed by CHECKS.md's shape.
Everything written is ASCII: what is not is escaped by the format itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from vfio_cli import terminal
from vfio_cli.screens.layout import Lines, clean
from vfio_contract.artifact import to_plain
from vfio_contract.findings import REPORT_SCHEMA, Finding, Report

FORMATS = ("table", "wide", "json", "yaml", "name")
WITHOUT_NAME = ("table", "wide", "json", "yaml")

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
    if form == "json":
        terminal.write(json.dumps(document(), indent=2, ensure_ascii=True) + "\n")
    elif form == "yaml":
        import yaml

        terminal.write(yaml.safe_dump(document(), sort_keys=False, allow_unicode=False))
    elif form == "name":
        terminal.write("".join(f"{clean(name)}\n" for name in names()))
    else:
        terminal.show(screen(form == "wide"))


def make_document(schema: str, **parts: object) -> dict[str, Any]:
    """`{"schema": "vfioctl.<schema>/v1", ...}` with values as plain JSON."""
    plain = {name: to_plain(value) for name, value in parts.items()}
    return {"schema": f"vfioctl.{schema}/v1", **plain}


def report_document(report: Report, *, given: Sequence[object] = ()) -> dict[str, Any]:
    """The JSON of a check, exactly as CHECKS.md fixes it; `given` is there for given evidence."""
    document: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "host": report.host,
        "verdict": str(report.verdict),
        "findings": [_finding(f) for f in report.findings],
        "missing": [to_plain(m) for m in report.missing],
    }
    return document | {"given": [to_plain(g) for g in given]} if given else document


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
