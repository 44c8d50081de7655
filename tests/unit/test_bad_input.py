"""Bad input through the entry points that people use: it ends in a clear finding or error.

Nothing raises, nothing hangs, no text of a host reaches the terminal as it is, and no verdict gets
better because evidence went missing.

Length: one section an item of the list of bad input; each is short and stands alone.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.config_bytes import acs, make_config, pcie, pm
from tests.fakes.damaged_capture import DAMAGES, Capture
from tests.fakes.sysfs_tree import SysfsTree
from vfio_agent.inspect import Inspection, inspect_host
from vfio_cli.main import run
from vfio_contract.artifact import digest_bytes
from vfio_contract.findings import Finding, Report, Verdict

HOSTS = Path(__file__).parent.parent / "data" / "hosts"
CAPTURES = sorted(path.name for path in HOSTS.glob("*.tar.gz"))
ADDRESS = "0000:01:00.0"
SUBJECT = f"function:{ADDRESS}"


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    out: str
    err: str


Vfioctl = Callable[..., Ended]


@pytest.fixture
def vfioctl(capsys: pytest.CaptureFixture[str]) -> Vfioctl:
    """One command in this process; what it printed is ASCII without control characters."""

    def call(*words: str | Path) -> Ended:
        status = run([str(word) for word in words])
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert all(c == "\n" or (c.isascii() and c.isprintable()) for c in text), text
            assert "Traceback" not in text
        return Ended(status, printed.out, printed.err)

    return call


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    """A small host with one intended card that passes, but for what a copy cannot show."""
    made = SysfsTree(tmp_path / "root")
    made.host()
    made.iommu()
    made.bridge("0000:00:01.0", group=1)
    made.function(ADDRESS, parent="0000:00:01.0", driver="vfio-pci", group=2)
    return made


def find(report: Report, check: str, subject: str = "node") -> Finding:
    (finding,) = (f for f in report.findings if (f.check, f.subject) == (check, subject))
    return finding


def reasons(seen: Inspection, path: str) -> str:
    """Why `path` was not read."""
    return " ".join(gap.reason for gap in seen.snapshot.readings.gaps if gap.path.endswith(path))


# --- a verdict never gets better because evidence is missing -------------------------------------

_QUALIFYING = {Verdict.PASS: 0, Verdict.NOT_APPLICABLE: 0, Verdict.WARN: 1}

_SAMPLES = 25
"""Damages tried of each capture in one run; the seed in the header repeats them."""


def rank(verdict: Verdict) -> int:
    """How good a verdict is; all others refuse alike."""
    return _QUALIFYING.get(verdict, 2)


def improvements(before: Report, after: Report) -> list[str]:
    """What looks better than it did: the report, the node, and what is meant for passthrough."""
    found = []
    if rank(after.verdict) < rank(before.verdict):
        found.append(f"report: {before.verdict} -> {after.verdict}")
    was = {(f.check, f.subject): f for f in before.findings}
    for finding in after.findings:
        old = was.get((finding.check, finding.subject))
        if (
            old is not None
            and old.intended is not False
            and rank(finding.verdict) < rank(old.verdict)
        ):
            found.append(f"{finding.check} {finding.subject}: {old.code} -> {finding.code}")
    return found


def is_told(name: str, damage: str) -> bool:
    """False where nothing in the capture can tell that something is missing.

    The list of functions is the one thing that a plain copy proves: a name that is gone from it
    may be gone from the host. A command line and a modprobe.d file say what is meant for
    passthrough, and any shorter text of theirs is as good a text.
    """
    listed = name.startswith("sys/bus/pci/devices/") and damage == "left out of a plain copy"
    return not listed and not name.startswith(("etc/", "usr/", "proc/cmdline"))


@pytest.mark.parametrize("name", CAPTURES)
def test_no_verdict_gets_better_when_evidence_goes_missing(
    name: str, seed: int, tmp_path: Path
) -> None:
    capture = Capture.load(HOSTS / name)
    before = inspect_host(str(HOSTS / name)).report
    dice = random.Random(f"{seed} {name}")
    better = []
    for number in range(_SAMPLES):
        damaged, done = capture, []
        for _ in range(dice.choice((1, 1, 1, 3))):
            damage = dice.choice(sorted(DAMAGES))
            names = [n for n in damaged.names if is_told(n, damage)]
            member = dice.choice(names)
            if damage == "unreadable" and "manifest.json" not in damaged.members:
                continue
            damaged = DAMAGES[damage](damaged, member)
            done.append(f"{member} {damage}")
        try:
            after = inspect_host(str(damaged.save(tmp_path / f"{number}.tar"))).report
        except OSError as error:
            assert error.strerror  # noqa: PT017  # refused whole, with its reason
            continue
        better += [f"{text} after {', '.join(done)}" for text in improvements(before, after)]
        (tmp_path / f"{number}.tar").unlink()
    assert better == []


DECIDING = (
    ("ir-off", "proc/sys/kernel/arch", "all ones", "interrupt-remapping", "node"),
    ("ir-off", "proc/interrupts", "half-written", "interrupt-remapping", "node"),
    ("ir-off", "proc/interrupts", "empty", "interrupt-remapping", "node"),
    ("iommu-off", "dmesg", "empty", "iommu-active", "node"),
    ("iommu-off", "proc/1/mountinfo", "half-written", "host-critical", "function:0000:02:00.0"),
    ("m3-intel-6.12", "proc/sys/kernel/arch", "no text", "cpu-virtualization", "node"),
    ("gpubox-f11", "proc/1/mountinfo", "half-written", "host-critical", "function:0000:00:1f.2"),
    ("gpubox-f11", "proc/1/mountinfo", "no text", "host-critical", "function:0000:00:1f.2"),
    ("gpubox-f11", "sys/class/net/vmbr0", "left out", "host-critical", "function:0000:00:1c.0"),
    (
        "gpubox-f11",
        "proc/bus/input/devices",
        "half-written",
        "host-critical",
        "function:0000:00:14.0",
    ),
    (
        "gpubox-f11",
        "sys/bus/pci/devices/0000:00:1f.2",
        "left out",
        "host-critical",
        "function:0000:00:1f.0",
    ),
    (
        "gpubox-f11",
        "sys/devices/pci0000:00/0000:00:02.0/0000:04:00.0/iommu_group",
        "left out of a plain copy",
        "group-isolation",
        "group:2",
    ),
    (
        "gpubox-f11",
        "sys/devices/pci0000:00/0000:00:1c.0/driver",
        "left out of a plain copy",
        "host-critical",
        "function:0000:00:1c.0",
    ),
)


@pytest.mark.parametrize(("host", "member", "damage", "check", "subject"), DECIDING)
def test_the_evidence_that_decided_is_gone_and_the_verdict_is_no_better(
    host: str, member: str, damage: str, check: str, subject: str, tmp_path: Path
) -> None:
    path = HOSTS / f"{host}.tar.gz"
    capture = Capture.load(path)
    before = find(inspect_host(str(path)).report, check, subject)
    damaged = DAMAGES[damage](capture, member).save(tmp_path / "host.tar")
    after = find(inspect_host(str(damaged)).report, check, subject)
    assert rank(after.verdict) >= rank(before.verdict), (before, after)


@pytest.mark.parametrize("name", CAPTURES)
def test_a_plain_copy_of_a_capture_says_no_more_than_the_capture(name: str, tmp_path: Path) -> None:
    before = inspect_host(str(HOSTS / name)).report
    copy = Capture.load(HOSTS / name).without("manifest.json").save(tmp_path / "copy.tar")
    assert improvements(before, inspect_host(str(copy)).report) == []


@pytest.mark.parametrize("header_type", [1, 5, 0x7F])
def test_an_endpoint_does_not_pass_for_a_bridge(header_type: int, tmp_path: Path) -> None:
    """A bridge is never assigned: one wrong byte would make a dirty group clean."""
    path, member = HOSTS / "gpubox-f11.tar.gz", "0000:00:02.0/0000:04:00.0/config"
    capture = Capture.load(path)
    name = f"sys/devices/pci0000:00/{member}"
    config = capture.members[name]
    assert isinstance(config, bytes)
    assert config[0x0E] & 0x7F == 0
    damaged = capture.put(name, config[:0x0E] + bytes((header_type,)) + config[0x0F:])
    before = inspect_host(str(path)).report
    after = inspect_host(str(damaged.save(tmp_path / "host.tar"))).report
    assert improvements(before, after) == []


_PROGRAM = """
import os, sys
from vfio_cli.main import run
run(["check", "-o", "json", "--root", sys.argv[1]])   # loads all that is loaded when needed
print("---")
sys.stdout.flush()
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(run(["check", "-o", "json"]))
"""


def test_an_ordinary_user_never_gets_more_than_root(tmp_path: Path) -> None:
    mine = inspect_host("/").report
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "dmesg").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "bare")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    theirs = json.loads(done.stdout.partition("---\n")[2])
    assert done.returncode in (0, 1, 2, 3)
    good = {(f.check, f.subject) for f in mine.findings if f.verdict is Verdict.PASS}
    said = {(f["check"], f["subject"]) for f in theirs["findings"] if f["verdict"] == "PASS"}
    assert said <= good


@pytest.fixture
def churn() -> Iterator[None]:
    """Processes that come and go all the time."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            subprocess.run(["true"], check=True)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("churn")
def test_processes_that_vanish_while_they_are_read_are_nothing() -> None:
    reports = [inspect_host("/").report for _ in range(3)]
    assert len({report.verdict for report in reports}) == 1


# --- sysfs ---------------------------------------------------------------------------------------


WHOLE = make_config(plain=(pm(), pcie(flr=True)), extended=(acs(),))


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        (b"", Verdict.UNKNOWN),
        (WHOLE[:1], Verdict.UNKNOWN),
        (WHOLE[:63], Verdict.UNKNOWN),
        (WHOLE[:64], Verdict.UNKNOWN),
        (WHOLE[:256], Verdict.PASS),
        (WHOLE, Verdict.PASS),
        (b"\xff" * 64, Verdict.UNKNOWN),
        (b"\xff" * 256, Verdict.UNKNOWN),
        (b"\xff" * 4096, Verdict.UNKNOWN),
    ],
    ids=lambda value: f"{len(value)} of {value[:1].hex()}" if isinstance(value, bytes) else None,
)
def test_config_spaces_of_any_length(tree: SysfsTree, config: bytes, verdict: Verdict) -> None:
    """Without `reset_method` the config space decides, as on kernels before 5.15."""
    tree.write("/proc/sys/kernel/osrelease", "5.10.0-30-amd64\n")
    tree.write(f"{tree.place(ADDRESS)}/config", config)
    for name in ("reset_method", "reset"):
        tree.remove(f"{tree.place(ADDRESS)}/{name}")
    finding = find(inspect_host(str(tree.top)).report, "reset-capability", SUBJECT)
    if verdict is Verdict.PASS:
        assert finding.verdict is Verdict.PASS
    else:
        assert finding.verdict is not Verdict.PASS
        assert finding.verdict is Verdict.UNKNOWN
        assert any("config" in missing.evidence for missing in finding.missing)


def test_a_looping_capability_list_is_named_with_its_place(tree: SysfsTree) -> None:
    data = bytearray(WHOLE)
    data[data[0x34] + 1] = data[0x34]
    tree.write(f"{tree.place(ADDRESS)}/config", bytes(data))
    seen = inspect_host(str(tree.top))
    assert "loop" in reasons(seen, f"{ADDRESS}/config")


def test_a_domain_of_eight_digits_is_listed(tree: SysfsTree, vfioctl: Vfioctl) -> None:
    tree.function("10000000:e1:00.0", root="pci10000000:e1", group=7)
    done = vfioctl("device", "list", "--root", tree.top, "-o", "name")
    assert "10000000:e1:00.0" in done.out.split()
    assert vfioctl("device", "show", "10000000:e1:00.0", "--root", tree.top).status in (0, 1, 2, 3)


HALF = {
    "vendor": b"0x80",
    "class": b"0x02",
    "resource": b"0x0000",
    "reset_method": b"flr \xff\xfe",
    "numa_node": b"-",
    "driver_override": b"\xff\xfe\n",
}


@pytest.mark.parametrize("name", sorted(HALF))
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_half_written_attribute_is_told(
    tree: SysfsTree, vfioctl: Vfioctl, name: str, form: str
) -> None:
    tree.write(f"{tree.place(ADDRESS)}/{name}", HALF[name])
    done = vfioctl("check", "--root", tree.top, "-o", form)
    assert done.status in (2, 3)
    vfioctl("device", "show", ADDRESS, "--root", tree.top, "-o", form)


@pytest.mark.parametrize("release", ["\u00b2.\u00b2", "9" * 5000 + ".1", "6.1\x1b[31m", "6", "."])
def test_a_release_that_is_no_version(tree: SysfsTree, vfioctl: Vfioctl, release: str) -> None:
    tree.write("/proc/sys/kernel/osrelease", release)
    assert vfioctl("check", "--root", tree.top).status in (2, 3)
    assert vfioctl("diff", tree.top, tree.top).status == 0


# --- roots ---------------------------------------------------------------------------------------


def make_cycles(top: Path) -> None:
    for name, target in (("sys", "proc"), ("proc", "sys"), ("dev", "."), ("dmesg", "dmesg")):
        (top / name).symlink_to(target)


def make_ladders_out(top: Path) -> None:
    (top / "proc" / "sys" / "kernel").mkdir(parents=True)
    (top / "proc" / "cpuinfo").symlink_to("../" * 40 + "etc/passwd")
    (top / "proc" / "cmdline").symlink_to("/etc/passwd")
    (top / "dmesg").symlink_to("/etc/passwd")
    (top / "sys").symlink_to("/sys")
    (top / "dev").symlink_to("../" * 40 + "dev")
    (top / "etc").symlink_to("/etc")


def make_odd_files(top: Path) -> None:
    (top / "sys" / "bus" / "pci" / "devices").mkdir(parents=True)
    (top / "proc").mkdir()
    for name in ("dmesg", "proc/cmdline", "sys/bus/pci/devices/0000:00:00.0"):
        os.mkfifo(top / name)
    (top / "proc" / "cpuinfo").mkdir()
    (top / "etc").write_text("not a folder")


@pytest.mark.parametrize("make", [make_cycles, make_ladders_out, make_odd_files])
@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_a_hostile_tree_is_unknown_and_nothing_else(
    make: Callable[[Path], None], form: str, tmp_path: Path, vfioctl: Vfioctl
) -> None:
    top = tmp_path / "root"
    top.mkdir()
    make(top)
    done = vfioctl("check", "--root", top, "-o", form)
    assert done.status == 3
    assert "root:x:0" not in done.out
    if form == "json":
        document = json.loads(done.out)
        assert document["verdict"] == "UNKNOWN"
        assert {f["verdict"] for f in document["findings"]} == {"UNKNOWN"}
        assert document["missing"]
    packed = tmp_path / "root.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(top, arcname=".")
    assert vfioctl("check", "--root", packed, "-o", form).status == 3
    artifact = vfioctl("collect", "--root", top)
    assert artifact.status == 0
    assert "root:x:0" not in artifact.out


def tar_with(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    return path


def test_a_root_that_is_none_is_one_line_that_names_it(tmp_path: Path, vfioctl: Vfioctl) -> None:
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(257):
            file.write(bytes(1 << 20))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((HOSTS / CAPTURES[0]).read_bytes()[:9000])
    cases = {
        bomb: "when unpacked",
        fifo: "neither a directory nor a regular file",
        Path("/dev/null"): "neither a directory nor a regular file",
        cut: "not a readable tar",
        tar_with(tmp_path / "climb.tar", "sys/../../../etc/cron.d/x"): "climbs out of the tree",
        tar_with(tmp_path / "over.tar", "sys", "sys/bus"): "a directory and something else",
        tmp_path / "absent": "No such file",
    }
    for root, words in cases.items():
        done = vfioctl("check", "--root", root, "-o", "json")
        assert done.status == 64, root
        assert json.loads(done.out)["schema"] == "vfioctl.error/v1"
        last = done.err.rstrip().splitlines()[-1]
        assert words in last
        assert str(root) in last
    assert not (tmp_path.parent / "etc").exists()


def test_a_kernel_log_of_50_megabytes_is_read_to_its_end(tmp_path: Path, vfioctl: Vfioctl) -> None:
    noise = (
        b"".join(
            b'[%12.6f] audit: type=1400 apparmor="DENIED" pid=%d %s\n' % (n / 100, n, b"x" * 150)
            for n in range(2_000)
        )
        + b"[   99.000000] pcieport 0000:00:01.0: AER: Corrected error received: 0000:01:00.0\n"
        * 200
    )
    first = (
        b"[    0.000000] Linux version 6.1.0-56-amd64 (b@h) (gcc 12)\n"
        b"[    0.500000] DMAR: Intel(R) Virtualization Technology for Directed I/O\n"
        b"[    0.600000] DMAR-IR: Enabled IRQ remapping in x2apic mode\n"
    )
    last = b"[  900.000000] vfio-pci 0000:01:00.0: not ready 65535ms after FLR; giving up\n"
    (tmp_path / "dmesg").write_bytes(first + noise * (50_000_000 // len(noise) + 1) + last)
    assert (tmp_path / "dmesg").stat().st_size > 50_000_000
    seen = inspect_host(str(tmp_path))
    assert find(seen.report, "iommu-active").verdict is Verdict.PASS
    assert find(seen.report, "interrupt-remapping").verdict is Verdict.PASS
    log = seen.snapshot.readings.kernel_log
    assert log is not None
    assert "giving up" in log.lines[-1].text
    assert log.omitted_lines > 0
    assert len(log.lines) < 5_000


# --- text that would move the cursor -------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;pwn\x07\x9b31m\u202e\u2028 ok"


def make_evil(top: Path) -> Path:
    tree = SysfsTree(top)
    tree.host()
    tree.iommu("dmar\x1b[31m0")
    tree.bridge("0000:00:01.0", group=1)
    tree.function(
        ADDRESS,
        parent="0000:00:01.0",
        driver="vfio\x1b[31m-pci",
        group=2,
        files={"driver_override": EVIL + "\n", "reset_method": f"flr {EVIL}\n"},
    )
    place = tree.place(ADDRESS)
    tree.write(f"{place}/net/eth\x1b[7m0/address", EVIL)
    tree.link("/sys/class/net/eth\x1b[7m0", f"{place}/net/eth\x1b[7m0")
    tree.write("/proc/sys/kernel/hostname", EVIL)
    tree.write("/proc/cmdline", f"intel_iommu=on {EVIL} vfio-pci.ids={EVIL}\n")
    tree.write("/proc/1/mountinfo", f"1 0 8:1 / /{EVIL.replace(' ', '')} rw - ext4 /dev/sda1 rw\n")
    tree.write("/etc/modprobe.d/a\x1b[5m.conf", f"options vfio-pci ids=8086:10d3 {EVIL}\n")
    tree.write("/dmesg", f"[    0.000000] Linux version 6 (x)\n[    0.1] DMAR: {EVIL} x2apic\n")
    tree.write("/sys/devices/virtual/dmi/id/bios_version", EVIL)
    tree.link("/sys/class/dmi/id", "/sys/devices/virtual/dmi/id")
    return top


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
def test_no_text_of_a_host_reaches_the_terminal_as_it_is(
    form: str, tmp_path: Path, vfioctl: Vfioctl
) -> None:
    root = make_evil(tmp_path / "evil")
    commands = (
        ("check", "--root", root),
        ("device", "list", "--root", root),
        ("device", "show", ADDRESS, "--root", root),
        ("diff", root, HOSTS / CAPTURES[0]),
        ("diff", HOSTS / CAPTURES[0], root),
    )
    for words in commands:
        done = vfioctl(*words, "-o", form)  # the fixture looks at every character
        assert done.status in (0, 1, 2, 3)
        assert done.out
        if form == "json":
            json.loads(done.out)


# --- artifacts -----------------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], None]


def set_field(half: str, name: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        document[half][name] = value

    return change


def set_functions(**values: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        for function in document["facts"]["functions"]:
            function |= values

    return change


REFUSED = {
    "NaN": (set_field("facts", "new", float("nan")), "NaN is no JSON number"),
    "infinity": (set_field("readings", "uptime_seconds", float("inf")), "Infinity is no JSON"),
    "a huge number": (set_field("readings", "uptime_seconds", 10**400), "uptime_seconds"),
    "a huge group": (set_functions(group=-(10**30)), "functions[0].group"),
    "no address": (set_functions(address="zz"), "functions[0].address: 'zz'"),
    "one address": (set_functions(address=ADDRESS), f"functions[1].address: {ADDRESS} is there"),
    "a text for a number": (set_functions(group="7"), "functions[0].group: expected int"),
    "no readings": (lambda document: document.pop("readings"), "readings"),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "host.json"
    with contextlib.redirect_stderr(io.StringIO()):
        assert run(["collect", "--root", str(HOSTS / CAPTURES[0]), "-o", str(path)]) == 0
    return path


def rewritten(path: Path, target: Path, change: Change) -> Path:
    """The artifact with a change and a digest that fits it."""
    document = json.loads(path.read_text())
    change(document)
    facts = json.dumps(document["facts"], sort_keys=True, separators=(",", ":")) + "\n"
    document["digest"] = digest_bytes(facts.encode())
    target.write_text(json.dumps(document))
    return target


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_artifact_of_nonsense_is_refused_by_its_field(
    name: str, artifact: Path, tmp_path: Path, vfioctl: Vfioctl
) -> None:
    change, words = REFUSED[name]
    bad = rewritten(artifact, tmp_path / "bad.json", change)
    for pair in ((artifact, bad), (bad, artifact)):
        done = vfioctl("diff", *pair, "-o", "json")
        assert done.status == 64
        assert json.loads(done.out)["schema"] == "vfioctl.error/v1"
        assert words in done.err
        assert str(bad) in done.err


def nest(half: str, depth: int) -> bytes:
    text = "[" * depth + "]" * depth
    return f'{{"schema":"vfioctl.artifact/v1","digest":"","{half}":{text}}}'.encode()


GARBAGE = {
    "empty": b"",
    "cut": b'{"schema": "vfioctl.artifact/v1", "facts": {',
    "not text": b'\xff\xfe{"\0"\0',
    "a list": b"[1]",
    "of the future": b'{"schema": "vfioctl.artifact/v9"}',
    "deep": nest("facts", 700),
    "deeper": nest("facts", 100_000),
    "a float that is none": b'{"schema":"vfioctl.artifact/v1","facts":{"a":1e999}}',
    "other facts": b'{"schema":"vfioctl.artifact/v1","digest":"sha256:00","facts":{}}',
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
def test_a_file_that_is_no_artifact_is_refused_with_a_reason(
    name: str, artifact: Path, tmp_path: Path, vfioctl: Vfioctl
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(GARBAGE[name])
    for pair in ((artifact, bad), (bad, artifact)):
        done = vfioctl("diff", *pair)
        assert (done.status, done.out) == (64, "")
        assert str(bad) in done.err


def test_parents_and_physical_functions_in_a_circle_end(
    artifact: Path, tmp_path: Path, vfioctl: Vfioctl
) -> None:
    def circle(document: dict[str, Any]) -> None:
        functions = document["facts"]["functions"]
        for function, other in zip(functions, [*functions[1:], functions[0]], strict=True):
            function["parent"] = function["physfn"] = other["address"]

    bad = rewritten(artifact, tmp_path / "circle.json", circle)
    assert vfioctl("diff", artifact, bad, "-o", "json").status in (1, 2)


def test_an_artifact_is_the_same_as_itself(artifact: Path, vfioctl: Vfioctl) -> None:
    done = vfioctl("diff", artifact, artifact, "-o", "json")
    assert done.status == 0
    assert json.loads(done.out)["changes"] == []


# --- what people type ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--nope"],
        ["frob"],
        ["check", "--nope"],
        ["check", "extra"],
        ["check", "-o", "xml"],
        ["check", "--root"],
        ["check", "--root", ""],
        ["check", "--root", "a\x1b[31mb"],
        ["check", "--root", "/", "--node", "pve01"],
        ["device", "show", "\x1b[31m"],
        ["device", "show", "ffff:ff:1f.7"],
        ["diff", "a"],
        ["explain", "\x1b[31mnothing"],
        ["vm", "place", "UPPER", "--device", "gpu"],
        ["vm", "place", "a\x1b[31m", "--device", "gpu"],
        ["vm", "place", "a", "--device", "gpu=0"],
        ["vm", "place", "a", "--device", "gpu=" + "9" * 5000],
        ["vm", "place", "a", "--device", "\u202egpu"],
        ["vm", "place", "a"],
        ["status", "--cluster", "--endpoint", "\x1b[31m"],
        ["status", "--cluster", "--endpoint", "unix:/" + "x" * 200],
    ],
)
def test_wrong_usage_is_64_and_says_what(words: list[str], vfioctl: Vfioctl) -> None:
    done = vfioctl(*words)
    assert (done.status, done.out) == (64, "")
    assert done.err.strip()
