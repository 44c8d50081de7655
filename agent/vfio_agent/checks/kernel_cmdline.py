"""Check `kernel-cmdline`: whether the kernel was told the right things, and will be next time.

The running command line against the one that the boot loader is configured to pass. It must never
praise a command line of which the next boot's version is not known, nor blame a parameter that this
processor's vendor ignores for more than being useless.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vfio_agent.checks import kernel_log as log
from vfio_agent.checks.architecture import ARM, OTHER, describe_vendor, family_of, vendor_of
from vfio_agent.checks.boot import (
    Configured,
    find_configured,
    is_undecided,
    missing_configured,
    missing_loader,
)
from vfio_agent.checks.iommu_active import is_active
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.firmware import iommu_parameters
from vfio_contract.host import Host

ID = "kernel-cmdline"

CMDLINE_GOOD = Code(
    "CMDLINE_GOOD",
    Verdict.PASS,
    "/proc/cmdline and the boot loader's configuration agree on all that bears on passthrough.",
    "Nothing on the command line works against passthrough, and a reboot changes nothing of it.",
    "No action.",
)
CMDLINE_SABOTAGE = Code(
    "CMDLINE_SABOTAGE",
    Verdict.FAIL,
    "intel_iommu=off, amd_iommu=off, iommu=off or intremap=off on the running command line.",
    "The kernel was told to leave out what passthrough needs: no firmware setting helps.",
    "Remove the parameter where the boot loader is configured; reboot; vfioctl check",
)
CMDLINE_SABOTAGE_PENDING = Code(
    "CMDLINE_SABOTAGE_PENDING",
    Verdict.FAIL,
    "The boot loader is configured to switch off what passthrough needs; this boot does not yet.",
    "All works now, and will not after the next reboot.",
    "Remove the parameter before somebody reboots; vfioctl check",
)
CMDLINE_PENDING = Code(
    "CMDLINE_PENDING",
    Verdict.FAIL,
    "The boot loader is configured to enable the IOMMU; the running command line is not, and the "
    "IOMMU is off.",
    "The setting was written but this boot does not use it.",
    "Install it, reboot, vfioctl check",
)
CMDLINE_CONTRADICTS = Code(
    "CMDLINE_CONTRADICTS",
    Verdict.WARN,
    "One thing is asked for twice with opposite values.",
    "The last one wins, so it works now; whoever edits the line next may not see that.",
    "Leave one of them in the boot loader's configuration.",
)
CMDLINE_WRONG_VENDOR = Code(
    "CMDLINE_WRONG_VENDOR",
    Verdict.WARN,
    "A parameter for the other vendor's IOMMU (intel_iommu on AMD, amd_iommu on Intel).",
    "It does nothing here: whoever wrote it believed to have enabled the IOMMU with it.",
    "Remove it. AMD's IOMMU needs no parameter; Intel's needs intel_iommu=on.",
)
CMDLINE_IGNORED = Code(
    "CMDLINE_IGNORED",
    Verdict.WARN,
    "intel_iommu, amd_iommu or iommu has a value that the kernel does not know.",
    "The kernel ignores it: whoever wrote it believed to have asked for something.",
    "Write intel_iommu=on and iommu=pt as two parameters in lower case; reboot; vfioctl check",
)
CMDLINE_SOFT = Code(
    "CMDLINE_SOFT",
    Verdict.WARN,
    "iommu=soft on the running command line.",
    "It asks for bounce buffers in software, which kernels take as a wish to leave the hardware "
    "IOMMU alone: an update may switch passthrough off with it.",
    "Remove iommu=soft where the boot loader is configured; reboot; vfioctl check",
)
CMDLINE_PT_ON_SNP = Code(
    "CMDLINE_PT_ON_SNP",
    Verdict.WARN,
    "iommu=pt on a host whose processor has SEV-SNP enabled.",
    "Passthrough mode is fine on other hosts; here the kernel then gives up SEV-SNP.",
    "Remove iommu=pt (and iommu.passthrough=1) if confidential VMs are to run here.",
)
CMDLINE_DIFFERS = Code(
    "CMDLINE_DIFFERS",
    Verdict.WARN,
    "The running command line and the boot loader's configuration differ in what bears on "
    "passthrough.",
    "The next reboot changes how this host isolates devices; that is best a decision.",
    "Read the difference; install or undo it, then reboot when it suits: vfioctl check",
)
CMDLINE_UNKNOWN = Code(
    "CMDLINE_UNKNOWN",
    Verdict.UNKNOWN,
    "The running command line, the boot loader's configuration or the processor's vendor could not "
    "be read, or two boot loaders are configured differently.",
    "What the next boot will be told is not known. Unknown is not good.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (
    CMDLINE_GOOD,
    CMDLINE_SABOTAGE,
    CMDLINE_SABOTAGE_PENDING,
    CMDLINE_PENDING,
    CMDLINE_CONTRADICTS,
    CMDLINE_WRONG_VENDOR,
    CMDLINE_IGNORED,
    CMDLINE_SOFT,
    CMDLINE_PT_ON_SNP,
    CMDLINE_DIFFERS,
    CMDLINE_UNKNOWN,
)

_SWITCHES = ("intel_iommu", "amd_iommu", "iommu", "intremap")
_VENDOR_OF = {"intel_iommu": "intel", "amd_iommu": "amd"}
_ENABLING = frozenset({"intel_iommu=on", "amd_iommu=on", "iommu=pt", "iommu=on", "iommu=force"})

_INTEL_VALUES = re.compile(r"on|off|igfx_off|forcedac|strict|sp_off|sm_on|sm_off|tboot_noforce")
_X86_VALUES = re.compile(
    r"off|force|noforce|biomerge|panic|nopanic|merge|nomerge|forcesac|allowdac|nodac|usedac|soft"
    r"|pt|nopt|calgary|\d|leak|fullflush|nofullflush|memaper|noagp|noaperture|allowed|debug"
)
"""Beginnings that the kernel knows (drivers/iommu/intel/iommu.c, arch/x86/kernel/pci-dma.c, and
amd_gart_64.c; 4.15 to 7.2), which it compares case-sensitively."""

_KNOWN = {"intel_iommu": _INTEL_VALUES, "iommu": _X86_VALUES}


@dataclass(frozen=True, slots=True)
class _Line:
    """A command line and where it stands."""

    evidence: tuple[Evidence, ...]
    options: str

    def values(self, name: str) -> list[set[str]]:
        """The comma-separated values of every `name=`, in order."""
        words = (word.partition("=") for word in self.options.split())
        return [set(v.split(",")) for n, _, v in words if n.replace("-", "_") == name]


def judge(host: Host) -> list[Finding]:
    """Was the kernel told what passthrough needs, and will the next boot be?

    Evidence: /proc/cmdline; GRUB's, systemd-boot's and the loader entries' configuration; what
              tells which of them starts the host.
    Meaning:  A parameter that is written but not booted, or booted but not written, surprises.
    Source:   Linux Documentation/admin-guide/kernel-parameters.txt; field guide step 4.
    """
    known = log.read_cmdline(host)
    if known is None:
        return [_unknown(Missing("/proc/cmdline", "cat /proc/cmdline"))]
    running = _Line((Evidence(known[0], f'"{known[1]}"'),), known[1])
    configured = find_configured(host)
    return [
        _judge_running(host, running, configured)
        or _judge_vendor_known(host, running, configured)
        or _judge_configured(host, running, configured)
        or _judge_habits(host, running)
        or make_finding(ID, NODE, CMDLINE_GOOD, *running.evidence, *_list(configured))
    ]


def _judge_running(
    host: Host, running: _Line, configured: Sequence[Configured] | None
) -> Finding | None:
    off = _find_off(host, running)
    if not off:
        return None
    evidence = (*running.evidence, *_list(configured))
    written = [row for row in configured or () if _find_off(host, _line(row))]
    if written:
        where = " and ".join(_where(host, row) for row in written)
        install = " and ".join(dict.fromkeys(row.install for row in written))
        decision = f"Remove {off} in {where}; {install}; reboot; vfioctl check"
    elif configured:
        decision = f"It is removed already: {configured[0].remaining}reboot; vfioctl check"
    else:
        decision = f"Remove {off} where the boot loader is configured; reboot; vfioctl check"
    meaning = f"{off}: {CMDLINE_SABOTAGE.meaning}"
    return make_finding(ID, NODE, CMDLINE_SABOTAGE, *evidence, meaning=meaning, decision=decision)


def _judge_vendor_known(
    host: Host, running: _Line, configured: Sequence[Configured] | None
) -> Finding | None:
    """UNKNOWN where it matters whose IOMMU this is and nobody knows."""
    lines = (running, *(_line(row) for row in configured or ()))
    named = [n for n in _VENDOR_OF if any(line.values(n) for line in lines)]
    if any(_is_ours(host, name) is None for name in named):
        path = "/sys/firmware/acpi/tables"
        return _unknown(Missing(path, f"sudo ls {path}; grep -m1 vendor_id /proc/cpuinfo"))
    if _is_passthrough(running) and not vendor_of(host):
        return _unknown(Missing("/proc/cpuinfo", "grep -m1 vendor_id /proc/cpuinfo"))
    return None


def _judge_configured(
    host: Host, running: _Line, configured: Sequence[Configured] | None
) -> Finding | None:
    if configured is None:
        return _unknown(missing_configured(host), *running.evidence)
    found: list[Finding | None] = []
    for row in configured:
        evidence = (*running.evidence, *row.evidence)
        off = _find_off(host, _line(row))
        added, removed = _differ(running.options, row.options)
        if off:
            decision = f"Remove {off} in {_where(host, row)}; {row.install}; vfioctl check"
            found.append(
                make_finding(ID, NODE, CMDLINE_SABOTAGE_PENDING, *evidence, decision=decision)
            )
        elif _ENABLING & set(added) and not is_active(host):
            if is_active(host) is None:
                missing = Missing("whether the IOMMU is active", "ls /sys/class/iommu")
                return _unknown(missing, *evidence)
            decision = f"{row.remaining}reboot, vfioctl check"
            found.append(make_finding(ID, NODE, CMDLINE_PENDING, *evidence, decision=decision))
        elif added or removed:
            found.append(_report_difference(row, evidence, added, removed))
        else:
            found.append(None)
    if is_undecided(configured) and len({f.code if f else "" for f in found}) > 1:
        return _unknown(missing_loader(), *running.evidence, *_list(configured))
    told = (f for f in found if f is not None)
    return min(told, key=lambda f: f.verdict is not Verdict.FAIL, default=None)


def _report_difference(
    row: Configured, evidence: tuple[Evidence, ...], added: list[str], removed: list[str]
) -> Finding:
    parts = [f"{' '.join(added)} will come"] if added else []
    parts += [f"{' '.join(removed)} will be gone"] if removed else []
    meaning = f"After a reboot {' and '.join(parts)}. {CMDLINE_DIFFERS.meaning}"
    decision = CMDLINE_DIFFERS.decision
    lost = " ".join(removed)
    if removed:
        # the loader's own command would only make the loss take effect
        decision = f"To keep {lost}: add it in {row.evidence[-1].source}, and only then "
        decision += f"{row.install}; to give it up, reboot when it suits: vfioctl check"
    elif not row.installed:
        decision = f"{decision}. To install it: {row.install}"
    return make_finding(ID, NODE, CMDLINE_DIFFERS, *evidence, meaning=meaning, decision=decision)


def _judge_habits(host: Host, running: _Line) -> Finding | None:
    for name in _SWITCHES:
        values = running.values(name)
        if any("on" in v for v in values) and any("off" in v for v in values):
            return make_finding(ID, NODE, CMDLINE_CONTRADICTS, *running.evidence)
    if _is_passthrough(running) and _is_translated(running):
        return make_finding(ID, NODE, CMDLINE_CONTRADICTS, *running.evidence)
    vendor = vendor_of(host)
    if any(running.values(name) and _is_ours(host, name) is False for name in _VENDOR_OF):
        shown = describe_vendor(host)
        return make_finding(ID, NODE, CMDLINE_WRONG_VENDOR, *running.evidence, shown)
    ignored = _find_ignored(host, running)
    if ignored:
        meaning = f"{', '.join(ignored)}: {CMDLINE_IGNORED.meaning}"
        return make_finding(ID, NODE, CMDLINE_IGNORED, *running.evidence, meaning=meaning)
    if any("soft" in values for values in running.values("iommu")):
        return make_finding(ID, NODE, CMDLINE_SOFT, *running.evidence)
    if _is_passthrough(running) and vendor == "amd":
        flags = host.facts.cpu.flags
        if flags is None:
            missing = Missing("/proc/cpuinfo", "grep -o -m1 sev_snp /proc/cpuinfo")
            return _unknown(missing, *running.evidence)
        if "sev_snp" in flags and "hypervisor" not in flags:
            shown = Evidence("/proc/cpuinfo", "flags: sev_snp")
            return make_finding(ID, NODE, CMDLINE_PT_ON_SNP, *running.evidence, shown)
    return None


def _find_ignored(host: Host, line: _Line) -> list[str]:
    """Every value that no kernel knows, with its parameter; [] where these parameters are unknown.

    `amd_iommu=on` is none: it is unknown, too, but asks for what AMD's IOMMU does by itself.
    """
    if family_of(host) in (ARM, OTHER):
        return []
    found = []
    for word in line.options.split():
        name, _, listed = word.partition("=")
        pattern = _KNOWN.get(name.replace("-", "_"))
        strange = [v for v in listed.split(",") if v and pattern and not pattern.match(v)]
        found += [word if v == listed else f"{v} in {word}" for v in strange]
    return found


def _is_passthrough(line: _Line) -> bool:
    if any("pt" in values for values in line.values("iommu")):
        return True
    return any({"1", "on", "y"} & values for values in line.values("iommu.passthrough"))


def _is_translated(line: _Line) -> bool:
    words = [v for v in line.values("iommu") if "nopt" in v]
    return bool(words or [v for v in line.values("iommu.passthrough") if {"0", "off"} & v])


def _find_off(host: Host, line: _Line) -> str:
    """The switch that is off at the end of the line, as `name=off`; "" for none."""
    for name in _SWITCHES:
        if not _is_ours(host, name):
            continue
        values = line.values(name)
        if values and "off" in values[-1]:
            return f"{name}=off"
    return ""


def _is_ours(host: Host, name: str) -> bool | None:
    """Whether this host's IOMMU listens to the switch; None when that is not known.

    The processor's vendor decides, but a virtual IOMMU need not be of its kind.
    """
    if name not in _VENDOR_OF:
        return True
    firmware, units = host.facts.firmware, host.facts.iommu_units or ()
    intel = name == "intel_iommu"
    table = firmware.dmar_sha256 if intel else firmware.ivrs_sha256
    shown = log.find_line(host, log.DMAR_TABLE if intel else log.IVRS_TABLE)
    vendor = vendor_of(host)
    if vendor == _VENDOR_OF[name] or table or shown is not None:
        return True
    if any(unit.startswith("dmar" if intel else "ivhd") for unit in units):
        return True
    return False if vendor and (table == "" or log.is_complete(host)) else None


def _differ(running: str, configured: str) -> tuple[list[str], list[str]]:
    """(parameters that the next boot adds, that it loses), of those that bear on passthrough."""
    has, gets = iommu_parameters(running).split(), iommu_parameters(configured).split()
    return [w for w in gets if w not in has], [w for w in has if w not in gets]


def _line(row: Configured) -> _Line:
    return _Line(row.evidence, row.options)


def _list(configured: Sequence[Configured] | None) -> tuple[Evidence, ...]:
    return tuple(e for row in configured or () for e in row.evidence)


def _where(host: Host, row: Configured) -> str:
    """The places that switch it off, of the several that one command line is put together from."""
    found = [e.source for e in row.evidence if _find_off(host, _Line((), e.text.strip('"')))]
    return " and ".join(found) or row.evidence[0].source


def _unknown(missing: Missing, *evidence: Evidence) -> Finding:
    return make_finding(ID, NODE, CMDLINE_UNKNOWN, *evidence, missing=(missing,))
