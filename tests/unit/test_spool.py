"""The spool of durable events: numbers, room, gaps, reservations, and what it must survive."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.durable import ended, line, moment, reset
from tests.unit.journals import BOOT, MEMORY, attempt, opened
from vfio_agent.journal import Bounds, Journal, Reservation, Spool, SpoolFull
from vfio_agent.journal.journal import EVENT_BURST
from vfio_contract.artifact import ArtifactError
from vfio_contract.durable import (
    MAX_TEXT,
    DurableEvent,
    EventsLost,
    KernelLine,
    KindCount,
    Mark,
    ResetAttempted,
    Spooled,
    decode_event,
    encode_event,
)

SMALL = Bounds(events=8, bytes=1 << 26, action_share=0.75)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.db"


def mark(spool: Spool, seq: int, at: int) -> Mark:
    """That the cluster holds this spool up to `seq`, of which the event was number `at`."""
    return Mark(spool.id, seq, moment(at))


def shown(spool: Spool) -> list[str]:
    """`3` for an event, `3-5 kernel_line=3` for a gap."""
    rows = []
    for row in spool.after(0, 1_000_000):
        if isinstance(row.event.payload, EventsLost):
            kinds = " ".join(f"{k.kind}={k.count}" for k in row.event.payload.kinds)
            rows.append(f"{row.first}-{row.seq} {kinds}")
        else:
            rows.append(str(row.seq))
    return rows


# --- numbers -------------------------------------------------------------------------------------


def test_events_are_numbered_from_one_and_kept_over_a_restart(path: Path) -> None:
    with opened(path) as journal:
        spool = journal.spool
        assert (spool.last, spool.after(0, 10)) == (0, [])
        assert [spool.append(line(1)), spool.extend([reset(2), line(3)])] == [1, 3]
        first = spool.id
    with opened(path) as journal:
        assert journal.spool.id == first
        assert journal.spool.after(1, 10) == [Spooled(2, reset(2)), Spooled(3, line(3))]
        assert journal.spool.append(line(4)) == 4


def test_a_number_is_never_given_twice_though_all_before_is_forgotten(path: Path) -> None:
    with opened(path) as journal:
        journal.spool.extend([line(1), line(2)])
        assert journal.spool.acknowledge(mark(journal.spool, 2, 2))
        assert journal.spool.after(0, 10) == []
    with opened(path) as journal:
        assert journal.spool.append(line(3)) == 3


def test_an_older_acknowledgement_takes_nothing_back(path: Path) -> None:
    with opened(path) as journal:
        journal.spool.extend([line(n) for n in range(1, 6)])
        assert journal.spool.acknowledge(mark(journal.spool, 4, 4))
        assert journal.spool.acknowledge(mark(journal.spool, 2, 2))
        assert shown(journal.spool) == ["5"]


def test_a_mark_of_another_spool_changes_nothing(path: Path) -> None:
    with opened(path) as journal:
        journal.spool.append(line(1))
        assert not journal.spool.acknowledge(Mark("f" * 32, 1, moment(1)))
        assert shown(journal.spool) == ["1"]


def test_a_large_batch_is_cut_but_never_empty(path: Path) -> None:
    text = "x" * MAX_TEXT
    events = [DurableEvent(moment(n), "", "", KernelLine("aer", text, 0)) for n in range(400)]
    with opened(path) as journal:
        journal.spool.extend(events)
        batch = journal.spool.after(0, 400)
        assert 200 < len(batch) < 400
        assert journal.spool.after(batch[-1].seq, 400)[0].seq == batch[-1].seq + 1


# --- room ----------------------------------------------------------------------------------------


def test_the_oldest_that_may_be_dropped_give_way_to_one_gap(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        spool = journal.spool
        spool.extend([line(n) for n in range(1, 11)])
        assert shown(spool) == ["1-2 kernel_line=2", *map(str, range(3, 11))]
        spool.append(reset(11))
        assert shown(spool) == ["1-3 kernel_line=3", *map(str, range(4, 12))]


def test_what_is_critical_stays_where_it_is(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        spool = journal.spool
        spool.extend([line(1), reset(2), line(3), reset(4), *(line(n) for n in range(5, 12))])
        assert shown(spool)[:4] == ["1-1 kernel_line=1", "2", "3-3 kernel_line=1", "4"]
        assert shown(spool)[4] == "5-5 kernel_line=1"


def test_a_spool_full_of_what_must_stay_refuses_more_of_it_and_counts_the_rest(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        spool = journal.spool
        spool.extend([reset(n) for n in range(1, 9)])
        with pytest.raises(SpoolFull, match="no room for an event that must not be dropped; 8"):
            spool.extend([line(9), reset(10)])
        assert spool.last == 8, "half of it was kept"
        assert spool.extend([line(11), line(12)]) == 10
        assert shown(spool)[-1] == "9-10 kernel_line=2"
        assert spool.status().code == "SPOOL_FULL"
        spool.acknowledge(mark(spool, 4, 4))
        assert spool.append(reset(13)) == 11
        assert spool.status().code == ""


def test_bytes_are_bounded_as_events_are(path: Path) -> None:
    size = len(encode_event(line(1000)))
    bounds = Bounds(events=1000, bytes=10 * size, action_share=0.75)
    with closing(Journal.open(path, bounds=bounds)) as journal:
        journal.spool.extend([line(n) for n in range(1000, 1030)])
        assert len(shown(journal.spool)) == 11
        assert shown(journal.spool)[0] == "1-20 kernel_line=20"


@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.booleans(), min_size=1, max_size=6),
            st.integers(0, 40),
            st.sampled_from(["reserve", "end", "restart"]),
        ),
        max_size=14,
    )
)
@settings(max_examples=60)
def test_each_number_is_kept_once_within_the_bounds(steps: list[list[bool] | int | str]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        keep_and_check(Path(folder) / "journal.db", steps)


def keep_and_check(path: Path, steps: list[list[bool] | int | str]) -> None:
    journal = Journal.open(path, bounds=SMALL)
    kinds: dict[int, str] = {}
    held = number = 0
    try:
        for step in steps:
            spool = journal.spool
            if isinstance(step, list):
                events = [reset(number + n) if c else line(number + n) for n, c in enumerate(step)]
                number += len(step)
                first = spool.last + 1
                try:
                    last = spool.extend(events)
                except SpoolFull:
                    assert any(step)
                    continue
                assert last == first + len(step) - 1
                for seq, critical in zip(range(first, last + 1), step, strict=True):
                    kinds[seq] = "reset_attempted" if critical else "kernel_line"
            elif isinstance(step, int):
                row = next((r for r in spool.after(0, 1000) if r.seq == step), None)
                if row is not None:
                    assert spool.acknowledge(Mark(spool.id, step, row.event.at))
                    held = max(held, step)
            elif step == "restart":
                journal.close()
                journal = Journal.open(path, bounds=SMALL)
            elif step == "reserve":
                try:
                    spool.reserve("test")
                except SpoolFull:
                    assert spool.status().code == "SPOOL_FULL"
            elif open_ := spool.reservations():
                number += 1
                kinds[end(spool, open_[0], ended(number))] = "action_ended"
            check_rows(journal.spool, kinds, held)
    finally:
        journal.close()


def check_rows(spool: Spool, kinds: dict[int, str], held: int) -> None:
    rows = spool.after(0, 1000)
    expected, events = held + 1, 0
    for row in rows:
        assert row.first <= expected <= row.seq, shown(spool)
        payload = row.event.payload
        if isinstance(payload, EventsLost):
            lost = Counter(kinds[seq] for seq in range(row.first, row.seq + 1))
            assert {k.kind: k.count for k in payload.kinds} == lost == {"kernel_line": lost.total()}
        else:
            events += 1
        expected = row.seq + 1
    assert expected == spool.last + 1
    assert events + len(spool.reservations()) <= SMALL.events


# --- actions -------------------------------------------------------------------------------------


def end(spool: Spool, reservation: Reservation, event: DurableEvent) -> int:
    with spool.ending(event, reservation):
        pass
    return spool.last


def test_an_action_has_its_room_before_it_begins_and_after_a_crash(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        reservation = journal.spool.reserve("bind 0000:01:00.0")
        journal.spool.extend([reset(n) for n in range(1, 8)])
        with pytest.raises(SpoolFull):
            journal.spool.append(reset(8))
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        assert journal.spool.reservations() == [reservation]
        assert end(journal.spool, reservation, ended(9)) == 8
        assert journal.spool.reservations() == []
        with pytest.raises(ValueError, match="is not there any more"):
            end(journal.spool, reservation, ended(9))
        assert journal.spool.last == 8


def test_an_action_is_refused_when_its_share_is_taken(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        journal.spool.extend([reset(n) for n in range(1, 7)])
        with pytest.raises(SpoolFull, match="6 events that must not be dropped"):
            journal.spool.reserve("bind")
        assert journal.spool.append(reset(7)) == 7, "what happens by itself has room left"
        journal.spool.acknowledge(mark(journal.spool, 2, 2))
        assert journal.spool.reserve("bind") in journal.spool.reservations()


def test_what_may_be_dropped_is_no_reason_to_refuse_an_action(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        journal.spool.extend([line(n) for n in range(1, 30)])
        assert end(journal.spool, journal.spool.reserve("bind"), ended(30)) == 30


# --- resets --------------------------------------------------------------------------------------


def test_a_reset_of_the_kernel_log_is_an_event_exactly_if_it_is_a_new_row(path: Path) -> None:
    at = moment(7)
    with opened(path) as journal:
        assert journal.record([attempt(1), attempt(2)], boot_id=BOOT, at=at) == 2
        assert journal.record([attempt(1), attempt(2), attempt(3)], boot_id=BOOT, at=at) == 1
        rows = [row.event for row in journal.spool.after(0, 10)]
        assert [row.payload.key for row in rows if row.payload is not None] == [  # type: ignore[union-attr]
            "line-1",
            "line-2",
            "line-3",
        ]
        assert {(row.identity, row.at) for row in rows} == {("dsn-1.0", at)}


def test_the_history_is_kept_where_the_event_has_no_room(path: Path) -> None:
    with closing(Journal.open(path, bounds=SMALL)) as journal:
        journal.spool.extend([reset(n) for n in range(1, 9)])
        assert journal.record([attempt(1)], boot_id=BOOT, at=moment(9)) == 1
        assert shown(journal.spool)[-1] == "9-9 reset_attempted=1"
        assert [row.key for row in journal.attempts()] == [attempt(1).key]


# --- values --------------------------------------------------------------------------------------


def test_an_event_comes_back_from_its_bytes() -> None:
    gap = replace(line(1), payload=EventsLost(1, (KindCount("kernel_line", 2),)))
    for event in (line(1), reset(2), ended(3), gap):
        assert decode_event(encode_event(event)) == event


def test_text_of_a_stranger_is_cut_and_made_valid() -> None:
    payload = KernelLine("aer\ud800", "x" * 5000, 0)
    assert payload.category == "aer\\ud800"
    assert len(payload.line) == MAX_TEXT


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ArtifactError, match="'later' is not known"):
        decode_event(encode_event(line(1)).replace(b"kernel_line", b"later"))


def test_what_was_noticed_and_its_place_are_kept_together(path: Path) -> None:
    with opened(path) as journal:
        assert journal.place() == ""
        journal.tell([line(1), line(2)], place="two")
        journal.tell([], place="three")
    with opened(path) as journal:
        assert (journal.place(), journal.spool.last) == ("three", 2)
        with pytest.raises(ValueError, match="nothing to spool"):
            journal.spool.extend([])
        assert journal.place() == "three"
        gap = replace(line(1), payload=EventsLost(1, (KindCount("kernel_line", 2),)))
        with pytest.raises(ValueError, match="the spool alone"):
            journal.tell([gap], place="four")
        assert (journal.place(), journal.spool.last) == ("three", 2)


def test_a_storm_of_one_reset_is_a_few_events_and_all_of_it_history(path: Path) -> None:
    with opened(path) as journal:
        journal.record([attempt(n) for n in range(500)], boot_id=BOOT, at=moment(0))
        assert journal.totals()["dsn-1.0"] == (500, 500)
        assert journal.spool.last == EVENT_BURST
        other = attempt(1000, identity="dsn-2.0")
        rows = [attempt(n) for n in range(500, 600)]
        later = replace(moment(0), boottime_ms=moment(0).boottime_ms + 10_001)
        journal.record([*rows, other], boot_id=BOOT, at=later)
        told = [row.event for row in journal.spool.after(EVENT_BURST, 100)]
        assert [event.identity for event in told] == ["dsn-1.0", "dsn-2.0"]
        assert isinstance(told[0].payload, ResetAttempted)
        assert told[0].payload.evidence.endswith(" (468 alike before it)")
        assert journal.totals()["dsn-1.0"] == (600, 600)
