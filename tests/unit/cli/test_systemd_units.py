"""The units of deploy/systemd: what they start exists, and what they must not be allowed they are
not."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from vfio_cli.endpoint import coordinator_state
from vfio_cli.main import run
from vfio_coordinator.bootstrap import GRACE_S
from vfio_coordinator.runtime import CLOSE_TIMEOUT_S

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
COORDINATOR = "vfioctl-coordinator.service"
NETWORKED = (COORDINATOR, "vfioctl-agent.service")
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))


def settings(unit: str) -> dict[str, str]:
    """Its [Service] section; a setting that stands there twice is an error."""
    found: dict[str, str] = {}
    section = ""
    for line in (FOLDER / unit).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name not in found, f"{unit}: {name} twice"
            found[name] = value
    return found


def options() -> str:
    """Those of the example of /etc/vfioctl/coordinator.env."""
    lines = (FOLDER / "coordinator.env").read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("#")]
    (pair,) = shlex.split(line)
    return pair.removeprefix("OPTIONS=")


def accounts() -> set[str]:
    lines = (FOLDER / "vfioctl.sysusers").read_text().splitlines()
    return {line.split()[1] for line in lines if not line.startswith("#")}


class Became(Exception):
    """What this process would have become."""


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("extra", ["", options()])
def test_the_command_line_takes_what_a_unit_starts(
    unit: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execve(path: str, words: list[str], environment: dict[str, str]) -> None:
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    started = settings(unit)["ExecStart"]
    program, *words = started.replace("$OPTIONS", extra).split()
    assert program == "/usr/bin/vfioctl"
    with pytest.raises(Became):
        run(words)


@pytest.mark.parametrize("unit", NETWORKED)
def test_who_has_a_network_has_no_rights(unit: str) -> None:
    found = settings(unit)
    assert found["User"] in accounts()
    assert found["User"] == found["Group"]
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ""
    assert found["ProtectSystem"] == "strict"
    assert found["UMask"] == "0077"
    assert "ReadWritePaths" not in found
    assert set(found["RestrictAddressFamilies"].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    for name in (
        *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictSUIDSGID"),
        *("ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces"),
    ):
        assert found[name] == "yes", name


def test_no_two_share_an_account() -> None:
    users = [settings(unit)["User"] for unit in NETWORKED]
    assert len(set(users)) == len(users)


def test_the_coordinator_s_directory_is_where_root_looks_for_it() -> None:
    found = settings(COORDINATOR)
    place = str(coordinator_state({}, uid=0))
    assert f"--state {place} " in found["ExecStart"]
    assert f"/var/lib/{found['StateDirectory']}" == place
    assert found["StateDirectoryMode"] == "0700"


def test_the_coordinator_may_end_in_order_and_stays_ended_only_for_wrong_usage() -> None:
    found = settings(COORDINATOR)
    assert int(found["TimeoutStopSec"]) > GRACE_S + CLOSE_TIMEOUT_S
    assert (found["Restart"], found["RestartPreventExitStatus"]) == ("always", "64")
    # It says nothing to a service manager: one that waited for it would kill it.
    assert "WatchdogSec" not in found
    assert found["Type"] == "exec"
