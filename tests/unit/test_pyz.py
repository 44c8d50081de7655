"""The one-file build: alone on a bare Python it says exactly what the installed vfioctl says.

The file is run by an interpreter that sees no site-packages (-I -S) and refuses the wire's modules.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tools.build_pyz import (
    VENDORED,
    BuildError,
    Files,
    find_left_out,
    gather_files,
    module_name,
    pack,
    write_executable,
)
from vfio_cli.commands.vm import COMMANDS
from vfio_cli.main import TREE, run
from vfio_contract.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "data" / "hosts"
CAPTURES = sorted(path.name for path in HOSTS.glob("*.tar.gz"))
F10, F11 = str(HOSTS / "gpubox-f10.tar.gz"), str(HOSTS / "gpubox-f11.tar.gz")

NEEDS_INSTALL = "needs vfioctl installed on this host: pip install . in its checkout"
HERE = {"check", "device", "collect", "diagnose", "diff", "explain", "report", "status", "vm"}
"""At least these commands are in the file; of `vm` only lint."""

# Whoever imports one of these ends with a traceback, also where it is installed.
REFUSE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("grpc", "google", "vfioctl", "cryptography", "immutables"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def files() -> Files:
    return gather_files()


@pytest.fixture(scope="module")
def pyz(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "vfioctl.pyz"
    write_executable(path, pack(files, seconds=0))
    return path


def call(pyz: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The file on a bare interpreter that refuses the wire."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", REFUSE, str(pyz), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


@pytest.mark.parametrize("name", CAPTURES)
def test_check_is_that_of_the_installed_vfioctl(
    name: str, pyz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "--root", str(HOSTS / name), "-o", "json"]
    status = run(arguments)
    done = call(pyz, *arguments)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (status, capsys.readouterr().out)
    assert json.loads(done.stdout)["schema"] == "vfioctl.check/v1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["check", "--root", F10],
        ["check", "--root", F10, "-o", "yaml"],
        ["check", "--from", F10],
        ["explain"],
        ["explain", "group-isolation", "-o", "json"],
        ["device", "list", "--root", F10],
        ["device", "show", "01:00.0", "--root", F10, "-o", "wide"],
        ["collect", "--root", F10],
        ["diff", F10, F11],
        ["vm", "lint", "--root", F10],
        ["diagnose", "--error", "vfio: group 9 is not viable"],
        ["collect", "--script"],
        ["explain", "nonsense", "-o", "json"],
    ],
    ids=" ".join,
)
def test_every_local_command_is_that_of_the_installed_vfioctl(
    arguments: list[str], pyz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(arguments)
    said = capsys.readouterr()
    done = call(pyz, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (status, said.out, said.err)


def test_it_runs_by_itself_in_any_directory(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise AssertionError('not this one')")
    done = subprocess.run(
        [str(pyz), "check", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["findings"]
    assert pyz.stat().st_mode & stat.S_IXOTH
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def offered(text: str) -> set[str]:
    """The commands that a help text lists below its options."""
    rows = text.partition("\nOptions:\n")[2].partition("\n  Shell completion")[0].splitlines()
    return {row.split()[0] for row in rows if row.startswith("  ") and row[2:3].isalpha()}


def test_only_what_works_is_offered_and_the_rest_says_what_it_needs(pyz: Path) -> None:
    names = {name for rows in TREE.values() for name in rows}
    here = offered(call(pyz, "--help").stdout)
    assert here >= HERE
    assert here <= names
    for name in sorted(here):
        assert call(pyz, name, "--help").returncode == 0
    absent = [[name] for name in sorted(names - here)]
    assert ["node"] in absent
    assert ["up"] in absent
    assert offered(call(pyz, "vm", "--help").stdout) == {"lint"}
    absent += [["vm", name] for name in COMMANDS if name != "lint"]
    for words in (*absent, ["status", "--cluster"], ["check", "--node", "pve01"]):
        done = call(pyz, *words)
        assert done.returncode == 64, words
        assert done.stdout == ""
        assert done.stderr == f"vfioctl: this {NEEDS_INSTALL}\n"
    for name, absent_option in (("check", "--node"), ("status", "--cluster")):
        text = call(pyz, name, "--help").stdout
        assert f"\n  {absent_option}" not in text
        assert f"vfioctl {name} {absent_option}" not in text
        assert "--endpoint" not in text
        assert f"vfioctl {name}\n" in text
    document = json.loads(call(pyz, "node", "list", "-o", "json").stdout)
    assert (document["code"], document["exit_code"]) == ("NOT_IN_THIS_BUILD", 64)


def test_its_reading_process_starts_out_of_the_archive(pyz: Path) -> None:
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(pyz)!r})\n"
        "from vfio_agent.collect.reader_process import READER_PROCESS, __file__ as place\n"
        "print(place)\n"
        "(data,) = READER_PROCESS.run('text', ['/proc/sys/kernel/ostype'], seconds=30)\n"
        "print(data)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    place, data = done.stdout.splitlines()
    assert place.startswith(str(pyz))
    assert data == repr(b"Linux\n")


def test_an_older_python_is_told_what_it_lacks(pyz: Path, files: Files) -> None:
    script = (
        "import runpy, sys\n"
        "sys.version_info = (3, 9, 2)\n"
        f"runpy.run_path({str(pyz)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == (
        "vfioctl: this file needs Python 3.11 or newer, and this is Python 3.9\n"
    )
    main = files["__main__.py"].decode()
    assert not any(new in main for new in ("f'", 'f"', ":=", "->", "match ", "annotations"))


def test_the_same_sources_give_the_same_bytes(pyz: Path, files: Files) -> None:
    assert pack(dict(reversed(files.items())), seconds=0) == pyz.read_bytes()
    with zipfile.ZipFile(pyz) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == sorted(files)
        assert {entry.date_time for entry in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with_date = pack({"x": b""}, seconds=1_700_000_000)
    assert with_date == pack({"x": b""}, seconds=1_700_000_000)
    assert with_date != pack({"x": b""}, seconds=0)


def test_it_holds_sources_and_licences_only(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as packed:
        names = packed.namelist()
    modules = [name for name in names if name.endswith(".py")]
    assert not [name for name in names if name.endswith((".so", ".pyc", ".pyd"))]
    assert not [name for name in names if "_pb2" in name or "vfio_coordinator" in name]
    tops = {"__main__.py", "vfio_agent", "vfio_cli", "vfio_contract", *VENDORED.values()}
    assert {name.partition("/")[0] for name in modules} == tops
    licences = [name for name in names if "/licenses/" in name]
    assert len(licences) == 1 + len(VENDORED)
    # Data beside the modules must travel with them.
    assert [name for name in names if name.startswith("vfio_agent/") and name.endswith(".sh")]


def test_what_needs_the_wire_takes_along_whoever_imports_it() -> None:
    import ast

    modules = {
        "vfio_cli": "",
        "vfio_cli.client": "import grpc",
        "vfio_cli.node": "from vfio_cli import client",
        "vfio_cli.far": "import json\nfrom vfio_cli.node import x",
        "vfio_cli.lazy": "def ask():\n    from vfio_cli.client import connect",
        "vfio_cli.typed": "if TYPE_CHECKING:\n    import grpc",
        "vfio_cli.guarded": "try:\n    import grpc\nexcept ImportError: pass",
        "vfio_agent.session": "",
        "vfio_agent.session.link": "",
        "vfio_agent.session2": "import yaml",
    }
    out = find_left_out({name: ast.parse(text) for name, text in modules.items()})
    assert out == {
        "vfio_cli.client",
        "vfio_cli.node",
        "vfio_cli.far",
        "vfio_cli.guarded",
        "vfio_agent.session",
        "vfio_agent.session.link",
    }
    with pytest.raises(BuildError, match="relative"):
        find_left_out({"vfio_cli.x": ast.parse("from . import y")})


def test_names_of_modules() -> None:
    assert module_name("a/b/__init__.py") == "a.b"
    assert module_name("a/b.py") == "a.b"


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
