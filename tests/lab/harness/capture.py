"""Boots lab machines and stores what our own collector saw in them under tests/data/hosts.

`make lab-capture [NAMES="NAME..."]`; all machines without a name. A committed file stays as it is
unless something else than `volatile.py` declares has changed, and what has is printed. The tests
and the demo replay the files; nothing but this tool may make or change them.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from tests.lab.harness.ground import LabError
from tests.lab.harness.machine import CHECKOUT, LIMIT_S, boot
from tests.lab.harness.prepare import prepare
from tests.lab.harness.topology import MACHINES
from tests.lab.harness.volatile import compare

HOSTS = CHECKOUT / "tests" / "data" / "hosts"
# A change of the collector changes hundreds of members in the same way.
SHOWN = 20


def main(argv: list[str]) -> int:
    """Capture the named machines one after the other; exit code 1 if one of them failed."""
    known = {machine.name: machine for machine in MACHINES}
    parser = argparse.ArgumentParser(description="Capture lab machines into tests/data/hosts.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--limit", type=int, default=LIMIT_S, help="seconds a boot may take")
    parser.add_argument("--into", type=Path, default=HOSTS, help="another folder than the tests'")
    parser.add_argument("--check", action="store_true", help="boot and verify, capture nothing")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such machine: {', '.join(unknown)}")
    wanted = [known[name] for name in options.names or known]
    kernels = prepare([machine.kernel for machine in wanted])
    failed = 0
    for machine in wanted:
        try:
            kernel = kernels[machine.kernel]
            done = boot(machine, kernel, capture=not options.check, limit_s=options.limit)
        except LabError as error:
            failed += 1
            print(f"FAILED {error}", file=sys.stderr)
            continue
        if options.check:
            print(f"{machine.name}: as promised after {done.seconds:.0f} s, see {done.out}")
            continue
        options.into.mkdir(parents=True, exist_ok=True)
        capture = done.out / f"{machine.name}.tar.gz"
        print(f"{machine.name}: {keep(capture, options.into / capture.name)}", flush=True)
    return 1 if failed else 0


def keep(capture: Path, committed: Path) -> str:
    """Put the capture in the committed one's place if it says anything else; what it says."""
    if not committed.exists():
        shutil.copyfile(capture, committed)
        return f"new, {capture.stat().st_size >> 10} KiB"
    changes = compare(committed, capture)
    if not changes:
        return "unchanged"
    shutil.copyfile(capture, committed)
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    return "\n  ".join([f"{len(changes)} changed", *changes[:SHOWN], *more])


if __name__ == "__main__":
    # A termination unwinds like Ctrl-C, so that the running emulator is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
