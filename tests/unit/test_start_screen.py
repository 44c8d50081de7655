"""What `vfioctl coordinator run` says when it serves."""

from __future__ import annotations

from pathlib import Path

from tests.unit.state.cluster import Cluster
from tests.unit.state.hosts import agent, cards
from vfio_coordinator.start_screen import start_screen

STATE = Path("/var/lib/vfioctl/coordinator")


def test_the_first_start() -> None:
    cluster = Cluster()
    state = cluster.state
    said = start_screen(state, endpoint="127.0.0.1:7443", directory=STATE, nodes=())
    assert said == (
        "listening 127.0.0.1:7443\n"
        f"  cluster  {state.cluster_id}, epoch {state.epoch}; 0 nodes and 0 VMs known\n"
        "  state    /var/lib/vfioctl/coordinator\n"
        "  admin    /var/lib/vfioctl/coordinator/users/admin (for --tls from another\n"
        "           machine)\n"
        "  nodes    no bundle asked for: --node NAME makes one for that node's agent\n"
        "  look     vfioctl status --cluster --endpoint "
        "unix:/var/lib/vfioctl/coordinator/api.sock\n"
    )


def test_a_fleet_stays_within_the_screen() -> None:
    cluster = Cluster()
    cluster.join(agent("pve01", *cards(1)))
    names = tuple(f"pve{number:02}" for number in range(1, 41))
    said = start_screen(cluster.state, endpoint="[::1]:7443", directory=STATE, nodes=names)
    lines = said.splitlines()
    assert "1 node and 0 VMs known" in lines[1]
    assert all(len(line) <= 80 for line in lines if "--endpoint" not in line)
    assert said.isascii()
    shown = " ".join(said.split())
    assert f"/nodes/ has {' '.join(names)}: copy each to its host; there: " in shown
    assert "vfioctl agent run --tls DIR" in shown
