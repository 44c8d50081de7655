"""The harness when something breaks: it ends in time, says what and where, and leaves nothing.

Most of it needs a QEMU that never starts its processor (`-S`) and so costs no boot.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.conftest import Boot, find_kernel
from tests.lab.harness import scenarios
from tests.lab.harness.channel import ChannelGarbled, take
from tests.lab.harness.ground import LabError, locked, work_folder
from tests.lab.harness.machine import CHECKOUT, Guest, run
from tests.lab.harness.prepare import QEMU
from tests.lab.harness.topology import Machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

# Something that is to happen by itself, on a busy host.
LIMIT_S = 30.0
# Nobody else's machines have these names: what is asked is what is left of this run's own.
PREFIX = f"harness-{os.getpid()}"


@pytest.fixture(scope="module", autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Names that are used once leave folders that nobody makes anew."""
    yield
    if not request.session.testsfailed:
        for path in (work_folder() / "machines").glob(f"{PREFIX}-*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _machine(name: str, *options: str) -> Machine:
    """A small machine of this test's own whose processor is never started."""
    return replace(scenarios.AMD_SMALL, name=f"{PREFIX}-{name}", options=("-S", *options))


def _folder(machine: Machine) -> Path:
    return work_folder() / "machines" / machine.name


def _await(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end, f"not so after {LIMIT_S:g} s"
        time.sleep(0.05)


def _is_qemu_of(machine: Machine, pid: int) -> bool:
    """Whether this process is the machine's: a number may have been given to somebody else."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return False
    return f"hostname={machine.name} " in command


def _is_qemu(pid: int) -> bool:
    """Whether this process has become the emulator: whoever starts it bears its arguments, too."""
    return Path(f"/proc/{pid}/exe").resolve() == Path(str(shutil.which(QEMU))).resolve()


def _running(machine: Machine) -> list[int]:
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if _is_qemu_of(machine, pid)]


def _fails(machine: Machine, *, limit_s: float = 60, boot_limit_s: float = 60) -> str:
    """What is said when this machine does not come up; nothing of it may be left."""
    kernel = find_kernel(machine.kernel)
    with (
        pytest.raises(LabError) as caught,
        run(machine, kernel, limit_s=limit_s, boot_limit_s=boot_limit_s),
    ):
        pytest.fail("it came up")
    assert _running(machine) == []
    with locked(_folder(machine).with_suffix(".lock"), limit_s=0):
        pass
    text = str(caught.value)
    assert text.startswith(f"{machine.name}: ")
    return text


@pytest.mark.smoke
def test_an_option_that_qemu_refuses_is_quoted() -> None:
    machine = _machine("refused", "-device", "no-such-device")
    said = _fails(machine)
    assert f"logs: {_folder(machine)}" in said
    assert "boot: ended before answer-0 (QEMU exit 1)" in said
    assert "'no-such-device' is not a valid device model name" in said


@pytest.mark.smoke
def test_a_port_that_is_taken_is_quoted() -> None:
    """The harness opens none of its own: what an option of a machine's would meet."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine = _machine("port", "-serial", f"tcp:127.0.0.1:{port},server=on,wait=off")
        said = _fails(machine)
    assert f"logs: {_folder(machine)}" in said
    assert "Address already in use" in said


@pytest.mark.smoke
def test_a_guest_that_never_answers_is_given_up() -> None:
    machine = _machine("silent")
    said = _fails(machine, boot_limit_s=1)
    assert "boot: no answer-0 within 1 s" in said
    assert f"logs: {_folder(machine)}" in said


@pytest.mark.smoke
def test_a_machine_ends_at_its_limit() -> None:
    said = _fails(_machine("old"), limit_s=1)
    assert "boot: ended before answer-0 (its limit passed)" in said


@pytest.mark.smoke
def test_a_disk_that_takes_no_more_is_named() -> None:
    machine = _machine("limited")
    with _file_size_limit(4096):
        said = _fails(machine)
    assert "File too large" in said
    assert f"logs: {_folder(machine)}" in said
    # The folder serves again as soon as there is room.
    assert "no answer-0 within 1 s" in _fails(machine, boot_limit_s=1)


_RUN_ONCE = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.lab.harness import scenarios
from tests.lab.harness.ground import LabError
from tests.lab.harness.machine import run
from tests.lab.harness.prepare import Kernel
machine = replace(scenarios.AMD_SMALL, name="full", options=("-S",))
try:
    with run(machine, Kernel(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])), boot_limit_s=30):
        pass
except LabError as error:
    sys.exit(str(error))
"""


@pytest.mark.smoke
@pytest.mark.parametrize("taken_kib", [0, 1024])
def test_a_disk_that_is_full_is_called_full(taken_kib: int) -> None:
    """No room for the machine's files, and none for a single byte."""
    kernel = find_kernel(scenarios.AMD_SMALL.kernel)
    files = (kernel.release, str(kernel.image), str(kernel.initrd))
    with tempfile.TemporaryDirectory(prefix="lab-") as disk:
        done = _run_on_small_disk(disk, "-c", _RUN_ONCE, *files, taken_kib=taken_kib)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert f"the disk of {disk}" in done.stderr
    assert "is full: 0 KiB free; VFIOCTL_LAB names another folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.smoke
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_disk_without_room_for_a_kernel_leaves_the_lab_out(ci: str, status: int) -> None:
    find_kernel("6.1")
    command = ("-m", "tests.lab.harness.prepare", "--optional", "6.1")
    with tempfile.TemporaryDirectory(prefix="lab-") as disk:
        done = _run_on_small_disk(disk, *command, ci=ci)
    assert done.returncode == status
    assert f"{disk}: kernel 6.1 needs 800 MiB while it is made, " in done.stderr
    assert ("without it the lab's tests are skipped" in done.stderr) == (ci == "")


def _run_on_small_disk(
    disk: str, *argv: str, taken_kib: int = 0, ci: str = ""
) -> subprocess.CompletedProcess[str]:
    """Python with these arguments whose work folder is a disk of 1 MiB, so much of it taken."""
    fill = f"head -c {taken_kib}k /dev/zero >{disk}/fill"
    script = f'mount -t tmpfs -o size=1m tmpfs {disk} && {fill} && exec "$@"'
    done = subprocess.run(
        # A user namespace: its root may mount, for itself alone, and nobody else sees it.
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, *argv],
        cwd=CHECKOUT,
        env=os.environ | {"VFIOCTL_LAB": disk, "CI": ci},
        capture_output=True,
        text=True,
        timeout=LIMIT_S * 2,
        check=False,
    )
    if done.stderr.startswith("unshare: "):
        pytest.skip(f"no disk of one's own to fill: {done.stderr.strip()}")
    return done


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """A file that may not grow, another error than a full disk's, at the same places."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_RUN_FOR_EVER = """
import sys
from dataclasses import replace
from tests.lab.harness import scenarios
from tests.lab.harness.machine import run
from tests.lab.harness.prepare import prepare
machine = replace(scenarios.AMD_SMALL, name=sys.argv[1], options=("-S",))
with run(machine, prepare([machine.kernel], install=False)[machine.kernel]):
    pass
"""


@contextmanager
def _owned(machine: Machine) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A run of its own that waits for this machine, the machine's warden, and its QEMU."""
    find_kernel(machine.kernel)
    pidfile = _folder(machine) / "qemu.pid"
    assert not pidfile.exists()
    owner = subprocess.Popen(
        [sys.executable, "-c", _RUN_FOR_EVER, machine.name],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with owner:
        try:
            _await(lambda: pidfile.exists() and pidfile.read_text().strip() != "")
            qemu = int(pidfile.read_text())
            warden = _parent(qemu)
            assert _is_qemu(qemu)
            assert _parent(warden) == owner.pid
            assert sorted(_running(machine)) == sorted((warden, qemu))
            yield owner, warden, qemu
        finally:
            owner.kill()


@pytest.mark.smoke
@pytest.mark.parametrize("victim", ["run", "warden"])
def test_no_machine_outlives_who_was_killed(victim: str) -> None:
    machine = _machine(f"no-{victim}")
    with _owned(machine) as (owner, warden, _):
        os.kill(owner.pid if victim == "run" else warden, signal.SIGKILL)
        _await(lambda: _running(machine) == [])
    with locked(_folder(machine).with_suffix(".lock"), limit_s=0):
        pass


@pytest.mark.smoke
def test_a_qemu_that_was_killed_is_told() -> None:
    machine = _machine("no-qemu")
    with _owned(machine) as (owner, _, qemu):
        os.kill(qemu, signal.SIGKILL)
        said = owner.communicate(timeout=LIMIT_S)[1]
    assert "boot: ended before answer-0 (QEMU ended by signal 9)" in said
    assert f"logs: {_folder(machine)}" in said


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.smoke
def test_a_machine_that_another_run_has_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with (
        locked(lock),
        pytest.raises(LabError, match=f"{lock}: held for 0.2 s by pid {os.getpid()}"),
        locked(lock, limit_s=0.2),
    ):
        pytest.fail("it was had twice")
    with locked(lock, limit_s=0):
        pass


@pytest.mark.smoke
@pytest.mark.parametrize("left", ['{"result": ', "", "[1]", "\x00"])
def test_an_answer_that_is_no_object_is_shown(left: str, tmp_path: Path) -> None:
    (tmp_path / "answer-1").write_text(left)
    with pytest.raises(ChannelGarbled, match=re.escape(f"{tmp_path}/answer-1: no ")):
        take(tmp_path, "answer-1", limit_s=1)


@pytest.fixture(scope="module")
def guest(boot: Boot) -> Iterator[Guest]:
    machine = replace(scenarios.AMD_SMALL, name=f"{PREFIX}-up", hypervisor_flag=True)
    with boot(machine) as guest:
        yield guest


def test_the_guest_sees_its_own_folder_and_no_other(guest: Guest) -> None:
    inside = Path(guest.out_inside).parent
    names = set(guest.call("trouble.names", path=str(inside)))
    assert names == {path.name for path in guest.log_folder.iterdir()}
    # What it does to its root stays with it.
    for path in (CHECKOUT / "README.md", work_folder() / "lock"):
        before = path.read_bytes()
        assert guest.call("trouble.remove", path=str(path)) is False
        assert path.read_bytes() == before
    # The next machine's kernel is no file that it can write.
    kernel = find_kernel(guest.machine.kernel).image
    assert guest.call("trouble.remove", path=f"/run/root/lower{kernel}") == "Read-only file system"
    assert kernel.exists()


def test_what_an_action_raises_is_told(guest: Guest) -> None:
    with pytest.raises(LabError, match=r"(?s)-up: trouble\.fail: ValueError: oh.*in fail"):
        guest.call("trouble.fail", words="oh")
    with pytest.raises(LabError, match=r"trouble\.nothing: AttributeError"):
        guest.call("trouble.nothing")
    assert guest.call("trouble.say", count=3) == "xxx"


def test_after_an_answer_that_was_too_late_the_next_is_the_next(guest: Guest) -> None:
    with pytest.raises(LabError, match=r"trouble\.wait_for: no answer-\d+ within 1 s") as caught:
        guest.call("trouble.wait_for", path=f"{guest.out_inside}/go", limit_s=1)
    assert f"--- {guest.out}/guest.log\n" in str(caught.value)
    (guest.out / "go").touch()
    assert guest.call("trouble.say", count=2) == "xx"


def test_half_an_answer_is_shown(guest: Guest) -> None:
    number = len(list(guest.out.glob("request-*"))) + 1
    (guest.out / f"answer-{number}").write_text('{"result": "x')
    with pytest.raises(LabError, match=rf"trouble\.say: .*/answer-{number}: no JSON"):
        guest.call("trouble.say", count=1)
    # The answer itself takes the place of the half one.
    _await(lambda: (guest.out / f"answer-{number}").read_text() == '{"result": "x"}')


def test_an_answer_that_finds_no_room_ends_the_guest(guest: Guest) -> None:
    pid = int((guest.log_folder / "qemu.pid").read_text())
    assert _is_qemu_of(guest.machine, pid)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with pytest.raises(LabError, match=r"trouble\.say: ended before answer-") as caught:
        guest.call("trouble.say", count=2 << 20)
    assert f"logs: {guest.log_folder}" in str(caught.value)
    assert not _is_qemu_of(guest.machine, pid)
