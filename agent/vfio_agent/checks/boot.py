"""What the boot loader will pass to the next kernel, as alternatives that can be compared.

Which lines those are is the contract's (`vfio_contract.next_boot`), the same for checks and drift;
here each gets its evidence and the command that makes it take effect. This module must never say
that a line is installed which only a reboot after that command would bring.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import find_remedy
from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host
from vfio_contract.model import BootOptions
from vfio_contract.next_boot import fills_partitions, find_next_lines

SOURCES = "/etc/default/grub, /etc/kernel/cmdline, /boot/loader/entries"


@dataclass(frozen=True, slots=True)
class Configured:
    """One command line that the next boot may get: its parts, and how to make it take effect.

    `installed` is True where only a reboot is missing. `loader` is as in `BootOptions`.
    """

    evidence: tuple[Evidence, ...]
    options: str
    install: str
    loader: str
    installed: bool = False

    @property
    def remaining(self) -> str:
        """What is still to be done before a reboot, "" for nothing, else ending in `, `."""
        return "" if self.installed else f"{self.install}, "


def find_configured(host: Host) -> tuple[Configured, ...] | None:
    """The alternatives; None when the configuration of this host's loader is not known."""
    known = log.read_cmdline(host)
    lines = find_next_lines(host.facts, "" if known is None else known[1])
    if lines is None:
        return None
    install = _INSTALL | (_PROXMOX if fills_partitions(host.facts) else {})
    return tuple(
        Configured(
            tuple(map(_quote, line.rows)),
            line.options,
            install["grub" if line.loader == "grub.cfg" else line.loader],
            line.loader,
            line.installed,
        )
        for line in lines
    )


def is_undecided(configured: Sequence[Configured]) -> bool:
    """True when these are of two loaders, and nobody can tell which one starts the host."""
    kinds = {row.loader for row in configured}
    return "systemd-boot" in kinds and bool(kinds & {"grub", "grub.cfg"})


def missing_loader() -> Missing:
    """What tells which loader starts the host."""
    return Missing("which boot loader starts this host", "sudo efibootmgr -v; bootctl status")


_INSTALL = {
    "grub": "sudo update-grub",
    "grub.cfg": "sudo update-grub",
    "systemd-boot": "sudo proxmox-boot-tool refresh (elsewhere: sudo kernel-install)",
    "bls": "sudo grubby --update-kernel=ALL --args=... (or edit the entry)",
}
_PROXMOX = {
    "grub": "sudo update-grub && sudo proxmox-boot-tool refresh",
    "systemd-boot": "sudo proxmox-boot-tool refresh",
}


def missing_configured(host: Host) -> Missing:
    """What to look at when the loader's configuration is not known."""
    paths = SOURCES.split(", ")
    remedy = next((r for r in (find_remedy(host, p) for p in paths) if r.startswith("sudo ")), "")
    return Missing(SOURCES, remedy or "sudo grep -r . /etc/default/grub /etc/kernel/cmdline")


def _quote(row: BootOptions) -> Evidence:
    return Evidence(row.source, f'"{row.options}"')
