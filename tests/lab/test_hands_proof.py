"""Where the hands have more to prove: a bridge that spoils its group, a slot that loses its link.

The endpoints behind the bridge are on vfio-pci as the machine boots, and their group is not viable
all the same, because of the hot-plug driver on the bridge (kernels from 5.19). The other machine's
slots lose their link at every bus reset, for ever; no agent runs there, so that `vfioctl` acts by
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.lab.conftest import Boot
from tests.lab.hands import ACT_LIMIT_S, EVERYTHING
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import check

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

WIDE = replace(scenarios.RESETS, name="hands-bridge-6.1")
BROKEN = replace(scenarios.BROKEN_BUS_RESET, name="hands-broken")
DEVICES = "/sys/bus/pci/devices"
NIC, PORT = "0000:01:00.0", "0000:00:02.0"
OLD_NIC, NEIGHBOUR, BRIDGE = "0000:09:01.0", "0000:09:02.0", "0000:08:00.0"


@pytest.fixture(scope="module")
def wide(boot: Boot) -> Iterator[Guest]:
    with boot(WIDE) as guest:
        guest.call("actuate.allow", text=EVERYTHING)
        yield guest


def test_a_bridge_is_held_off_and_its_group_becomes_viable(wide: Guest) -> None:
    before = wide.call("actuate.footprint")
    assert wide.call("vfio.attempt", address=OLD_NIC)["viable"] is False

    bound = wide.call(
        "actuate.carry", limit_s=ACT_LIMIT_S, verb="bind", address=OLD_NIC, name="bind-old"
    )
    assert bound["state"] == "done", bound
    assert any(BRIDGE in note for note in bound["notes"])
    assert wide.call("host.driver_of", address=BRIDGE) == ""
    assert wide.call("vfio.attempt", address=OLD_NIC)["step"] == "opened"

    reset = wide.call("actuate.reset", limit_s=ACT_LIMIT_S, address=OLD_NIC, name="reset-old")
    assert (reset["ending"], reset["outcome"], reset["method"]) == ("reset", "success", "bus")
    assert set(reset["changes"]) == {OLD_NIC, NEIGHBOUR}

    back = wide.call("actuate.undo", name="bind-old")
    assert back["state"] == "undone", back
    assert wide.call("actuate.footprint") == before


@pytest.fixture(scope="module")
def broken(boot: Boot) -> Iterator[Guest]:
    with boot(BROKEN) as guest:
        guest.call("actuate.allow", text=EVERYTHING)
        yield guest


def test_a_reset_that_fails_is_told_in_the_kernels_words_and_counted_as_often(
    broken: Guest,
) -> None:
    method = f"{DEVICES}/{NIC}/reset_method"
    listed = broken.call("host.read", path=method)
    assert broken.call("host.write", path=method, text="bus") == ""
    try:
        acted = broken.call(
            "acting.device", limit_s=ACT_LIMIT_S, verb="reset-test", address=NIC, options=[]
        )
    finally:
        broken.call("host.write", path=method, text=listed)

    failed = acted["report"]["reset"]
    assert (acted["status"], acted["report"]["outcome"]) == (2, "failed")
    assert (failed["ending"], failed["outcome"], failed["method"]) == ("reset", "failed", "bus")
    lost = [line for line in failed["lines"] if "Link Active not set" in line]
    # opening a device and closing it reset it too
    assert lost
    assert all(PORT in line for line in lost)
    assert failed["why"] in lost[0]
    # the lines are in the kernel's log and reach the history from there
    assert broken.call("acting.kept", id=acted["report"]["id"])["attempts"] == 0
    report = check(broken, "failed")
    told = report.text("reset-history", f"function:{NIC}", "reset ledger")
    assert told == f"failing: {len(lost)} attempts, {len(lost)} failed, last failed"
    # the function's own reset works all the same
    good = broken.call(
        "acting.device", limit_s=ACT_LIMIT_S, verb="reset-test", address=NIC, options=[]
    )
    proof = good["report"]["reset"]
    assert (good["status"], proof["outcome"]) == (0, "success")
    assert proof["method"] == listed.split()[0]
    assert broken.call("acting.kept", id=good["report"]["id"])["attempts"] == 1
