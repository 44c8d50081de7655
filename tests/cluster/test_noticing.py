"""What happens on a host is an event at the coordinator, and its units change, without being asked.

Each agent looks by itself every minute, which is longer than these tests wait: what they see was
noticed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.agent_side import make_house
from tests.cluster.noticing import NODE, scene, unpack
from tests.cluster.two_processes import IS_ROOT, halves
from tests.fakes.recording_coordinator import RecordingCoordinator
from vfio_agent.hostd.looking import DEFAULT_INTERVAL_S
from vfio_agent.watch.schedule import EARLIEST

FAULT = "vfio-pci {}: not ready 65535ms after FLR; giving up"


async def test_a_kernel_line_is_an_event_and_takes_the_unit_away(
    state: Path, tmp_path: Path
) -> None:
    async with scene(state, unpack("gpubox-f10", tmp_path / "root")) as here:
        victim, *rest = await here.free()
        assert rest
        here.say(FAULT.format(victim))
        event = await here.event(lambda event: event.code == "KERNEL_LINE")
        assert event.subject == f"node:{NODE}"
        assert event.text.startswith(victim)
        assert FAULT.format(victim) in event.text
        await here.row(lambda free: free <= len(rest))
        units = {u.addresses[0]: u for u in (await here.admin.node(NODE)).units}
        assert units[victim].state == "unfit"
        assert [e.code for e in await here.admin.events()].count("RESET_ATTEMPT") >= 1


async def test_a_line_is_told_once_whatever_is_killed(state: Path, tmp_path: Path) -> None:
    """The line was said while hostd was dead; before and after it other lines were."""
    async with scene(state, unpack("gpubox-f10", tmp_path / "root")) as here:
        one, two, *_ = await here.free()
        here.say(FAULT.format(one), seconds=9001)
        await here.event(lambda event: FAULT.format(one) in event.text)
        hostd, network = here.both.started
        hostd.end(signal.SIGKILL)
        here.say(FAULT.format(two), seconds=9002)
        here.both.hostd()
        await here.event(lambda event: FAULT.format(two) in event.text)
        network.end(signal.SIGKILL)
        here.both.network()
        here.say(FAULT.format("0000:ff:00.0"), seconds=9003)
        await here.event(lambda event: "0000:ff:00.0" in event.text)
        lines = [e.text for e in await here.admin.events() if e.code == "KERNEL_LINE"]
        told = [next(a for a in (one, two, "0000:ff:00.0") if a in text) for text in lines]
        assert told == [one, two, "0000:ff:00.0"]


async def test_a_storm_is_few_events_with_the_right_count(state: Path, tmp_path: Path) -> None:
    async with scene(state, unpack("gpubox-f10", tmp_path / "root")) as here:
        victim, *_ = await here.free()
        with (here.both.root / "dmesg").open("a") as log:
            log.writelines(f"[{9000 + n}.0] {FAULT.format(victim)}\n" for n in range(500))
        await here.event(lambda event: "alike before it" in event.text)
        texts = [e.text for e in await here.admin.events() if e.code == "KERNEL_LINE"]
        assert len(texts) <= 6
        assert sum(1 + alike_in(text) for text in texts) == 500


def alike_in(text: str) -> int:
    found = re.search(r"\((\d+) alike before it\)", text)
    return int(found[1]) if found else 0


@pytest.mark.skipif(not IS_ROOT, reason="writing to /dev/kmsg and to sysfs needs root")
async def test_this_machines_own_kernel_log(state: Path) -> None:
    """A line for real; that a process wrote it is told with it."""
    async with scene(state, Path("/")) as here:
        marker = f"vfioctl-cluster-{os.getpid()}"
        with open("/dev/kmsg", "wb", buffering=0) as kmsg:
            kmsg.write(f"<3>{marker} {FAULT.format('ffff:ff:1d.7')}\n".encode())
        event = await here.event(lambda event: marker in event.text)
        assert event.text.startswith("ffff:ff:1d.7: not-ready-gave-up: ")
        assert "(a process wrote this, not the kernel)" in event.text


@pytest.mark.skipif(not IS_ROOT, reason="writing to /dev/kmsg and to sysfs needs root")
def test_a_uevent_of_this_machine_is_a_look(tmp_path: Path) -> None:
    devices = [*Path("/sys/bus/pci/devices").glob("*/uevent"), *Path("/sys/block").glob("*/uevent")]
    assert devices, "this machine has neither a PCI function nor a disk"
    house = make_house(tmp_path / "house")
    with (
        RecordingCoordinator(house.server) as coordinator,
        halves(house.node, Path("/"), coordinator.endpoint) as both,
    ):
        both.hostd()
        both.network()
        stream = coordinator.next_stream()
        stream.hear("hello")
        stream.welcome()
        stream.hear("inventory")
        stream.hear("observation")
        began = time.monotonic()
        min(devices).write_text("change")
        stream.hear("observation")
        assert time.monotonic() - began < EARLIEST * DEFAULT_INTERVAL_S
