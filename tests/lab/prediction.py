"""What the findings of `vfioctl check -o json` say that VFIO and QEMU will answer.

It reads codes, subjects and evidence of the report, and nothing else: not the machine's table, not
the guest. Where the report does not claim anything, the prediction is None and nothing is compared;
a report without a finding that the rules need is a KeyError, never a guess.

Rules: Linux drivers/vfio (group viability, container, device, token, reset, hot reset).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DEVICES = "/sys/bus/pci/devices/"

_METHODS = {"device_specific", "acpi", "flr", "af_flr", "pm", "bus", "cxl_bus"}

# Codes of driver-binding under which a vfio driver has the function; PF_HAS_VFS says nothing of it.
_BOUND = {"BINDING_READY": True, "BINDING_NOT_PERSISTENT": True}
_NODE_GATES = ("iommu-active", "interrupt-remapping", "group-isolation", "driver-binding")
_NOT_BOUND = {
    "BINDING_HOST_DRIVER": False,
    "BINDING_DEFERRED": False,
    "NOT_BOUND": False,
    "HELD_UNBOUND": False,
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """For one function. `step` and `errno` as `vfio.attempt` gives them for merely opening it.

    `viable`: of its group, None where no one can ask. `resets`: whether VFIO_DEVICE_RESET works.
    `hot_resets`: the errno of VFIO_DEVICE_PCI_HOT_RESET with the function's own group, "" for
    success. None where nothing is claimed. `message`: what QEMU says, "" when it starts.
    """

    address: str
    step: str
    errno: str
    viable: bool | None = None
    resets: bool | None = None
    hot_resets: str | None = None
    message: str = ""

    @property
    def opens(self) -> bool:
        """Whether a VM that gets the function starts."""
        return self.step == "opened"


class Report:
    """One report, by check and subject."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._findings = document["findings"]
        self._by_subject = {(f["check"], f["subject"]): f for f in self._findings}

    def code(self, check: str, subject: str = "node") -> str:
        """The code of the finding about this subject; KeyError when there is none."""
        return str(self._by_subject[check, subject]["code"])

    def codes(self, check: str) -> dict[str, str]:
        """Code by subject."""
        return {f["subject"]: f["code"] for f in self._findings if f["check"] == check}

    def verdicts(self) -> dict[tuple[str, str], str]:
        """Verdict by check and subject."""
        return {key: f["verdict"] for key, f in self._by_subject.items()}

    def failures(self) -> dict[str, str]:
        """Codes that fail a subject or leave it unknown, by subject: sorted, a space between.

        Subjects are `node`, an address, and `group of A` and `unit of A` with the lowest function A
        of either: their own names are not a machine's to choose.
        """
        found: dict[str, set[str]] = {}
        for f in self._findings:
            if f["verdict"] in ("FAIL", "UNKNOWN"):
                found.setdefault(self._place(f["subject"]), set()).add(f["code"])
        return {place: " ".join(sorted(codes)) for place, codes in found.items()}

    def _place(self, subject: str) -> str:
        kind, _, name = subject.partition(":")
        if kind == "function":
            return name
        if kind == "group":
            return f"group of {min(self.members(subject))}"
        if kind == "unit":
            rows = self._by_subject["device-functions", subject]["evidence"]
            assigned = (e["source"] for e in rows if e["text"].startswith("assign: "))
            return f"unit of {min(assigned).removeprefix(DEVICES)}"
        return subject

    def finding(self, check: str, address: str) -> Mapping[str, Any]:
        """The finding of this check about a function."""
        found: Mapping[str, Any] = self._by_subject[check, f"function:{address}"]
        return found

    def text(self, check: str, subject: str, source: str) -> str:
        """The text of the first evidence from a source that ends so; "" when there is none."""
        for row in self._by_subject[check, subject]["evidence"]:
            if row["source"].endswith(source):
                return str(row["text"])
        return ""

    def mentions(self, check: str, subject: str, address: str) -> bool:
        """Whether the finding gives this function itself as evidence."""
        rows = self._by_subject[check, subject]["evidence"]
        return any(row["source"] == DEVICES + address for row in rows)

    def names(self, subject: str, address: str) -> bool:
        """Whether the device-functions finding about a unit lists this function."""
        rows = self._by_subject["device-functions", subject]["evidence"]
        return any(address in row["source"] or address in row["text"] for row in rows)

    def functions(self) -> list[str]:
        """Every function that the report holds to be assignable."""
        return [s.removeprefix("function:") for s in self.codes("reset-capability") if ":" in s]

    def blames(self, address: str) -> bool:
        """Whether a finding about the function, its group, or the node's way to VFIO fails it."""
        group = next((g for g, members in self.groups() if address in members), "")
        return any(
            f["verdict"] in ("FAIL", "UNKNOWN", "BLOCKED")
            and (
                f["subject"] in (f"function:{address}", group)
                or (f["subject"] == "node" and f["check"] in _NODE_GATES)
            )
            for f in self._findings
        )

    def groups(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(`group:N`, its members: address -> evidence text)."""
        for finding in self._findings:
            if finding["check"] == "group-isolation" and finding["subject"].startswith("group:"):
                rows = (e for e in finding["evidence"] if e["source"].startswith(DEVICES))
                members = {e["source"].removeprefix(DEVICES): e["text"] for e in rows}
                yield finding["subject"], members

    def group_of(self, address: str) -> str:
        """`group:N` of a function; KeyError when no group finding lists it."""
        for subject, members in self.groups():
            if address in members:
                return subject
        raise KeyError(f"no group finding lists {address}")

    def members(self, group: str) -> dict[str, str]:
        """Members of `group:N`: address -> evidence text."""
        return dict(self.groups())[group]

    def is_bound(self, address: str) -> bool:
        """Whether a vfio driver has the function."""
        code = self.code("driver-binding", f"function:{address}")
        if code == "PF_HAS_VFS":
            return "driver vfio-pci" in self.text(
                "driver-binding", f"function:{address}", "/driver"
            )
        return (_BOUND | _NOT_BOUND)[code]


def predict(report: Report) -> dict[str, Prediction]:
    """The prediction for every assignable function of a report."""
    return {address: _predict(report, address) for address in report.functions()}


def _predict(report: Report, address: str) -> Prediction:
    if report.code("iommu-active") == "IOMMU_OFF":
        return Prediction(address, "no group", "ENOENT", message="no iommu_group found")
    group = report.group_of(address)
    number = group.removeprefix("group:")
    node = f"Could not open '/dev/vfio/{number}'"
    held = [a for a in _assignable(report, group) if _is_held(report, a)]
    if not any(report.is_bound(a) for a in _assignable(report, group)):
        return Prediction(address, "group", "ENOENT", message=f"{node}: No such file or directory")
    if held:
        return Prediction(address, "group", "EBUSY", message=f"{node}: Device or resource busy")
    viable = _viable(report, group)
    if not viable:
        message = f"group {number} is not viable"
        return Prediction(address, "container", "EPERM", viable=viable, message=message)
    if report.code("interrupt-remapping") == "IRQ_REMAP_OFF":
        message = "Failed to set iommu for container: Operation not permitted"
        return Prediction(address, "iommu", "EPERM", viable=viable, message=message)
    if _needs_token(report, address):
        message = f"error getting device from group {number}: Permission denied"
        return Prediction(address, "device", "EACCES", viable=viable, message=message)
    if not report.is_bound(address):
        message = f"error getting device from group {number}: No such device"
        return Prediction(address, "device", "ENODEV", viable=viable, message=message)
    return Prediction(
        address,
        "opened",
        "",
        viable=viable,
        resets=_resets(report, address),
        hot_resets=_hot_resets(report, address),
    )


def _assignable(report: Report, group: str) -> list[str]:
    known = report.functions()
    return [a for a in report.members(group) if a in known]


def _is_held(report: Report, address: str) -> bool:
    return report.codes("device-holders").get(f"function:{address}") == "DEVICE_HELD"


def _needs_token(report: Report, address: str) -> bool:
    """A VF of a function that a vfio driver has too opens with that owner's vf_token only."""
    return any(
        code == "PF_HAS_VFS" and report.mentions("sriov", subject, address)
        for subject, code in report.codes("sriov").items()
        if subject != f"function:{address}"
    )


def _viable(report: Report, group: str) -> bool | None:
    word = report.text("group-isolation", group, "viable now").partition(":")[0]
    return {"yes": True, "no": False}[word]


def _resets(report: Report, address: str) -> bool | None:
    """VFIO_DEVICE_RESET uses the first method that works for the function alone."""
    subject = f"function:{address}"
    code = report.code("reset-capability", subject)
    if code == "RESET_FUNCTION":
        return True
    if code in ("RESET_NONE", "RESET_DISABLED"):
        return False
    methods = _METHODS.intersection(
        report.text("reset-capability", subject, "/reset_method").split()
    )
    if methods == {"bus"}:
        return len(_domain(report, address)) == 1
    return bool(methods)


def _hot_resets(report: Report, address: str) -> str | None:
    code = report.code("reset-capability", f"function:{address}")
    if code == "RESET_NONE":
        return "ENODEV"
    if code not in ("RESET_SLOT", "RESET_SHARED"):
        return None
    members = report.members(report.group_of(address))
    domain = _domain(report, address)
    if not set(domain) <= set(members):
        return "EINVAL"
    known = report.functions()
    if report.code("reset-history", f"function:{address}") in ("RESET_FAILED", "RESET_WEDGED"):
        return None
    # Each function of the domain must be open, or closed and on a vfio driver of this owner.
    unowned = [a for a in domain if a in known and not report.is_bound(a)]
    return "EINVAL" if unowned else ""


def _domain(report: Report, address: str) -> list[str]:
    text = report.text("reset-capability", f"function:{address}", "reset domain")
    return text.rpartition(": ")[2].split()
