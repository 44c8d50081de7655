"""A captured host that can be acted on: its files, with a kernel's answers to writes behind them.

The evidence is a real host's, read as if this were the running one, so that a file that is not
there is absent. Writes are answered by `pci_kernel.py`, resets by a device that always answers as
before; `resets` has a line for each. Where `die` is there, whoever makes one is killed by it.
"""

from __future__ import annotations

import os
import signal
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from vfio_agent.actuate.allowance import Allowance
from vfio_agent.actuate.hands import Hands, Tools
from vfio_agent.actuate.reach import Reach
from vfio_agent.actuate.reset_child import Answer
from vfio_agent.actuate.reset_trial import ResetResult, judge_answer, plan_reset
from vfio_agent.actuate.steps import Verb
from vfio_agent.collect.kernel import collect_boot_id
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import LiveRoot, Root
from vfio_agent.inspect import observe
from vfio_agent.journal import Journal
from vfio_contract.address import Address
from vfio_contract.host import Host

HOSTS = Path(__file__).resolve().parents[1] / "data" / "hosts"
KERNEL = Path(__file__).with_name("pci_kernel.py")

FREE = Address("0000:00:1c.0")
"""A network card on virtio-pci that this host can spare; bound by a udev rule."""

BOUND = Address("0000:01:00.0")
"""A network card on vfio-pci, by ids in modprobe.d."""

DISK = Address("0000:00:1f.2")
"""Carries the host."""


HOLDER = 4242
"""The process of `hold`."""


class ActingHost:
    """One such host below `top`, which is made. `permitted` False is an owner who wrote nothing."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.permitted = True
        self.per_hour = 20
        self.deadline_s = 30.0

    def make(self) -> ActingHost:
        """Unpack it."""
        with tarfile.open(HOSTS / "gpubox-f10.tar.gz") as tar:
            tar.extractall(self.top)  # our own capture; Debian 12's Python has no filters yet
        for name in ("virtio-pci", "vfio-pci", "e1000e"):
            (self.top / "sys/bus/pci/drivers" / name).mkdir(parents=True, exist_ok=True)
        (self.top / "dev/kmsg").write_text("6,1,1000000,-;Linux version 6.1.0\n")
        (self.top / "fits").write_text(f"{FREE} virtio-pci\n{BOUND} e1000e\n")
        return self.relinked()

    def relinked(self) -> ActingHost:
        """Driver links to where the fake kernel looks for them, also after a copy."""
        for path in (self.top / "sys/bus/pci/devices").iterdir():
            driver = path / "driver"
            if driver.is_symlink():
                name = os.path.basename(os.readlink(driver))
                driver.unlink()
                driver.symlink_to(self.top / "sys/bus/pci/drivers" / name)
        return self

    def reach(self, journal: Journal) -> Reach:
        """How actions reach it."""

        def look() -> tuple[Root, Host]:
            root = LiveRoot(str(self.top))
            return root, observe(root, journal, None).host

        write = (sys.executable, "-I", "-S", str(KERNEL), str(self.top))
        hands = Hands(
            self.top, tools=Tools(write=write, modprobe=("true",)), deadline_s=self.deadline_s
        )
        return Reach(look, self.boot_id, self._allow, hands, self._reset)

    def boot_id(self) -> str:
        return collect_boot_id(Reader(LiveRoot(str(self.top)))) or ""

    def driver(self, address: Address) -> str:
        link = self.top / "sys/bus/pci/devices" / address / "driver"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def written(self) -> list[str]:
        """Our own files."""
        return sorted(str(p.relative_to(self.top)) for p in self.top.glob("etc/**/*vfioctl*"))

    def release(self) -> None:
        """End the write that `hang` keeps, if there is one: it had no effect."""
        path = self.top / "hanging"
        if path.exists():
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
            path.unlink()

    def say(self, text: str, *, seconds: int) -> None:
        """The kernel says this."""
        with (self.top / "dev/kmsg").open("a") as log:
            log.write(f"4,{seconds},{seconds}000000,-;{text}\n")

    def hold(self, address: Address) -> None:
        """A process has its group open."""
        group = os.path.basename(
            os.readlink(self.top / "sys/bus/pci/devices" / address / "iommu_group")
        )
        node = self.top / "dev/vfio" / group
        node.parent.mkdir(exist_ok=True)
        node.touch()
        descriptors = self.top / "proc" / str(HOLDER) / "fd"
        descriptors.mkdir(parents=True)
        (descriptors / "9").symlink_to(f"/dev/vfio/{group}")

    def let_go(self) -> None:
        """It has closed it."""
        (self.top / "proc" / str(HOLDER) / "fd" / "9").unlink()

    def resets(self) -> int:
        """How many were made."""
        path = self.top / "resets"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _allow(self) -> Allowance:
        verbs = frozenset(Verb) if self.permitted else frozenset[Verb]()
        return Allowance(verbs, frozenset({"*"}), "/etc/vfioctl/actuate.toml", self.per_hour)

    def _reset(self, host: Host, target: Address, *, operation: str) -> ResetResult:
        with (self.top / "resets").open("a") as file:
            file.write(f"{target}\n")
        if (self.top / "die").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        config = {str(target): bytes(64).hex()}
        answer = Answer("done", 0, "", 0.016, config, config)
        request = plan_reset(host, host.by_address[target])
        return judge_answer(host, request, answer, (), operation=operation)
