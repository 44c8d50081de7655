"""Reads that may wait where nothing can interrupt them are another process's, which can be left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.config_bytes import make_config, pcie
from tests.fakes.pci_seen import NIC, attribute, make_nic_host
from vfio_agent.collect import collect_host
from vfio_agent.collect.attribute_reads import CONFIG, TEXT
from vfio_agent.collect.reader_process import ReaderProcess
from vfio_agent.collect.root import LiveRoot


@pytest.fixture
def reader() -> Iterator[ReaderProcess]:
    found = ReaderProcess()
    yield found
    found.close()


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """An attribute that nobody ever answers."""
    path = tmp_path / "sys" / "sriov_numvfs"
    path.parent.mkdir()
    os.mkfifo(path)
    return path


def children() -> set[int]:
    """This process's own, zombies included."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in found for pid in file.read_text().split()}


def test_answers_come_in_order_with_the_kernels_own_errors(
    tmp_path: Path, reader: ReaderProcess
) -> None:
    names = [f"file{number}" for number in range(300)]
    for name in names:
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in [*names[:150], "missing", *names[150:], "\0"]]
    answers = reader.run(TEXT, [*paths, str(tmp_path)], seconds=30)
    assert [a for a in answers if isinstance(a, bytes)] == [name.encode() for name in names]
    missing, nul, folder = answers[150], answers[-2], answers[-1]
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == paths[150]
    assert isinstance(nul, OSError)
    assert nul.errno == errno.EINVAL
    assert isinstance(folder, IsADirectoryError)


def test_a_whole_config_space_comes_over(tmp_path: Path, reader: ReaderProcess) -> None:
    data = make_config(plain=(pcie(flr=True),))
    (tmp_path / "config").write_bytes(data)
    (tmp_path / "dead").write_bytes(b"\xff" * 4096)
    paths = [str(tmp_path / "config"), str(tmp_path / "dead")]
    assert reader.run(CONFIG, paths, seconds=30) == [data, b"\xff" * 4096]


def test_one_process_serves_until_it_is_lost(tmp_path: Path, reader: ReaderProcess) -> None:
    (tmp_path / "file").write_text("1")
    path = str(tmp_path / "file")
    before = children()
    assert reader.run(TEXT, [path], seconds=30) == [b"1"]
    (first,) = children() - before
    assert reader.run(TEXT, [path], seconds=30) == [b"1"]
    assert children() - before == {first}
    os.kill(first, 9)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert reader.run(TEXT, [path], seconds=30) == [b"1"]
    (second,) = children() - before
    assert second != first
    reader.close()
    assert children() - before == set()


def test_the_next_process_goes_on_where_one_was_killed(
    blocked: Path, reader: ReaderProcess
) -> None:
    file = blocked.with_name("driver_override")
    file.write_text("1")
    before = children()
    assert reader.run(TEXT, [str(file)], seconds=30) == [b"1"]
    (first,) = children() - before

    def kill_while_it_reads() -> None:
        with blocked.open("wb"):  # opens as soon as the process has it open
            os.kill(first, 9)

    killer = threading.Thread(target=kill_while_it_reads)
    killer.start()
    lost, *others = reader.run(TEXT, [str(blocked), str(file), str(file)], seconds=30)
    killer.join()
    assert isinstance(lost, OSError)
    assert lost.errno == errno.EIO
    assert others == [b"1", b"1"]


def test_a_blocked_read_leaves_no_thread_and_no_process(tmp_path: Path, blocked: Path) -> None:
    (blocked.parent / "driver_override").write_text("(null)\n")
    (blocked.parent / "vendor").write_text("0x8086\n")
    root = LiveRoot(str(tmp_path), deadline_s=0.5)
    names = ["driver_override", "sriov_numvfs", "vendor", "sriov_numvfs", "driver_override"]
    paths = [f"/sys/{name}" for name in names]
    root.read_many([paths[0], paths[2]])
    threads, before = threading.active_count(), len(children())
    found = root.read_many(paths)
    assert [found[i] for i in (0, 2, 4)] == [b"(null)\n", b"0x8086\n", b"(null)\n"]
    for answer in (found[1], found[3]):
        assert isinstance(answer, TimeoutError)
        assert answer.strerror == "blocked for 0.5 s"
    assert threading.active_count() == threads
    assert len(children()) == before
    with pytest.raises(TimeoutError):
        root.read(paths[1])
    # it was free to go, so the path is asked for again as soon as somebody answers
    blocked.unlink()
    blocked.write_text("2\n")
    assert root.read(paths[1]) == b"2\n"
    assert root.read(paths[1], limit=1) == b"2"


def test_a_process_ends_while_its_read_blocks(tmp_path: Path, blocked: Path) -> None:
    """It may not even inherit the pipe that somebody waits on."""
    program = (
        "from vfio_agent.collect.root import LiveRoot\n"
        f"root = LiveRoot({str(tmp_path)!r}, deadline_s=0.5)\n"
        "try:\n"
        "    root.read('/sys/sriov_numvfs')\n"
        "except TimeoutError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("blocked for 0.5 s\n", "", 0)


def test_without_a_process_to_read_with_there_is_a_gap_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ReaderProcess()
    for program in ("/nonexistent/python", "/bin/true", "", None):
        monkeypatch.setattr(sys, "executable", program)
        answers = reader.run(TEXT, ["/proc/version", "/proc/uptime"], seconds=5)
        errors = [a for a in answers if isinstance(a, OSError)]
        assert [e.errno for e in errors] == [errno.EIO, errno.EIO]
        assert "read it" in str(errors[0])


def test_a_function_with_a_blocked_count_is_collected_without_it(tmp_path: Path) -> None:
    tree = make_nic_host(tmp_path / "host")
    attribute(tree, "sriov_totalvfs", "7\n")
    os.mkfifo(tree.at(f"{tree.place(NIC)}/sriov_numvfs"))
    seen = collect_host(LiveRoot(str(tree.top), deadline_s=0.5))
    (function,) = [f for f in seen.facts.functions or () if f.address == NIC]
    assert (function.sriov_total_vfs, function.sriov_num_vfs) == (7, None)
    (gap,) = [g for g in seen.readings.gaps if g.path.endswith("/sriov_numvfs")]
    assert (gap.errno, gap.reason) == (errno.ETIMEDOUT, "blocked for 0.5 s")
