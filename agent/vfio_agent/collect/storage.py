"""Everything that needs storage: mounts, swap areas, pools and VMs' disks, with what they stand on.

Entries that stand on the same ground are one use, named by the shortest of their mount points, so
that the many mounts of containers neither hide the disk nor change the facts when they come and go.
Disks that are in use without a mount (`claimed_disks`) are uses too; what could not be followed
says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vfio_agent.collect.block import collect_block, is_networked, make_ground
from vfio_agent.collect.claimed_disks import find_claimed
from vfio_agent.collect.ground import Ground, Standing, unknown
from vfio_agent.collect.network import routes_known
from vfio_agent.collect.reader import Reader
from vfio_contract.address import address_key
from vfio_contract.model import BlockDevice, NetDevice, StorageUse
from vfio_contract.vm import VmConfig

__all__ = ["collect_block", "collect_storage_uses", "parse_swaps"]

_SWAPS = "/proc/swaps"
_ESCAPE = re.compile(r"\\([0-7]{3})")
_ROUTES_UNKNOWN = "which interfaces the host's traffic leaves by is not known"


def collect_storage_uses(
    reader: Reader,
    block: Sequence[BlockDevice] | None,
    network: Sequence[NetDevice] | None,
    *,
    vms: Sequence[VmConfig] | None = (),
    host: str = "",
) -> tuple[StorageUse, ...] | None:
    """Uses of storage and of the network for storage; None when no mount table can be read.

    A use of the network is resolved when the routes of the interfaces in `network` are known: the
    interfaces that carry them are needed anyway. `vms` are this host's VMs, None when not known;
    `host` is its name as a Proxmox node.
    """
    ground = make_ground(reader, block or ())
    if ground is None:
        return None
    below = {device.name: device for device in block or ()}
    found = [(f"{m.point} ({m.fstype})", ground.of_mount(m)) for m in ground.table.mounts]
    found += _collect_swaps(reader, ground)
    found += find_claimed(reader, ground, block or (), vms, host)
    uses: dict[StorageUse, str] = {}
    for name, standing in found:
        for use in _make_uses(standing, below, routes=routes_known(network)):
            uses[use] = min(uses.get(use, name), name, key=_preference)
    named = (replace(use, use=name) for use, name in uses.items())
    return tuple(sorted(named, key=lambda u: (u.use, u.kind, u.devices)))


def parse_swaps(text: str) -> tuple[str, ...]:
    """The files and devices of /proc/swaps."""
    rows = [line.split() for line in text.split("\n")[1:]]
    return tuple(_ESCAPE.sub(lambda m: chr(int(m[1], 8)), row[0]) for row in rows if row)


def _collect_swaps(reader: Reader, ground: Ground) -> list[tuple[str, Standing]]:
    text = reader.optional(_SWAPS)
    if text is None:
        return [("swap", unknown(f"{_SWAPS} could not be read"))]
    found: list[tuple[str, Standing]] = []
    for path in parse_swaps(text):
        device = ground.device_named(path)
        if device is not None:
            standing = Standing(devices=frozenset({device}))
        elif path.startswith("/dev/") or path.endswith(" (deleted)"):
            standing = unknown(f"swap area {path} cannot be found")
        else:
            standing = ground.of_path(path)
        found.append((f"swap ({path})", standing))
    return found


def _make_uses(
    standing: Standing, below: Mapping[str, BlockDevice], *, routes: bool
) -> Iterable[StorageUse]:
    """At most two uses, still without a name: one of storage, one of the network."""
    reached = _closure(standing.devices, below)
    reasons = set(standing.unresolved)
    for name in reached:
        device = below.get(name)
        if device is None or device.functions is None:
            reasons.add(f"what {name} stands on is not known")
    if standing.devices or standing.functions or reasons:
        yield StorageUse(
            use="",
            kind="storage",
            devices=tuple(sorted(standing.devices)),
            functions=tuple(sorted(standing.functions, key=address_key)),
            unresolved="; ".join(sorted(reasons)),
        )
    if standing.networked or any(is_networked(below[n]) for n in reached if n in below):
        yield StorageUse(
            use="",
            kind="network",
            devices=tuple(sorted(standing.devices)),
            functions=(),
            unresolved="" if routes else _ROUTES_UNKNOWN,
        )


def _closure(devices: Iterable[str], below: Mapping[str, BlockDevice]) -> set[str]:
    reached: set[str] = set()
    todo = list(devices)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo.extend(below[name].parents if name in below else ())
    return reached


def _preference(name: str) -> tuple[bool, int, str]:
    """Overlays last, then the shortest, then the alphabet."""
    return name.endswith("(overlay)"), len(name), name
