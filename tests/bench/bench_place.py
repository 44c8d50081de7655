"""What a placement costs at 10,000 nodes of 8 units: `name value unit`, no limits asserted.

The fleet is half used, at random from a fixed seed, over four models and two NUMA nodes, with some
nodes silent, cordoned or with units that a gate refuses. Decisions come from the index, which
changes between any two of them; `reserve_and_confirm` runs the whole reducer, with a store
transaction made but not committed, and goes on filling the fleet. `_cpu_` lines are the thread's
own processor time: what the same call costs when nobody else uses the machine. It runs under
`make bench`, or alone: `python -m tests.bench.bench_place`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest

from tests.fakes.snapshots import audio, behind, bridge, gpu, make_host, nic
from tests.unit.scheduler.findings import passing
from tests.unit.scheduler.fleet import MOMENT, Spec, entry, request
from vfio_contract.artifact import compress, encode
from vfio_contract.model import PciFunction
from vfio_contract.views import Placement, PlaceRequest, Refusal
from vfio_coordinator.scheduler.index import Entry, Index, put
from vfio_coordinator.scheduler.layout import survey
from vfio_coordinator.scheduler.place import place
from vfio_coordinator.scheduler.qualify import qualify
from vfio_coordinator.state import report
from vfio_coordinator.state.effects import Commit, Reply
from vfio_coordinator.state.events import (
    CommitOutcome,
    Heartbeat,
    InventoryReceived,
    NodeHello,
    Now,
    ObservationReceived,
    Outcome,
    PlaceRequested,
    Restored,
    Tick,
)
from vfio_coordinator.state.model import State, start
from vfio_coordinator.state.reducer import apply
from vfio_coordinator.store.interface import ValueIs

NODES = 10_000
ROUNDS = 2_000
SEED = 20261122
MODELS = ("RTX A5000", "RTX A6000", "A100 PCIe 80GB", "L40S")


def make_node(number: int, dice: random.Random) -> Entry:
    model = MODELS[number % len(MODELS)]
    specs = []
    for unit in range(8):
        roll = dice.random()
        spec = Spec(kind="gpu", model=model, numa=unit // 4)
        if roll < 0.45:
            spec = replace(spec, held="claimed")
        elif roll < 0.48:
            spec = replace(spec, refused=(dice.choice(("isolation", "binding", "reset")),))
        elif roll < 0.50:
            spec = replace(spec, needs=("acs-override",))
        specs.append(spec)
    if number % 51 == 0:
        # Whole nodes for gangs, all eight units on one NUMA node; of every model.
        specs = [Spec(kind="gpu", model=model, numa=0)] * 8
    roll = dice.random()
    stage = "heard" if roll < 0.01 else "admitted" if roll < 0.02 else ""
    return entry(f"node-{number:05}", *specs, stage=stage)


def make_index() -> Index:
    dice = random.Random(SEED)
    index = Index()
    for number in range(NODES):
        index = put(index, make_node(number, dice))
    return index


class Spent:
    """Milliseconds of calls: by the wall clock, and of the processor."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def call(self, what: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        what()
        self.cpu.append((time.thread_time() - cpu) * 1e3)
        self.wall.append((time.perf_counter() - wall) * 1e3)

    def show(self, name: str) -> None:
        for label, rows in (("", sorted(self.wall)), ("_cpu", sorted(self.cpu))):
            print(f"{name}{label}_p50 {rows[len(rows) // 2]:.3f} ms")
            print(f"{name}{label}_p99 {rows[len(rows) * 99 // 100]:.3f} ms")


def show(name: str, calls: Iterable[Callable[[], object]]) -> None:
    spent = Spent()
    for call in calls:
        spent.call(call)
    spent.show(name)


def show_deciding(name: str, index: Index, requests: list[PlaceRequest]) -> Index:
    """Decide, then change one node each time, as a claim would: memories alone must not help."""
    dice = random.Random(SEED + 1)
    spent = Spent()
    for number in range(ROUNDS):
        asked, current = requests[number % len(requests)], index
        spent.call(partial(place, current, asked, MOMENT))
        index = put(index, make_node(dice.randrange(NODES), dice))
    spent.show(name)
    return index


def bench_decisions() -> None:
    began = time.perf_counter()
    index = make_index()
    print(f"index_build {time.perf_counter() - began:.2f} s")
    print(f"index_shapes {len(index.by_shape)} profiles")
    singles = [
        request(f"gpu:{model.split()[-1].lower() if model != MODELS[2] else 'a100'}={count}")
        for model in MODELS
        for count in (1, 2, 3)
    ]
    assert all(isinstance(place(index, asked, MOMENT), Placement) for asked in singles)
    index = show_deciding("place", index, singles)
    gangs = [
        request(f"gpu:{word}=8", same_numa=True) for word in ("a5000", "a6000", "a100", "l40s")
    ]
    gangs = [asked for asked in gangs if isinstance(place(index, asked, MOMENT), Placement)]
    index = show_deciding("gang_8_of_8_same_numa", index, gangs)
    none = [request(f"gpu:l40s={count}", same_numa=True) for count in (9, 10, 11)]
    assert all(isinstance(place(index, asked, MOMENT), Refusal) for asked in none)
    index = show_deciding("refuse", index, none)
    mixed = [request("gpu:a5000=2", "nic=1"), request("gpu:a100", "gpu:l40s")]
    index = show_deciding("refuse_mixed", index, mixed)
    dice = random.Random(SEED + 2)
    changed = [make_node(dice.randrange(NODES), dice) for _ in range(ROUNDS)]
    show("index_change", (partial(put, index, one) for one in changed))


# --- the whole reducer ---------------------------------------------------------------------------


def hardware() -> tuple[PciFunction, ...]:
    """Six graphics cards with audio and two network cards, over two NUMA nodes: 22 functions."""
    rows: list[PciFunction] = []
    for bus in range(1, 9):
        port = bridge(f"0000:00:{bus:02x}.0", group=100 + bus)
        numa = (bus - 1) // 4
        if bus % 4:
            cards = (
                gpu(f"0000:{bus:02x}:00.0", group=bus, numa_node=numa),
                audio(f"0000:{bus:02x}:00.1", group=bus, numa_node=numa),
            )
            rows += behind(port, *cards)
        else:
            rows += behind(port, nic(f"0000:{bus:02x}:00.0", group=bus, numa_node=numa))
    return tuple(rows)


class Machine:
    """The reducer, with every commit answered at once and nothing stored."""

    def __init__(self) -> None:
        self.state: State = start()
        self.seconds = 1.0
        self.revision = 1
        self.replies: dict[int, object] = {}
        fence = ValueIs("meta/epoch", b"1")
        self.send(
            Restored(cluster_id="bench", incarnation=1, epoch=1, fence=fence, items=(), revision=1)
        )

    def send(self, event: object) -> None:
        waiting = [event]
        while waiting:
            now = Now(self.seconds, "2026-11-22T00:00:00Z")
            self.state, effects = apply(self.state, waiting.pop(0), now)  # type: ignore[arg-type]
            for effect in effects:
                if isinstance(effect, Commit):
                    self.revision += 1
                    waiting.append(
                        CommitOutcome(
                            txn_id=effect.txn_id, outcome=Outcome.OK, revision=self.revision
                        )
                    )
                elif isinstance(effect, Reply):
                    self.replies[effect.ticket] = effect.answer


def bench_reducer() -> None:
    host = make_host(*hardware())
    findings = passing(host)
    facts, readings = host.facts, host.readings
    packed, digest = compress(encode(facts)), "sha256:bench"
    units = survey(host)
    show("survey_per_node", [lambda: survey(make_host(*hardware()))] * 50)
    show("qualify_per_node", [lambda: qualify(units, findings, holders=(), names={})] * 200)
    machine = Machine()
    names = [f"node-{number:05}" for number in range(NODES)]
    began = time.perf_counter()
    observe = Spent()
    for number, name in enumerate(names):
        machine.send(
            NodeHello(
                node=name,
                session=number + 1,
                boot_id=readings.boot_id or "",
                product_uuid=name,
                agent_state_id="",
                agent_version="bench",
                inventory_digest=digest,
                cluster_id="",
                highest_incarnation=0,
                highest_epoch=0,
            )
        )
        machine.send(
            InventoryReceived(
                node=name, session=number + 1, digest=digest, facts=facts, facts_zlib=packed
            )
        )
        event = ObservationReceived(
            node=name,
            session=number + 1,
            sequence=1,
            inventory_digest=digest,
            readings=readings,
            findings=findings,
            age_s=0.0,
            checks_version="1",
        )
        observe.call(partial(machine.send, event))
    print(f"join_{NODES} {time.perf_counter() - began:.2f} s")
    observe.show("observe_first")
    beats = [Heartbeat(name, number + 1) for number, name in list(enumerate(names))[:ROUNDS]]
    show("heartbeat", (partial(machine.send, one) for one in beats))
    show("tick", [lambda: machine.send(Tick())] * 20)
    requests = [
        PlaceRequested(
            ticket=number,
            request=replace(request(*devices), vm=f"vm-{number}"),
            actor="bench",
        )
        for number in range(ROUNDS)
        for devices in ((("gpu=1",), ("gpu=2",), ("gpu=1", "nic=1"))[number % 3],)
    ]
    show("reserve_and_confirm", (partial(machine.send, one) for one in requests))
    assert len(machine.state.claims) == ROUNDS
    now = Now(machine.seconds, "2026-11-22T00:00:00Z")
    show("status", [lambda: report.status(machine.state, now)] * 3)


@pytest.mark.bench
@pytest.mark.timeout(1200)
def test_bench_decisions() -> None:
    bench_decisions()


@pytest.mark.bench
@pytest.mark.timeout(1200)
def test_bench_reducer() -> None:
    bench_reducer()


if __name__ == "__main__":
    bench_decisions()
    bench_reducer()
