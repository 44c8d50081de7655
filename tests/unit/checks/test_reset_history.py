"""`reset-history`: the ledger by identity; silence is not success."""

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
from vfio_contract.model import PciFunction, ResetSummary

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
        (ResetState.CLEAN, Verdict.PASS, "RESET_CLEAN"),
        (ResetState.PROBATION, Verdict.WARN, "RESET_PROBATION"),
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


def test_no_row_and_a_whole_log_is_clean_but_not_proven() -> None:
    finding = judged(CARD)
    assert (finding.verdict, finding.code) == (Verdict.PASS, "RESET_CLEAN")
    assert "Unobserved is not proven" in finding.meaning


@pytest.mark.parametrize("log", [None, make_log("something", complete=False)])
def test_a_lost_log_is_not_success(log: Any) -> None:
    finding = judged(CARD, kernel_log=log)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_UNOBSERVED")
    empty = row(ResetState.CLEAN, attempts=0)
    assert judged(CARD, OTHER, kernel_log=log, ledger=(empty,)).code == "RESET_UNOBSERVED"
    seen = row(ResetState.CLEAN, attempts=3)
    assert judged(CARD, OTHER, kernel_log=log, ledger=(seen,)).code == "RESET_CLEAN"


def test_evidence_that_comes_without_a_ledger_is_never_clean() -> None:
    """A paste or a captured root holds one boot's log at most, and nobody's ledger."""
    finding = judged(CARD, live=False)
    assert (finding.verdict, finding.code) == (Verdict.WARN, "RESET_UNOBSERVED")
    assert "reset ledger: none came with this evidence" in texts(finding)
    assert "no attempt recorded" not in texts(finding)
    empty = row(ResetState.CLEAN, attempts=0)
    assert judged(CARD, OTHER, live=False, ledger=(empty,)).code == "RESET_UNOBSERVED"
    bad = row(ResetState.FAILING, failures=1)
    assert judged(CARD, OTHER, live=False, ledger=(bad,)).verdict is Verdict.FAIL


def test_no_ledger_is_unknown() -> None:
    finding = judged(CARD, ledger=None)
    assert (finding.verdict, finding.code) == (Verdict.UNKNOWN, "HISTORY_UNKNOWN")
    assert "sudo vfioctl check" in commands(finding)


def test_a_state_of_a_newer_version_is_unknown() -> None:
    unknown = ResetSummary(row(ResetState.CLEAN).identity, "melted", 1, 1, "failed", "")
    assert judged(CARD, OTHER, ledger=(unknown,)).verdict is Verdict.UNKNOWN


def test_a_bad_row_that_fits_nobody_may_belong_to_whose_serial_was_not_read() -> None:
    bad = row(ResetState.WEDGED, failures=1)
    assert judged(unread(CARD, "config"), OTHER, ledger=(bad,)).verdict is Verdict.UNKNOWN
    gone = ResetSummary("dsn-aa-bb.0", "wedged", 1, 1, "wedged", "")
    assert judged(CARD, OTHER, ledger=(gone,)).verdict is Verdict.PASS


def test_no_inventory() -> None:
    assert find(judge(make_host(functions=None))).verdict is Verdict.UNKNOWN
