"""What would happen with a BIOS or kernel: what is known, and what is not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.fakes.snapshots import bridge
from tests.unit.state.cluster import Cluster
from tests.unit.state.hosts import cards
from tests.unit.state.versions import MERGED, accept, ask, boot, fleet, host, place, widened
from vfio_contract.address import parse_address
from vfio_contract.errors import ClusterError, ErrorCode
from vfio_contract.forecast_views import ForecastBoard, ForecastNode, ForecastView
from vfio_contract.model import PciFunction
from vfio_contract.views import BaselineView

BOARD = "Supermicro X12DPi"
OTHER = "Supermicro H12SSL"
F11 = "F11 01/01/2025"


def only_board(view: ForecastView) -> ForecastBoard:
    (board,) = view.boards
    return board


def node(view: ForecastView, name: str) -> ForecastNode:
    (found,) = [row for row in view.nodes if row.node == name]
    return found


# --- what is known -------------------------------------------------------------------------------


def test_a_version_that_another_node_of_the_board_runs_well_is_known_good() -> None:
    cluster, _ = fleet(pve01=host(), pve02=host(bios="F11"))
    view = ask(cluster, bios="F11")
    board = only_board(view)
    assert (board.board, board.bios, board.outcome) == (BOARD, F11, "good")
    assert (board.passed, board.failed, board.nodes) == (("pve02",), (), 2)
    assert (node(view, "pve01").outcome, node(view, "pve01").why) == ("good", "passed on 1")
    assert (node(view, "pve02").outcome, node(view, "pve02").why) == ("there", "runs it and passes")
    assert (view.moves, view.heard, view.next) == ((), 2, "")


def test_a_version_that_was_never_seen_is_unknown_and_what_is_known_is_listed() -> None:
    cluster, _ = fleet(pve01=host(), pve02=host(bios="F11"))
    view = ask(cluster, bios="F12")
    board = only_board(view)
    assert (board.outcome, board.bios, board.passed) == ("unknown", "F12", ())
    assert board.known == ("F10 01/01/2025", F11)
    assert {row.outcome for row in view.nodes} == {"unknown"}
    assert node(view, "pve01").why == "never seen on its board"
    assert view.next == "try it on one node first: pve01 has no VM"


def test_a_version_that_widened_a_group_is_known_bad_with_its_code_and_incident() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host(), pve03=host())
    widened(cluster, agents["pve01"])
    view = ask(cluster, bios="F11")
    board = only_board(view)
    assert (board.outcome, board.failed, board.passed) == ("bad", ("pve01",), ())
    assert board.codes == ("GROUP_WIDENED",)
    assert board.incidents == ("INC-1",)
    assert node(view, "pve02").outcome == "bad"
    assert node(view, "pve02").why == "GROUP_WIDENED on 1"
    assert (node(view, "pve01").outcome, node(view, "pve01").why) == ("fails", "runs it and fails")
    assert view.next == "vfioctl incident show INC-1"


def test_a_version_that_only_moved_a_device_of_a_vm_is_not_known_bad() -> None:
    """What waits is a line that somebody has to edit: that says nothing against the version."""
    cluster, agents = fleet(pve01=host(), pve02=host())
    accept(cluster, "pve01")
    place(cluster, "vm1", "pve01", "nic=2")
    boot(cluster, agents["pve01"], host(*moved(), bios="F11", boot=1))
    assert "VM_ADDRESS_STALE" in {reason.code for reason in cluster.view("pve01").reasons}
    view = ask(cluster, "pve02", bios="F11")
    board = only_board(view)
    assert (board.failed, board.unjudged, board.codes) == ((), ("pve01",), ())
    assert node(view, "pve02").outcome == "unknown"


def moved() -> tuple[PciFunction, ...]:
    """The same cards in the same slots, behind buses with other numbers."""
    return tuple(
        replace(f, address=parse_address(f.address.replace("0000:0", "0000:4"))) if f.parent else f
        for f in cards(2)
    )


def test_what_a_node_that_is_silent_was_accepted_with_is_of_then() -> None:
    """It does not pass because nobody hears it fail."""
    cluster, _ = fleet(pve01=host(), pve02=host())
    accept(cluster, "pve01", "pve02")
    cluster.wait(10_000)
    assert cluster.view("pve01").state == "lost"
    view = ask(cluster, "pve01", bios="F10")
    assert node(view, "pve01").outcome == "unknown"
    assert node(view, "pve01").why == "ran it when last heard, nothing vouches for it now"


def test_a_node_that_failed_before_it_fell_silent_has_failed() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host())
    widened(cluster, agents["pve01"])
    cluster.wait(10_000)
    view = ask(cluster, "pve01", bios="F11")
    assert (only_board(view).outcome, only_board(view).codes) == ("bad", ("GROUP_WIDENED",))
    assert node(view, "pve01").outcome == "fails"
    assert node(view, "pve01").why == "failed on it when last heard"


def test_both_kinds_of_evidence_are_mixed() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host(), pve03=host(bios="F11"))
    widened(cluster, agents["pve01"])
    view = ask(cluster, "pve02", bios="F11")
    board = only_board(view)
    assert (board.outcome, board.passed, board.failed) == ("mixed", ("pve03",), ("pve01",))
    assert node(view, "pve02").why == "GROUP_WIDENED on 1, passed on 1"


def test_the_same_bios_string_on_another_board_is_no_evidence() -> None:
    cluster, _ = fleet(pve01=host(), epyc01=host(bios="F11", board="H12SSL"))
    view = ask(cluster, bios="F11")
    by_board = {board.board: board for board in view.boards}
    assert by_board[BOARD].outcome == "unknown"
    assert by_board[OTHER].outcome == "good"
    assert [board.board for board in view.boards] == [BOARD, OTHER]


def test_a_kernel_on_other_boards_is_told_and_decides_nothing() -> None:
    cluster, _ = fleet(
        pve01=host(),
        epyc01=host(kernel="6.14.2", board="H12SSL"),
        epyc02=host(kernel="6.14.2", board="H12SSL"),
    )
    view = ask(cluster, "pve01", kernel="6.14")
    board = only_board(view)
    assert (board.outcome, board.kernel) == ("unknown", "6.14.2")
    assert board.weaker == ("kernel 6.14.2 on other boards: passed on 2, failed on none",)
    assert board.known == ("6.12.0-1-amd64",)


def test_bios_and_kernel_together_want_a_node_with_both() -> None:
    cluster, _ = fleet(
        pve01=host(), pve02=host(bios="F11"), pve03=host(kernel="6.14.2"), pve04=host()
    )
    view = ask(cluster, "pve01", bios="F11", kernel="6.14.2")
    board = only_board(view)
    assert board.outcome == "unknown"
    assert board.weaker == (
        "BIOS F11 01/01/2025 alone on this board: passed on 1, failed on none",
        "kernel 6.14.2 alone on this board: passed on 1, failed on none",
    )
    assert board.known == ()


def test_what_was_accepted_stays_evidence_after_the_node_went_back() -> None:
    cluster, agents = fleet(pve01=host(bios="F11"), pve02=host())
    accept(cluster, "pve01")
    boot(cluster, agents["pve01"], host(boot=1))
    view = ask(cluster, bios="F11")
    assert only_board(view).passed == ("pve01",)
    assert node(view, "pve01").outcome == "good"
    assert node(view, "pve01").why == "accepted here by ann, 2026-11-22"
    assert node(view, "pve02").why == "passed on 1"


def test_a_node_s_own_acceptance_outweighs_what_others_show() -> None:
    cluster, agents = fleet(pve01=host(bios="F11"), pve02=host(), pve03=host())
    accept(cluster, "pve01")
    boot(cluster, agents["pve01"], host(boot=1))
    widened(cluster, agents["pve02"])
    view = ask(cluster, bios="F11")
    assert node(view, "pve01").outcome == "good"
    assert node(view, "pve03").outcome == "mixed"


def test_a_forced_acceptance_is_no_evidence() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host())
    widened(cluster, agents["pve01"])
    cluster.accept(BaselineView, "pve01", force=True, reason="no other way")
    boot(cluster, agents["pve01"], host(boot=2))
    assert only_board(ask(cluster, "pve02", bios="F11")).passed == ()


def test_a_node_that_was_good_with_it_and_fails_now_speaks_for_nothing() -> None:
    cluster, agents = fleet(pve01=host(bios="F11"), pve02=host())
    accept(cluster, "pve01")
    boot(cluster, agents["pve01"], host(*MERGED, bios="F11", boot=1))
    assert cluster.view("pve01").state == "cordoned"
    view = ask(cluster, bios="F11")
    board = only_board(view)
    assert (board.outcome, board.passed, board.failed) == ("unknown", (), ())
    assert board.unjudged == ("pve01",)
    assert (node(view, "pve01").outcome, node(view, "pve01").why) == ("fails", "runs it and fails")
    assert node(view, "pve02").why == "runs on 1, not judged"
    assert [row.node for row in view.nodes] == ["pve01", "pve02"]
    assert view.next == "vfioctl node show pve01"


def test_forcing_a_baseline_takes_no_evidence_against_its_version_away() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host())
    widened(cluster, agents["pve01"])
    cluster.accept(BaselineView, "pve01", force=True, reason="no other way")
    boot(cluster, agents["pve01"], host(*MERGED[:1], bios="F11", boot=2))
    assert cluster.view("pve01").state == "cordoned"
    view = ask(cluster, bios="F11")
    assert (only_board(view).outcome, only_board(view).failed) == ("bad", ("pve01",))
    assert only_board(ask(cluster, kernel="6.12.0-1-amd64")).failed == ()


def test_a_node_that_runs_it_and_does_not_vouch_for_itself_is_neither() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host(bios="F11"))
    cluster.close(agents["pve02"])
    board = only_board(ask(cluster, "pve01", bios="F11"))
    assert (board.outcome, board.unjudged) == ("unknown", ("pve02",))


def test_a_person_s_cordon_says_nothing_about_the_version() -> None:
    cluster, _ = fleet(pve01=host(), pve02=host(bios="F11"))
    cluster.cordon(object, "pve02", "fan noise")
    assert only_board(ask(cluster, "pve01", bios="F11")).outcome == "good"


def test_nodes_that_were_not_heard_since_the_start_are_unknown() -> None:
    cluster, agents = fleet(pve01=host(), pve02=host(bios="F11"))
    cluster.restart()
    view = ask(cluster, bios="F11")
    assert (view.heard, only_board(view).board) == (0, "")
    assert {(row.outcome, row.why) for row in view.nodes} == {
        ("unknown", "not heard since the start")
    }
    cluster.join(agents["pve02"])
    view = ask(cluster, bios="F11")
    assert node(view, "pve01").outcome == "unknown"
    assert view.heard == 1


def test_the_node_to_try_first_takes_vms_and_has_the_fewest() -> None:
    cluster, _ = fleet(pve01=host(), pve02=host(), pve03=host())
    cluster.cordon(object, "pve01")
    place(cluster, "vm1", "pve02")
    assert ask(cluster, bios="F12").next == "try it on one node first: pve03 has no VM"
    assert ask(cluster, "pve02", bios="F12").next == "try it on one node first: pve02 has 1 VM"


def test_what_was_accepted_is_evidence_although_that_node_is_not_heard() -> None:
    cluster, agents = fleet(pve01=host(bios="F11"), pve02=host())
    accept(cluster, "pve01")
    cluster.restart()
    cluster.join(agents["pve02"])
    view = ask(cluster, bios="F11")
    assert [(b.board, b.passed) for b in view.boards] == [("", ()), (BOARD, ("pve01",))]
    assert node(view, "pve02").outcome == "good"


def test_an_acceptance_is_of_the_board_that_the_node_had_then() -> None:
    cluster, agents = fleet(pve01=host(bios="F11"), pve02=host())
    accept(cluster, "pve01")
    boot(cluster, agents["pve01"], host(board="H12SSL", boot=1))
    view = ask(cluster, bios=F11)
    by_board = {board.board: board for board in view.boards}
    assert by_board[BOARD].passed == ("pve01",)
    assert by_board[OTHER].outcome == "unknown"
    assert node(view, "pve01").outcome == "unknown"


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("6.1", "6.1.0-9"),
        ("6.1.0", "6.1.0-9"),
        ("6.1.0-9", "6.1.0-9"),
        ("6.12.3-1-pve", "6.12.3-1-pve"),
        ("6.12.3-1-PVE", "6.12.3-1-pve"),
        ("6.1.0-", "6.1.0-"),
        ("6.13", "6.13"),
    ],
)
def test_the_beginning_of_a_version_is_enough_at_the_end_of_a_word(text: str, kernel: str) -> None:
    cluster, _ = fleet(pve01=host(kernel="6.1.0-9"), pve02=host(kernel="6.12.3-1-pve"))
    assert only_board(ask(cluster, kernel=text)).kernel == kernel


def test_a_version_without_its_date_is_that_version() -> None:
    cluster, _ = fleet(pve01=host(bios="1.7"), pve02=host(bios="1.7.1"), pve03=host(bios="1.70"))
    assert only_board(ask(cluster, bios="1.7")).bios == "1.7 01/01/2025"
    with pytest.raises(ClusterError) as caught:
        ask(cluster, bios="1")
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert caught.value.detail == (
        f"BIOS of {BOARD}: '1' fits several: 1.7 01/01/2025, 1.7.1 01/01/2025, 1.70 01/01/2025; "
        "write more of it"
    )


def test_a_bios_is_ambiguous_only_among_those_of_its_board() -> None:
    cluster, _ = fleet(pve01=host(bios="1.2"), epyc01=host(bios="1.3", board="H12SSL"))
    view = ask(cluster, bios="1")
    assert {(b.board, b.bios) for b in view.boards} == {
        (BOARD, "1.2 01/01/2025"),
        (OTHER, "1.3 01/01/2025"),
    }


def test_selectors_add_up_by_name_and_narrow_by_board_and_state() -> None:
    cluster, _ = fleet(
        pve01=host(), pve02=host(), pve03=host(board="H12SSL"), lab1=host(board="H12SSL")
    )
    cluster.cordon(object, "pve02")

    def names(*texts: str) -> list[str]:
        return sorted(row.node for row in ask(cluster, *texts, bios="F11").nodes)

    assert names() == ["lab1", "pve01", "pve02", "pve03"]
    assert names("pve") == ["pve01", "pve02", "pve03"]
    assert names("pve01,lab") == names("pve01", "lab1") == ["lab1", "pve01"]
    assert names("board=h12ssl") == ["lab1", "pve03"]
    assert names("pve", "board=Supermicro H12SSL") == ["pve03"]
    assert names("state=cordoned") == ["pve02"]


@pytest.mark.parametrize(
    ("texts", "code", "words"),
    [
        ((" , ",), ErrorCode.BAD_REQUEST, "nodes: no name in it; leave it out"),
        (("nope",), ErrorCode.UNKNOWN_NODE, "no node's name begins with 'nope'"),
        (("board=Z9",), ErrorCode.BAD_REQUEST, f"'board=Z9'; there are: {BOARD}"),
        (("state=reday",), ErrorCode.BAD_REQUEST, "there are: ready, cordoned, draining"),
        (("colour=red",), ErrorCode.BAD_REQUEST, "is neither a name nor board= nor state="),
    ],
)
def test_a_selector_that_fits_nothing_says_so(
    texts: tuple[str, ...], code: ErrorCode, words: str
) -> None:
    cluster, _ = fleet(pve01=host())
    with pytest.raises(ClusterError) as caught:
        ask(cluster, *texts, bios="F11")
    assert caught.value.code is code
    assert words in caught.value.detail


def test_nothing_asked_is_refused() -> None:
    cluster, _ = fleet(pve01=host())
    with pytest.raises(ClusterError, match="a BIOS, a kernel, or both"):
        ask(cluster)


def test_nothing_joined_is_refused() -> None:
    with pytest.raises(ClusterError, match="no node has joined yet"):
        ask(Cluster(), bios="F11")


def test_nothing_depends_on_the_order_in_which_nodes_came() -> None:
    hosts = {
        "pve01": host(),
        "pve02": host(bios="F11"),
        "pve03": host(kernel="6.14.2"),
        "epyc01": host(board="H12SSL"),
        "epyc02": host(board="H12SSL", bios="F11"),
    }
    names = list(hosts)
    answers = set()
    for seed in range(4):
        random.Random(seed).shuffle(names)
        cluster, _ = fleet(**{name: hosts[name] for name in names})
        answers.add(replace(ask(cluster, bios="F11"), at="", revision=0))
    assert len(answers) == 1


def test_units_that_passed_under_another_firmware_say_nothing_of_the_accepted_one() -> None:
    cluster, agents = fleet(pve01=host(bridge("0000:00:01.0", group=1)))
    accept(cluster, "pve01")
    one = agents["pve01"]
    boot(cluster, one, host(bios="F11", boot=1))
    one.checks = "checks-2"
    cluster.observe(one)
    (row,) = cluster.state.nodes["pve01"].baselines
    assert (row.record.checks_version, len(row.record.passed)) == ("checks-2", 2)
    assert only_board(ask(cluster, bios="F10")).outcome == "unknown"
    boot(cluster, one, host(boot=2))
    cluster.observe(one)
    (row,) = cluster.state.nodes["pve01"].baselines
    assert not row.record.passed_elsewhere
    assert only_board(ask(cluster, bios="F10")).outcome == "good"
