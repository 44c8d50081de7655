"""Where the agent that a person starts listens for root on its host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vfio_agent import __main__ as agent
from vfio_agent.hostd import listening
from vfio_agent.hostd.service import Settings
from vfio_cli.commands.run import DEFAULT_SOCKET

IS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "run" / "hostd.sock"
    monkeypatch.setattr(agent, "SOCKET", made)
    return made


def settings(tmp_path: Path, root: str = "/") -> Settings:
    return Settings(tmp_path / "state", root)


def test_the_place_is_the_services() -> None:
    assert str(listening.SOCKET) == DEFAULT_SOCKET
    unit = Path(__file__).resolve().parents[2] / "deploy/systemd/vfioctl-agent.service"
    assert f"--hostd {DEFAULT_SOCKET} " in unit.read_text()


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user acts on nothing")
def test_root_listens_for_root_and_a_second_one_goes_on_without(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with agent._listen(settings(tmp_path)) as listener:
        assert listener is not None
        found = path.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
        with agent._listen(settings(tmp_path)) as second:
            assert second is None
            assert "another hostd listens there" in caplog.text
    assert not path.exists()


def test_on_a_capture_nobody_is_listened_to(tmp_path: Path, path: Path) -> None:
    with agent._listen(settings(tmp_path, str(tmp_path))) as listener:
        assert listener is None
    assert not path.exists()


def test_an_ordinary_user_listens_to_nobody(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with agent._listen(settings(tmp_path)) as listener:
        assert listener is None
    assert not path.exists()
