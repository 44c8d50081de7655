"""What a look at the certificates leaves alone, and what it makes of trouble; no server needed."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vfio_contract.bundle import load_bundle
from vfio_coordinator import certificates
from vfio_coordinator.certificates import Certificates
from vfio_coordinator.state.events import CertificatesSeen, Now

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DUE = NOW + timedelta(days=61)
NODES = ("pve01", "pve02", "pve03")
DEADLINE_S = 30.0


@dataclass
class StillClock:
    wall: datetime

    def now(self) -> Now:
        return Now(0.0, self.wall.strftime("%Y-%m-%dT%H:%M:%SZ"))


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path, names=("localhost",), nodes=NODES, now=NOW)
    made.make_bundles("co1:7443")
    return made


@pytest.fixture
def look(made: Certificates, monkeypatch: pytest.MonkeyPatch) -> Look:
    monkeypatch.setattr(certificates, "LOOK_S", 0.0)
    return Look(made)


@dataclass
class Look:
    made: Certificates

    def __call__(self, wall: datetime) -> str:
        """One look at that moment; the trouble it told of."""
        seen: list[CertificatesSeen] = []

        async def once() -> None:
            told = asyncio.Event()

            def tell(event: CertificatesSeen) -> None:
                seen.append(event)
                told.set()

            task = asyncio.create_task(self.made.keep(StillClock(wall), tell))
            async with asyncio.timeout(DEADLINE_S):
                await told.wait()
            task.cancel()

        asyncio.run(once())
        return seen[0].trouble


def contents(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_nothing_is_touched_before_two_thirds(
    tmp_path: Path, made: Certificates, look: Look
) -> None:
    before, bundle = contents(tmp_path), made.bundle
    assert look(NOW + timedelta(days=59)) == ""
    assert contents(tmp_path) == before
    assert made.bundle == bundle
    assert made.news() is None


def test_all_that_is_due_is_renewed_and_the_news_are_told_once(
    tmp_path: Path, made: Certificates, look: Look
) -> None:
    before, bundle = contents(tmp_path), made.bundle
    assert look(DUE) == ""
    after = contents(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "ca/server/cert.pem",
        "users/admin/cert.pem",
        *(f"nodes/{name}/cert.pem" for name in NODES),
    }
    assert made.bundle != bundle
    assert made.bundle == load_bundle(tmp_path / "ca" / "server")
    assert made.until == datetime(2027, 4, 22, 12, tzinfo=UTC)
    assert made.news() == made.bundle
    assert made.news() is None


def test_what_somebody_took_away_is_not_made_again(
    tmp_path: Path, made: Certificates, look: Look
) -> None:
    shutil.rmtree(tmp_path / "nodes" / "pve01")
    (tmp_path / "nodes" / "pve02" / "key.pem").unlink()
    shutil.rmtree(tmp_path / "users")
    assert look(DUE) == ""
    assert not (tmp_path / "nodes" / "pve01").exists()
    assert not (tmp_path / "nodes" / "pve02" / "key.pem").exists()
    assert not (tmp_path / "users").exists()
    assert load_bundle(tmp_path / "nodes" / "pve03", now=DUE)


def test_several_troubles_are_one_line(tmp_path: Path, look: Look) -> None:
    for name in NODES:
        (tmp_path / "nodes" / name).chmod(0o777)
    trouble = look(DUE)
    assert trouble.startswith(f"node pve01: {tmp_path}/nodes/pve01 is open to others")
    assert trouble.endswith(" and 2 more")


def test_a_look_that_breaks_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # An error that nobody foresaw: nothing lets such a name come so far.
    made = Certificates(tmp_path, names=("localhost",), nodes=("No Name",), now=NOW)
    shutil.copytree(tmp_path / "ca" / "server", tmp_path / "nodes" / "No Name")
    monkeypatch.setattr(certificates, "LOOK_S", 0.0)
    assert Look(made)(DUE) == "the look at them failed; the log says where"
    assert "Traceback" in caplog.text
