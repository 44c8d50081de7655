"""`vfioctl report`: one host as one HTML page, for a ticket, a mail or the wall."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from vfio_cli import terminal
from vfio_cli.exits import OK, Mistake
from vfio_cli.files import check_target, write_atomically
from vfio_cli.help import Taught
from vfio_cli.look import check_view, from_options, look, look_at_evidence


@click.command(
    "report",
    cls=Taught,
    examples=(
        "sudo vfioctl report -o host.html",
        "vfioctl report -o host.html --root host.tar.gz    a captured host",
        "vfioctl report -o host.html --from lspci.txt dmesg.txt",
        "vfioctl collect | vfioctl report --from - > host.html",
    ),
    exits="0 written (whatever the verdict: the page says it), 2 the file cannot be written, "
    "64 wrong usage.",
)
@click.option(
    "-o", "--output", "target", metavar="FILE", help="File to write; default and - are stdout."
)
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@from_options
def report(
    target: str | None, root: str | None, evidence: tuple[str, ...], more: tuple[str, ...]
) -> int:
    """Draw this host on one HTML page: findings, devices and the PCI tree as a picture.

    The page needs nothing else: no script, no font, no request. The same evidence gives the same
    page, except that of a running host it says when it was read.
    """
    paths = (*evidence, *more)
    if more and not evidence:
        raise Mistake(f"{more[0]}: to draw a file's evidence: vfioctl report --from {more[0]}")
    if root is not None and paths:
        raise Mistake("--root and --from: give one of them")
    check_target(target)
    if target is None and sys.stdout.isatty():
        raise Mistake("the page is for a browser, not a terminal: vfioctl report -o host.html")
    seen = look_at_evidence(paths) if paths else look(root)
    live = seen.snapshot.readings.live and not paths
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    # Here, not above: they take 50 ms to import, which a mistake need not pay.
    from vfio_cli.report.page import render_page
    from vfio_cli.report.view import build_page

    view = check_view(seen, root)
    page = render_page(
        build_page(
            seen.host,
            seen.report,
            unread=view.unread,
            given=view.given,
            collected=now if live else "",
        )
    )
    if target is None or target == "-":
        terminal.write(page)
        return OK
    write_atomically(Path(target), page.encode("ascii"))
    terminal.note(f"wrote {target}: {seen.report.host} {seen.report.verdict}")
    return OK
