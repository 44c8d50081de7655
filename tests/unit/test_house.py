"""The rules of the house can fail: each is shown one case that it must refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.check_file_sizes import LIMIT_LINES, judge
from tools.gen_proto import compare

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_module_at_the_limit_is_fine() -> None:
    assert judge("x = 1\n" * LIMIT_LINES) is None


def test_a_longer_module_is_refused_with_its_length() -> None:
    complaint = judge("x = 1\n" * (LIMIT_LINES + 1))
    assert complaint is not None
    assert str(LIMIT_LINES + 1) in complaint


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ("Length: one table, kept whole.", True),
        ("Length:", False),
        ("The length: long.", False),
    ],
)
def test_only_a_reason_in_the_docstring_excuses_length(line: str, accepted: bool) -> None:
    source = f'"""A module.\n\n{line}\n"""\n' + "x = 1\n" * LIMIT_LINES
    assert (judge(source) is None) is accepted


def test_stub_differences_are_named() -> None:
    committed = {"a_pb2.py": b"1", "b_pb2.py": b"1", "c_pb2.py": b"1"}
    fresh = {"a_pb2.py": b"1", "b_pb2.py": b"2", "d_pb2.py": b"1"}
    assert compare(committed=committed, fresh=fresh) == [
        "b_pb2.py: differs",
        "c_pb2.py: left over, no .proto makes it",
        "d_pb2.py: missing",
    ]


def test_equal_stubs_give_no_difference() -> None:
    assert compare(committed={"a_pb2.py": b"1"}, fresh={"a_pb2.py": b"1"}) == []


def run_pytest(folder: Path, *, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    """Run a test file under this project's configuration, with the shared folder absent."""
    tests = folder / "tests"
    tests.mkdir()
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for name in ("conftest.py", "shared_folder.py"):
        shutil.copy(CHECKOUT / "tests" / name, tests)
    (tests / "test_case.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**os.environ, "CI": ci, "VFIOCTL_SHARED": str(folder / "absent")},
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPING = "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('tired')\n"
SHARING = "import pytest\ndef test_one(): pass\n@pytest.mark.shared\ndef test_two(shared): pass\n"
WARNING = "import warnings\ndef test_one(): warnings.warn('careful')\n"


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_skip_is_listed_and_fails_only_under_ci(tmp_path: Path, ci: str, status: int) -> None:
    result = run_pytest(tmp_path, source=SKIPPING, ci=ci)
    assert "tests/test_case.py::test_two: tired" in result.stdout
    assert result.returncode == status, result.stdout


def test_shared_tests_are_deselected_and_counted(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, source=SHARING, ci="true")
    assert "1 test marked `shared` deselected" in result.stdout
    assert "1 passed, 1 deselected" in result.stdout
    assert result.returncode == 0, result.stdout


def test_a_warning_fails_its_test(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, source=WARNING, ci="").returncode == 1
