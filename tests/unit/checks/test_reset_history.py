"""`reset-history`: the ledger by identity; silence is not success."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import (
    config_space,
    make_host,
    make_log,
    nic,
    reset_summary,
    unread,
)
from tests.unit.checks.lookup import commands, find, texts
from vfio_agent.checks.reset_history import judge
from vfio_contract.findings import Finding, Verdict
from vfio_contract.ledger import ResetState
from vfio_contract.model import Holder, PciFunction, ResetEvent, ResetSummary

SERIAL = config_space(serial_number="00-1b-21-ff-ff-5f-12-34")
CARD = nic("0000:01:00.0", config=SERIAL)
OTHER = nic("0000:02:00.0", group=2)


def judged(*functions: PciFunction, address: str = "0000:01:00.0", **changes: Any) -> Finding:
    return find(judge(make_host(*functions, **changes)), f"function:{address}")


def row(state: ResetState, **changes: Any) -> ResetSummary:
    return reset_summary([CARD, OTHER], "0000:01:00.0", state, **changes)


@pytest.mark.parametrize(
    ("state", "verdict", "code"),
    [
        (ResetState.PROVEN, Verdict.PASS, "RESET_PROVEN"),
        (ResetState.CAPABLE, Verdict.PASS, "RESET_CLEAN"),
        (ResetState.PROBATION, Verdict.WARN, "RESET_PROBATION"),
        (ResetState.ONE_SHOT, Verdict.WARN, "RESET_ONE_SHOT"),
        (ResetState.FAILING, Verdict.FAIL, "RESET_FAILED"),
        (ResetState.WEDGED, Verdict.FAIL, "RESET_WEDGED"),
    ],
)
def test_states(state: ResetState, verdict: Verdict, code: str) -> None:
    line = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
    finding = judged(CARD, OTHER, ledger=(row(state, failures=1, evidence=line),))
    assert (finding.verdict, finding.code) == (verdict, code)
    assert line in texts(finding)
    assert judged(CARD, OTHER, address="0000:02:00.0", ledger=(row(state),)).code == "RESET_CLEAN"


def test_what_a_place_was_told_proves_nothing_of_a_card_with_a_serial() -> None:
    place = make_host(CARD, OTHER).identities[CARD.address].place
    for state, code in ((ResetState.PROVEN, "RESET_CLEAN"), (ResetState.WEDGED, "RESET_WEDGED")):
        ledger = (replace(row(state), identity=place),)
        log = make_log("Linux version 6.12.0")
        assert judged(CARD, OTHER, ledger=ledger, kernel_log=log).code == code


def test_a_one_shot_device_is_spent_once_its_vm_let_go_of_it() -> None:
    used = replace(row(ResetState.ONE_SHOT), used=True)
    holder = Holder(path="/dev/vfio/1", pid=900, command="qemu-system-x86", vm="web")
    assert CARD.group == 1
    held = judged(CARD, OTHER, ledger=(used,), holders=(holder,))
    assert (held.verdict, held.code) == (Verdict.WARN, "RESET_ONE_SHOT")
    for holders in ((), None):
        free = judged(CARD, OTHER, ledger=(used,), holders=holders)
        assert (free.verdict, free.code) == (Verdict.FAIL, "RESET_SPENT")


def test_the_word_of_an_agent_before_is_read() -> None:
    (before,) = (replace(row(ResetState.CAPABLE), state="clean"),)
    assert judged(CARD, OTHER, ledger=(before,)).code == "RESET_CLEAN"


def test_no_row_and_a_whole_log_is_clean_but_not_proven() -> None:
    finding = judged(CARD)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "RESET_CLEAN")
    assert "Unobserved is not proven" in finding.meaning


@pytest.mark.parametrize("log", [None, make_log("something", complete=False)])
def test_a_lost_log_is_not_success(log: Any) -> None:
    finding = judged(CARD, kernel_log=log)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_UNOBSERVED")
    empty = row(ResetState.CAPABLE, attempts=0)
    assert judged(CARD, OTHER, kernel_log=log, ledger=(empty,)).code == "RESET_UNOBSERVED"
    seen = row(ResetState.CAPABLE, attempts=3)
    assert judged(CARD, OTHER, kernel_log=log, ledger=(seen,)).code == "RESET_CLEAN"


@pytest.mark.parametrize("live", [True, False])
def test_where_nobody_keeps_a_ledger_nothing_is_clean(live: bool) -> None:
    """A paste or a host without an agent has one boot's log at most, and nobody's ledger."""
    finding = judged(CARD, live=live, ledger_kept=False)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_UNOBSERVED")
    assert "reset ledger: there is none; only the kernel log of this boot" in texts(finding)
    assert "no attempt recorded" not in texts(finding)
    empty = row(ResetState.CAPABLE, attempts=0)
    other: dict[str, Any] = {"live": live, "ledger_kept": False}
    assert judged(CARD, OTHER, ledger=(empty,), **other).code == "RESET_UNOBSERVED"
    bad = row(ResetState.FAILING, failures=1)
    assert judged(CARD, OTHER, ledger=(bad,), **other).verdict is Verdict.FAIL


def test_attempts_are_told_one_by_one_as_far_as_the_kernel_proves_them() -> None:
    events = (
        ResetEvent("bus", "failed", 1000, 81.25, this_boot=False),
        ResetEvent("flr", "wedged", 65535, 7.5, this_boot=True),
        ResetEvent("", "failed", None, None, this_boot=None),
    )
    finding = judged(CARD, OTHER, ledger=(replace(row(ResetState.WEDGED), recent=events),))
    assert [e.text for e in finding.evidence if e.source == "reset attempt"] == [
        "bus: failed, the kernel waited 1000 ms, 81.250000 s after boot, in an earlier boot",
        "flr: wedged, the kernel waited 65535 ms, 7.500000 s after boot",
        "method not told: failed",
    ]


def test_no_ledger_is_unknown() -> None:
    finding = judged(CARD, ledger=None)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "HISTORY_UNKNOWN")
    assert "sudo vfioctl check" in commands(finding)


def test_a_state_of_a_newer_version_is_unknown() -> None:
    unknown = ResetSummary(row(ResetState.CAPABLE).identity, "melted", 1, 1, "failed", "")
    assert judged(CARD, OTHER, ledger=(unknown,)).verdict is Verdict.UNKNOWN


def test_a_bad_row_that_fits_nobody_may_belong_to_whose_serial_was_not_read() -> None:
    bad = row(ResetState.WEDGED, failures=1)
    assert judged(unread(CARD, "config"), OTHER, ledger=(bad,)).verdict is Verdict.UNKNOWN
    gone = ResetSummary("dsn-aa-bb.0", "wedged", 1, 1, "wedged", "")
    assert judged(CARD, OTHER, ledger=(gone,)).verdict is Verdict.PASS


def test_no_inventory() -> None:
    assert find(judge(make_host(functions=None))).verdict is Verdict.UNKNOWN
