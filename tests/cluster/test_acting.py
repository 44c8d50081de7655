"""Actions through a real hostd: who may ask, what is answered, and what survives its SIGKILL."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.cluster.two_processes import Half
from tests.fakes.acting_host import BOUND, DISK, FREE, ActingHost
from vfio_agent.act import ActError, act_here
from vfio_agent.journal import Journal
from vfio_cli.main import run
from vfio_contract.action import ActionReport, Outcome
from vfio_contract.address import Address
from vfio_contract.durable import ActionEnded

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
OTHER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act")


class Acted:
    """The host, and the hostd that acts on it."""

    def __init__(self, top: Path) -> None:
        self.host = ActingHost(top / "host").make()
        # where another user can reach it, were it not for the socket's own mode
        self.run = Path(tempfile.mkdtemp(prefix="acting-"))
        self.run.chmod(0o755)
        self.socket = self.run / "hostd.sock"
        self.state = top / "state"
        self.halves: list[Half] = []
        self.hostd = self.start()

    def start(self) -> Half:
        where = [str(self.host.top), str(self.socket), str(self.state), OTHER]
        self.hostd = Half(["-m", "tests.cluster.acting_hostd", *where])
        self.halves.append(self.hostd)
        self.hostd.until("listens")
        return self.hostd

    def ask(self, verb: str, address: Address) -> SimpleQueue[ActionReport | BaseException]:
        """Ask as a person at the command line does; what comes of it is in the queue."""
        answers: SimpleQueue[ActionReport | BaseException] = SimpleQueue()

        def run() -> None:
            try:
                answers.put(act_here(verb, address, hostd=self.socket))
            except BaseException as error:
                answers.put(error)

        threading.Thread(target=run, daemon=True).start()
        return answers

    def act(self, verb: str, address: Address) -> ActionReport:
        report = self.ask(verb, address).get(timeout=DEADLINE_S)
        assert isinstance(report, ActionReport), report
        return report

    def ends(self) -> list[tuple[str, str]]:
        """What is spooled of ends, after hostd has ended."""
        with closing(Journal.open(self.state / "journal.db")) as journal:
            events = [row.event.payload for row in journal.spool.after(0, 1000)]
            assert journal.spool.reservations() == []
            return [(e.id, e.outcome) for e in events if isinstance(e, ActionEnded)]


@pytest.fixture
def acted(tmp_path: Path) -> Iterator[Acted]:
    made = Acted(tmp_path)
    yield made
    for half in made.halves:
        if half.process.poll() is None:
            half.send(signal.SIGKILL)
            half.ended()
    made.host.release()
    shutil.rmtree(made.run)


def test_root_asks_and_each_action_is_told_once(acted: Acted) -> None:
    bound = acted.act("bind", FREE)
    assert (bound.outcome, acted.host.driver(FREE)) == (Outcome.DONE, "vfio-pci")
    reset = acted.act("reset-test", BOUND)
    assert (reset.outcome, acted.host.resets()) == (Outcome.DONE, 1)
    refused = acted.act("unbind", DISK)
    assert refused.outcome is Outcome.REFUSED
    assert {reason.code for reason in refused.reasons} == {"HOST_CRITICAL"}
    free = acted.act("unbind", FREE)
    assert (free.outcome, acted.host.driver(FREE)) == (Outcome.DONE, "virtio-pci")
    assert acted.host.written() == []

    assert acted.hostd.end()[0] == 0
    reports = (bound, reset, refused, free)
    assert acted.ends() == [(report.id, report.outcome.value) for report in reports]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_command_line_shows_the_report_and_its_exit_code(
    acted: Acted, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--hostd", str(acted.socket)]
    assert run(["device", "bind", FREE, *here, "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["outcome"]) == ("vfioctl.action/v1", "done")
    assert document["method"] == "udev"
    assert run(["device", "unbind", DISK, *here]) == 2
    assert capsys.readouterr().out.startswith(f"REFUSED  unbind {DISK}   nothing was done")
    assert run(["device", "reset-test", BOUND, *here]) == 0
    shown = capsys.readouterr().out
    assert "reset     pm, success in 0.016 s" in shown
    assert "kernel    said nothing" in shown


SPEAKER = """
import os, sys
from vfio_agent.act import _ask
from vfio_agent.hostd.messages import Act
from pathlib import Path
os.setresuid(*[int(sys.argv[3])] * 3)
try:
    print(_ask(Path(sys.argv[1]), Act("0" * 32, "bind", sys.argv[2])).outcome)
except Exception as error:
    print(error)
"""


def test_the_user_of_the_network_process_may_not_act(acted: Acted) -> None:
    uid = pwd.getpwnam(OTHER).pw_uid
    said = subprocess.run(
        [sys.executable, "-c", SPEAKER, str(acted.socket), FREE, str(uid)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == f"hostd refused: only root may ask for that, not uid {uid}\n"
    assert acted.host.driver(FREE) == "virtio-pci"
    assert acted.hostd.end()[0] == 0
    assert acted.ends() == []


def test_killed_in_the_middle_it_is_ended_by_the_next_and_told_to_who_asked(acted: Acted) -> None:
    script = acted.host.top / "script"
    script.write_text(f"hang {FREE}")
    answers = acted.ask("bind", FREE)
    hanging = acted.host.top / "hanging"
    wait_for(lambda: hanging.exists() and hanging.read_text() != "")
    acted.hostd.end(signal.SIGKILL)
    script.unlink()
    acted.host.release()

    acted.start()
    report = answers.get(timeout=DEADLINE_S)
    assert isinstance(report, ActionReport), report
    assert (report.outcome, acted.host.driver(FREE)) == (Outcome.DONE, "vfio-pci")
    assert acted.hostd.end()[0] == 0
    assert acted.ends() == [(report.id, "done")]


def test_where_nobody_listens_it_acts_alone_with_the_journal(tmp_path: Path) -> None:
    nowhere, state = tmp_path / "no.sock", tmp_path / "state"
    nothing = Address("fffe:ff:1f.7")
    report = act_here("bind", nothing, hostd=nowhere, state=state)
    assert report.outcome is Outcome.REFUSED
    assert [reason.code for reason in report.reasons] == ["NO_UNIT"]

    with closing(Journal.open(state / "journal.db")) as journal:
        found = journal.actions.find(report.id)
        assert found is not None
        assert found.report == report
        with pytest.raises(ActError, match=r"nobody listens at .*another agent uses it"):
            act_here("bind", nothing, hostd=nowhere, state=state)


def test_a_hostd_that_does_not_come_back_is_an_error_that_names_the_action(
    acted: Acted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfio_agent.act.AGAIN_S", 0.5)
    (acted.host.top / "script").write_text(f"hang {FREE}")
    answers = acted.ask("bind", FREE)
    hanging = acted.host.top / "hanging"
    wait_for(lambda: hanging.exists() and hanging.read_text() != "")
    acted.hostd.end(signal.SIGKILL)
    acted.host.release()
    error = answers.get(timeout=DEADLINE_S)
    assert isinstance(error, ActError)
    assert "vfioctl events tells how: action " in str(error)
