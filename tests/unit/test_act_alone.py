"""Acting without a hostd, and a person who presses Ctrl-C meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from vfio_agent import act
from vfio_agent.actuate.steps import Verb
from vfio_agent.hostd.messages import Act
from vfio_contract.action import ActionReport, Outcome
from vfio_contract.address import Address

NOTHING = Address("ffff:ff:1f.7")
REPORT = ActionReport("0" * 32, "bind", NOTHING, Outcome.DONE)


class Interrupted(SimpleQueue[ActionReport | BaseException]):
    """Ctrl-C comes `times` times before there is anything to get."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def get(self, block: bool = True, timeout: float | None = None) -> ActionReport | BaseException:
        if self.left:
            self.left -= 1
            raise KeyboardInterrupt
        return super().get(block, timeout)


def test_the_first_ctrl_c_waits_for_the_end(caplog: pytest.LogCaptureFixture) -> None:
    answers = Interrupted(1)
    answers.put(REPORT)
    assert act._wait_for(answers) == REPORT
    assert "Ctrl-C again" in caplog.text


def test_the_second_ctrl_c_leaves_the_worker_ended_before_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "SimpleQueue", lambda: Interrupted(2))
    asked = Act("0" * 32, Verb.BIND, NOTHING)
    with pytest.raises(KeyboardInterrupt):
        act._act_alone(asked, tmp_path / "nobody.sock", tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name == "acting"]
