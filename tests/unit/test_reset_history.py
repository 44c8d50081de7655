"""From kernel lines to a device's history: whose it is, for how long, and when it is not known.

Length: one subject; its scenes are the same few functions and a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.snapshots import (
    audio,
    behind,
    bridge,
    config_space,
    gpu,
    make_log,
    make_snapshot,
    nic,
    virtual_function,
)
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect.root import LiveRoot
from vfio_agent.inspect import inspect_root
from vfio_agent.journal import KEPT_ATTEMPTS, Journal
from vfio_agent.reset_history import find_attempts, with_history, with_known_history
from vfio_contract.address import Address
from vfio_contract.durable import Stamp
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.ledger import VM_START, Outcome, ResetAttempt, firmware_digest
from vfio_contract.model import (
    KernelLog,
    LogLine,
    PciFunction,
    ResetEvent,
    ResetSummary,
    Snapshot,
)

PORT = bridge("0000:00:01.0", group=1)
GIVING_UP = "vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up"
DEAD = "vfio-pci 0000:01:00.0: Unable to change power state from D3cold to D0, device inaccessible"
LINK_LOST = "pcieport 0000:00:01.0: Data Link Layer Link Active not set in 1000 msec"


def card(address: str = "0000:01:00.0", serial: str = "", **changes: Any) -> PciFunction:
    """A network card behind PORT; `serial` is its device serial number, "" for none."""
    config = config_space(flr=True, serial_number=serial or None)
    defaults: dict[str, Any] = {"parent": PORT.address, "group": 2, "config": config}
    return nic(address, **defaults | changes)


def died(function: PciFunction) -> PciFunction:
    """The same function once its configuration space reads as nothing but ff."""
    assert function.config is not None
    dead = replace(function.config, dead=True, header_type=None, serial_number=None, extended=None)
    return replace(function, config=dead)


def see(*functions: PciFunction, log: KernelLog | None = None, **changes: Any) -> Snapshot:
    return make_snapshot(PORT, *functions, kernel_log=log, ledger=None, **changes)


def summary_of(snapshot: Snapshot, address: str = "0000:01:00.0") -> ResetSummary | None:
    """The ledger's row for the function at this address now."""
    identity = Host(snapshot).identities[Address(address)].identity
    assert snapshot.readings.ledger is not None
    rows = [row for row in snapshot.readings.ledger if row.identity == identity]
    assert len(rows) <= 1
    return rows[0] if rows else None


def state_of(snapshot: Snapshot, address: str = "0000:01:00.0") -> str:
    row = summary_of(snapshot, address)
    return "nothing" if row is None else row.state


def subjects(*functions: PciFunction, line: str) -> list[str]:
    """Addresses that one line blames."""
    snapshot = make_snapshot(*functions, kernel_log=make_log(line))
    host = Host(snapshot)
    by_identity: dict[str, str] = {i.identity: address for address, i in host.identities.items()}
    return [by_identity[row.identity] for row in find_attempts(host)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal.open(tmp_path / "journal.db")) as opened:
        yield opened


# --- what a line proves, and whether anybody remembers ----------------------------------------


def test_an_attempt_tells_what_its_line_proves(journal: Journal) -> None:
    with_history(see(card(), log=lines((5.0, LINK_LOST)), boot_id="boot-1"), journal)
    now = see(card(), log=lines((7.5, GIVING_UP), (None, GIVING_UP)), boot_id="boot-2")
    row = summary_of(with_history(now, journal))
    assert row is not None
    assert row.recent == (
        ResetEvent("bus", "failed", 1000, 5.0, this_boot=False),
        ResetEvent("flr", "wedged", 65535, 7.5, this_boot=True),
        ResetEvent("flr", "wedged", 65535, None, this_boot=True),
    )


def test_only_an_agent_s_journal_is_a_ledger_that_was_kept(journal: Journal) -> None:
    snapshot = see(card(), log=make_log())
    assert with_history(snapshot, journal).readings.ledger_kept
    assert with_known_history(snapshot, journal).readings.ledger_kept
    assert not with_known_history(snapshot, None).readings.ledger_kept


# --- whose line it is ------------------------------------------------------------------------


def test_a_line_speaks_of_the_function_that_it_names() -> None:
    functions = (PORT, card(), card("0000:01:00.1"))
    assert subjects(*functions, line=GIVING_UP) == ["0000:01:00.0"]
    assert subjects(*functions, line=GIVING_UP.replace("01:00.0", "07:00.0")) == []


def test_a_port_s_link_line_speaks_of_all_endpoints_below_it() -> None:
    upstream = bridge("0000:01:00.0", parent=PORT.address, port_type=5)
    down = bridge("0000:02:00.0", parent=upstream.address, port_type=6)
    functions = (
        *behind(down, gpu("0000:03:00.0"), audio("0000:03:00.1")),
        PORT,
        upstream,
        bridge("0000:00:02.0"),
        nic("0000:09:00.0", parent="0000:00:02.0"),
    )
    below = ["0000:03:00.0", "0000:03:00.1"]
    for port in (PORT, upstream, down):
        assert subjects(*functions, line=LINK_LOST.replace(PORT.address, port.address)) == below
    # after the reset of a bus the kernel waits for the first function on it: the switch
    waited = "pcieport 0000:01:00.0: not ready 65535ms after bus reset; giving up"
    assert subjects(*functions, line=waited) == below
    alone = "pcieport 0000:00:02.0: AER: subordinate device reset failed"
    assert subjects(*functions, line=alone) == ["0000:09:00.0"]


def test_a_bridge_s_own_trouble_blames_nobody() -> None:
    lines = (
        f"pcieport {PORT.address}: Unable to change power state from D3cold to D0, device "
        "inaccessible",
        f"pcieport {PORT.address}: refused to change power state from D3hot to D0",
    )
    for line in lines:
        assert subjects(PORT, card(), line=line) == []
    assert subjects(PORT, line=LINK_LOST) == []


def test_virtual_functions_go_down_with_their_owner() -> None:
    owner = card(sriov_num_vfs=2)
    vfs = [virtual_function(owner, f"0000:01:10.{n}", n, group=3 + n) for n in range(2)]
    assert subjects(PORT, owner, *vfs, line=GIVING_UP) == [
        "0000:01:00.0",
        "0000:01:10.0",
        "0000:01:10.1",
    ]
    own = GIVING_UP.replace("01:00.0", "01:10.1")
    assert subjects(PORT, owner, *vfs, line=own) == ["0000:01:10.1"]


def test_what_an_attempt_says() -> None:
    host = Host(see(card(serial="00-1b-21-ff-ff-01-02-03"), log=make_log(GIVING_UP)))
    (row,) = find_attempts(host)
    assert row.identity == "dsn-00-1b-21-ff-ff-01-02-03.0"
    assert row.place == host.identities[Address("0000:01:00.0")].place
    assert (row.method, row.outcome) == ("flr", Outcome.WEDGED)
    assert row.evidence == f"[    3.000000] {GIVING_UP}"
    assert row.boot_id == host.readings.boot_id


def test_waiting_is_no_attempt_and_no_failure() -> None:
    log = make_log("vfio-pci 0000:01:00.0: not ready 32767ms after FLR; waiting")
    assert with_known_history(see(card(), log=log), None).readings.ledger == ()


# --- what is the same event ------------------------------------------------------------------


def lines(*rows: tuple[float | None, str]) -> KernelLog:
    numbered = tuple(LogLine(n, seconds, text) for n, (seconds, text) in enumerate(rows, 1))
    return KernelLog("/dev/kmsg", True, True, len(numbered), numbered)


@pytest.mark.parametrize(
    ("rows", "attempts"),
    [
        (((5.0, GIVING_UP),), 1),
        (((5.0, GIVING_UP), (6.0, GIVING_UP)), 2),
        (((5.0, GIVING_UP), (5.0, GIVING_UP)), 1),  # a log that was pasted twice
        (((None, GIVING_UP), (None, GIVING_UP)), 2),
    ],
)
def test_counting(
    journal: Journal, rows: tuple[tuple[float | None, str], ...], attempts: int
) -> None:
    snapshot = see(card(), log=lines(*rows))
    for seen in (
        with_known_history(snapshot, None),
        with_history(snapshot, journal),
        with_history(snapshot, journal),
        with_known_history(snapshot, journal),
    ):
        row = summary_of(seen)
        assert row is not None
        assert (row.attempts, row.failures, row.state) == (attempts, attempts, "wedged")


def test_a_log_that_rolled_over_loses_nothing(journal: Journal) -> None:
    first = with_history(see(card(), log=lines((5.0, GIVING_UP))), journal)
    later = with_history(see(card(), log=lines((9.0, "something else"))), journal)
    assert later.readings.ledger == first.readings.ledger
    again = with_history(see(card(), log=lines((5.0, GIVING_UP), (7.0, GIVING_UP))), journal)
    row = summary_of(again)
    assert row is not None
    assert row.attempts == 2


def test_totals_outlive_the_rows(journal: Journal) -> None:
    flood = lines(*((float(n), GIVING_UP) for n in range(KEPT_ATTEMPTS + 20)))
    row = summary_of(with_history(see(card(), log=flood), journal))
    assert row is not None
    assert row.attempts == row.failures == KEPT_ATTEMPTS + 20
    assert len(journal.attempts()) == KEPT_ATTEMPTS
    # somebody else's look at the same log adds one line that the owner has not read yet
    longer = replace(flood, lines=(*flood.lines, LogLine(99, 99.0, GIVING_UP)))
    row = summary_of(with_known_history(see(card(), log=longer), journal))
    assert row is not None
    assert row.attempts == KEPT_ATTEMPTS + 21


def test_a_dead_card_says_so_with_every_access_and_was_reset_once(journal: Journal) -> None:
    said = (*((float(n), DEAD) for n in range(1, 40)), (50.0, GIVING_UP))
    more = tuple((float(n), DEAD) for n in range(60, 100))
    for seen in (
        with_known_history(see(card(), log=lines(*said, *more)), None),
        with_history(see(card(), log=lines(*said)), journal),
        with_history(see(card(), log=lines(*said, *more)), journal),
        with_known_history(see(card(), log=lines(*said, *more, (101.0, DEAD))), journal),
    ):
        row = summary_of(seen)
        assert row is not None
        # that it is dead, and the reset that it did not survive
        assert (row.attempts, row.failures, row.state) == (2, 2, "wedged")
        assert row.last_evidence.endswith(GIVING_UP)


def test_what_is_known_is_not_said_again_after_a_success_either(journal: Journal) -> None:
    log = lines((1.0, DEAD), (2.0, DEAD))
    first = see(card(), log=log)
    with_history(first, journal)
    (found,) = journal.attempts()
    worked = replace(found, key="k", method=VM_START, outcome=Outcome.SUCCESS, evidence="it works")
    journal.record_uses([worked], uses="", at=Stamp("boot-1", 1_000, 1_795_000_000_000))
    with_history(first, journal)
    assert len(journal.attempts()) == 2
    # the next line is another death
    row = summary_of(with_history(see(card(), log=lines((3.0, DEAD))), journal))
    assert row is not None
    assert (row.attempts, row.failures, row.state) == (3, 2, "wedged")


def test_an_old_line_does_not_blame_a_card_that_was_put_in_later(journal: Journal) -> None:
    log = make_log(LINK_LOST)
    first = with_history(see(card(serial="1-1-1-1-1-1-1-1"), log=log), journal)
    assert state_of(first) == "failing"
    other = card("0000:01:00.1", serial="2-2-2-2-2-2-2-2")
    second = with_history(see(card(serial="1-1-1-1-1-1-1-1"), other, log=log), journal)
    assert state_of(second) == "failing"
    assert state_of(second, "0000:01:00.1") == "nothing"
    replaced = with_history(see(card(serial="3-3-3-3-3-3-3-3"), log=log), journal)
    assert state_of(replaced) == "nothing"


# --- whose history it is ---------------------------------------------------------------------


def test_a_moved_device_keeps_its_history(journal: Journal) -> None:
    serial = "00-1b-21-ff-ff-01-02-03"
    with_history(see(card(serial=serial), log=make_log(GIVING_UP)), journal)
    moved = card("0000:04:00.0", serial=serial, parent="0000:00:03.0")
    stranger = card(serial="9-9-9-9-9-9-9-9")
    seen = with_history(see(moved, stranger, log=make_log()), journal)
    assert state_of(seen, "0000:04:00.0") == "wedged"
    assert state_of(seen, "0000:01:00.0") == "nothing"


def test_buses_that_are_renumbered_keep_a_history_without_serials(journal: Journal) -> None:
    with_history(see(card(), log=make_log(GIVING_UP)), journal)
    seen = with_history(see(card("0000:04:00.0"), log=make_log()), journal)
    assert state_of(seen, "0000:04:00.0") == "wedged"


def test_a_device_that_died_before_its_serial_was_read_again_is_the_same(journal: Journal) -> None:
    alive = card(serial="00-1b-21-ff-ff-01-02-03")
    line = make_log(GIVING_UP)
    # the agent was started after the device had died: it has never seen the serial
    dead = with_history(see(died(alive), log=line, boot_id="boot-1"), journal)
    assert state_of(dead) == "wedged"
    revived = with_history(see(alive, log=make_log(), boot_id="boot-2"), journal)
    row = summary_of(revived)
    assert row is not None
    assert (row.state, row.attempts) == ("probation", 1)
    # and the other way round: known by its serial, then dead
    again = with_history(see(alive, log=line, boot_id="boot-3"), journal)
    assert state_of(again) == "wedged"
    gone = with_history(see(died(alive), log=line, boot_id="boot-3"), journal)
    row = summary_of(gone)
    assert row is not None
    assert (row.state, row.attempts) == ("wedged", 2)


def test_a_reboot_makes_wedged_probation_and_a_new_kernel_does_not_clear_it(
    journal: Journal,
) -> None:
    with_history(see(card(), log=make_log(GIVING_UP), boot_id="boot-1"), journal)
    firmware = replace(make_snapshot().facts.firmware, bios_version="F11")
    for changes in ({}, {"firmware": firmware}, {"cmdline": "intel_iommu=on"}):
        seen = with_history(see(card(), log=make_log(), boot_id="boot-2", **changes), journal)
        assert state_of(seen) == "probation"
    (row,) = journal.attempts()
    success = replace(row, key="by hand", boot_id="boot-2", outcome=Outcome.SUCCESS)
    for more, state in ((success, "probation"), (replace(success, method=VM_START), "capable")):
        journal.record([replace(more, key=state)], boot_id="boot-2")
        seen = with_history(see(card(), log=make_log(), boot_id="boot-2"), journal)
        assert state_of(seen) == state


def test_what_nothing_can_reset_and_a_vm_had_is_one_shot(journal: Journal) -> None:
    stuck = card(config=config_space(), reset_methods=(), parent="")
    alone = make_snapshot(stuck, kernel_log=make_log(), ledger=None, boot_id="boot-1")
    identity = Host(alone).identities[stuck.address].identity
    firmware = firmware_digest(alone.facts)
    start = ResetAttempt("k", identity, firmware, "boot-1", VM_START, Outcome.SUCCESS, "it works")
    journal.record([start], boot_id="boot-1")
    for function, state in ((stuck, "one-shot"), (card(), "capable")):
        seen = make_snapshot(function, kernel_log=make_log(), ledger=None, boot_id="boot-1")
        (row,) = with_history(seen, journal).readings.ledger or ()
        assert (row.state, row.used) == (state, True)


# --- when it is not known --------------------------------------------------------------------


def test_neither_log_nor_journal_is_not_known() -> None:
    assert with_known_history(see(card()), None).readings.ledger is None


def test_a_log_alone_is_known() -> None:
    seen = with_known_history(see(card(), log=make_log()), None)
    assert seen.readings.ledger == ()


def test_without_this_boot_s_log_the_journal_knows_earlier_boots_only(journal: Journal) -> None:
    assert with_history(see(card()), journal).readings.ledger is None
    with_history(see(card(), log=make_log(GIVING_UP), boot_id="boot-1"), journal)
    # the log was read in this boot, once: what it said stands
    assert state_of(with_history(see(card(), boot_id="boot-1"), journal)) == "wedged"
    # of the next boot nothing was ever seen
    assert with_history(see(card(), boot_id="boot-2"), journal).readings.ledger is None
    assert with_history(see(card(), boot_id=None), journal).readings.ledger is None


def test_without_a_boot_id_nothing_is_recorded_and_nothing_was_cured(journal: Journal) -> None:
    log = make_log(GIVING_UP)
    unknown = with_history(see(card(), log=log, boot_id=None), journal)
    assert state_of(unknown) == "wedged"
    assert journal.attempts() == []
    with_history(see(card(), log=log, boot_id="boot-1"), journal)
    unknown = with_history(see(card(), log=log, boot_id=None), journal)
    row = summary_of(unknown)
    assert row is not None
    assert (row.state, row.attempts) == ("wedged", 1), "no reboot was seen, and the line is known"


def test_a_line_about_functions_that_could_not_be_listed_is_kept_for_later(
    journal: Journal,
) -> None:
    snapshot = see(card(), log=make_log(GIVING_UP))
    blind = replace(snapshot, facts=replace(snapshot.facts, functions=None))
    assert with_history(blind, journal).readings.ledger == ()
    assert state_of(with_history(snapshot, journal)) == "wedged"


def test_a_reader_who_is_not_the_owner_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(Journal.open(path)) as journal:
        with_history(see(card(), log=make_log(GIVING_UP)), journal)
    opened = Journal.open_readonly(path)
    assert opened is not None
    later = lines((50.0, GIVING_UP.replace("01:00.0", "01:00.1")))
    with closing(opened):
        seen = with_known_history(see(card(), card("0000:01:00.1"), log=later), opened)
    assert state_of(seen) == "wedged"
    assert state_of(seen, "0000:01:00.1") == "wedged"
    with closing(Journal.open(path)) as journal:
        assert len(journal.attempts()) == 1


# --- the local entry point -------------------------------------------------------------------


def test_a_journal_that_cannot_be_read_is_a_gap_and_never_a_clean_history(
    tmp_path: Path, journal: Journal
) -> None:
    """`vfioctl check` on a host whose log is readable and whose journal is not."""
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database")
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    tree.function("0000:01:00.0", driver="vfio-pci", group=1)
    tree.write("/dev/kmsg", "[    0.000000] Linux version 6.12.0 (x@y) (gcc)\n")
    root = LiveRoot(str(tree.top))
    seen = inspect_root(root, journal=damaged)
    assert seen.snapshot.readings.kernel_log is not None
    assert seen.snapshot.readings.ledger is None
    (gap,) = [g for g in seen.snapshot.readings.gaps if g.path == str(damaged)]
    assert "no SQLite database" in gap.reason
    verdicts = [f.verdict for f in seen.report.findings if f.check == "reset-history"]
    assert verdicts == [Verdict.UNKNOWN]
    absent = inspect_root(root, journal=tmp_path / "absent.db")
    assert absent.snapshot.readings.ledger == ()
