"""What the boot loader will pass to the next kernel, as alternatives that can be compared.

Which loader a host uses shows on its running command line: GRUB names its image (BOOT_IMAGE=), EFI
stubs and systemd-boot their initrd (initrd=\\EFI...). Where it does not show, every configured
loader is an alternative. This module must never call a setting configured that only a loader which
this host does not use would pass.
"""

from dataclasses import dataclass

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.inventory import find_remedy
from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host
from vfio_contract.model import BootOptions

SOURCES = "/etc/default/grub, /etc/kernel/cmdline, /boot/loader/entries"

_BY_GRUB = frozenset({"grub", "bls"})
_BY_STUB = frozenset({"systemd-boot", "bls"})


@dataclass(frozen=True, slots=True)
class Configured:
    """One command line that the next boot may get: its parts, and how to make it take effect."""

    evidence: tuple[Evidence, ...]
    options: str
    install: str


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
    entries = [r for r in rows if r.loader == "bls"]
    template = [r for r in rows if r.loader == "grub"]
    found = [_alone(r, _INSTALL[r.loader]) for r in rows if r.loader != "grub"]
    if template and not entries:
        # GRUB's variables are parts of one line; with loader entries they are only a template
        options = " ".join(r.options for r in template)
        found.append(Configured(tuple(map(_quote, template)), options, _INSTALL["grub"]))
    return tuple(found) or None


_INSTALL = {
    "grub": "sudo update-grub",
    "systemd-boot": "sudo proxmox-boot-tool refresh (elsewhere: sudo kernel-install)",
    "bls": "sudo grubby --update-kernel=ALL --args=... (or edit the entry)",
}


def missing_configured(host: Host) -> Missing:
    """What to look at when the loader's configuration is not known."""
    paths = SOURCES.split(", ")
    remedy = next((r for r in (find_remedy(host, p) for p in paths) if r.startswith("sudo ")), "")
    return Missing(SOURCES, remedy or "sudo grep -r . /etc/default/grub /etc/kernel/cmdline")


def _alone(row: BootOptions, install: str) -> Configured:
    return Configured((_quote(row),), row.options, install)


def _quote(row: BootOptions) -> Evidence:
    return Evidence(row.source, f'"{row.options}"')
