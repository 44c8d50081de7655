"""Looking at this host, or at a captured one, through the agent's local entry point."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from vfio_agent.inspect import (
    Inspection,
    Root,
    holds_host,
    inspect_evidence,
    inspect_root,
    open_host,
)
from vfio_cli.exits import Mistake
from vfio_cli.screens.check import CheckView
from vfio_cli.survey import find_candidates, find_intended, group_gaps
from vfio_cli.terminal import progress
from vfio_contract.model import Gap


def look(
    root: str | None, *, sync_directory: str | None = None, named: str = "--root"
) -> Inspection:
    """Collect and judge; Mistake where `root` is no captured host.

    With `sync_directory` fsync is measured there: only this host's, and only when asked to.
    `named` is the option or argument that gave `root`.
    """
    opened = open_named(root, named=named)
    # From here on nothing is the user's mistake: what a host looks like never raises.
    with progress(f"reading {'this host' if root in (None, '/') else root}"):
        return inspect_root(opened, sync_directory=sync_directory)


def open_named(root: str | None, *, named: str = "--root") -> Root:
    """The root that somebody named, None for this host; Mistake where it is no captured host."""
    path = "/" if root is None else root
    if not path:
        way_out = ", or leave the option out" if named.startswith("--") else ", a file, or / here"
        raise Mistake(f"{named} '': it is empty: give a directory or a tar{way_out}")
    try:
        os.stat(path)
        opened = open_host(path)
        is_host = holds_host(opened)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "give a directory that mirrors a host's root, or a tar of one"
        if os.path.isfile(path):
            hint += f". An artifact, or pasted output? vfioctl check --from {shlex.quote(path)}"
        raise Mistake(f"{named} {path}: {reason}: {hint}") from error
    if not is_host:
        raise Mistake(
            f"{named} {path}: it holds none of a host's files (no sys, proc, etc or dmesg): "
            "give the "
            "directory that mirrors a host's root, or a tar of one. For pasted output and "
            "artifacts: vfioctl check --from PATH",
            code="NO_HOST",
        )
    return opened


def from_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--from PATH...`: the option (parameter `evidence`) and what follows it (`more`)."""
    option = click.option(
        "--from",
        "evidence",
        multiple=True,
        metavar="PATH...",
        help="Judge given evidence: an artifact, a captured root or tar, pasted output of dmesg, "
        "lspci, group loops, lsmod, lscpu, ...; - is stdin. Recognised by content.",
    )
    return option(click.argument("more", nargs=-1, metavar="")(command))


def source_words(root: str | None, paths: Sequence[str]) -> str:
    """` --root PATH` or ` --from PATH...` for a shell, as it was typed; "" for this host."""
    if paths:
        return f" --from {shlex.join(paths)}"
    return "" if root is None else f" --root {shlex.quote(root)}"


def look_at_evidence(paths: Sequence[str], *, named: str = "--from") -> Inspection:
    """Judge what these PATHs tell of one host; Mistake for a PATH that cannot be used.

    Also where none of them tells anything: a verdict about no host would be taken for this one's.
    `named` is the option or argument that gave them.
    """
    if "" in paths:
        raise Mistake(f"{named} '': it is empty: give a file, a directory, or - for stdin")
    try:
        with progress(f"reading {', '.join(paths)}"):
            seen = inspect_evidence(paths)
    except OSError as error:
        path = error.filename or paths[0]
        raise Mistake(f"{named} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise Mistake(f"{named} {error}") from error
    if any(row.kinds for row in seen.given):
        return seen
    told = "; ".join(f"{row.path}: {row.text}" for row in seen.given)
    raise Mistake(
        f"{named} {told}. Give output of dmesg, lspci -nnk and the like, or make an artifact: "
        "vfioctl collect -o FILE",
        code="NO_HOST",
    )


def check_view(seen: Inspection, root: str | None) -> CheckView:
    """What the check's screen shows of an inspection."""
    return CheckView(
        report=seen.report,
        intended=find_intended(seen.host),
        candidates=find_candidates(seen.host, seen.report),
        unread=group_gaps(_gaps(seen)),
        seen_by=_seen_by(seen, root),
        devices_known=seen.snapshot.facts.functions is not None,
        given=seen.given,
        elsewhere=bool(seen.given) or not seen.snapshot.readings.live,
    )


def _seen_by(seen: Inspection, root: str | None) -> str:
    if seen.given:
        return f"given: {len(seen.given)} PATH{'' if len(seen.given) == 1 else 's'}"
    return f"uid {os.getuid()}" if root is None else f"captured: {Path(root).name}"


def _gaps(seen: Inspection) -> Iterable[Gap]:
    """What was not read; of a captured host without the commands, which are for a live one.

    Who pastes can run the commands and paste more, so those stay.
    """
    gaps = seen.snapshot.readings.gaps
    if seen.snapshot.readings.live or seen.given:
        return gaps
    return [replace(gap, remedy="") for gap in gaps]
