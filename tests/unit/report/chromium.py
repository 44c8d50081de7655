"""A headless Chromium as a witness: what a page asks for, complains of, and how wide it gets.

It speaks the DevTools protocol over two pipes (`--remote-debugging-pipe`: JSON ended by NUL, the
browser reads descriptor 3 and writes 4), so there is no port and no further package. The page is a
file; the browser's own background traffic is switched off and would not count anyway.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

ANSWER_S = 60.0
"""For one answer; a cold start on a busy machine takes some seconds."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-quic",
    "--disable-breakpad",
    "--metrics-recording-only",
    "--mute-audio",
    "--password-store=basic",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass(slots=True)
class Seen:
    """What one visit showed. `requests` are URLs, `blocked` those that the page's policy stopped;
    `complaints` are console messages and exceptions.
    """

    requests: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    screenshot: bytes = b""


class Chromium:
    """One running browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []

    def visit(
        self, page: Path, *, width: int, ask: dict[str, str] | None = None, picture: bool = False
    ) -> Seen:
        """Open a file in a new tab of this width; `ask` are JavaScript expressions by name."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._events.clear()
        for domain in ("Page", "Log", "Runtime", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        seen = Seen()
        for name, expression in (ask or {}).items():
            answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
            assert "exceptionDetails" not in answer, answer
            seen.values[name] = answer["result"].get("value")
        if picture:
            shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
            seen.screenshot = base64.b64decode(shot["data"])
        asked: dict[str, str] = {}
        for event in self._events:
            _note(seen, asked, event)
        self._session = None
        self._call("Target.closeTarget", targetId=target)
        return seen

    def close(self) -> None:
        """Ask it to end; it closes its pipe when it does."""
        self._session = None
        self._call("Browser.close")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._from], [], [], ANSWER_S)
            if not ready:
                raise TimeoutError(f"Chromium said nothing for {ANSWER_S:.0f} s")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise EOFError("Chromium ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


def _note(seen: Seen, asked: dict[str, str], event: dict[str, Any]) -> None:
    """Add what an event says; `asked` keeps the URL of each request by its id."""
    method, params = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent":
        asked[params["requestId"]] = params["request"]["url"]
        seen.requests.append(params["request"]["url"])
    elif method == "Network.loadingFailed" and params.get("blockedReason") == "csp":
        seen.blocked.append(asked[params["requestId"]])
    elif method == "Log.entryAdded":
        seen.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
    elif method == "Runtime.consoleAPICalled":
        seen.complaints.append(f"console.{params['type']}: {params['args']}")
    elif method == "Runtime.exceptionThrown":
        seen.complaints.append(f"exception: {params['exceptionDetails']}")


@contextmanager
def open_chromium(executable: Path, profile: Path) -> Iterator[Chromium]:
    """A browser with a new profile; ended by its process id, whatever happens."""
    browser_reads, to_browser = _pipe()
    from_browser, browser_writes = _pipe()
    log = os.open(profile / "chromium.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.posix_spawn(
        executable,
        [str(executable), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        {**os.environ, "HOME": str(profile)},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, browser_reads, 3),
            (os.POSIX_SPAWN_DUP2, browser_writes, 4),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
    )
    for descriptor in (browser_reads, browser_writes, log):
        os.close(descriptor)
    browser = Chromium(to_browser, from_browser)
    try:
        yield browser
        browser.close()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(to_browser)
        os.close(from_browser)
        os.waitpid(pid, 0)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are not 3 or 4, which the browser's ends will be."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
