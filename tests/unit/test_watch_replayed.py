"""A captured host whose log grows: lines that are added are news, as if its kernel said them."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_watch import GAVE_UP, GPU, late, until, wanted_of
from vfio_agent.watch import Place, Watch, replay_watch


def test_a_host_in_a_tar_is_only_read_again(tmp_path: Path) -> None:
    watch = replay(tmp_path / "host.tar", interval_s=0.2)
    try:
        (batch,) = until(watch, lambda batches: wanted_of(batches).whole)
        assert (batch.why, batch.events) == ((), ())
    finally:
        watch.close()


def replay(root: Path, *, interval_s: float = 3600.0, place: Place | None = None) -> Watch:
    return replay_watch(str(root), boot_id="boot", interval_s=interval_s, uniform=late, place=place)


def append(root: Path, text: str) -> None:
    with (root / "dmesg").open("a") as log:
        log.write(text)


def test_a_line_added_to_a_captured_log_is_news_and_its_past_is_not(tmp_path: Path) -> None:
    append(tmp_path, f"[    1.000000] {GAVE_UP}\n")
    watch = replay(tmp_path)
    try:
        append(tmp_path, f"[    2.250000] {GAVE_UP[:-7]}")
        append(tmp_path, f"{GAVE_UP[-7:]}\n<12>[    3.000000] {GAVE_UP}\n")
        batches = until(watch, lambda found: sum(len(b.events) for b in found) == 2)
        own, foreign = (event for batch in batches for event in batch.events)
        assert (own.seconds, own.text, own.function, own.seq) == (2.25, GAVE_UP, GPU, 1)
        assert (own.foreign, foreign.foreign) == (False, True)
        assert GPU in until(watch, lambda found: bool(wanted_of(found)))[-1].wanted.functions
        place = watch.place()
    finally:
        watch.close()
    append(tmp_path, f"[    4.000000] {GAVE_UP}\n")
    again = replay(tmp_path, place=place)
    try:
        (batch, *_) = until(again, lambda found: any(b.events for b in found))
        assert [event.seq for event in batch.events] == [3]
    finally:
        again.close()


def test_a_captured_log_that_appears_or_is_replaced_is_followed(tmp_path: Path) -> None:
    watch = replay(tmp_path)
    try:
        append(tmp_path, f"[    1.000000] {GAVE_UP}\n")
        until(watch, lambda found: any(b.events for b in found))
        fresh = tmp_path / "fresh"
        fresh.write_text(f"[    1.0] quiet\n[    2.0] {GAVE_UP.replace('01:00.0', '02:00.0')}\n")
        fresh.rename(tmp_path / "dmesg")
        batches = until(watch, lambda found: any(b.events for b in found))
        assert [e.function for b in batches for e in b.events] == ["0000:02:00.0"]
    finally:
        watch.close()


def test_a_log_that_leads_out_of_the_capture_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "dmesg").symlink_to("../outside")
    watch = replay(tmp_path / "root")
    (gap,) = watch.gaps()
    watch.close()
    assert "symbolic link" in gap.reason


def test_a_long_log_is_taken_to_its_end(tmp_path: Path) -> None:
    append(tmp_path, "[    0.000001] quiet\n" * 100_000)
    watch = replay(tmp_path)
    try:
        assert watch.place().seq == 99_999
        append(tmp_path, f"[    2.000000] {GAVE_UP}\n" * 1_000)
        batches = until(watch, lambda found: found[-1:] != [] and found[-1].place.seq == 100_999)
        told = sum(event.count for batch in batches for event in batch.events)
        held = sum(event.count for event in watch.place().held)
        assert told + held == 1_000
    finally:
        watch.close()
