"""What the lab makes and keeps: damaged, missing, half there, or with nowhere to come from.

No machine is booted here.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.lab.conftest import find_kernel, prepare_once
from tests.lab.harness.apt import find_main
from tests.lab.harness.ground import LabError, LabMissing, locked, run_tool, work_folder
from tests.lab.harness.lanes import GREEN, HEADING, find_scenarios, rows_folder, write_table
from tests.lab.harness.machine import CHECKOUT
from tests.lab.harness.prepare import PACKAGES, find_damage, prepare, write_manifest
from tests.lab.observation import Row

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

# A kernel takes 10-20 s to make, several times that on a busy host.
LIMIT_S = 120.0


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["a,b", "x" * 90])
def test_a_work_folder_that_qemu_cannot_use_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFIOCTL_LAB", str(tmp_path / name))
    with pytest.raises(LabError, match=r"set VFIOCTL_LAB"):
        work_folder()


@pytest.mark.smoke
def test_a_damaged_kernel_is_noticed(tmp_path: Path) -> None:
    made = tmp_path / "kernel"
    (made / "lib").mkdir(parents=True)
    assert find_damage(made) == "no whole manifest.json (FileNotFoundError)"
    (made / "vmlinux").write_bytes(bytes(4096))
    (made / "lib" / "vfio.ko").write_bytes(bytes(512))
    write_manifest(made)
    assert find_damage(made) is None
    os.truncate(made / "vmlinux", 100)
    assert find_damage(made) == "vmlinux: 100 bytes, 4096 expected"
    os.truncate(made / "vmlinux", 4096)
    (made / "lib" / "vfio.ko").unlink()
    assert find_damage(made) == "lib/vfio.ko: missing, 512 expected"
    (made / "manifest.json").write_text('{"vmlinux": 4')
    assert find_damage(made) == "no whole manifest.json (JSONDecodeError)"


@pytest.fixture
def looked_for_anew() -> Iterator[None]:
    """What this computer has is looked for again, now and afterwards."""
    prepare_once.cache_clear()
    yield
    prepare_once.cache_clear()


@pytest.mark.smoke
def test_a_computer_without_qemu_skips_and_says_how_and_fails_under_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_for_anew: None
) -> None:
    find_kernel("6.1")
    prepare_once.cache_clear()
    for name in (*PACKAGES.values(), "busybox", "apt-get"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(LabMissing) as caught:
        find_kernel("6.1")
    said = str(caught.value)
    assert "the lab needs QEMU 8 or newer" in said
    apt_get = "sudo apt-get install -y --no-install-recommends"
    assert said.endswith(f"{apt_get} -t bookworm-backports qemu-system-x86")
    (tmp_path / "cpio").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI")
    prepare_once.cache_clear()
    with pytest.raises(pytest.skip.Exception) as skipped:
        find_kernel("6.1")
    assert f"{apt_get} cpio" in str(skipped.value)
    # Another distribution: nothing of apt's is offered there.
    (tmp_path / "apt-get").unlink()
    with pytest.raises(LabMissing, match="the lab needs QEMU 8 or newer, and programs of: cpio"):
        prepare(["6.1"])


@pytest.mark.smoke
def test_tests_fetch_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_kernel("6.1")
    monkeypatch.setenv("VFIOCTL_LAB", str(work))
    with pytest.raises(LabMissing, match=r"no kernel 6\.1: `make lab` fetches and makes it"):
        prepare(["6.1"], install=False)
    assert not (work / "apt").exists()


@pytest.mark.smoke
def test_a_command_that_does_not_end_or_asks_is_ended() -> None:
    with pytest.raises(LabError, match=r"^sleep 60: not done within 0\.2 s$"):
        run_tool("sleep", "60", limit_s=0.2)
    # A question has its end of input at once: with a terminal's this would be the limit.
    assert run_tool("cat", limit_s=30) == ""


@pytest.mark.smoke
def test_who_waits_for_another_run_says_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock"
    with locked(lock):
        assert capsys.readouterr().err == ""
        with pytest.raises(LabError, match=r"held for 0\.5 s"), locked(lock, limit_s=0.5):
            pytest.fail("it was had twice")
    said = capsys.readouterr().err
    assert said == f"lab: waits for {lock}, held by pid {os.getpid()}\n"


@pytest.mark.smoke
def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(LabError, match=f"^{tmp_path}/gone/lock: No such file or directory$"),
        locked(tmp_path / "gone" / "lock"),
    ):
        pytest.fail("it was had")


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("index", "found"),
    [
        ("http://deb.debian.org/debian/ bookworm main bookworm Debian", True),
        ("http://mirror.example/pub/Debian12/ oldstable main bookworm Debian", True),
        ("http://deb.debian.org/debian/ bookworm contrib bookworm Debian", False),
        ("http://deb.debian.org/debian/ stable main trixie Debian", False),
        ("http://deb.debian.org/debian/ bookworm-updates main bookworm-updates Debian", False),
        ("http://deb.debian.org/debian-security/ x main bookworm-security Debian-Security", False),
        ("http://apt.example/ bookworm main bookworm Some Vendor", False),
        ("file:/srv/packages/ ./ main", False),
    ],
)
def test_debian_12_is_known_by_its_own_index(index: str, found: bool) -> None:
    assert find_main([index]) == (index.split()[0] if found else None)


@pytest.fixture
def work() -> Iterator[Path]:
    """A work folder with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        yield Path(folder) / "work"


def _prepare(work: Path, *, size_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Prepare kernel 6.1 in this folder on a computer whose one mirror is a closed port."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    apt = work.parent / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(
        f"deb [trusted=yes] http://127.0.0.1:{port}/debian/ bookworm main\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{apt}/lists";\nAcquire::Retries "0";\n'
    )

    def limit() -> None:
        if size_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_limit, size_limit))

    return subprocess.run(
        [sys.executable, "-m", "tests.lab.harness.prepare", "6.1"],
        cwd=CHECKOUT,
        env=os.environ | {"VFIOCTL_LAB": str(work), "APT_CONFIG": str(apt / "apt.conf")},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def _package() -> Path:
    """The kernel package that the lab itself was made from."""
    find_kernel("6.1")
    found = sorted((work_folder() / "packages").glob("linux-image-6.1.*.deb"))
    assert found, f"no package kept in {work_folder()}/packages: remove the kernel-6.1-* beside it"
    return found[-1]


@pytest.mark.smoke
def test_without_network_or_package_it_says_what_to_fetch_and_where_to(work: Path) -> None:
    find_kernel("6.1")
    done = _prepare(work)
    assert done.returncode == 1
    assert "no kernel 6.1, and it cannot be fetched" in done.stderr
    assert "apt has no index of Debian 12 ('bookworm main')" in done.stderr
    assert "Fetch Debian's package linux-image-6.1.*-amd64" in done.stderr
    assert f"put the .deb into {work}/packages" in done.stderr


def test_a_kernel_is_made_again_from_what_is_there(work: Path) -> None:
    package = _package()
    (work / "packages").mkdir(parents=True)
    here = work / "packages" / package.name
    # Half a package, as a download leaves it that was cut off.
    here.write_bytes(package.read_bytes()[:1_000_000])
    done = _prepare(work)
    assert done.returncode == 1
    assert str(here) in done.stderr
    here.unlink()
    here.symlink_to(package)
    # A disk that is full.
    done = _prepare(work, size_limit=1 << 20)
    assert done.returncode == 1
    assert str(work) in done.stderr
    assert not list(work.glob("kernel-6.1-*"))
    # Room again, and no network needed.
    done = _prepare(work)
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = work.glob("kernel-6.1-*")
    os.truncate(made / "initrd", 4096)
    done = _prepare(work)
    assert done.returncode == 0
    assert f"{made}: initrd: 4096 bytes, " in done.stderr
    assert find_damage(made) is None


@pytest.mark.smoke
def test_the_table_is_that_of_a_whole_run(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VFIOCTL_LAB", str(work))
    document = tmp_path / "lab.md"
    document.write_text(f"# Lab\n\n{HEADING}\n| old |\n")
    rows = rows_folder()
    rows.mkdir()
    names = find_scenarios()
    for name in names[1:]:
        row = Row(f"of-{name}", "as booted", "0000:01:00.0", "open", "opened", "opened")
        (rows / f"{name}.json").write_text(json.dumps([asdict(row)]))
    assert write_table(document) == 1
    assert capsys.readouterr().err == f"lab: run `make lab` first: nothing of {names[0]}\n"
    assert "| old |" in document.read_text()
    (rows / f"{names[0]}.json").write_text("[]")
    # Rows of a run in which a file failed are no table.
    assert write_table(document) == 1
    assert capsys.readouterr().err == "lab: the last `make lab` failed, or has not ended\n"
    assert "| old |" in document.read_text()
    (rows / GREEN).touch()
    assert write_table(document) == 0
    before, _, table = document.read_text().partition(HEADING)
    assert before == "# Lab\n\n"
    found = [line.split()[1] for line in table.strip().splitlines()[2:]]
    assert found == [f"of-{name}" for name in sorted(names[1:])]
