"""`device bind`, `unbind` and `reset-test` as a person meets them: screens, documents, exit codes.

VFIOCTL_WRITE_GOLDEN=1 writes the files anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vfio_agent.actuate.allowance import EXAMPLE
from vfio_agent.checks import explain
from vfio_cli.main import run
from vfio_cli.screens.actions import action_screen
from vfio_cli.screens.layout import WIDTH, plain
from vfio_contract.action import (
    EXIT_CODES,
    NOT_PERMITTED,
    SCHEMA,
    ActionReport,
    ActionStep,
    FunctionChanges,
    Outcome,
    ResetProof,
    decode_report,
)
from vfio_contract.action_codes import (
    ACTION_CODES,
    ACTION_HELD,
    ACTION_NOT_PERMITTED,
    ACTION_UNFINISHED,
)
from vfio_contract.address import Address
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import Evidence

HOSTS = Path(__file__).resolve().parents[2] / "data" / "hosts"
F10 = str(HOSTS / "gpubox-f10.tar.gz")
GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden" / "actions"

GPU, AUDIO = Address("0000:03:00.0"), Address("0000:03:00.1")
DEVICES = "/sys/bus/pci/devices"

Captured = pytest.CaptureFixture[str]


def step(
    kind: str, path: str, state: str, detail: str = "", *, undoing: bool = False
) -> ActionStep:
    return ActionStep(kind, GPU, path, (), state, detail, 0.1, undoing)


BIND = ActionReport(
    id="0" * 32,
    verb="bind",
    address=GPU,
    outcome=Outcome.DONE,
    unit="gpu-977eb823",
    assign=(GPU, AUDIO),
    steps=(
        step("unbind", f"{DEVICES}/{GPU}/driver/unbind", "done"),
        step("override", f"{DEVICES}/{GPU}/driver_override", "already"),
        step("file", f"/etc/driverctl.d/pci-{GPU}", "done"),
    ),
    method="driverctl",
    because=("driverctl is installed: its files are by address and known to operators",),
    notes=("one VM must get all of it: 0000:03:00.0 0000:03:00.1",),
)

STUCK = "no answer in 10 s (pid 4711 waits)"


def refused(*codes: Code) -> ActionReport:
    def reason(code: Code) -> object:
        more = f"{code.decision} Such as:\n{EXAMPLE}" if code is ACTION_NOT_PERMITTED else ""
        evidence = Evidence("/dev/vfio/7", "qemu")
        return make_finding("actuate", f"function:{GPU}", code, evidence, decision=more)

    rows = tuple(reason(code) for code in codes)
    bare = replace(BIND, outcome=Outcome.REFUSED, steps=(), method="", because=(), notes=())
    return replace(bare, reasons=rows)  # type: ignore[arg-type]


RESET = replace(
    refused(),
    verb="reset-test",
    outcome=Outcome.DONE,
    reset=ResetProof(
        method="bus",
        ending="reset",
        outcome="success",
        why="answers as before, and the kernel did not complain",
        seconds=0.016,
        changes=(
            FunctionChanges(GPU, ("0x004: 07 -> 03 (moving)",)),
            FunctionChanges(AUDIO, ()),
        ),
        lines=(),
    ),
)


def broken_reset() -> ActionReport:
    assert RESET.reset is not None
    why = f"came back changed: {GPU} 0x010: 00 -> 08 (bar)"
    proof = replace(
        RESET.reset,
        outcome="failed",
        why=why,
        changes=(FunctionChanges(GPU, ("0x010: 00 -> 08 (bar)", "0x006: 10 -> 18 (moving)")),),
        lines=("[   63.000000] vfio-pci 0000:03:00.0: resetting",),
    )
    return replace(RESET, outcome=Outcome.FAILED, detail=why, reset=proof)


def unseen_reset() -> ActionReport:
    report = broken_reset()
    assert report.reset is not None
    proof = replace(report.reset, outcome="unobserved", changes=(), lines=None)
    return replace(
        report,
        outcome=Outcome.UNKNOWN,
        detail="the kernel's log could not be read meanwhile",
        reset=proof,
    )


def ended(outcome: Outcome, detail: str, *steps: ActionStep) -> ActionReport:
    return replace(BIND, outcome=outcome, detail=detail, steps=steps, notes=())


SCREENS: dict[str, Callable[[], ActionReport]] = {
    "done": lambda: BIND,
    "planned": lambda: replace(BIND, outcome=Outcome.PLANNED),
    "planned-not-permitted": lambda: replace(
        BIND,
        outcome=Outcome.PLANNED,
        notes=(f"{NOT_PERMITTED}: /etc/vfioctl/actuate.toml permits no bind of {GPU}",),
    ),
    "planned-already": lambda: replace(BIND, outcome=Outcome.PLANNED, steps=(), notes=()),
    "done-before": lambda: replace(BIND, steps=(), method="", notes=()),
    "refused": lambda: refused(ACTION_NOT_PERMITTED, ACTION_HELD, ACTION_UNFINISHED),
    "undone": lambda: ended(
        Outcome.UNDONE,
        f"{DEVICES}/{GPU}/driver_override: No space left on device",
        step("unbind", f"{DEVICES}/{GPU}/driver/unbind", "done"),
        step("override", f"{DEVICES}/{GPU}/driver_override", "failed", "No space left on device"),
        step("file", f"/etc/driverctl.d/pci-{GPU}", "untouched"),
        step("bind", "/sys/bus/pci/drivers/nvidia/bind", "done", undoing=True),
    ),
    "waiting": lambda: ended(
        Outcome.WAITING,
        STUCK,
        step("unbind", f"{DEVICES}/{GPU}/driver/unbind", "waiting", STUCK),
    ),
    "failed": lambda: ended(
        Outcome.FAILED,
        "it was cut short, and may not be gone on with: ACTION_HELD",
        step("unbind", f"{DEVICES}/{GPU}/driver/unbind", "intended"),
    ),
    "reset": lambda: RESET,
    "reset-broken": broken_reset,
    "reset-unseen": unseen_reset,
}

PATHS = ("/sys/", "/etc/", "modprobe ", "echo ", "--- ", "+++ ", "@@ ", "+")
"""How what is there to be copied begins: it is never wrapped."""


def as_agreed(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("VFIOCTL_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="ascii")
    assert text == path.read_text(encoding="ascii")
    for line in text.splitlines():
        copied = line[2:].startswith(PATHS) or line[12:].startswith(PATHS)
        assert len(line) <= WIDTH or copied, line


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_as_it_was_agreed(name: str) -> None:
    as_agreed(name, plain(action_screen(SCREENS[name]())))


LOOKS = {
    "dry-unbind": (["unbind", "01:00.0"], 0),
    "dry-reset": (["reset-test", "03:00.0"], 0),
    "dry-critical": (["bind", "00:1f.2"], 2),
    "dry-no-unit": (["bind", "00:00.0"], 2),
    "dry-not-there": (["bind", "99:00.0"], 2),
    "dry-already": (["bind", "01:00.0"], 0),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_dry_run_shows_a_captured_host(name: str, capsys: Captured) -> None:
    words, status = LOOKS[name]
    assert run(["device", *words, "--dry-run", "--root", F10]) == status
    text = capsys.readouterr().out.replace(F10, "F10")
    assert "Next:" not in text  # its addresses are other devices here
    as_agreed(name, text)


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*SCREENS, *LOOKS}


def test_the_document_is_the_report_itself(capsys: Captured) -> None:
    argv = ["device", "unbind", "01:00.0", "--dry-run", "--root", F10]
    assert run([*argv, "-o", "json"]) == 0
    text = capsys.readouterr().out
    document = json.loads(text)
    assert document["schema"] == SCHEMA
    assert document["outcome"] == "planned"
    assert [step["kind"] for step in document["steps"]] == ["unbind", "forget", "module", "bind"]
    assert decode_report(text.encode()).address == "0000:01:00.0"


def test_what_cannot_be_read_of_a_capture_is_unknown(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cmdline").write_text("quiet\n")
    argv = ["device", "bind", "01:00.0", "--dry-run", "--root", str(tmp_path)]
    assert run(argv) in (2, 3)
    assert "PLANNED" not in capsys.readouterr().out


def test_a_capture_is_only_looked_at(capsys: Captured) -> None:
    assert run(["device", "bind", "01:00.0", "--root", F10]) == 64
    assert "add --dry-run" in capsys.readouterr().err


def test_a_dry_run_asks_no_hostd(capsys: Captured) -> None:
    assert run(["device", "bind", "01:00.0", "--dry-run", "--hostd", "x.sock"]) == 64
    assert "--hostd" in capsys.readouterr().err


def test_a_dry_run_on_a_node_is_made_there(capsys: Captured) -> None:
    assert run(["device", "reset-test", "pve07", "01:00.0", "--dry-run"]) == 64
    said = " ".join(capsys.readouterr().err.split())
    assert "run there: vfioctl device reset-test 0000:01:00.0 --dry-run" in said


def test_a_hostd_that_was_named_and_is_not_there_is_no_silent_action_of_our_own(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    nobody = tmp_path / "nobody.sock"
    assert run(["device", "bind", "fffe:ff:1f.7", "--hostd", str(nobody)]) == 3
    said = capsys.readouterr()
    assert (said.out, "nobody listens at" in said.err) == ("", True)


def test_no_address_is_wrong_usage(capsys: Captured) -> None:
    assert run(["device", "reset-test", "card0"]) == 64
    assert "ADDRESS" in capsys.readouterr().err


def test_who_is_not_root_is_told_the_command(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(["device", "bind", "41:00.0", "-o", "json"]) == 2
    said = capsys.readouterr()
    assert "sudo vfioctl device bind 0000:41:00.0" in said.err
    assert json.loads(said.out)["code"] == "NEEDS_ROOT"


def test_what_is_refused_and_what_is_not_known_are_two_exit_codes() -> None:
    assert {outcome: EXIT_CODES[outcome] for outcome in Outcome} == {
        Outcome.DONE: 0,
        Outcome.PLANNED: 0,
        Outcome.REFUSED: 2,
        Outcome.FAILED: 2,
        Outcome.UNDONE: 2,
        Outcome.UNKNOWN: 3,
        Outcome.WAITING: 3,
    }


@pytest.mark.parametrize("code", ACTION_CODES, ids=lambda code: code.name)
def test_every_code_of_an_action_can_be_explained(code: Code, capsys: Captured) -> None:
    assert explain(code.name) is code
    assert run(["explain", code.name]) == 0
    shown = capsys.readouterr().out
    assert "device bind, unbind and reset-test" in shown
