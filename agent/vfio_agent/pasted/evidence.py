"""From the PATHs that somebody gives to one Snapshot, and an account of what was in each.

At most one artifact, captured directory or archive is the ground; pasted texts fill what it does
not know. Without one, a root that holds nothing is collected, so that everything nobody gave is a
gap with the command that would show it. This module must never mix two hosts silently: values that
contradict each other count for nothing, and the account says so.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from vfio_agent.collect.host import UNKNOWN_HOST, collect_host
from vfio_agent.collect.manifest import BadCapture
from vfio_agent.collect.root import open_root
from vfio_agent.pasted.answers import Answers, read_answers
from vfio_agent.pasted.config_text import ConfigText, parse_config_text
from vfio_agent.pasted.host_text import HostText, parse_host_text
from vfio_agent.pasted.inventory import Inventory, build_inventory
from vfio_agent.pasted.listing import Listing, parse_listing
from vfio_agent.pasted.log_choice import (
    choose_log,
    describe_log,
    find_moved,
    forget_other_boot,
    read_log,
    render_log,
)
from vfio_agent.pasted.log_gaps import find_excerpt
from vfio_agent.pasted.machine_lspci import rewrite_rows
from vfio_agent.pasted.memory_root import MemoryRoot
from vfio_agent.pasted.merge import fill
from vfio_agent.pasted.recognise import (
    SCAN_BYTES,
    Kind,
    clean,
    is_archive,
    is_artifact,
    recognise_text,
)
from vfio_agent.pasted.remedies import LOG, settle_gaps
from vfio_agent.pasted.source import (
    LIMIT_BYTES,
    STDIN,
    EvidenceError,
    Source,
    decode_pieces,
)
from vfio_agent.pasted.vm_text import VmText, parse_vm_text
from vfio_contract.artifact import ArtifactError, decode_artifact
from vfio_contract.model import Facts, Gap, KernelLog, Snapshot, SyncTimes
from vfio_contract.vm import PciMapping, VmConfig


@dataclass(frozen=True, slots=True)
class Given:
    """What one PATH held: its kinds by name, and what was made of them in words.

    `recorded` is True for a whole host, as an artifact, a directory or an archive.
    """

    path: str
    kinds: tuple[str, ...]
    text: str
    recorded: bool = False


@dataclass(slots=True)
class _Heap:
    """What has been found so far."""

    ground: tuple[str, Snapshot] | None = None
    listings: list[Listing] = field(default_factory=list)
    logs: list[tuple[str, KernelLog]] = field(default_factory=list)
    texts: list[tuple[str, HostText]] = field(default_factory=list)
    configs: list[ConfigText] = field(default_factory=list)
    vms: list[VmText] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


def gather(
    paths: Sequence[str], *, stdin: BinaryIO | None = None
) -> tuple[Snapshot, tuple[Given, ...]]:
    """The snapshot of the host that all these PATHs tell of; `-` is standard input.

    OSError when a PATH cannot be read, EvidenceError when it is damaged or cannot be combined. Text
    that is not recognised is no error: it says nothing, and its account says that.
    """
    heap = _Heap()
    given = [_take(path, heap, stdin) for path in paths]
    snapshot = _assemble(heap)
    for path, log in heap.logs:
        if log is not choose_log(heap.logs) and log.lines:
            place = next(n for n, row in enumerate(given) if row.path == path)
            told = f"{given[place].text}; kernel log not used: another one counts"
            given[place] = replace(given[place], text=told)
    return snapshot, tuple(given)


def _take(path: str, heap: _Heap, stdin: BinaryIO | None) -> Given:
    if path != STDIN and os.path.isdir(path):
        return _take_root(path, path, heap)
    with closing(Source(path, stdin, head_bytes=SCAN_BYTES + 1)) as source:
        if is_archive(source.head):
            return _take_archive(source, heap)
        if source.head.lstrip().startswith(b"{"):
            data = source.head + b"".join(source.rest())
            if is_artifact(data):
                return _take_artifact(path, data, heap)
            source.head = data
        return _take_text(source, heap)


# --- whole hosts ---------------------------------------------------------------------------------


def _take_archive(source: Source, heap: _Heap) -> Given:
    """A tar from anywhere: what is no file of its own becomes one while it is read."""
    path = source.path
    if path != STDIN and os.path.isfile(path):
        return _take_root(path, path, heap)
    with tempfile.NamedTemporaryFile(prefix="vfioctl-") as file:
        file.write(source.head)
        file.writelines(source.rest())
        file.flush()
        if source.cut:
            raise EvidenceError(f"{path}: larger than {LIMIT_BYTES >> 20} MiB: save and name it")
        return _take_root(path, file.name, heap)


def _take_root(path: str, place: str, heap: _Heap) -> Given:
    try:
        root = open_root(place)
    except BadCapture as error:
        raise EvidenceError(f"{path}: {error.strerror}") from None
    return _set_ground(path, Kind.CAPTURE, collect_host(root), heap)


def _take_artifact(path: str, data: bytes, heap: _Heap) -> Given:
    try:
        snapshot = decode_artifact(data)
    except ArtifactError as error:
        raise EvidenceError(f"{path} is no usable artifact: {error}. {error.fix}") from None
    return _set_ground(path, Kind.ARTIFACT, snapshot, heap)


def _set_ground(path: str, kind: Kind, snapshot: Snapshot, heap: _Heap) -> Given:
    if heap.ground is not None:
        raise EvidenceError(
            f"{heap.ground[0]} and {path} are two hosts' evidence: give one of them, or compare "
            f"them: vfioctl diff {heap.ground[0]} {path}"
        )
    heap.ground = (path, snapshot)
    functions = snapshot.facts.functions
    count = "functions not known" if functions is None else _count(len(functions), "function")
    return Given(path, (str(kind),), f"{snapshot.facts.host}, {count}", recorded=True)


# --- texts ---------------------------------------------------------------------------------------


def _take_text(source: Source, heap: _Heap) -> Given:
    path = source.path
    head = b"".join(decode_pieces(iter([source.head])))
    text = rewrite_rows(clean(head, more=len(source.head) > SCAN_BYTES))
    answers = read_answers(text)
    heap.answers.append(answers)
    recognised = recognise_text(text)
    kinds = tuple(kind for kind in Kind if kind in recognised or kind in answers.kinds)
    told: list[str] = []
    if Kind.KERNEL_LOG in kinds:
        log, boots = read_log(source)
        excerpt = find_excerpt(log, text)
        if excerpt:
            log = replace(log, from_boot=False)
        heap.logs.append((path, log))
        told.append(describe_log(log, boots, excerpt))
        if source.cut:
            reason = f"{path} is larger than {LIMIT_BYTES >> 20} MiB; the rest was not read"
            heap.gaps.append(Gap(LOG, 0, reason, "sudo journalctl -k -b 0"))
    if answers.no_units:
        told.append("no IOMMU unit")
    if answers.no_groups:
        told.append("no IOMMU group")
    if Kind.LSPCI in recognised or Kind.GROUPS in recognised:
        listing = parse_listing(text)
        heap.listings.append(listing)
        told += _describe_listing(listing)
    shown = "standard input" if path == STDIN else path
    found = parse_host_text(text, kinds)
    config = parse_config_text(text, kinds, source=shown)
    vms = parse_vm_text(text, kinds, source=shown)
    for name, data in (*config.files, *answers.files):
        found.files.setdefault(name, data)
    heap.texts.append((path, found))
    heap.configs.append(config)
    heap.vms.append(vms)
    told += _describe_vms(vms)
    left_out = (*found.left_out, *config.left_out, *vms.left_out)
    told += [f"{kind} not used: {reason}" for kind, reason in dict.fromkeys(left_out)][:8]
    if found.fsyncs is not None:
        told.append(f"{found.fsyncs:g} fsyncs per second")
    if text.cut:
        told.append("only its beginning was searched for anything but kernel log lines")
    if not kinds:
        told.append("not recognised: it says nothing about a host" if head.strip() else "empty")
    return Given(path, tuple(str(kind) for kind in kinds), "; ".join(told))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _describe_vms(found: VmText) -> list[str]:
    told = []
    if found.vms:
        told.append(
            f"VM{'s' if len(found.vms) > 1 else ''} " + ", ".join(v.name for v in found.vms)
        )
    if found.mappings:
        told.append("mappings " + ", ".join(m.name for m in found.mappings))
    return told


def _describe_listing(listing: Listing) -> list[str]:
    told = []
    if listing.functions:
        told.append(_count(len({f.address for f in listing.functions}), "function"))
    if listing.members:
        groups = {number for number, _ in listing.members}
        told.append(f"{_count(len(groups), 'group')} with {_count(len(listing.members), 'member')}")
    silent = [f.address for f in listing.functions if f.header.revision == 0xFF]
    told += [f"{a} shows (rev ff): gone, or asleep in D3cold" for a in silent[:3]]
    return [*told, *listing.doubts[:3]]


# --- one snapshot --------------------------------------------------------------------------------


def _assemble(heap: _Heap) -> Snapshot:
    if heap.ground is not None and not (heap.logs or heap.listings or heap.texts):
        return heap.ground[1]
    conflicts: list[str] = []
    log = choose_log(heap.logs)
    files = _join_files(heap.texts, conflicts)
    if log is not None:
        files["/dmesg"] = render_log(log)
        forget_other_boot(files, log, conflicts)
    snapshot = collect_host(MemoryRoot(files))
    inventory = build_inventory(heap.listings)
    moved = "" if log is None else find_moved(log, inventory)
    if moved:
        log = None
        heap.gaps.append(Gap(LOG, 0, f"contradiction, so the log does not count: {moved}", ""))
        snapshot = collect_host(MemoryRoot({p: d for p, d in files.items() if p != "/dmesg"}))
    conflicts += inventory.conflicts
    snapshot = _put(snapshot, heap, inventory, log)
    gaps = settle_gaps(snapshot, inventory)
    gaps += [Gap("--from", 0, f"contradiction, so neither counts: {c}", "") for c in conflicts]
    snapshot = replace(snapshot, readings=replace(snapshot.readings, gaps=(*gaps, *heap.gaps)))
    if heap.ground is None:
        return snapshot
    return fill(heap.ground[1], snapshot)


def _join_files(texts: Sequence[tuple[str, HostText]], conflicts: list[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    spoiled: set[str] = set()
    for _, text in texts:
        for path, data in text.files.items():
            before = files.setdefault(path, data)
            if before.split() != data.split() and path != "/proc/interrupts":
                spoiled.add(path)
    for path in sorted(spoiled):
        conflicts.append(f"{path} was given twice and differs")
        del files[path]
    _put_parameters(files)
    return files


def _put_parameters(files: dict[str, bytes]) -> None:
    """Module parameters of the command line, for modules that are loaded."""
    loaded = {row.split()[0] for row in files.get("/proc/modules", b"").splitlines() if row.split()}
    for word in files.get("/proc/cmdline", b"").decode("utf-8", "replace").split():
        module, dot, rest = word.partition(".")
        name, _, value = rest.partition("=")
        module = module.replace("-", "_")
        if dot and module.encode() in loaded and name.isidentifier():
            path = f"/sys/module/{module}/parameters/{name}"
            files[path] = (value or "Y").encode("utf-8", "replace")


def _put(snapshot: Snapshot, heap: _Heap, inventory: Inventory, log: KernelLog | None) -> Snapshot:
    texts = [text for _, text in heap.texts]
    units = {unit for text in texts for unit in text.units or ()}
    kvm = {text.kvm for text in texts if text.kvm is not None}
    holders = {holder for text in texts for holder in text.holders or ()}
    fsyncs = [text.fsyncs for text in texts if text.fsyncs]
    silent = any(answer.no_units for answer in heap.answers)
    empty = any(answer.no_groups for answer in heap.answers)
    facts = replace(
        snapshot.facts,
        functions=inventory.functions,
        groups=() if empty and inventory.groups is None else inventory.groups,
        iommu_units=tuple(sorted(units)) or (() if silent else None),
        kvm_device=kvm.pop() if len(kvm) == 1 else None,
    )
    facts = _put_configs(facts, heap)
    readings = replace(
        snapshot.readings,
        kernel_log=log,
        names=inventory.names or snapshot.readings.names,
        holders=tuple(sorted(holders, key=lambda h: (h.path, h.pid))) or None,
        privileged=any(
            f.config is not None and f.config.length > 64 for f in inventory.functions or ()
        ),
        fsync=_mean_sync(fsyncs[-1]) if fsyncs else None,
    )
    return replace(snapshot, facts=facts, readings=readings)


def _mean_sync(per_second: float) -> SyncTimes:
    """pveperf tells only the mean."""
    mean_ms = round(1000 / per_second, 3)
    return SyncTimes("pveperf (the mean of all)", int(per_second), mean_ms, mean_ms, "")


def _put_configs(facts: Facts, heap: _Heap) -> Facts:
    """VMs, mappings and wishes; what nobody gave stays None."""
    vms: dict[str, VmConfig] = {}
    for vm in (vm for text in heap.vms for vm in text.vms):
        vms.setdefault(vm.name, vm)
    mappings: dict[str, PciMapping] = {}
    for mapping in (m for text in heap.vms for m in text.mappings):
        mappings.setdefault(mapping.name, mapping)
    intents = {*(facts.intents or ()), *(i for text in heap.configs for i in text.intents)}
    options = [row for text in heap.configs for row in text.boot_options or ()]
    nodes = {entry.node for mapping in mappings.values() for entry in mapping.entries}
    if facts.host == UNKNOWN_HOST and len(nodes) == 1:
        facts = replace(facts, host=min(nodes) or UNKNOWN_HOST)
    known = bool(mappings) and facts.host != UNKNOWN_HOST
    return replace(
        facts,
        vms=tuple(sorted(vms.values(), key=lambda vm: (vm.kind, vm.name))) or facts.vms,
        # entries are of nodes: without this host's name it is not known which are its own
        mappings=tuple(mappings.values()) if known else facts.mappings,
        intents=tuple(sorted(intents, key=lambda i: (i.kind, i.value, i.source))) or facts.intents,
        boot_options=tuple(dict.fromkeys(options)) or facts.boot_options,
    )
