"""What a risk decision or a mute must say: a reason, an end. Pure, and every refusal is typed.

A day counts to its last second in UTC; a duration counts from now. There is no decision without an
end, and none longer than two years: whoever carries a risk looks at it again. This module must
never read a clock: the moment is an argument.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from vfio_contract.errors import ClusterError, ErrorCode
from vfio_coordinator.scheduler.gates import ALLOWS

MAX_REASON = 500
"""Characters; as for a cordon."""

MAX_DAYS = 731
"""Two years, with a leap day. After that hardware, tenants and people are others."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DURATION = re.compile(r"(\d{1,5})([hdw])", re.ASCII)
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SHOWN = 40


def check_code(text: str) -> str:
    """The code of a risk that can be accepted. Raises ClusterError BAD_REQUEST."""
    if text not in ALLOWS:
        known = ", ".join(sorted(ALLOWS))
        raise _bad("code", f"{_quote(text)} is no risk that can be accepted; one of {known}")
    return text


def check_reason(text: str) -> str:
    """One printable line, stripped. Raises ClusterError BAD_REQUEST."""
    if not text.isprintable():
        raise _bad("reason", "it holds control characters; give one printable line")
    reason = text.strip()
    if not reason:
        raise _bad("reason", "it is empty; say why, for whoever comes next")
    if len(reason) > MAX_REASON:
        raise _bad("reason", f"it has {len(reason)} characters; at most {MAX_REASON}")
    return reason


def read_end(text: str, *, now_utc: str, most_days: int = MAX_DAYS) -> str:
    """The last second of a decision or a mute, ISO 8601 UTC. Raises ClusterError BAD_REQUEST."""
    now = datetime.fromisoformat(now_utc)
    if _DAY.fullmatch(text):
        end = datetime.combine(_read_day(text, now), time(23, 59, 59), UTC)
    elif duration := _DURATION.fullmatch(text):
        # the largest, 99999w, is still a time that exists
        end = now.replace(microsecond=0) + int(duration[1]) * _UNITS[duration[2]]
    else:
        raise _bad("end", f"{_quote(text)} is no end: {_forms(now)}")
    if end <= now:
        raise _bad("end", f"{_quote(text)} is not after now, {now_utc}: {_forms(now)}")
    days = (end.date() - now.date()).days
    if days > most_days:
        raise _bad(
            "end",
            f"{_quote(text)} is {days} days away; at most {most_days}, so that somebody looks at "
            "it again: say so anew when it ends",
        )
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def _forms(now: datetime) -> str:
    day = (now + timedelta(days=90)).date()
    return f"give a day such as {day} (to its end, UTC) or a duration such as 90d, 12w or 36h"


def _read_day(text: str, now: datetime) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _bad("end", f"{text} is no day of the calendar: {_forms(now)}") from None


def _bad(field: str, problem: str) -> ClusterError:
    return ClusterError(ErrorCode.BAD_REQUEST, f"{field}: {problem}")


def _quote(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
