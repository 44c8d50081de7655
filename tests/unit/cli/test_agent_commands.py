"""`agent run` and `agent hostd`: what is typed becomes the argv of the right process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vfio_cli.commands import run as commands
from vfio_cli.main import run


class Became(Exception):
    """What this process would have become."""


@pytest.fixture
def argv(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(path: str, words: list[str], environment: dict[str, str]) -> None:
        raise Became(*words[1:])

    monkeypatch.setattr(os, "execve", execve)


def became(*words: str) -> list[str]:
    with pytest.raises(Became) as caught:
        run(list(words))
    return list(caught.value.args)


@pytest.mark.usefixtures("argv")
def test_run_is_both_unless_there_is_a_hostd(tmp_path: Path) -> None:
    common = ("agent", "run", "--node", "pve07", "--tls", "T")
    both = became(*common, "--state", str(tmp_path))
    assert both == [
        *("-P", "-m", "vfio_agent", "--node=pve07", "--tls=T"),
        *(f"--state={tmp_path}", "--root=/"),
    ]
    alone = became(*common, "--hostd", "S", "--endpoint", "co1:7443", "--user", "someone")
    assert alone == [
        *("-P", "-m", "vfio_agent.network", "--node=pve07", "--tls=T"),
        *("--hostd=S", "--endpoint=co1:7443", "--user=someone"),
    ]


@pytest.mark.usefixtures("argv")
@pytest.mark.parametrize("uid", [0, 1000])
def test_hostd_listens_where_its_user_may(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    words = became("agent", "hostd", "--state", "D", "--agent-user", "vfioctl")
    path = commands.DEFAULT_SOCKET if uid == 0 else "D/hostd.sock"
    assert words == [
        *("-P", "-m", "vfio_agent.hostd", f"--socket={path}", "--state=D", "--root=/"),
        "--agent-user=vfioctl",
    ]


@pytest.mark.parametrize("option", ["--state", "--root"])
def test_what_belongs_to_hostd_is_not_taken_beside_it(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["agent", "run", "--node", "n", "--tls", "T", "--hostd", "S", option, "X"])
    assert status == 64
    assert f"{option} is hostd's" in capsys.readouterr().err


def test_every_python_of_ours_imports_nothing_from_the_folder_it_is_started_in() -> None:
    root = Path(__file__).resolve().parents[3]
    sources = [p for side in ("agent", "cli", "coordinator") for p in (root / side).rglob("*.py")]
    started = [
        (path.name, option or commands.MODULE[0])
        for path in sources
        for option in re.findall(r'sys\.executable, (?:\*MODULE|"([^"]+)")', path.read_text())
    ]
    assert {option for _, option in started} <= {"-I", "-P"}, started
    assert len(started) >= 8
