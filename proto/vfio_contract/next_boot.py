"""What the boot loader will pass to the next kernel, as alternatives that can be compared.

Which loader a host uses shows on its running command line: GRUB names its image (BOOT_IMAGE=), EFI
stubs and systemd-boot their initrd (initrd=\\EFI...). Where it does not show, what the loader told
the firmware decides, or that there is no EFI; else every configured loader is an alternative. This
module must never call a setting configured that only a loader which this host does not use would
pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_contract.firmware import iommu_parameters
from vfio_contract.model import BootOptions, Facts

_BY_GRUB = frozenset({"grub", "grub.cfg", "bls"})
_BY_STUB = frozenset({"systemd-boot", "bls"})


@dataclass(frozen=True, slots=True)
class NextLine:
    """One command line that the next boot may get, put together from `rows`.

    `loader` is as in `BootOptions`. `installed` is True where the file that the loader reads says
    the same already.
    """

    rows: tuple[BootOptions, ...]
    loader: str
    options: str
    installed: bool = False


def find_next_lines(facts: Facts, running: str) -> tuple[NextLine, ...] | None:
    """The alternatives; None when the configuration of this host's loader is not known.

    `running` is the command line of this boot, "" when it is not known.
    """
    rows = facts.boot_options
    if rows is None:
        return None
    if "BOOT_IMAGE=" in running:
        rows = tuple(r for r in rows if r.loader in _BY_GRUB)
    elif "initrd=\\" in running:
        rows = tuple(r for r in rows if r.loader in _BY_STUB)
    else:
        rows = tuple(r for r in rows if r.loader in _usable(facts))
    entries = [r for r in rows if r.loader == "bls"]
    template = tuple(r for r in rows if r.loader == "grub")
    found = [_alone(r) for r in rows if r.loader in ("systemd-boot", "bls")]
    if template and not entries:
        # GRUB's variables are parts of one line; with loader entries they are only a template
        options = " ".join(r.options for r in template)
        made = [] if fills_partitions(facts) else [r for r in rows if r.loader == "grub.cfg"]
        agrees = [r for r in made if _matter(r.options) == _matter(options)]
        found.append(NextLine(template, "grub", options, bool(agrees)))
        found += [_alone(r) for r in made if r not in agrees]
    return tuple(found) or None


def describe_next_boot(facts: Facts) -> str | None:
    """The parameters that bear on passthrough as the next boot will get them, in sorted order.

    None when that is not known, and when several alternatives differ in them.
    """
    if facts.cmdline is None:
        return None
    lines = find_next_lines(facts, facts.cmdline) or ()
    texts = {sort_parameters(line.options) for line in lines}
    return texts.pop() if len(texts) == 1 else None


def sort_parameters(cmdline: str) -> str:
    """The parameters that bear on passthrough, each once, in sorted order."""
    return " ".join(sorted(_matter(cmdline)))


def fills_partitions(facts: Facts) -> bool:
    """True where proxmox-boot-tool copies everything to partitions that are not mounted."""
    return facts.boot_path is not None and facts.boot_path.proxmox_boot is True


def _usable(facts: Facts) -> frozenset[str]:
    """The loaders that may start this host, as far as firmware and loader tell."""
    path = facts.boot_path
    if path is not None and (path.efi is False or (path.loader or "").startswith("GRUB")):
        return _BY_GRUB
    if path is not None and (path.loader or "").startswith("systemd-boot"):
        return _BY_STUB
    return _BY_GRUB | _BY_STUB


def _matter(options: str) -> frozenset[str]:
    return frozenset(iommu_parameters(options).split())


def _alone(row: BootOptions) -> NextLine:
    return NextLine((row,), row.loader, row.options)
