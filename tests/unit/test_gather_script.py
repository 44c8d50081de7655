"""The gathering script: what it gathers is what the collector reads, and nothing that it may not.

The first tests are what keeps the script from falling behind: every question of a collection of a
host is put to what the script gathered on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.full_host import CONF, QEMU, XML, make_full_host
from tests.fakes.replayed import QuestionedRoot, differences
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.collect import collect_host
from vfio_agent.collect.config_space import parse_config
from vfio_agent.collect.kvm import DEVICE as KVM
from vfio_agent.collect.root import LiveRoot, NotCaptured, open_root
from vfio_agent.inspect import judge_snapshot
from vfio_agent.vmconf.secrets import redact_file
from vfio_contract.model import Gap, Readings, Snapshot

SCRIPT = Path(__file__).resolve().parents[2] / "agent/vfio_agent/script/gather.sh"
HOSTS = Path(__file__).resolve().parents[1] / "data" / "hosts"

SHELLS = [["dash"], ["busybox", "sh"], ["bash"], ["bash", "--posix"]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> SysfsTree:
    """One host for all tests, none of which changes it."""
    return make_full_host(tmp_path_factory.mktemp("gather") / "host")


@pytest.fixture(scope="module")
def capture(tree: SysfsTree) -> Path:
    """What the script gathered on it."""
    return gathered(tree)


def gather(
    tree: Path,
    target: Path,
    *,
    shell: list[str] | None = None,
    work: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    work = work or target.parent / "work"
    work.mkdir(exist_ok=True)
    return subprocess.run(
        [*(shell or ["sh"]), str(SCRIPT), str(target)],
        env={**os.environ, "VFIOCTL_ROOT": str(tree), "TMPDIR": str(work), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def gathered(tree: SysfsTree, name: str = "out.tar.gz", **environment: str) -> Path:
    target = tree.top.parent / name
    done = gather(tree.top, target, shell=None, work=None, **environment)
    assert done.returncode == 0, done.stderr
    return target


def unpack(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = {m.name.removeprefix("."): tar.extractfile(m) for m in tar if m.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


# --- it gathers what the collector reads ---------------------------------------------------------


def unexplained(asked: QuestionedRoot, capture: Path) -> Iterator[str]:
    """What the capture answers in another way, and has no reason to."""
    for operation, path, was, now in differences(asked, open_root(str(capture))):
        if path in (KVM, "/dev/kmsg", "/proc"):
            continue  # an ioctl; the log is /dmesg; of the processes only those that matter
        if re.fullmatch(r"/proc/\d+/(comm|cmdline|fd(/\d+)?)", path) and (
            not path.startswith("/proc/4711/") or operation in ("list", "link")
        ):
            continue
        if isinstance(was, bytes) and isinstance(now, bytes):
            if path.endswith("/config") and parse_config(was) == parse_config(now):
                continue
            if path in ("/proc/cpuinfo", "/proc/stat") and was.startswith(now.rstrip()):
                continue
            if b"hunter2" in was and b"hunter2" not in now:
                continue  # redacted; that it says the same is seen in the snapshot
        yield f"{operation} {path}: {was!r} became {now!r}"


def comparable(snapshot: Snapshot) -> Snapshot:
    """Without what a file cannot carry: an ioctl's answer, and how the log was read."""
    readings = dataclasses.replace(
        snapshot.readings, live=True, kernel_log=None, kvm=None, gaps=(), privileged=True
    )
    return dataclasses.replace(snapshot, readings=readings)


def kept_gaps(readings: Readings) -> list[Gap]:
    return [
        dataclasses.replace(g, remedy="")
        for g in readings.gaps
        if g.path not in ("/dev/kmsg", "/dmesg", KVM)
    ]


def test_every_question_of_the_collector_is_answered(tree: SysfsTree, capture: Path) -> None:
    asked = QuestionedRoot(LiveRoot(str(tree.top)))
    live = collect_host(asked)
    assert "\n".join(unexplained(asked, capture)) == ""
    replayed = collect_host(open_root(str(capture)))
    assert comparable(replayed) == comparable(live)
    assert kept_gaps(replayed.readings) == kept_gaps(live.readings)
    # the fake host is not empty
    assert len(live.facts.functions or ()) == 4
    assert [vm.name for vm in live.facts.vms or ()] == ["db", "101", "solo"]
    assert len(live.readings.holders or ()) == 1
    assert len(live.facts.boot_options or ()) >= 3
    assert len(live.facts.storage_uses or ()) >= 2


def test_a_captured_machine_reads_the_same(tmp_path: Path) -> None:
    top = spread(HOSTS / "m3-intel-6.12.tar.gz", tmp_path / "host")
    target = tmp_path / "out.tar.gz"
    assert gather(top, target).returncode == 0
    asked = QuestionedRoot(LiveRoot(str(top)))
    live = collect_host(asked)
    assert "\n".join(unexplained(asked, target)) == ""
    replayed = collect_host(open_root(str(target)))
    assert comparable(replayed) == comparable(live)
    log = replayed.readings.kernel_log
    assert log is not None
    assert log.complete
    # and so the verdicts of one who looks at the machine itself and of one who gets the file
    readings = dataclasses.replace(live.readings, kernel_log=log, live=False)
    here = judge_snapshot(dataclasses.replace(live, readings=readings)).report
    there = judge_snapshot(replayed).report
    assert {(f.check, f.subject, f.code) for f in there.findings} == {
        (f.check, f.subject, f.code) for f in here.findings
    }


def spread(capture: Path, top: Path) -> Path:
    """A capture as a tree of files that can be read like a running host."""
    with tarfile.open(capture) as tar:
        tar.extractall(top)  # our own capture; Debian 12's Python has no filters yet
        links = [top / member.name for member in tar if member.issym()]
    for link in links:
        if (target := os.readlink(link)).startswith("/"):
            link.unlink()
            link.symlink_to(os.path.relpath(f"{top}{target}", link.parent))
    manifest = json.loads((top / "manifest.json").read_text())
    (top / "manifest.json").unlink()
    for node in manifest["nodes"]:
        place = top / node.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return top


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_shell_gathers_the_same(
    shell: list[str], tree: SysfsTree, capture: Path, tmp_path: Path
) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    target = tmp_path / "other.tar.gz"
    done = gather(tree.top, target, shell=shell)
    assert done.returncode == 0, done.stderr
    assert unpack(target) == unpack(capture)


def test_busybox_tools_are_enough(tree: SysfsTree, capture: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in applets.stdout.split():
        (tools / name).symlink_to(busybox)
    target = tmp_path / "other.tar.gz"
    done = gather(tree.top, target, shell=[str(tools / "sh")], PATH=str(tools))
    assert done.returncode == 0, done.stderr
    assert unpack(target) == unpack(capture)


# --- it leaves alone what it must ----------------------------------------------------------------


def test_no_secret_leaves_the_host(capture: Path) -> None:
    files = unpack(capture)
    assert {n for n, data in files.items() if b"hunter2" in data} == set()
    assert {n for n in files if n.endswith(("/rom", "/vpd"))} == set()
    assert not any(b"alice" in data for data in files.values())
    conf = files["/etc/pve/qemu-server/101.conf"]
    assert conf.count(b"\n") == CONF.count("\n")
    assert b"hostpci0: 0000:01:00,pcie=1" in conf
    xml = files["/etc/libvirt/qemu/db.xml"]
    assert xml.count(b"\n") == XML.count("\n")
    assert b'<os id="http://debian.org/debian/12"/>' in xml
    assert files["/proc/4711/cmdline"].count(b"\0") == QEMU.count("\0")


@pytest.mark.parametrize(
    "path", ["/etc/pve/qemu-server/101.conf", "/etc/libvirt/qemu/db.xml", "/proc/4711/cmdline"]
)
def test_nothing_is_left_that_our_own_redaction_takes_out(path: str, capture: Path) -> None:
    data = unpack(capture)[path]
    assert redact_file(path, data) == data


@pytest.mark.parametrize(
    ("state", "held", "wake", "read"),
    [
        ("D0", True, "no", True),
        ("D3hot", False, "no", True),
        ("D3hot", True, "no", False),
        ("D3hot", True, "yes", False),
        ("D3cold", False, "no", False),
        ("D3cold", False, "yes", True),
        ("D3cold", True, "yes", False),
    ],
)
def test_a_sleeping_device_is_woken_only_if_nobody_uses_it(
    state: str, held: bool, wake: str, read: bool, tmp_path: Path
) -> None:
    tree = SysfsTree(tmp_path / "host")
    tree.host()
    place = tree.function("0000:01:00.0", group=2, driver="vfio-pci", power_state=state)
    tree.write("/dev/vfio/2", "")
    tree.write("/dev/vfio/vfio", "")
    if held:
        tree.hold(4711, "qemu", "/dev/vfio/2")
    capture = gathered(tree, WAKE=wake)
    files = unpack(capture)
    assert (f"{place}/config" in files) is read
    assert (f"{place}/max_link_speed" in files) is read
    assert (f"left {place}/config: it ".encode() in files["/manifest.txt"]) is not read
    found = collect_host(open_root(str(capture)))
    functions = found.facts.functions
    assert functions is not None
    assert (functions[0].config is not None) is read
    holders = found.readings.holders
    assert holders is not None
    assert len(holders) == held


@pytest.mark.parametrize("endable", [True, False])
def test_a_read_that_blocks_is_given_up(endable: bool, tree: SysfsTree, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    pipe = tools / "pipe"
    os.mkfifo(pipe)
    real = shutil.which("cat")
    (tools / "cat").write_text(
        f'#!/bin/sh\ncase $1 in */sriov_numvfs) exec {real} {pipe} ;; *) exec {real} "$@" ;; esac\n'
    )
    (tools / "cat").chmod(0o755)
    if not endable:  # a `timeout` that cannot end what it runs, as in an uninterruptible read
        (tools / "timeout").write_text('#!/bin/sh\nshift\nexec "$@"\n')
        (tools / "timeout").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    capture = gathered(tree, f"blocked-{endable}", PATH=path, PATIENCE="1")
    if not endable:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # let the reader go
    blocked = f"{tree.place('0000:01:00.0')}/sriov_numvfs"
    root = open_root(str(capture))
    with pytest.raises(OSError, match="blocked when it was captured"):
        root.read(blocked)
    # and everything after it was read all the same
    assert root.read(f"{tree.place('0000:01:10.0')}/vendor") == b"0x8086\n"
    assert root.read(f"{tree.place('0000:01:10.0')}/config")


# --- what a missing file means -------------------------------------------------------------------


def test_absence_is_proved_only_where_it_was_looked_for(tree: SysfsTree, capture: Path) -> None:
    root = open_root(str(capture))
    for path in ("/dev/vfio/3", "/etc/dracut.conf", "/sys/firmware/acpi/tables/IVRS"):
        assert root.authoritative(path)
        with pytest.raises(FileNotFoundError):
            root.read(path)
    for path in ("/etc/shadow", f"{tree.place('0000:01:00.0')}/rom", "/home/alice"):
        with pytest.raises(NotCaptured):
            root.read(path)


def test_a_refused_directory_is_no_empty_one(tree: SysfsTree, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ls").write_text(
        "#!/bin/sh\nfor last; do :; done\ncase $last in */dev/vfio) "
        "echo \"ls: cannot open directory '$last': Permission denied\" >&2; exit 2 ;;"
        f' *) exec {shutil.which("ls")} "$@" ;; esac\n'
    )
    (tools / "ls").chmod(0o755)
    root = open_root(str(gathered(tree, "refused", PATH=f"{tools}:{os.environ['PATH']}")))
    with pytest.raises(PermissionError):
        root.list("/dev/vfio")
    assert collect_host(root).readings.holders is None


# --- the file -----------------------------------------------------------------------------------


def test_the_default_name_tells_host_and_time(tree: SysfsTree, tmp_path: Path) -> None:
    place = tmp_path / "here"
    place.mkdir()
    environment = {**os.environ, "VFIOCTL_ROOT": str(tree.top), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["sh", str(SCRIPT)], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    (made,) = place.iterdir()
    assert re.fullmatch(r"vfioctl-alpha-\d{8}T\d{6}Z\.tar\.gz", made.name)
    assert f"vfioctl check --root {made}" in done.stderr
    assert made.stat().st_mode & 0o077 == 0
    assert done.stdout == ""


def test_a_file_that_is_there_stays(tree: SysfsTree, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    done = gather(tree.top, target)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert target.read_text() == "mine"


def test_nothing_is_left_behind(tree: SysfsTree, tmp_path: Path) -> None:
    assert gather(tree.top, tmp_path / "made").returncode == 0
    assert list((tmp_path / "work").iterdir()) == []
    done = gather(tree.top, tmp_path / "no" / "folder", work=tmp_path / "work")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert list((tmp_path / "work").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "work"]


def test_help_is_the_head_of_the_script() -> None:
    done = subprocess.run(["sh", str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Gathers the evidence")
    assert "vfioctl check --root FILE" in done.stdout
    assert "shellcheck" not in done.stdout
    assert subprocess.run(["sh", str(SCRIPT), "-x"], capture_output=True).returncode == 1
