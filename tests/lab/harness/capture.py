"""Boots lab machines and stores what our own collector saw in them under tests/data/hosts.

`python -m tests.lab.harness.capture [NAME...]` from the checkout; all machines without a name. The
tests and the demo replay the files; nothing but this tool may make or change them.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys

from tests.lab.harness.machine import CHECKOUT, LIMIT_S, boot
from tests.lab.harness.prepare import LabError, prepare
from tests.lab.harness.topology import MACHINES

HOSTS = CHECKOUT / "tests" / "data" / "hosts"


def main(argv: list[str]) -> int:
    """Capture the named machines one after the other; exit code 1 if one of them failed."""
    known = {machine.name: machine for machine in MACHINES}
    parser = argparse.ArgumentParser(description="Capture lab machines into tests/data/hosts.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--limit", type=int, default=LIMIT_S, help="seconds a boot may take")
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
        capture = done.out / f"{machine.name}.tar.gz"
        HOSTS.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(capture, HOSTS / capture.name)
        print(f"{machine.name}: {done.seconds:.0f} s, {capture.stat().st_size >> 10} KiB")
    return 1 if failed else 0


if __name__ == "__main__":
    # A termination unwinds like Ctrl-C, so that the running emulator is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
