"""`vfioctl up` as an operator runs it: both processes, seen through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 60
HOST = Path(__file__).resolve().parents[1] / "data" / "hosts" / "gpubox-f10.tar.gz"


def vfioctl(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vfio_cli.main", *arguments],
        env={**os.environ, "VFIOCTL_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextmanager
def up(state: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`vfioctl up` on a free port, replaying the host."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vfio_cli.main", "up", "--listen", "127.0.0.1:0", *options],
        env={**os.environ, "VFIOCTL_STATE": str(state)},
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


def wait_up(process: subprocess.Popen[str]) -> list[str]:
    """The lines of its screen."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if "stop" in line:
            return lines
    raise AssertionError(f"it never was up: {lines} {process.communicate(timeout=DEADLINE_S)}")


def wait_ready(state: Path) -> Any:
    """The node once it is ready: follows the log until it says so, then asks."""
    command = [sys.executable, "-m", "vfio_cli.main", "events", "--watch", "-o", "json"]
    with subprocess.Popen(
        command,
        env={**os.environ, "VFIOCTL_STATE": str(state)},
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        for line in watch.stdout:
            if json.loads(line)["code"] == "NODE_VALIDATED":
                break
        watch.send_signal(signal.SIGINT)
    assert watch.returncode == 130
    found = vfioctl("node", "show", "gpubox", "-o", "json", state=state)
    return json.loads(found.stdout)["node"]


def test_up_serves_this_host_until_it_is_stopped(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with up(state, "--node", "gpubox", "--root", str(HOST)) as process:
        screen = wait_up(process)
        assert screen[0] == "UP"
        assert any(f"unix:{state}/api.sock" in line for line in screen)
        node = wait_ready(state)
        # a machine of 1 GiB is short of memory for VMs, and rightly so
        assert (node["state"], node["verdict"]) == ("ready", "WARN")

        status = vfioctl("status", "--cluster", state=state)
        assert status.returncode == 1, status.stderr
        assert "HEALTH_WARN" in status.stdout
        placed = vfioctl("vm", "place", "t1", "--device", "gpu", state=state)
        assert placed.returncode == 0, placed.stdout
        refused = vfioctl("vm", "place", "t2", "--device", "gpu", state=state)
        assert refused.returncode == 2

        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
    assert vfioctl("status", "--cluster", state=state).returncode == 3

    with up(state, "--node", "gpubox", "--root", str(HOST)) as process:
        wait_up(process)
        kept = vfioctl("vm", "list", "-o", "name", state=state)
        assert kept.stdout == "t1\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0


def test_two_on_one_state_directory_are_refused(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with up(state, "--node", "gpubox", "--root", str(HOST)) as first:
        wait_up(first)
        with up(state, "--node", "gpubox", "--root", str(HOST)) as second:
            output, errors = second.communicate(timeout=DEADLINE_S)
            assert (second.returncode, output) == (2, "")
            assert "the coordinator ended with status 2" in errors
            assert "Traceback" not in errors
        assert first.poll() is None
        assert vfioctl("node", "list", state=state).returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--node", "Not A Name"], "--node"),
        (["--root", "/no/such/root", "--node", "x"], "/no/such/root"),
        (["--listen", "nowhere", "--node", "x"], "--listen"),
    ],
)
def test_a_wrong_option_of_up_is_named(options: list[str], says: str, tmp_path: Path) -> None:
    said = vfioctl("up", "--listen", "127.0.0.1:0", *options, state=tmp_path / "s")
    assert said.returncode in (2, 64)
    assert says in said.stderr
    assert "Traceback" not in said.stderr


def test_run_becomes_the_process_it_names(tmp_path: Path) -> None:
    for command, options in (
        ("coordinator", ["--listen", "nowhere"]),
        ("agent", ["--tls", str(tmp_path / "none"), "--node", "x", "--state", str(tmp_path / "a")]),
    ):
        said = vfioctl(command, "run", *options, state=tmp_path / "s")
        assert said.returncode == 64
        assert said.stderr.startswith(f"vfioctl {command} run: ")
        assert said.stderr.count("\n") == 1


def test_a_coordinator_that_serves_says_how_to_look_at_it(tmp_path: Path) -> None:
    state = tmp_path / "s"
    arguments = ["coordinator", "run", "--state", str(state), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vfio_cli.main", *arguments, "--node", "pve01"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("  look "):
            assert lines[-1], lines
            lines.append(process.stdout.readline())
        assert lines[0].startswith("listening 127.0.0.1:")
        _, program, *words = lines[-1].split()
        status = vfioctl(*words, "-o", "json", state=tmp_path / "elsewhere")
        assert (program, status.returncode) == ("vfioctl", 0)
        assert json.loads(status.stdout)["status"]["cluster"] in lines[1]
        bundle = next(line.split()[1] for line in lines if line.startswith("  admin "))
        again = vfioctl("node", "list", "--tls", bundle, state=tmp_path / "elsewhere")
        assert again.returncode == 0, again.stderr
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
