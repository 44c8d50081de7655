"""Two children, one fate: started in order, stopped in order, and no orphan is left.

The children are small real programs; the supervisor runs as a process of its own, because it takes
signals.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfio_cli.supervisor import child_environment

DEADLINE_S = 30

LISTENS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("starting", flush=True)
print("listening 127.0.0.1:7443", flush=True)
signal.pause()
"""
RUNS = """
import os, signal, sys
def stop(*_):
    print("agent stopped", file=sys.stderr, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("agent", os.getpid(), sys.argv[1], file=sys.stderr, flush=True)
signal.pause()
"""
DEAF = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("agent", os.getpid(), sys.argv[1], file=sys.stderr, flush=True)
signal.pause()
"""
SUPERVISE = """
import sys
from vfio_cli import supervisor
from vfio_cli.exits import Stop
supervisor.GRACE_S = float(sys.argv[3])
try:
    sys.exit(supervisor.supervise(
        [sys.executable, "-c", sys.argv[1]],
        lambda endpoint: [sys.executable, "-c", sys.argv[2], endpoint],
        on_ready=lambda endpoint: print("ready", endpoint, flush=True),
    ))
except Stop as stop:
    print(stop.format_message(), file=sys.stderr)
    sys.exit(stop.status)
"""


@contextmanager
def supervised(
    coordinator: str, agent: str, *, grace_s: float = DEADLINE_S
) -> Iterator[subprocess.Popen[str]]:
    """A supervisor over these two programs; gone at the end, whatever happened."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, coordinator, agent, str(grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)


def wait_ready(process: subprocess.Popen[str]) -> int:
    """Until both run; the agent's pid."""
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready 127.0.0.1:7443\n"
    word, pid, endpoint = process.stderr.readline().split()
    assert (word, endpoint) == ("agent", "127.0.0.1:7443")
    return int(pid)


def children_of(process: subprocess.Popen[str]) -> set[int]:
    """Pids of its direct children."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return set(map(int, text.split()))


def wait_gone(pid: int) -> None:
    """Until that process is no more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([descriptor], [], [], DEADLINE_S)
    os.close(descriptor)
    assert ready


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_both_and_is_no_failure(number: signal.Signals) -> None:
    with supervised(LISTENS, RUNS) as process:
        agent = wait_ready(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
        assert errors == "agent stopped\n"
        wait_gone(agent)


def test_a_killed_agent_stops_the_coordinator_and_is_a_failure() -> None:
    with supervised(LISTENS, RUNS) as process:
        os.kill(wait_ready(process), signal.SIGKILL)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert errors == (
            "the agent was killed by SIGKILL; the other was stopped. What it said stands above.\n"
        )


def test_a_coordinator_that_ends_stops_the_agent() -> None:
    with supervised(LISTENS, RUNS) as process:
        agent = wait_ready(process)
        (coordinator,) = children_of(process) - {agent}
        os.kill(coordinator, signal.SIGKILL)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert "agent stopped\n" in errors
        assert "the coordinator was killed by SIGKILL" in errors
        wait_gone(agent)


def test_a_coordinator_that_never_listens_is_reported() -> None:
    fails = "import sys; print('the store is damaged', file=sys.stderr); sys.exit(7)"
    with supervised(fails, RUNS) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, output) == (2, "")
        assert errors == (
            "the store is damaged\n"
            "the coordinator ended with status 7. What it said stands above.\n"
        )


def test_wrong_usage_of_a_child_is_wrong_usage() -> None:
    refuses = "import sys; print('--name is none', file=sys.stderr); sys.exit(64)"
    for coordinator, agent in ((refuses, RUNS), (LISTENS, refuses)):
        with supervised(coordinator, agent) as process:
            _, errors = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 64
            assert errors.startswith("--name is none\n")
            assert "ended with status 64" in errors


def test_a_stop_while_the_coordinator_starts_is_no_failure() -> None:
    slow = "import sys, time\nprint('slow', file=sys.stderr, flush=True)\nsys.stdin.close()\n"
    slow += "import signal; signal.pause()"
    with supervised(slow, RUNS) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "slow\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors


def test_a_deaf_agent_is_killed_and_named() -> None:
    with supervised(LISTENS, DEAF, grace_s=0.3) as process:
        agent = wait_ready(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert "the agent did not stop" in errors
        wait_gone(agent)


def test_no_orphan_survives_a_killed_supervisor() -> None:
    with supervised(LISTENS, RUNS) as process:
        agent = wait_ready(process)
        children = children_of(process)
        assert agent in children
        assert len(children) == 2
        process.kill()
        for pid in children:
            wait_gone(pid)


def test_a_program_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_bytes(b"no program")
    shadowed = SUPERVISE.replace("[sys.executable,", "[sys.argv[1],", 1)
    done = subprocess.run(
        [sys.executable, "-c", shadowed, str(program), "", "1"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert f"coordinator cannot be started: {program}: Permission" in done.stderr


def test_children_keep_grpc_quiet_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    assert child_environment()["GRPC_VERBOSITY"] == "NONE"
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    assert child_environment()["GRPC_VERBOSITY"] == "DEBUG"
