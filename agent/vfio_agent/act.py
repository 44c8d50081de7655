"""Bind, unbind and reset-test on this host: the local entry point, as root types it.

A hostd that runs is asked, because it owns the journal; where none runs this process acts itself,
with the journal's lock held, so that there is one history and one action at a time either way. It
must never act beside a hostd, nor with a journal of its own.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from vfio_agent.actuate.preview import preview
from vfio_agent.actuate.reach import allow_here, reach_host
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.root import Root
from vfio_agent.hostd.acting import Acting
from vfio_agent.hostd.frames import FrameError
from vfio_agent.hostd.line import HostdError, HostdRefused, Line, connect
from vfio_agent.hostd.listening import SOCKET
from vfio_agent.hostd.messages import PROTOCOL, Act, Acted, Greet, Greeting, MessageError
from vfio_agent.hostd.service import Settings, open_journal
from vfio_agent.inspect import JOURNAL, inspect_root, now, observe
from vfio_agent.journal import JournalError
from vfio_contract.action import ActionReport
from vfio_contract.address import Address

log = logging.getLogger("vfioctl")

PING_S = 5.0
"""Between two questions whether hostd is there, while an action takes long."""

AGAIN_S = 60.0
"""For a hostd that ended during an action to be back: its service starts it again after 2 s."""

RETRY_S = 0.5


class ActError(Exception):
    """There is no report; the text says why, and what to do."""


class _NobodyListens(HostdError):
    """There is no hostd at that path."""


def preview_action(verb: str, address: Address, root: Root) -> ActionReport:
    """What would be done about this function; nothing has to be permitted."""
    looked_at_ms = now("").boottime_ms
    host = inspect_root(root).host
    allowance = allow_here() if root.live else None
    return preview(*(root, host, Verb(verb), address, allowance), id="", looked_at_ms=looked_at_ms)


def act_here(
    verb: str,
    address: Address,
    *,
    hostd: Path = SOCKET,
    state: Path = JOURNAL.parent,
    alone: bool = True,
) -> ActionReport:
    """Have it done and wait for its end; ActError. `state` is where the journal is kept.

    `alone` False: only by the hostd that was named, not by this process where none listens.
    """
    act = Act(secrets.token_hex(16), verb, address)
    failed_s: float | None = None
    while True:
        try:
            return _ask(hostd, act)
        except HostdRefused as error:
            raise ActError(str(error)) from None
        except (HostdError, FrameError, MessageError, OSError) as error:
            if isinstance(error, _NobodyListens) and failed_s is None:
                if not alone:
                    raise ActError(f"nobody listens at {hostd}: nothing was done") from None
                return _act_alone(act, hostd, state)
            # asked again with the same id: what was done is not done twice
            failed_s = failed_s or time.monotonic()
            if time.monotonic() - failed_s > AGAIN_S:
                raise ActError(
                    f"{hostd}: {error}. If the action had begun, hostd ends it when it starts "
                    f"again, and vfioctl events tells how: action {act.id}"
                ) from None
        time.sleep(RETRY_S)  # a hostd that is starting again, for AGAIN_S at most


def _ask(path: Path, act: Act) -> ActionReport:
    with _connected(path) as line:
        line.ask_here(Greet(PROTOCOL), Greeting)
        return line.ask_patiently(act, Acted, ping_s=PING_S).report


@contextmanager
def _connected(path: Path) -> Iterator[Line]:
    try:
        connection = connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise _NobodyListens(f"{path}: nobody listens") from None
    except PermissionError:
        raise HostdRefused(f"{path}: only its owner and root may ask") from None
    never, quiet = socket.socketpair()
    with connection, never, quiet:
        line = Line(connection, quiet, lambda _pushed: None)
        try:
            yield line
        finally:
            line.end()


def _act_alone(act: Act, hostd: Path, state: Path) -> ActionReport:
    """In this process, after whatever a crash left in the journal."""
    answers: SimpleQueue[ActionReport | BaseException] = SimpleQueue()
    try:
        with open_journal(Settings(state, "/")) as journal:
            acting = Acting(
                journal,
                reach_host("/", lambda root: observe(root, journal, None).host),
                on_end=lambda: None,
                on_fault=answers.put,
            )
            acting.start()
            try:
                acting.submit(
                    id=act.id,
                    verb=Verb(act.verb),
                    address=act.address,
                    expected=None,
                    done=answers.put,
                )
                answer = _wait_for(answers)
            finally:
                acting.close()  # before the journal, which it writes
    except JournalError as error:
        raise ActError(f"nobody listens at {hostd}, and alone: {error}") from None
    if isinstance(answer, JournalError):
        raise ActError(str(answer))
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _wait_for(answers: SimpleQueue[ActionReport | BaseException]) -> ActionReport | BaseException:
    """The end. The first Ctrl-C is not obeyed: what is half done is worse than a wait.

    At the second one the next action on this host ends what this one left.
    """
    try:
        return answers.get()
    except KeyboardInterrupt:
        log.warning("waiting for the end of what was begun; Ctrl-C again leaves it as it is")
        return answers.get()
