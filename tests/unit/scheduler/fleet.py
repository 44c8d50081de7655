"""Nodes for placement's tests, made of standings, and strategies that make any of them.

A unit here is as qualification would leave it: gates that refuse or need an allowance, something
that holds it, a claim. Nothing reads a host.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from vfio_contract.address import Address, Identity
from vfio_contract.findings import Verdict
from vfio_contract.views import DeviceRequest, PlaceRequest
from vfio_coordinator.scheduler.gates import ALLOWS, GATES
from vfio_coordinator.scheduler.index import Entry, Index, make_entry, offer, put
from vfio_coordinator.scheduler.layout import UnitLayout
from vfio_coordinator.scheduler.place import Moment
from vfio_coordinator.scheduler.risk import RiskDecision
from vfio_coordinator.scheduler.standing import Need, Refusing, Standing

MOMENT = Moment(100.0, "2026-11-22T00:00:00Z", 7)

STAGE_OF_WORD = {
    "acs-override": "isolation",
    "unsafe-interrupts": "platform",
    "one-shot-reset": "reset",
}
CODE_OF_WORD = {word: code for code, word in ALLOWS.items()}
GATE_STAGES = tuple(dict.fromkeys(gate.stage for gate in GATES))
MODELS = ("RTX A5000", "A100 PCIe", "")


@dataclass(frozen=True)
class Held:
    vm: str
    pending: bool


@dataclass(frozen=True)
class Spec:
    """A unit in a few words; `risk` is what was decided about its needs, "" for nothing."""

    kind: str = "gpu"
    model: str = "RTX A5000"
    numa: int | None = 0
    refused: tuple[str, ...] = ()
    unknown: bool = False
    needs: tuple[str, ...] = ()
    busy: str = ""
    held: str = ""
    risk: str = "accepted"


def standing(spec: Spec, number: int) -> Standing:
    address = Address(f"0000:{number + 1:02x}:00.0")
    key = Identity(f"id-{number}")
    verdict = Verdict.UNKNOWN if spec.unknown else Verdict.FAIL
    layout = UnitLayout(
        id=f"{spec.kind}-{number:08x}",
        kind=spec.kind,
        ids="10de:2231" if spec.kind == "gpu" else "8086:10c9",
        primary=address,
        assign=(address,),
        hold=(),
        endpoints=(address,),
        groups=(number,),
        ungrouped=(),
        places=((key, key, address),),
        keys=(key,),
        numa_node=spec.numa,
        switch="",
        intended=True,
        physfns=(),
        blocked="",
        blocked_unknown=False,
        unbound=(address,) if "binding" in spec.refused else (),
        cdev=False,
    )
    rows = [[gate.check, "PASS", "OK", [f"{gate.check} evidence"]] for gate in GATES]
    return Standing(
        layout=layout,
        model=spec.model or layout.ids,
        refusing=tuple(
            Refusing(stage, stage, verdict, f"CODE_{stage}", f"{address} {stage}", (stage,))
            for stage in GATE_STAGES
            if stage in spec.refused
        ),
        needs=tuple(
            Need(word, STAGE_OF_WORD[word], CODE_OF_WORD[word], f"{address} {word}", ())
            for word in spec.needs
        ),
        busy=None
        if not spec.busy
        else Refusing("holders", "free", Verdict.FAIL, "UNIT_HELD", f"{address} is held", ()),
        foreign=spec.busy == "foreign",
        proof=b"" if spec.refused else zlib.compress(json.dumps(rows).encode()),
    )


def decided(spec: Spec) -> dict[str, RiskDecision]:
    """The decisions about the unit's needs."""
    if not spec.risk:
        return {}
    ended = "" if spec.risk == "accepted" else spec.risk
    rows = [
        RiskDecision(code, f"risk-{n:08x}", "a reason", "ops", "2027-03-01T23:59:59Z", ended)
        for n, code in enumerate(CODE_OF_WORD[word] for word in spec.needs)
    ]
    return {row.code: row for row in rows}


def entry(name: str, *specs: Spec, stage: str = "", lift: str = "") -> Entry:
    offers = []
    for number, spec in enumerate(specs):
        held = {f"id-{number}": Held("other", spec.held == "pending")} if spec.held else {}
        offers.append(offer(standing(spec, number), held, decided(spec)))
    why = f"{name} is {stage}" if stage else ""
    return make_entry(
        name,
        tuple(offers),
        stage=stage,
        why=why,
        lift=lift,
        vouched=(("heard", "heard"), ("admitted", "ready")),
        collected_s=90.0,
    )


def index_of(*entries: Entry) -> Index:
    found = Index()
    for one in entries:
        found = put(found, one)
    return found


def request(*devices: str, **changes: Any) -> PlaceRequest:
    """`request("gpu:a5000=2", same_numa=True)`."""
    rows = []
    for text in devices:
        head, _, count = text.partition("=")
        kind, _, model = head.partition(":")
        rows.append(DeviceRequest(kind, model, int(count or 1)))
    values: dict[str, Any] = {
        "vm": "vm1",
        "devices": tuple(rows),
        "same_numa": False,
        "allow": (),
        "node": "",
        "external": False,
        "dry_run": False,
        "request_id": "",
    }
    return PlaceRequest(**values | changes)


# --- strategies ----------------------------------------------------------------------------------

specs = st.builds(
    Spec,
    kind=st.sampled_from(("gpu", "gpu", "nic")),
    model=st.sampled_from(MODELS),
    numa=st.sampled_from((0, 0, 1, -1, None)),
    refused=st.one_of(
        st.just(()), st.just(()), st.sets(st.sampled_from(GATE_STAGES), max_size=2).map(tuple)
    ),
    unknown=st.booleans(),
    needs=st.one_of(
        st.just(()),
        st.just(()),
        st.sets(st.sampled_from(sorted(ALLOWS.values())), max_size=2).map(
            lambda words: tuple(sorted(words))
        ),
    ),
    busy=st.sampled_from(("", "", "", "", "foreign", "vfs")),
    held=st.sampled_from(("", "", "", "", "claimed", "pending")),
    risk=st.sampled_from(("accepted", "accepted", "", "expired", "revoked")),
)

entries = st.lists(
    st.tuples(
        st.lists(specs, max_size=5),
        st.sampled_from(("", "", "", "", "heard", "admitted")),
        st.booleans(),
    ),
    max_size=6,
).map(
    lambda rows: tuple(
        entry(
            f"n{number}",
            *units,
            stage=stage,
            lift=f"vfioctl node uncordon n{number}" if liftable and stage == "admitted" else "",
        )
        for number, (units, stage, liftable) in enumerate(rows)
    )
)

requests = st.builds(
    lambda devices, same_numa, allow, node: request(
        *devices, same_numa=same_numa, allow=tuple(sorted(allow)), node=node
    ),
    devices=st.lists(
        st.sampled_from(
            ("gpu", "gpu=2", "gpu=3", "gpu:a5000", "gpu:a100=2", "nic", "nic=2", "gpu:10de:2231")
        ),
        min_size=1,
        max_size=3,
    ),
    same_numa=st.booleans(),
    allow=st.sets(st.sampled_from(sorted(ALLOWS.values())), max_size=2),
    node=st.sampled_from(("", "", "", "n0", "n3")),
)
