"""A process that commits without end and says what was acknowledged, to be killed by a test.

Run as a program: `store_writer.py DIRECTORY VALUE_BYTES CHECKPOINT_BYTES [HARM]`. It prints
`ready`, then `NUMBER REVISION` for each committed transaction once its group has returned. HARM
makes the kernel refuse something after five groups: `full` any further growth of files, `sync`
every sync. It then prints `harmed`; after the failure `failed MESSAGE` and what every later call
raises.
"""

import ctypes
import errno
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from vfio_coordinator.store.interface import (
    Absent,
    Compare,
    Put,
    Store,
    StoreError,
    StoreFailed,
    Txn,
    ValueIs,
)
from vfio_coordinator.store.lock import StateLock
from vfio_coordinator.store.sqlite import SqliteStore

COUNTER = "meta/counter"
GROUPS_BEFORE_HARM = 5


def step(number: int, size: int) -> Txn:
    """Transaction `number`: two keys and the counter that must be one less, all or nothing."""
    before: Compare = ValueIs(COUNTER, b"%d" % (number - 1)) if number > 1 else Absent(COUNTER)
    value = (b"%d " % number).ljust(size if number % 5 == 0 else 16, b".")
    keys = (f"a/{number:08}", f"b/{number:08}")
    return Txn((before,), (*(Put(key, value) for key in keys), Put(COUNTER, b"%d" % number)))


def commit_groups(store: Store, size: int) -> Iterator[None]:
    counter = store.get(COUNTER)
    number = int(counter.value) if counter else 0
    refused = Txn((ValueIs(COUNTER, b"never"),), (Put("never", b""),))
    while True:
        group = [step(number + index, size) for index in range(1, 2 + number % 4)]
        results = store.commit([*group, refused])
        for result in results[:-1]:
            number += 1
            assert result.succeeded
            print(number, result.revision)
        sys.stdout.flush()
        yield


def fill_disk(directory: Path) -> None:
    """No file may grow beyond what the largest has now."""
    limit = max(path.stat().st_size for path in directory.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def refuse_syncs(directory: Path) -> None:
    """fsync and fdatasync fail with EIO, by a seccomp filter (Documentation/userspace-api)."""
    fsync, fdatasync = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    filters = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),  # the system call's number
            (jump_if_equal, 2, 0, fsync),
            (jump_if_equal, 1, 0, fdatasync),
            (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
            (give, 0, 0, 0x00050000 | errno.EIO),  # SECCOMP_RET_ERRNO
        )
    )
    code = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("HP", len(filters) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0, ctypes.get_errno()
    assert libc.prctl(set_seccomp, filter_mode, program, 0, 0) == 0, ctypes.get_errno()


HARMS: dict[str, Callable[[Path], None]] = {"full": fill_disk, "sync": refuse_syncs}


def report_failure(store: Store, failed: StoreFailed) -> None:
    print(f"failed {failed}")
    calls: dict[str, Callable[[], object]] = {
        "commit": lambda: store.commit([Txn((), (Put("late", b""),))]),
        "get": lambda: store.get(COUNTER),
        "range": lambda: store.range(""),
        "revision": store.revision,
        "watch": lambda: store.watch("", 1),
    }
    for name, call in calls.items():
        try:
            call()
        except StoreError as err:
            print(f"later {name} {type(err).__name__}")


def main(directory: Path, size: int, checkpoint: int, *harms: str) -> None:
    with StateLock.acquire(directory) as lock:
        store = SqliteStore.open(lock, checkpoint_bytes=checkpoint)
        print("ready", flush=True)
        try:
            for count, _ in enumerate(commit_groups(store, size), start=1):
                if count == GROUPS_BEFORE_HARM and harms:
                    HARMS[harms[0]](directory)
                    print("harmed")
        except StoreFailed as failed:
            report_failure(store, failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
