"""Without a browser its tests are deselected and counted; under CI they fail instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_house import run_pytest

SOURCE = """
import pytest
def test_one(): pass
@pytest.mark.browser
def test_two(chromium): pass
"""


@pytest.fixture(autouse=True)
def _no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_browser_tests_are_deselected_and_counted(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, source=SOURCE, ci="")
    assert "1 test marked `browser` deselected: no chromium" in result.stdout
    assert "1 passed, 1 deselected" in result.stdout
    assert result.returncode == 0, result.stdout


def test_under_ci_they_fail_and_say_what_to_install(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, source=SOURCE, ci="true")
    assert "no chromium: apt-get install" in result.stdout
    assert "1 passed, 1 error" in result.stdout
    assert result.returncode == 1, result.stdout
