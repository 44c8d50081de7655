"""What VFIO and QEMU answer in a guest, next to what the report of that moment predicted.

It asks every assignable function every question, and turns both sides into the same words. It must
never leave out a function because the report did, or because nothing was predicted for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.lab.harness.machine import Guest
from tests.lab.prediction import Prediction, Report, predict

# A report in an emulated guest takes 10-40 s, three times that on a busy host.
CHECK_LIMIT_S = 150.0
# The environment's name for where `make lab` wants the rows of a run, as JSON.
ROWS_FILE = "VFIOCTL_LAB_ROWS"

# Base class and subclass of what no VM is given: host and ISA bridges, SMBus, IOMMU. In here these
# are 00:00.0, 00:1f.0, 00:1f.3, and on AMD the IOMMU at 00:01.0.
PLATFORM = frozenset({"0600", "0601", "0c05", "0806"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `-` where nothing was claimed or could be asked."""

    machine: str
    state: str
    function: str
    question: str
    predicted: str
    observed: str

    @property
    def agrees(self) -> bool:
        """True when the answer is the predicted one, or nothing was claimed."""
        return self.predicted in ("-", self.observed)

    def __str__(self) -> str:
        return (
            f"{self.machine} {self.state}: {self.function} {self.question}: "
            f"predicted {self.predicted}, observed {self.observed}"
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """One state of a machine: the report, what it predicts, and what the kernel answered."""

    machine: str
    state: str
    report: Report
    predictions: Mapping[str, Prediction]
    rows: tuple[Row, ...]

    @property
    def disagreements(self) -> list[str]:
        """What was predicted otherwise, as sentences."""
        return [str(row) for row in self.rows if not row.agrees]

    @property
    def unclaimed(self) -> set[tuple[str, str]]:
        """(function, question) where the kernel answered and the report had claimed nothing.

        Such a row always agrees: what may be among them is for each scenario to write down.
        """
        return {
            (row.function, row.question)
            for row in self.rows
            if row.predicted == "-" and row.observed != "-"
        }

    def answer(self, function: str, question: str = "open") -> str:
        """What the kernel answered."""
        return next(
            row.observed
            for row in self.rows
            if (row.function, row.question) == (function, question)
        )


def check(guest: Guest, name: str = "check") -> Report:
    """`vfioctl check -o json` in the guest; it must end by itself."""
    report, status = try_check(guest, name)
    assert status is not None, f"{guest.machine.name}: vfioctl check ({name}) never ended"
    return report


def try_check(
    guest: Guest, name: str, *, limit_s: float = CHECK_LIMIT_S, as_nobody: bool = False
) -> tuple[Report, int | None]:
    """The report, and the exit code: None when the command wrote its report and never ended."""
    path = f"{guest.out_inside}/{name}.json"
    status = guest.call(
        "host.check", out=path, limit_s=limit_s + 30, within_s=limit_s, as_nobody=as_nobody
    )
    return Report(json.loads((guest.out / f"{name}.json").read_text())), status


def observe(guest: Guest, state: str) -> Observation:
    """Take the report, then ask the kernel about every function that is not the platform's own.

    AssertionError when the report's functions are not exactly those.
    """
    report = check(guest, state.replace(" ", "-"))
    predictions = predict(report)
    endpoints: dict[str, str] = guest.call("host.endpoints")
    expected = {address for address, kind in endpoints.items() if kind not in PLATFORM}
    assert set(predictions) == expected, f"{guest.machine.name} {state}: the report's functions"
    answers = {a: _ask(guest, p) for a, p in predictions.items()}
    rows = tuple(
        Row(guest.machine.name, state, address, question, predicted, answers[address][question])
        for address, prediction in predictions.items()
        for question, predicted in _claims(prediction).items()
    )
    return Observation(guest.machine.name, state, report, predictions, rows)


def _claims(prediction: Prediction) -> dict[str, str]:
    opening = f"{prediction.step} {prediction.errno}".strip()
    viable = {True: "yes", False: "no", None: "-"}[prediction.viable]
    resets = {True: "ok", False: "EINVAL", None: "-"}[prediction.resets]
    hot = "-" if prediction.hot_resets is None else prediction.hot_resets or "ok"
    return {"open": opening, "viable": viable, "reset": resets, "hot reset": hot}


def _ask(guest: Guest, prediction: Prediction) -> dict[str, str]:
    address = prediction.address
    opened = guest.call("vfio.attempt", address=address)
    got = {
        "open": f"{opened['step']} {opened['errno']}".strip(),
        "viable": {True: "yes", False: "no", None: "-"}[opened["viable"]],
        "reset": "-",
        "hot reset": "-",
    }
    if opened["step"] == "opened":
        for question, then in (("reset", "reset"), ("hot reset", "hot-reset")):
            done = guest.call("vfio.attempt", address=address, then=then)
            got[question] = done["errno"] or "ok"
        if opened["can_reset"] != (got["reset"] == "ok"):
            got["reset"] += f" although VFIO says can_reset={opened['can_reset']}"
    return got


def start_nested(guest: Guest, seen: Observation, addresses: Sequence[str]) -> tuple[Row, str]:
    """Start QEMU with these functions and end it again: the row, and all that QEMU said.

    Predicted is what the report said about the first of them that cannot be opened.
    """
    claims = [seen.predictions[a] for a in addresses]
    # Functions of one slot are passed as functions of one slot.
    slot = len(addresses) > 1 and len({a.rpartition(".")[0] for a in addresses}) == 1
    refused = next((p for p in claims if not p.opens), None)
    name = f"of-{addresses[0]}"
    got: dict[str, Any] = guest.call("nested.start", name=name, addresses=addresses, slot=slot)
    if got["started"]:
        assert guest.call("nested.status", name=name) == "prelaunch"
        got["text"] = guest.call("nested.stop", name=name)
    text = str(got["text"])
    # Kept beside the reports: the exact words, for whoever has to recognise them.
    with (guest.out / "said.txt").open("a") as said:
        said.write(f"$ qemu {' '.join(addresses)}  # {seen.state}\n{text}\n")
    predicted = "starts" if refused is None else refused.message
    observed = "starts" if got["started"] else text
    if refused is not None and refused.message in text and not got["started"]:
        observed = refused.message
    row = Row(seen.machine, seen.state, "+".join(addresses), "QEMU", predicted, observed)
    return row, text


def render(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, one line a function and state."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        cell = row.observed if row.agrees else f"**{row.predicted} / {row.observed}**"
        if row.predicted == "-" and row.observed != "-":
            cell = f"({row.observed})"
        line = lines.setdefault((row.machine, row.state, row.function), {})
        line[row.question] = cell.replace("|", "\\|").replace("\n", " ")
    questions = ("open", "viable", "reset", "hot reset", "QEMU")
    head = ["machine", "state", "function", *questions]
    text = [_line(head), _line(["---"] * len(head))]
    for place, cells in lines.items():
        text.append(_line([*place, *(cells.get(q, "") for q in questions)]))
    return "\n".join(text)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
