"""The screen of `vfioctl status --cluster`: the whole cluster on one page, worst first.

Each VM and each node is counted once, so that the sums add up; a node that is not heard is never
among the ready ones. Long lists are cut and say which command shows the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    clock,
    count_words,
    cut,
    moment,
    plural,
    table,
    title,
    two_ends,
    wrap,
)
from vfio_cli.screens.nodes import (
    cause_of,
    is_sound,
    list_table,
    note_of,
    state_word,
    tone_of,
)
from vfio_contract.views import ClusterStatus, Event, HealthItem, NodeView, UnitCount, VmView

HEALTH_TONES = {"HEALTH_OK": "good", "HEALTH_WARN": "warn", "HEALTH_ERR": "bad"}
LEVEL_TONES = {"ERR": "bad", "WARN": "warn"}

MAX_HEALTH = 12
MAX_MUTED = 4
MAX_NODES = 12
MAX_RECENT = 8
MAX_TEXT = 110
"""Letters of a health line's evidence; a kernel command line can be ten times as long."""

_STATES = ("lost", "revalidating", "draining", "drained", "cordoned", "ready")
_SHOWN_ORDER = ("ready", "cordoned", "draining", "drained", "revalidating", "lost")


def status_screen(status: ClusterStatus, *, detail: bool = False, wide: bool = False) -> Lines:
    """The whole screen; `detail` lists every node, and says since when each health line stands."""
    width = UNLIMITED if wide else WIDTH
    lines = [_heading(status, width)]
    lines += _health(status, width, detail=detail)
    lines += _nodes(status.nodes, detail=detail, wide=wide)
    lines += _units(status.units)
    lines += _vms(status.vms, width)
    lines += _recent(status.recent, status.at, width)
    if status.next:
        lines += [Line(""), *wrap("Next: ", status.next, width=width)]
    return lines


def _heading(status: ClusterStatus, width: int) -> Line:
    name = cut(status.cluster, 20)
    seen = f"{cut(status.coordinator, 20)} leader, revision {status.revision}, {clock(status.at)}"
    text = two_ends(f"{name}  {clean(status.health)}", seen, width=width)
    tone = HEALTH_TONES.get(status.health, "bad")
    return Line(text, tone, len(name) + 2, len(name) + 2 + len(status.health))


def _health(status: ClusterStatus, width: int, *, detail: bool) -> Lines:
    """What counts, worst first, and below it what is muted."""
    muted = [item for item in status.items if item.muted]
    items = [item for item in status.items if not item.muted]
    lines: Lines = [Line(""), title("HEALTH")] if status.items else []
    since = status.at if detail or width == UNLIMITED else ""
    return [*lines, *_health_lines(items, width, since), *_muted(muted, width)]


def _health_lines(items: Sequence[HealthItem], width: int, since: str) -> Lines:
    """`since` is the present day where each line says since when, "" where none does."""
    if not items:
        return []
    lines: Lines = []
    shown = items if width == UNLIMITED else items[:MAX_HEALTH]
    codes = max(len(clean(i.code)) for i in shown)
    scopes = min(max(len(clean(i.scope)) for i in shown), 14)
    for item in shown:
        level = clean(item.level)
        front = f"  {level:<4}  {clean(item.code):<{codes}}  {cut(item.scope, scopes):<{scopes}}  "
        text = item.text if width > WIDTH else cut(item.text, MAX_TEXT)
        if since and item.since:
            text = f"{text} (since {moment(item.since, today=since)})"
        made = wrap(front, text, width=width)
        lines.append(Line(made[0].text, LEVEL_TONES.get(item.level, "bad"), 2, 2 + len(level)))
        lines += made[1:]
        if item.common:
            lines += wrap(" " * len(front), item.common, width=width)
        if item.next:
            lines += wrap(" " * len(front) + "-> ", item.next, width=width)
    if len(items) > len(shown):
        lines.append(
            Line(f"  and {len(items) - len(shown)} more: vfioctl status --cluster -o wide")
        )
    return lines


def _muted(items: Sequence[HealthItem], width: int) -> Lines:
    """`MUTED 2:` and a line each: who, until when and why."""
    if not items:
        return []
    lines: Lines = [Line(f"  MUTED {len(items)}: none of this counts above", "faint", 2, 7)]
    shown = items if width == UNLIMITED else items[:MAX_MUTED]
    codes = max(len(clean(i.code)) for i in shown)
    scopes = min(max(len(clean(i.scope)) for i in shown), 14)
    for item in shown:
        front = f"    {clean(item.level):<4}  {clean(item.code):<{codes}}  "
        front += f"{cut(item.scope, scopes):<{scopes}}  "
        lines += wrap(
            front, item.muted if width > WIDTH else cut(item.muted, MAX_TEXT), width=width
        )
    if len(items) > len(shown):
        lines.append(Line(f"    and {len(items) - len(shown)} more: vfioctl mute list"))
    return lines


def _nodes(nodes: Sequence[NodeView], *, detail: bool, wide: bool) -> Lines:
    states = [n.state for n in nodes]
    counts = [(states.count(s), s) for s in _SHOWN_ORDER]
    counts += [(states.count(s), s) for s in sorted(set(states) - set(_SHOWN_ORDER))]
    lines: Lines = [Line(""), title(f"NODES {len(nodes)}   {count_words(counts, gap=3)}".rstrip())]
    if not nodes:
        return [*lines, *wrap("  ", "none has joined yet: vfioctl agent run --help")]
    if detail:
        return [*lines, *list_table(nodes, indent=2, wide=wide)]
    width = UNLIMITED if wide else WIDTH
    shown = [n for n in nodes if n.state != "ready" or not is_sound(n)]
    if not wide:
        # where not all fit, those with VMs do
        shown.sort(key=lambda n: (not n.vms, _rank(n.state)))
    rows = sorted(shown if wide else shown[:MAX_NODES], key=lambda n: _rank(n.state))
    lines += table(
        ["", "", "", "", ""],
        [
            [cut(n.name, 16), state_word(n), cut(cause_of(n), 22), _vm_names(n), note_of(n)]
            for n in rows
        ],
        indent=2,
        width=width,
        tones=[tone_of(n) for n in rows],
        tone_column=1,
    )
    if len(shown) > len(rows):
        lines.append(Line(f"  and {len(shown) - len(rows)} more: vfioctl node list"))
    return lines


def _rank(state: str) -> int:
    return _STATES.index(state) if state in _STATES else -1


def _vm_names(node: NodeView) -> str:
    if not node.vms:
        return "-"
    return cut(node.vms[0], 12) if len(node.vms) == 1 else f"{len(node.vms)} VMs"


def _units(units: Sequence[UnitCount]) -> Lines:
    if not units:
        return []
    width = max(6, *(len(clean(u.kind)) + 2 for u in units))
    lines: Lines = [Line(""), title(f"{'UNITS':<{width}}" + _UNIT_COLUMNS)]
    for unit in units:
        numbers = (unit.total, unit.free, unit.claimed, unit.foreign, unit.unfit, unit.unknown)
        text = "".join(
            f"{n:>{len(head) + 2}}" for n, head in zip(numbers, _UNIT_HEADS, strict=True)
        )
        lines.append(Line(f"{'  ' + clean(unit.kind):<{width}}{text}"))
    return lines


_UNIT_HEADS = ("total", "free", "claimed", "foreign", "unfit", "unknown")
_UNIT_COLUMNS = "".join(f"  {head}" for head in _UNIT_HEADS)


def _vms(vms: Sequence[VmView], width: int) -> Lines:
    words = [vm_word(vm) for vm in vms]
    order = ("running", "starting", "stopping", "reserved", "released")
    counts = [(words.count(w), w) for w in order]
    counts += [(words.count("at risk"), "at risk"), (words.count("unknown"), "unknown")]
    lines: Lines = [Line(""), title(f"VMS {len(vms)}   {count_words(counts, gap=3)}".rstrip())]
    risky = [vm for vm in vms if vm.at_risk]
    rows = risky if width == UNLIMITED else risky[:MAX_NODES]
    lines += table(
        ["", "", ""],
        [[cut(vm.name, 20), cut(vm.node, 16), vm.at_risk] for vm in rows],
        indent=2,
        width=width,
    )
    if len(risky) > len(rows):
        lines.append(Line(f"  and {len(risky) - len(rows)} more: vfioctl vm list"))
    return lines


def vm_word(vm: VmView) -> str:
    """The one word under which a VM is counted: at risk before unknown before its state."""
    known = ("running", "starting", "stopping", "reserved", "released")
    if vm.at_risk:
        return "at risk"
    return vm.state if vm.state in known else "unknown"


def _recent(events: Sequence[Event], at: str, width: int) -> Lines:
    if not events:
        return []
    rows = [
        [moment(e.at, today=at), cut(e.subject.partition(":")[2] or e.subject, 20), e.text]
        for e in sorted(events, key=lambda e: -e.seq)[:MAX_RECENT]
    ]
    return [Line(""), title("RECENT"), *table(["", "", ""], rows, indent=2, width=width)]


def exit_code(status: ClusterStatus) -> int:
    """HEALTH_OK 0, HEALTH_WARN 1, HEALTH_ERR 2; a health this version does not know is unknown."""
    return {"HEALTH_OK": 0, "HEALTH_WARN": 1, "HEALTH_ERR": 2}.get(status.health, 3)


def summary_line(status: ClusterStatus) -> str:
    """`-o name`: the health word alone."""
    return f"{status.health} {plural(len(status.nodes), 'node')}"
