"""What the boot loader will pass to the next kernel, as alternatives that can be compared.

Which loader a host uses shows on its running command line: GRUB names its image (BOOT_IMAGE=), EFI
stubs and systemd-boot their initrd (initrd=\\EFI...). Where it does not show, what the loader told
the firmware decides, or that there is no EFI; else every configured loader is an alternative. This
module must never call a setting configured that only a loader which this host does not use would
pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import find_remedy
from vfio_contract.drift import iommu_parameters
from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host
from vfio_contract.model import BootOptions

SOURCES = "/etc/default/grub, /etc/kernel/cmdline, /boot/loader/entries"

_BY_GRUB = frozenset({"grub", "grub.cfg", "bls"})
_BY_STUB = frozenset({"systemd-boot", "bls"})


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
    rows = host.facts.boot_options
    if rows is None:
        return None
    known = log.read_cmdline(host)
    running = "" if known is None else known[1]
    if "BOOT_IMAGE=" in running:
        rows = tuple(r for r in rows if r.loader in _BY_GRUB)
    elif "initrd=\\" in running:
        rows = tuple(r for r in rows if r.loader in _BY_STUB)
    else:
        rows = tuple(r for r in rows if r.loader in _usable(host))
    install = _INSTALL | (_PROXMOX if _fills_partitions(host) else {})
    entries = [r for r in rows if r.loader == "bls"]
    template = [r for r in rows if r.loader == "grub"]
    found = [_alone(r, install[r.loader]) for r in rows if r.loader in ("systemd-boot", "bls")]
    if template and not entries:
        # GRUB's variables are parts of one line; with loader entries they are only a template
        options = " ".join(r.options for r in template)
        made = [] if _fills_partitions(host) else [r for r in rows if r.loader == "grub.cfg"]
        agrees = [r for r in made if _matter(r.options) == _matter(options)]
        evidence = tuple(map(_quote, template))
        found.append(Configured(evidence, options, install["grub"], "grub", bool(agrees)))
        found += [_alone(r, install["grub"]) for r in made if r not in agrees]
    return tuple(found) or None


def is_undecided(configured: Sequence[Configured]) -> bool:
    """True when these are of two loaders, and nobody can tell which one starts the host."""
    kinds = {row.loader for row in configured}
    return "systemd-boot" in kinds and bool(kinds & {"grub", "grub.cfg"})


def missing_loader() -> Missing:
    """What tells which loader starts the host."""
    return Missing("which boot loader starts this host", "sudo efibootmgr -v; bootctl status")


def _usable(host: Host) -> frozenset[str]:
    """The loaders that may start this host, as far as firmware and loader tell."""
    path = host.facts.boot_path
    if path is not None and (path.efi is False or (path.loader or "").startswith("GRUB")):
        return _BY_GRUB
    if path is not None and (path.loader or "").startswith("systemd-boot"):
        return _BY_STUB
    return _BY_GRUB | _BY_STUB


def _fills_partitions(host: Host) -> bool:
    """True where proxmox-boot-tool copies everything to partitions that are not mounted."""
    return host.facts.boot_path is not None and host.facts.boot_path.proxmox_boot is True


def _matter(options: str) -> frozenset[str]:
    return frozenset(iommu_parameters(options).split())


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


def _alone(row: BootOptions, install: str) -> Configured:
    return Configured((_quote(row),), row.options, install, row.loader)


def _quote(row: BootOptions) -> Evidence:
    return Evidence(row.source, f'"{row.options}"')
