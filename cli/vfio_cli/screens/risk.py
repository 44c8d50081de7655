"""The screens of `vfioctl risk`: who carries which risk of a node, why, and until when."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import (
    UNLIMITED,
    WIDTH,
    Line,
    Lines,
    clean,
    cut,
    plural,
    table,
    wrap,
)
from vfio_contract.views import RiskView

_TONES = {"accepted": "warn", "expired": "bad", "revoked": "faint"}
_DAY_END = "T23:59:59Z"

WORDS = {
    "ACS_OVERRIDE": "acs-override",
    "UNSAFE_INTERRUPTS": "unsafe-interrupts",
    "RESET_ONE_SHOT": "one-shot-reset",
}
"""Code -> the word with which a request accepts it."""


def until_words(until: str) -> str:
    """`2027-03-01` for the end of that day, UTC, else `2027-03-01 14:32Z`."""
    if until.endswith(_DAY_END):
        return until.removesuffix(_DAY_END)
    day, mark, time = until.partition("T")
    return f"{day} {time[:5]}Z" if mark and len(time) >= 5 else until


def state_word(risk: RiskView) -> str:
    """Its state; what this version does not know permits nothing that it could name."""
    return risk.state if risk.state in _TONES else "unknown"


def risk_words(risk: RiskView) -> str:
    """One decision in one sentence, for the screens of what it is about."""
    by, until = risk.accepted_by, until_words(risk.until)
    state = state_word(risk)
    if state == "accepted":
        return f"accepted by {by} until {until}: {risk.reason} ({risk.id})"
    ended = {
        "expired": f"what {by} accepted expired {until}",
        "revoked": f"what {by} accepted until {until} was revoked by {risk.ended_by} "
        f"{until_words(risk.ended_at)}",
    }.get(state, f"its state is {risk.state}, which this version does not know")
    return f"NOT ACCEPTED: {ended} ({risk.id})"


def list_screen(risks: Sequence[RiskView], *, node: str = "", wide: bool = False) -> Lines:
    """A line a decision, by node, the newest about each risk; below it why, and who stands on it.

    With `wide` all of that is on the line.
    """
    width = UNLIMITED if wide else WIDTH
    if not risks:
        of = f" for {clean(node)}" if node else ""
        text = f"No risk decision is recorded{of}. Record one: vfioctl risk accept --help"
        return wrap("", text, width=width)
    headers = ["RISK", "NODE", "CODE", "STATE", "UNTIL", "BY"]
    if wide:
        headers += ["ACCEPTED", "ENDED BY", "ENDED", "SEEN", "VMS", "REASON"]
    rows = table(
        headers,
        [_cells(risk, wide=wide) for risk in risks],
        width=UNLIMITED,
        tones=[_tone(risk) for risk in risks],
        tone_column=3,
    )
    if wide:
        return rows
    lines = rows[:1]
    for row, risk in zip(rows[1:], risks, strict=True):
        lines += [row, *wrap("    ", risk.reason)]
        if risk.vms:
            still = "used by" if state_word(risk) == "accepted" else "STILL USED by"
            lines += wrap("    ", f"{still} {' '.join(risk.vms)}")
    return lines


def _tone(risk: RiskView) -> str:
    if risk.state == "revoked" and risk.vms:
        return "bad"
    return _TONES.get(state_word(risk), "unsure")


def _cells(risk: RiskView, *, wide: bool) -> list[str]:
    if not wide:
        node, by = cut(risk.node, 16), cut(risk.accepted_by, 10)
        code, until = cut(risk.code, 17), cut(until_words(risk.until), 17)
        return [cut(risk.id, 13), node, code, state_word(risk), until, by]
    front = [risk.id, risk.node, risk.code, state_word(risk), risk.until, risk.accepted_by]
    middle = [risk.accepted_at, risk.ended_by or "-", risk.ended_at or "-", risk.seen]
    return [*front, *middle, " ".join(risk.vms) or "-", risk.reason]


def accepted_screen(risk: RiskView) -> Lines:
    """What was recorded, what it permits, and whether the node shows the risk at all."""
    lines = _head("ACCEPTED", "warn", risk)
    lines += wrap("  until   ", _end_words(risk))
    lines += wrap("  by      ", risk.accepted_by)
    lines += wrap("  reason  ", risk.reason)
    word = WORDS.get(risk.code)
    requests = f"requests that say --allow {word}" if word else "requests that allow it"
    text = {
        "yes": f"{requests} may be placed on {risk.node} now",
        "no": f"nothing yet: {risk.node} shows no {risk.code} now; if it ever does, {requests} "
        "may be placed on it",
    }.get(
        risk.seen,
        f"{requests}, if {risk.node} shows {risk.code}: it is not heard or not read yet",
    )
    return [*lines, *wrap("  allows  ", text)]


def _end_words(risk: RiskView) -> str:
    until = until_words(risk.until)
    return f"the end of {until}, UTC" if risk.until.endswith(_DAY_END) else until


def revoked_screen(risk: RiskView) -> Lines:
    """What was ended, and who is still there."""
    lines = _head("REVOKED", "good", risk)
    lines += wrap("  was     ", f"accepted by {risk.accepted_by} until {until_words(risk.until)}")
    if risk.vms:
        many = plural(len(risk.vms), "VM")
        text = f"{many} still there and left alone: {' '.join(risk.vms)}"
        lines += wrap("  note    ", text)
    return lines


def _head(word: str, tone: str, risk: RiskView) -> Lines:
    text = f"{word}  {clean(risk.code)} on {clean(risk.node)}  ({clean(risk.id)})"
    return [Line(text, tone, 0, len(word))]
