"""Breaks the agent on purpose, one belief at a time, and asks whether the lab notices.

`python -m tests.lab.sabotage [NAME...]`. Each break is one line of the product turned into a
mistake that somebody could make. It is made in a throw-away clone with an environment of its own,
never in this checkout, and the scenario that claims to guard it must fail at the test named here;
one that still passes is a scenario that proves nothing. The same scenario passes without the break:
that is `make lab`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab.harness.machine import CHECKOUT

# One scenario's boots and reports, on a busy host.
LIMIT_S = 1500


@dataclass(frozen=True, slots=True)
class Break:
    """`before` occurs exactly once in `file` and becomes `after`; `caught_by` must fail then."""

    name: str
    file: str
    before: str
    after: str
    scenario: str
    select: str
    caught_by: str


BREAKS = (
    Break(
        "wrong FLR bit",
        "agent/vfio_agent/collect/config_space.py",
        "flr=bool(data[offset + 7] & 0x10)",
        "flr=bool(data[offset + 7] & 0x20)",
        "test_reset.py",
        "lists_the_methods",
        "test_the_report_lists_the_methods_that_were_tried",
    ),
    Break(
        "bridge on a driver that does not manage DMA ignored",
        "agent/vfio_agent/checks/viability.py",
        "bridges.append(member)",
        "continue",
        "test_readiness.py",
        "ready-6.1 and (as_predicted or was_built_for)",
        "test_vfio_answers_as_predicted",
    ),
    Break(
        "bus taken for function-level",
        "proto/vfio_contract/units.py",
        '_FUNCTION_LEVEL = frozenset({"device_specific", "acpi", "flr", "af_flr"})',
        '_FUNCTION_LEVEL = frozenset({"device_specific", "acpi", "flr", "af_flr", "bus"})',
        "test_reset.py",
        "gpu_and_audio or resets_as_predicted",
        "test_gpu_and_audio_are_reset_together_only",
    ),
    Break(
        "group number as identity",
        "proto/vfio_contract/identity.py",
        'place = Identity(f"{function.ids}:{subsystem}@{path}")',
        'return Identified(*[Identity(f"{function.ids}@{function.group}")] * 2, method="slot")',
        "test_hotplug.py",
        "no_identity",
        "test_a_group_number_is_no_identity",
    ),
    Break(
        "UNKNOWN as PASS",
        "proto/vfio_contract/codes.py",
        "verdict=code.verdict,",
        "verdict=Verdict.PASS if code.verdict is Verdict.UNKNOWN else code.verdict,",
        "test_readiness.py",
        "who_may_not_look",
        "test_who_may_not_look_is_told_so",
    ),
    Break(
        "holders ignored",
        "agent/vfio_agent/checks/holding.py",
        "found = [h for h in holders if h.path in paths]",
        "found: list[Holder] = []",
        "test_readiness.py",
        "the_changes or holder_is_named",
        "test_the_holder_is_named",
    ),
    Break(
        "what is noticed waits for the clock",
        "agent/vfio_agent/watch/watch.py",
        "self._schedule.note(signal.wanted, now_s, confirm=signal.confirm)",
        "pass",
        "test_live.py",
        "made_and_removed",
        "test_virtual_functions_are_made_and_removed",
    ),
    Break(
        "a process taken for the kernel",
        "agent/vfio_agent/watch/device_events.py",
        "foreign=line.foreign,",
        "foreign=False,",
        "test_live.py",
        "process_wrote",
        "test_a_line_that_a_process_wrote_is_told_as_such",
    ),
    Break(
        "a holder does not keep the hands off",
        "agent/vfio_agent/actuate/guard.py",
        "elif found:",
        "elif not found:",
        "test_hands.py",
        "held_card",
        "test_a_held_card_is_refused_and_vfio_closes_the_race",
    ),
    Break(
        "a reboot taken for a cure",
        "proto/vfio_contract/ledger.py",
        "    if standing:\n",
        "    if acute:\n",
        "test_ledger.py",
        "after_a_reboot",
        "test_after_a_reboot_it_is_on_probation_and_one_success_is_not_enough",
    ),
    Break(
        "lines that name an old address ignored",
        "coordinator/vfio_coordinator/state/judge.py",
        "yield from _stale_lines(node)",
        "yield from ()",
        "test_firmware.py",
        "names_an_old_address",
        "test_a_moved_node_waits_while_a_vm_names_an_old_address",
    ),
)


def main(argv: list[str]) -> int:
    """Try the named breaks, or all; exit code 1 when one of them went unnoticed."""
    known = {each.name: each for each in BREAKS}
    parser = argparse.ArgumentParser(description="Break the agent and see the lab catch it.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(known))
    names = parser.parse_args(argv).names or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such break: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="vfioctl-sabotage-") as folder:
        clone = Path(folder) / "vfioctl"
        _run("git", "clone", "--quiet", str(CHECKOUT), str(clone), cwd=CHECKOUT)
        _run("make", "setup", cwd=clone)
        missed = [name for name in names if not _is_caught(known[name], clone)]
    return 1 if missed else 0


def _is_caught(broken: Break, clone: Path) -> bool:
    path = clone / broken.file
    whole = path.read_text()
    if whole.count(broken.before) != 1:
        raise SystemExit(f"{broken.name}: {broken.file} does not hold once: {broken.before}")
    path.write_text(whole.replace(broken.before, broken.after))
    try:
        done = subprocess.run(
            [
                *(".venv/bin/pytest", "-p", "no:cacheprovider", "-m", "lab", "-q", "--tb=line"),
                *("-k", broken.select, f"tests/lab/{broken.scenario}"),
            ],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    finally:
        path.write_text(whole)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    # Exit code 1 is failed tests; anything else is a run that did not happen.
    caught = done.returncode == 1 and any(
        line.startswith("FAILED") and f"::{broken.caught_by}" in line for line in failed
    )
    print(f"{'caught' if caught else 'MISSED'}: {broken.name}", flush=True)
    for line in failed or done.stdout.splitlines()[-20:]:
        print(f"    {line}", flush=True)
    return caught


def _run(*argv: str, cwd: Path) -> None:
    subprocess.run(argv, cwd=cwd, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
