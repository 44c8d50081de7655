"""Findings for a host in which every gate passes, with chosen ones replaced.

    passing(host, {("driver-binding", "function:0000:01:00.0"): (Verdict.FAIL, "NOT_BOUND")})

A replacement of None leaves the finding out. These are values, not judgements: the checks have
their own tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from vfio_contract.address import Address
from vfio_contract.findings import NODE, Evidence, Finding, Verdict
from vfio_contract.host import Host

Replaced = Mapping[tuple[str, str], tuple[Verdict, str] | None]

NODE_CHECKS = ("iommu-active", "interrupt-remapping", "cpu-virtualization")
FUNCTION_CHECKS = ("host-critical", "driver-binding", "reset-capability", "reset-history")


def make(
    check: str, subject: str, verdict: Verdict, code: str, *, intended: bool | None = None
) -> Finding:
    """One finding with a line of evidence."""
    return Finding(
        check=check,
        subject=subject,
        verdict=verdict,
        code=code,
        evidence=(Evidence(f"/evidence/{check}", f"{subject} is {verdict}"),),
        meaning=f"what {code} means",
        decision=f"what to do about {code}",
        intended=intended,
    )


def passing(host: Host, replaced: Replaced | None = None) -> tuple[Finding, ...]:
    """All gate findings of the host, PASS but for what is replaced."""
    changes = dict(replaced or {})
    subjects = [(check, NODE) for check in NODE_CHECKS]
    subjects += [("group-isolation", f"group:{number}") for number in host.members]
    subjects += [
        (check, f"function:{function.address}")
        for function in host.functions
        if not function.is_bridge
        for check in FUNCTION_CHECKS
    ]
    rows = []
    for key in (*subjects, *(key for key in changes if key not in subjects)):
        chosen = changes.get(key, (Verdict.PASS, f"{key[0].upper().replace('-', '_')}_OK"))
        if chosen is not None:
            check, subject = key
            intended = None if subject == NODE else host.is_intended(_addresses(host, subject))
            rows.append(make(check, subject, *chosen, intended=intended))
    return tuple(rows)


def _addresses(host: Host, subject: str) -> list[Address]:
    kind, _, name = subject.partition(":")
    if kind == "group":
        return [f.address for f in host.members.get(int(name), ())]
    return [Address(name)]
