"""`vfioctl status`: this host in short, or the whole cluster on one screen."""

from __future__ import annotations

import click

from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.output import FORMATS, emit, make_document, output_option, report_document, tell_stop
from vfio_cli.screens.status import exit_code, status_screen, summary_line
from vfio_cli.terminal import repeat
from vfio_cli.tree import is_one_file


@click.command(
    "status",
    cls=Taught,
    examples=(
        "vfioctl status",
        "vfioctl status --cluster",
        "vfioctl status --cluster --detail   every node",
        "vfioctl status --cluster --watch",
    ),
    exits="with --cluster 0 HEALTH_OK, 1 HEALTH_WARN, 2 HEALTH_ERR, 3 the coordinator cannot be "
    "reached; without it as for check; 64 wrong usage.",
)
@click.option(
    "--cluster",
    is_flag=True,
    hidden=is_one_file(),
    help="All nodes, as the coordinator knows them.",
)
@click.option("--detail", is_flag=True, help="List every node, not only those that are not ready.")
@click.option(
    "--watch",
    is_flag=True,
    help="Go on until Ctrl-C: the cluster when it changes, this host every 2 seconds.",
)
@output_option(*FORMATS)
@coordinator_options
def status(
    cluster: bool, detail: bool, watch: bool, form: str, endpoint: str | None, tls: str | None
) -> int:
    """This host in short, or with --cluster the whole cluster on one screen.

    A node that is not heard is unknown, never healthy.
    """

    if not cluster and (endpoint or tls):
        raise Mistake(
            "--endpoint and --tls name a coordinator, which --cluster asks: add --cluster"
        )
    if not cluster:
        return repeat(lambda: _host(form, detail), watch=watch, tell=tell_stop(form))
    if watch:
        return _watch(form, detail, endpoint, tls)
    return _cluster(form, detail, endpoint, tls)


def _cluster(form: str, detail: bool, endpoint: str | None, tls: str | None) -> int:
    from vfio_cli.client import connect

    with connect(endpoint, tls) as coordinator:
        found = coordinator.status()
    emit(
        form,
        screen=lambda wide: status_screen(found, detail=detail, wide=wide),
        document=lambda: make_document("status", status=found),
        names=lambda: [summary_line(found)],
    )
    return exit_code(found)


def _watch(form: str, detail: bool, endpoint: str | None, tls: str | None) -> int:
    from vfio_cli.live import Live
    from vfio_cli.watching import Picture, watch_cluster
    from vfio_contract.views import WatchKind

    def draw(live: Live, now_s: float) -> Picture | None:
        found = live.status(now_s=now_s)
        if found is None:
            return None
        return Picture(
            screen=lambda wide: status_screen(found, detail=detail, wide=wide),
            document=lambda: make_document("status", status=found),
            names=lambda: [summary_line(found)],
        )

    kinds = (WatchKind.SUMMARY, WatchKind.NODES, WatchKind.VMS)
    return watch_cluster(form, kinds=kinds, endpoint=endpoint, tls=tls, draw=draw)


def _host(form: str, detail: bool) -> int:
    from vfio_cli.look import check_view, look
    from vfio_cli.screens.check import check_screen, short_screen

    view = check_view(look(None), None)
    emit(
        form,
        screen=lambda wide: check_screen(view, wide=wide) if detail or wide else short_screen(view),
        document=lambda: report_document(view.report),
        names=lambda: [str(view.report.verdict)],
    )
    return view.report.exit_code
