"""A log storm: the first lines pass, the rest is counted, nothing is ever lost."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from vfio_agent.diagnosis.message import Kind
from vfio_agent.watch.device_events import DeviceEvent
from vfio_agent.watch.flood import (
    BURST,
    PER_S,
    TOTAL_BURST,
    TOTAL_PER_S,
    FloodGate,
)
from vfio_contract.address import Address


def event(message: str = "dma-fault", address: str = "0000:01:00.0", seq: int = 1) -> DeviceEvent:
    return DeviceEvent(
        message=message,
        kind=Kind.FAULT,
        named=address,
        function=Address(address) if address else None,
        text=f"line {seq}",
        seq=seq,
        seconds=float(seq),
        foreign=False,
        trace=None,
        count=1,
        last_seq=seq,
        last_seconds=float(seq),
    )


ADDRESSES = st.sampled_from(["", *(f"0000:{n:02x}:00.0" for n in range(12))])
OFFERS = st.lists(
    st.tuples(st.sampled_from(["dma-fault", "slot-lost"]), ADDRESSES, st.floats(0, 4)),
    max_size=300,
)


def drain(gate: FloodGate) -> list[DeviceEvent]:
    """Everything that is held, each as soon as the gate says so."""
    told: list[DeviceEvent] = []
    while (now := gate.due_at()) < inf:
        due = gate.due(now)
        assert due, "the gate promised something"
        told += due
    return told


@given(OFFERS, st.integers(1, 20))
def test_what_passed_and_what_is_held_is_what_was_offered(
    offers: list[tuple[str, str, float]], keys: int
) -> None:
    gate = FloodGate(keys=keys)
    told: list[DeviceEvent] = []
    now = 0.0
    for seq, (message, address, step) in enumerate(offers, 1):
        now += step
        passed = gate.offer(event(message, address, seq), now)
        told += gate.due(now) if passed is None else [passed]
        assert sum(e.count for e in (*told, *gate.held())) == seq
    told += drain(gate)
    for name in ("dma-fault", "slot-lost"):
        offered = sum(message == name for message, _, _ in offers)
        assert sum(e.count for e in told if e.message == name) == offered
    assert all(e.seq <= e.last_seq and (e.count == 1) == (e.seq == e.last_seq) for e in told)


@given(OFFERS)
def test_no_stream_exceeds_its_limits(offers: list[tuple[str, str, float]]) -> None:
    gate = FloodGate()
    told: list[tuple[float, tuple[str, str]]] = []
    now = 0.0
    for seq, (message, address, step) in enumerate(offers, 1):
        now += step
        passed = gate.offer(event(message, address, seq), now)
        rows = [*gate.due(now), *([] if passed is None else [passed])]
        told += [(now, (row.message, row.named)) for row in rows]
    assert len(told) <= TOTAL_BURST + now * TOTAL_PER_S + 1e-3
    for key in {key for _, key in told}:
        assert sum(k == key for _, k in told) <= BURST + now * PER_S + 1e-3


def test_the_first_fault_of_another_device_passes_in_the_middle_of_a_storm() -> None:
    gate = FloodGate()
    for seq in range(10_000):
        gate.offer(event(seq=seq), seq / 1000)
    other = event(address="0000:02:00.0", seq=20_000)
    assert gate.offer(other, 10.0) is other


def test_a_storm_of_made_up_addresses_stays_bounded_and_keeps_its_count() -> None:
    gate = FloodGate(keys=50)
    passed = 0
    for seq in range(5000):
        address = f"{seq:04x}:00:00.0"
        passed += gate.offer(event(address=address, seq=seq), 0.0) is not None
    held = gate.held()
    assert len(held) <= 51
    assert passed + sum(e.count for e in held) == 5000
    together = next(e for e in held if e.count > 1)
    assert together.named == ""
    assert together.function is None


def test_idle_rows_make_room_for_new_devices() -> None:
    gate = FloodGate(keys=2)
    for minute in range(20):
        new = event(address=f"0000:{minute:02x}:00.0", seq=minute)
        assert gate.offer(new, minute * 60.0) is new


def test_a_summary_tells_from_where_to_where_and_the_last_line() -> None:
    gate = FloodGate()
    for seq in range(1, 11):
        gate.offer(event(seq=seq), 0.0)
    (summary,) = drain(gate)
    assert (summary.seq, summary.last_seq) == (BURST + 1, 10)
    assert summary.count == 10 - BURST
    assert summary.text == "line 10"
    assert (summary.seconds, summary.last_seconds) == (BURST + 1.0, 10.0)


def test_what_was_held_at_a_crash_goes_on_being_counted() -> None:
    before = FloodGate()
    for seq in range(1, 11):
        before.offer(event(seq=seq), 0.0)
    after = FloodGate(held=before.held())
    assert after.held() == before.held()
    after.offer(event(seq=11), 0.0)
    (summary,) = drain(after)
    assert (summary.seq, summary.last_seq, summary.count) == (BURST + 1, 11, 11 - BURST)


def test_what_a_process_wrote_is_never_summed_up_with_the_kernels_words() -> None:
    gate = FloodGate()
    for seq in range(1, 11):
        gate.offer(event(seq=seq), 0.0)
        gate.offer(replace(event(seq=100 + seq), foreign=True), 0.0)
    assert sorted((e.foreign, e.count) for e in gate.held()) == [
        (False, 10 - BURST),
        (True, 10 - BURST),
    ]


def test_all_together_stay_within_their_limit() -> None:
    gate = FloodGate()
    passed = [
        gate.offer(event(address=f"{seq:04x}:00:00.0", seq=seq), 0.0) is not None
        for seq in range(2 * TOTAL_BURST)
    ]
    assert sum(passed) == TOTAL_BURST
    assert len(gate.held()) == TOTAL_BURST
    assert len(gate.due(1.0)) == TOTAL_PER_S


def test_making_room_never_forgets_what_waits() -> None:
    """They wait for the limit of all together, so that their own rows look idle."""
    keys = TOTAL_BURST + 5
    gate = FloodGate(keys=keys)
    addresses = [f"{number:04x}:00:00.0" for number in range(keys + 1)]
    for seq, address in enumerate(addresses, 1):
        gate.offer(event(address=address, seq=seq), 0.0)
    waiting = addresses[-2]
    gate.offer(event(address=waiting, seq=1000), 0.0)
    assert sum(e.count for e in gate.held()) == len(addresses) + 1 - TOTAL_BURST
    assert [e.last_seq for e in gate.held() if e.named == waiting] == [1000]
