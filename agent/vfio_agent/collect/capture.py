"""A host's evidence as one reproducible file: all that the collector reads, and nothing else.

A recording root stands between the collector and the running host and keeps what it was asked for:
contents, links, listings, and errors with their errno. The tar holds real files in their real
places, so other tools can read the extracted tree (`lspci -A linux-sysfs -O
sysfs.path=DIR/sys/bus/pci`); `manifest.json` carries what files cannot. Replayed through `TarRoot`
the collector finds the same facts. It must never record another process's files: of the process
table only holders of /dev/vfio are kept.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress

from vfio_agent.collect.boot_options import GRUB_FILES, strip_grub
from vfio_agent.collect.holders import DELETED, ENDED, HELD_NODE
from vfio_agent.collect.host import collect_host, collector_name
from vfio_agent.collect.kernel_log import CAPTURED_LOG, LIVE_LOG
from vfio_agent.collect.log_line import render_kmsg
from vfio_agent.collect.manifest import MANIFEST, Manifest
from vfio_agent.collect.pci_place import DEVICES
from vfio_agent.collect.reader import decode
from vfio_agent.collect.root import (
    LIMIT_BYTES,
    LiveRoot,
    ManyBytes,
    ManyNames,
    ManyTexts,
    Names,
)
from vfio_agent.collect.vms import is_qemu_command
from vfio_agent.vmconf.secrets import redact_file
from vfio_contract.model import Snapshot

_EXTRA_FUNCTION_FILES = ("irq", "modalias")
"""What other tools want of a function and the collector does not; reading them disturbs nothing."""

_GONE = (errno.ENOENT, errno.ENOTDIR)
_MAX_LINKS = 40
_FD = re.compile(r"/proc/[0-9]+/fd(?:/|$)")
_COMM = re.compile(r"/proc/[0-9]+/comm")
_WORDS = re.compile(r"/proc/[0-9]+/(?:comm|cmdline)")


def capture_host(path: str, *, root: LiveRoot | None = None) -> Snapshot:
    """Write everything the collector reads from the running host to `path` (.tar.gz).

    Returns the snapshot that the recording gave. OSError when `path` cannot be written. `root` is
    for tests.
    """
    recorder = RecordingRoot(root or LiveRoot())
    snapshot = collect_host(recorder)
    functions = snapshot.facts.functions or ()
    recorder.read_many(
        [f"{DEVICES}/{f.address}/{name}" for f in functions for name in _EXTRA_FUNCTION_FILES]
    )
    data = recorder.pack(
        boot_id=snapshot.readings.boot_id or "", privileged=snapshot.readings.privileged
    )
    temporary = f"{path}.{os.getpid()}.part"
    try:
        # the kernel log and the machine's UUID are for root alone
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    return snapshot


class RecordingRoot:
    """A `Root` that remembers every answer of the live root behind it, by canonical path."""

    def __init__(self, root: LiveRoot) -> None:
        self._root = root
        self._files: dict[str, bytes] = {}
        self._links: dict[str, str] = {}
        self._listings: dict[str, Names] = {}
        self._errors: dict[str, int] = {}
        self._reached: set[str] = set()
        self._modified: dict[str, int] = {}
        self._directories: dict[str, str] = {"": ""}

    # --- Root -------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """See `Root`."""
        return True

    @property
    def privileged(self) -> bool | None:
        """See `Root`."""
        return self._root.privileged

    def read(self, path: str, *, limit: int = LIMIT_BYTES) -> bytes:
        """See `Root`."""
        try:
            data = self._root.read(path, limit=limit)
        except OSError as error:
            self._keep_error(path, error)
            raise
        self._keep_file(path, data)
        return data

    def read_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`."""
        results = self._root.read_many(paths)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, OSError):
                self._keep_error(path, result)
            else:
                self._keep_file(path, result)
        return results

    def read_config_many(self, paths: Sequence[str]) -> ManyBytes:
        """See `Root`. Whole: other tools look at more of it than we do."""
        return self.read_many(paths)

    def list(self, path: str) -> Names:
        """See `Root`."""
        result = self.list_many((path,))[0]
        if isinstance(result, OSError):
            raise result
        return result

    def list_many(self, paths: Sequence[str]) -> ManyNames:
        """See `Root`."""
        results = self._root.list_many(paths)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, OSError):
                self._keep_error(path, result)
            else:
                self._listings[self._canonical(path, follow=True)[0]] = result
        return results

    def link(self, path: str) -> str:
        """See `Root`."""
        result = self.link_many((path,))[0]
        if isinstance(result, OSError):
            raise result
        return result

    def link_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        results = self._root.link_many(paths)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, OSError):
                if result.errno != errno.EINVAL:  # EINVAL: it exists and is no link
                    self._keep_error(path, result)
            else:
                self._links[self._canonical(path, follow=False)[0]] = result
        return results

    def real(self, path: str) -> str:
        """See `Root`."""
        result = self.real_many((path,))[0]
        if isinstance(result, OSError):
            raise result
        return result

    def real_many(self, paths: Sequence[str]) -> ManyTexts:
        """See `Root`."""
        results = self._root.real_many(paths)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, OSError):
                self._keep_error(path, result)
            else:
                self._reached.add(self._canonical(path, follow=True)[0])
        return results

    def modified(self, path: str) -> int:
        """See `Root`."""
        try:
            found = self._root.modified(path)
        except OSError as error:
            self._keep_error(path, error)
            raise
        self._modified[path] = found
        return found

    def authoritative(self, path: str) -> bool:
        """See `Root`."""
        return True

    # --- keeping ----------------------------------------------------------------------------

    def _keep_file(self, path: str, data: bytes) -> None:
        if path == LIVE_LOG:
            self._files[CAPTURED_LOG] = render_kmsg(data)
        else:
            canonical = self._canonical(path, follow=True)[0]
            kept = strip_grub(data) if path in GRUB_FILES else redact_file(canonical, data)
            self._files[canonical] = kept

    def _keep_error(self, path: str, error: OSError) -> None:
        number = error.errno or errno.EIO
        if path == LIVE_LOG:
            self._errors[CAPTURED_LOG] = number
            return
        self._errors[path] = number
        canonical, exists = self._canonical(path, follow=True)
        if exists != (number in _GONE):
            self._errors[canonical] = number

    def _canonical(self, path: str, *, follow: bool) -> tuple[str, bool]:
        """(path without links, whether it exists); of a missing one the first missing part.

        Links on the way are kept, because replay has to follow them.
        """
        parent, _, name = path.rpartition("/")
        directory = self._directories.get(parent)
        if directory is None:
            directory, exists = self._walk("", parent.split("/"))
            if not exists:
                return directory, False
            self._directories[parent] = directory
        if not follow:
            return f"{directory}/{name}", True
        return self._walk(directory, [name])

    def _walk(self, here: str, names: Sequence[str]) -> tuple[str, bool]:
        todo = list(reversed(names))
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            here = f"{here}/{name}"
            try:
                target = self._links.get(here) or self._root.link(here)
            except OSError as error:
                if error.errno in _GONE:
                    return here, False
                continue  # no link, or nobody may know
            links += 1
            if links > _MAX_LINKS:
                return here, True
            self._links[here] = target
            here = "" if target.startswith("/") else here.rpartition("/")[0]
            todo.extend(reversed(target.split("/")))
        return here, True

    # --- writing ----------------------------------------------------------------------------

    def pack(self, *, boot_id: str, privileged: bool) -> bytes:
        """The .tar.gz: the same answers give the same bytes."""
        self._forget_processes()
        nodes = self._nodes()
        empty = {path for path, names in self._listings.items() if not names}
        bare = self._bare_directories()
        shown = self._shown(nodes, bare)
        manifest = Manifest(
            boot_id=boot_id,
            privileged=privileged,
            collector=collector_name(),
            errors=self._errors,
            listings={
                path: tuple(names)
                for path, names in self._listings.items()
                if names and set(names) != shown.get(path)
            },
            complete=frozenset(
                path
                for path, names in self._listings.items()
                if not names or set(names) == shown.get(path)
            ),
            empty_dirs=frozenset(empty),
            nodes=nodes,
            modified=self._modified,
        )
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            _add_file(tar, "/" + MANIFEST, manifest.encode())
            for path in sorted({*self._files, *self._links, *empty, *bare} - {""}):
                if path in self._links:
                    _add_link(tar, path, self._links[path])
                elif path in self._files:
                    _add_file(tar, path, self._files[path])
                else:
                    _add_directory(tar, path)
        return gzip.compress(buffer.getvalue(), 9, mtime=0)

    def _bare_directories(self) -> set[str]:
        """Directories that somebody resolved a path to and of which nothing else was read."""
        known = {*self._files, *self._links, *self._listings}
        found = set()
        for path in self._reached - known:
            with suppress(OSError):
                self._root.list(path)
                found.add(path)
        return found

    def _shown(self, nodes: dict[str, tuple[str, int, int]], bare: set[str]) -> dict[str, set[str]]:
        """Names by directory that replay sees in the tar's tree without an explicit listing."""
        found: dict[str, set[str]] = {}
        folders = (node.rpartition("/")[0] for node in nodes)
        for path in (*self._files, *self._links, *self._listings, *bare, *folders):
            while path:
                path, _, name = path.rpartition("/")
                names = found.setdefault(path, set())
                if name in names:
                    break
                names.add(name)
        return found

    def _nodes(self) -> dict[str, tuple[str, int, int]]:
        found: dict[str, tuple[str, int, int]] = {}
        for directory, names in self._listings.items():
            if directory != "/dev" and not directory.startswith("/dev/"):
                continue
            for name in names:
                path = f"{directory}/{name}"
                try:
                    node = self._root.node(path)
                except OSError:
                    continue  # gone since it was listed, as hot-plugged nodes are
                if node is not None:
                    found[path] = node
        return found

    def _forget_processes(self) -> None:
        """Of processes only QEMU's, what holds VFIO nodes, and one refusal to look (`holders`)."""
        held = {path for path, target in self._links.items() if HELD_NODE.fullmatch(_node(target))}
        keep = {path.split("/")[2] for path in held if _FD.match(path)}
        keep.update(
            path.split("/")[2]
            for path, data in self._files.items()
            if _COMM.fullmatch(path) and is_qemu_command(decode(data))
        )
        for named in (self._files, self._errors):
            for path in [p for p in named if _WORDS.fullmatch(p)]:
                if path.split("/")[2] not in keep:
                    del named[path]
        refused = sorted(
            (
                path.split("/")[2]
                for path, number in self._errors.items()
                if _FD.match(path) and number not in ENDED
            ),
            key=int,
        )
        keep.update(refused[:1])
        for table in (self._files, self._links, self._listings, self._errors):
            for path in [p for p in table if _FD.match(p)]:
                if path.split("/")[2] not in keep or (table is self._links and path not in held):
                    del table[path]
        for path, names in self._listings.items():
            if path == "/proc":
                self._listings[path] = [n for n in names if not n.isdecimal() or n in keep]
            elif _FD.match(path):
                self._listings[path] = [n for n in names if f"{path}/{n}" in held]


def _node(target: str) -> str:
    return target.removesuffix(DELETED)


def _add_file(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    member = _member(path)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _add_link(tar: tarfile.TarFile, path: str, target: str) -> None:
    member = _member(path)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(member)


def _add_directory(tar: tarfile.TarFile, path: str) -> None:
    member = _member(path)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(member)


def _member(path: str) -> tarfile.TarInfo:
    """Owner, group and time are 0, so that the same evidence gives the same file."""
    return tarfile.TarInfo(path.lstrip("/"))
