"""Reset tests: which reset, what counts as a success, and what is never counted twice."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import config_bytes
from tests.fakes.snapshots import audio, behind, bridge, gpu, make_host, make_log, nic
from vfio_agent.actuate.config_change import Register, compare_config, is_dead
from vfio_agent.actuate.kernel_lines import KernelLines
from vfio_agent.actuate.reset_child import (
    FUNCTION,
    HOT,
    Answer,
    Request,
    parse_answer,
    parse_request,
    perform,
)
from vfio_agent.actuate.reset_trial import Ending, ResetResult, judge_answer, plan_reset, try_reset
from vfio_agent.actuate.vfio import VFIO_DEVICE_PCI_HOT_RESET, VFIO_DEVICE_RESET
from vfio_agent.reset_history import find_attempts, with_known_history
from vfio_contract.address import Address
from vfio_contract.host import Host
from vfio_contract.ledger import Outcome, summarise_attempts
from vfio_contract.model import LogLine

NIC, GPU, AUDIO, PORT = (
    Address(a) for a in ("0000:01:00.0", "0000:03:00.0", "0000:03:00.1", "0000:00:01.0")
)
CONFIG = config_bytes.make_config(
    vendor=0x8086,
    device=0x10C9,
    plain=(config_bytes.pm(), config_bytes.pcie(flr=True), config_bytes.msix(8)),
    extended=(config_bytes.acs(),),
)
SILENT: tuple[LogLine, ...] = ()


def host() -> Host:
    port = bridge(PORT, group=1)
    return make_host(*behind(port, gpu(GPU, group=3), audio(AUDIO, group=3)), nic(NIC, group=4))


def answer(
    *addresses: Address, step: str = "done", number: int = 0, after: bytes = CONFIG
) -> Answer:
    return Answer(
        step=step,
        errno=number,
        detail="" if step == "done" else f"{step} said {number}",
        seconds=0.016,
        before={str(a): CONFIG.hex() for a in addresses},
        after={str(a): after.hex() for a in addresses},
    )


def judge(
    address: Address, got: Answer | int | str, lines: tuple[LogLine, ...] | None = SILENT
) -> ResetResult:
    looked_at = host()
    request = plan_reset(looked_at, looked_at.by_address[address])
    return judge_answer(looked_at, request, got, lines, operation="command-1")


# --- which reset -----------------------------------------------------------------------------


def test_a_function_with_a_reset_of_its_own_is_reset_alone() -> None:
    looked_at = host()

    assert plan_reset(looked_at, looked_at.by_address[NIC]) == Request(
        NIC, FUNCTION, (NIC,), (NIC,)
    )
    assert judge(NIC, answer(NIC)).method == "flr"


def test_a_card_is_reset_with_all_that_goes_along() -> None:
    looked_at = host()
    request = plan_reset(looked_at, looked_at.by_address[AUDIO])

    assert request == Request(AUDIO, HOT, (GPU, AUDIO), (GPU, AUDIO))
    assert judge(GPU, answer(GPU, AUDIO)).method == "bus"


def test_requests_and_answers_survive_the_way_to_the_child() -> None:
    looked_at = host()
    request = plan_reset(looked_at, looked_at.by_address[GPU])
    got = answer(GPU, AUDIO)

    assert parse_request(json.dumps(asdict(request))) == request
    assert parse_answer(json.dumps(asdict(got))) == got
    with pytest.raises(ValueError, match="not a reset"):
        parse_request(json.dumps(asdict(replace(request, opened=(AUDIO,)))))


def test_the_ioctl_numbers_are_those_of_the_header() -> None:
    # linux/vfio.h, as its compiler sees them: _IO(';', 111) and _IO(';', 113)
    assert (VFIO_DEVICE_RESET, VFIO_DEVICE_PCI_HOT_RESET) == (0x3B6F, 0x3B71)


def test_the_child_tells_where_vfio_stopped_it() -> None:
    absent = Address("ffff:ff:1f.7")
    got = perform(Request(absent, FUNCTION, (absent,), (absent,)))

    # on a host without vfio already at the container
    assert got.step in ("container", "iommu_group")
    assert got.errno in (errno.ENOENT, errno.EACCES, errno.ENODEV)
    assert (got.before, got.after) == ({}, {})


# --- what it proves --------------------------------------------------------------------------


def test_a_watched_reset_without_complaint_is_a_success_of_everything_reset() -> None:
    result = judge(GPU, answer(GPU, AUDIO))

    assert (result.ending, result.outcome) == (Ending.RESET, Outcome.SUCCESS)
    looked_at = host()
    assert {a.identity for a in result.attempts} == {
        looked_at.identities[a].identity for a in (GPU, AUDIO)
    }
    assert {(a.key, a.method, a.outcome) for a in result.attempts} == {
        ("command-1", "bus", Outcome.SUCCESS)
    }
    assert all(a.boot_id and a.firmware and a.place for a in result.attempts)


def test_a_success_ends_a_standing_failure() -> None:
    good = judge(NIC, answer(NIC)).attempts[0]
    bad = replace(good, key="earlier", outcome=Outcome.FAILED)
    before, after = (
        summarise_attempts(good.identity, rows, boot_id=good.boot_id, firmware=good.firmware)
        for rows in ([bad], [bad, good])
    )

    assert (before.state, after.state) == ("failing", "probation")


def test_a_reset_that_nobody_could_hear_is_unobserved() -> None:
    assert judge(NIC, answer(NIC), None).outcome is Outcome.UNOBSERVED


def test_a_function_that_answers_ones_is_wedged() -> None:
    result = judge(NIC, answer(NIC, after=b"\xff" * len(CONFIG)))

    assert result.outcome is Outcome.WEDGED
    assert len(result.attempts) == 1


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EIO, errno.ETIMEDOUT])
def test_a_reset_that_the_kernel_calls_failed_is_failed(number: int) -> None:
    result = judge(NIC, answer(NIC, step="reset", number=number))

    assert (result.ending, result.outcome) == (Ending.RESET, Outcome.FAILED)
    assert errno.errorcode[number] in result.why


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("group", errno.EBUSY),
        ("viable", errno.EPERM),
        ("set-iommu", errno.EPERM),
        ("reset", errno.EINVAL),
        ("reset", errno.ENODEV),
        ("reset", errno.EAGAIN),
        ("domain", 0),
    ],
)
def test_a_reset_that_was_not_made_proves_nothing(step: str, number: int) -> None:
    result = judge(NIC, answer(NIC, step=step, number=number))

    assert (result.ending, result.outcome, result.attempts) == (Ending.REFUSED, None, ())
    assert result.why


def test_identity_that_comes_back_changed_is_a_failure() -> None:
    other = bytes([0x86, 0x80, 0xFF, 0x10]) + CONFIG[4:]
    result = judge(NIC, answer(NIC, after=other))

    assert result.outcome is Outcome.FAILED
    assert "0x002: c9 -> ff (identity)" in result.why


def test_what_the_kernel_says_counts_and_counts_once() -> None:
    """The same line reaches the ledger by itself: the trial must add no row of its own."""
    text = f"pcieport {PORT}: Data Link Layer Link Active not set in 1000 msec"
    line = LogLine(1, 71.5, text)
    result = judge(GPU, answer(GPU, AUDIO, step="reset", number=errno.ENOTTY), (line,))

    assert (result.outcome, result.why) == (Outcome.FAILED, text)
    assert result.attempts == ()
    looked_at = host()
    heard = Host(
        replace(
            looked_at.snapshot,
            readings=replace(looked_at.readings, kernel_log=make_log(text)),
        )
    )
    assert {a.outcome for a in find_attempts(heard)} == {Outcome.FAILED}
    assert with_known_history(heard.snapshot, None).readings.ledger


def test_a_line_about_another_device_is_no_complaint() -> None:
    line = LogLine(1, 71.5, "vfio-pci 0000:09:00.0: not ready 65535ms after FLR; giving up")

    assert judge(NIC, answer(NIC), (line,)).outcome is Outcome.SUCCESS


def test_the_worst_complaint_decides() -> None:
    lines = (
        LogLine(1, 71.5, f"pcieport {PORT}: Data Link Layer Link Active not set in 1000 msec"),
        LogLine(2, 90.0, f"vfio-pci {GPU}: not ready 65535ms after bus reset; giving up"),
    )
    result = judge(GPU, answer(GPU, AUDIO), lines)

    assert result.outcome is Outcome.WEDGED
    assert "giving up" in result.why


# --- the child -------------------------------------------------------------------------------


def child(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def test_a_child_that_does_not_come_back_is_left_and_named() -> None:
    hangs = child("import signal; signal.pause()")
    result = try_reset(host(), NIC, operation="c", child=hangs, deadline_s=0.3)

    assert (result.ending, result.outcome, result.attempts) == (Ending.WAITING, None, ())
    pid = int(result.why.rpartition("pid ")[2].rstrip(")"))
    assert result.again is not None
    assert result.again().ending is Ending.WAITING
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    killed = result.again()
    assert (killed.ending, killed.outcome) == (Ending.RESET, Outcome.UNOBSERVED)
    assert [row.outcome for row in killed.attempts] == [Outcome.UNOBSERVED]


def test_what_a_child_says_late_is_judged_like_what_it_says_in_time(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    late = json.dumps(asdict(answer(NIC)))
    slow = child(f"open({str(pipe)!r}).read(); print({late!r})")
    result = try_reset(host(), NIC, operation="c", child=slow, deadline_s=0.1)
    assert (result.ending, result.attempts) == (Ending.WAITING, ())
    with pipe.open("w"):
        pass
    while result.ending is Ending.WAITING:
        assert result.again is not None
        result = result.again()
    assert (result.ending, result.changes) == (Ending.RESET, ((NIC, ()),))
    assert [row.key for row in result.attempts] == ["c"]


def test_a_child_that_cannot_be_started_made_no_reset() -> None:
    result = try_reset(host(), NIC, operation="c", child=("/nowhere/python",))
    assert (result.ending, result.outcome, result.attempts) == (Ending.REFUSED, None, ())
    assert "could not be started: No such file" in result.why


def test_nothing_is_imported_from_the_folder_in_which_root_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    result = try_reset(host(), NIC, operation="c")
    assert "taken over" not in result.why
    assert "the process that makes it" not in result.why, "it has to come as far as VFIO"


@pytest.mark.parametrize("source", ["print('{}')", "print('no')", "raise SystemExit('broken')"])
def test_a_child_that_says_nothing_useful_proves_nothing(source: str) -> None:
    result = try_reset(host(), NIC, operation="c", child=child(source))

    assert (result.ending, result.outcome, result.attempts) == (Ending.REFUSED, None, ())


# --- config space ----------------------------------------------------------------------------


def test_status_and_power_may_move_and_bars_may_not() -> None:
    after = bytearray(CONFIG)
    after[0x04] ^= 0x02  # command
    after[0x10] ^= 0xF0  # BAR 0
    power = next(o for o in range(0x40, 0x100) if CONFIG[o] == 0x01)
    after[power + 4] ^= 0x03  # PMCSR

    kinds = {c.offset: c.register for c in compare_config(CONFIG, bytes(after))}
    assert kinds == {
        0x04: Register.MOVING,
        0x10: Register.BAR,
        power + 4: Register.MOVING,
    }


@given(st.binary(min_size=0, max_size=4096))
def test_equal_spaces_differ_nowhere(config: bytes) -> None:
    assert compare_config(config, config) == ()


@given(st.binary(min_size=64, max_size=512), st.data())
def test_every_byte_that_differs_is_told_whatever_the_space_holds(
    config: bytes, data: st.DataObject
) -> None:
    places = data.draw(st.sets(st.integers(0, len(config) - 1)))
    after = bytearray(config)
    for place in places:
        after[place] ^= 0x55

    assert {c.offset for c in compare_config(config, bytes(after))} == places


def test_a_list_that_loops_ends() -> None:
    looping = bytearray(CONFIG[:256])
    looping[0x34], looping[0x41] = 0x40, 0x40

    assert compare_config(bytes(looping), bytes(looping)) == ()
    extended = bytearray(CONFIG)
    extended[0x100:0x104] = (0x100 << 20 | 0x1000D).to_bytes(4, "little")
    assert compare_config(bytes(extended), bytes(extended)) == ()


def test_two_lengths_compare_nothing() -> None:
    with pytest.raises(ValueError, match="256 and 64"):
        compare_config(bytes(256), bytes(64))
    assert judge(NIC, replace(answer(NIC), after={NIC: CONFIG[:64].hex()})).outcome is (
        Outcome.UNOBSERVED
    )


def test_ones_are_dead_and_nothing_is_not() -> None:
    assert is_dead(b"\xff" * 64)
    assert not is_dead(b"\xff\xff\xff\xff" + bytes(60))
    assert not is_dead(b"")


# --- the kernel's lines ----------------------------------------------------------------------


def test_only_what_the_kernel_says_meanwhile_is_read(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,1,1000,-;before\n")
    with KernelLines(str(log)) as window, log.open("a") as file:
        file.write("6,2,71500000,-;vfio-pci 0000:01:00.0: resetting\n SUBSYSTEM=pci\n")
        file.write("12,3,71600000,-;a process's own words\n")
        file.flush()
        lines = window.read()

    assert lines == (LogLine(1, 71.5, "vfio-pci 0000:01:00.0: resetting"),)


def test_a_log_that_cannot_be_read_is_not_silence(tmp_path: Path) -> None:
    with KernelLines(str(tmp_path / "none")) as window:
        assert window.read() is None
