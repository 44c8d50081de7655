"""Every screen against its golden file: 80 columns of ASCII, the same text for the same value.

VFIOCTL_WRITE_GOLDEN=1 writes the files anew; read the difference before you keep it.

Length: one table of all screens, so that none is without its golden file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli import (
    baseline_samples,
    check_samples,
    forecast_samples,
    history_samples,
    incident_samples,
    mute_samples,
    risk_samples,
    samples,
)
from vfio_agent.checks import CATALOGUE
from vfio_cli import output
from vfio_cli.commands.explain import notes_of
from vfio_cli.screens import (
    baseline,
    check,
    decision,
    devices,
    diff,
    events,
    explain,
    forecast,
    history,
    incidents,
    mute,
    nodes,
    policy,
    revalidate,
    risk,
    status,
    vms,
)
from vfio_cli.screens.layout import WIDTH, Lines, plain
from vfio_cli.survey import DeviceRow
from vfio_contract.codes import GROUP_WIDENED
from vfio_contract.drift import CONSEQUENCES
from vfio_contract.findings import Verdict, summarise
from vfio_contract.views import CommandView, NodeView, Reason

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden"


def device_rows() -> tuple[DeviceRow, ...]:
    """A GPU with its audio, a disk of the host, a bridge."""

    def row(address: str, name: str, kind: str, **changes: object) -> DeviceRow:
        values: dict[str, object] = {
            "ids": "10de:2231",
            "unit": "gpu-00000001",
            "group": "17",
            "driver": "vfio-pci",
            "reset": "slot",
            "intended": True,
            "verdict": Verdict.PASS,
            "bridge": False,
        }
        return DeviceRow(address=address, name=name, kind=kind, **(values | changes))  # type: ignore[arg-type]

    return (
        row(
            "0000:00:01.0",
            "Root port",
            "",
            driver="pcieport",
            bridge=True,
            intended=False,
            verdict=Verdict.NOT_APPLICABLE,
        ),
        row("0000:41:00.0", "NVIDIA GA102GL [RTX A5000]", "gpu", verdict=Verdict.WARN),
        row("0000:41:00.1", "NVIDIA GA102 High Definition Audio Controller", "audio"),
        row(
            "10000:e1:00.0",
            "Samsung PM9A3",
            "nvme",
            driver="nvme",
            group="none",
            intended=False,
            verdict=Verdict.FAIL,
            reset="?",
        ),
    )


def device_view() -> devices.DeviceView:
    rows = device_rows()
    findings = (
        check_samples.finding(
            "driver-binding",
            Verdict.WARN,
            "BINDING_NOT_PERSISTENT",
            ("/sys/bus/pci/devices/0000:41:00.0/driver", "0000:41:00.0 [0300], driver vfio-pci"),
            subject="function:0000:41:00.0",
            meaning="It does not survive a reboot.",
            decision="sudo driverctl set-override 0000:41:00.0 vfio-pci",
        ),
        check_samples.finding("group-isolation", Verdict.BLOCKED, blocked_by="iommu-active"),
        check_samples.finding(
            "host-critical",
            Verdict.PASS,
            "NOT_HOST_CRITICAL",
            ("mounts", "none stands on it"),
            subject="function:0000:41:00.0",
            meaning="not shown",
        ),
    )
    return devices.DeviceView(
        row=rows[1],
        facts=(("ids", "10de:2231, class 030000"), ("capabilities", "PM MSI PCIe " * 9)),
        members=(rows[0], rows[1], rows[2]),
        assign=("0000:41:00.0", "0000:41:00.1"),
        hold=("0000:00:01.0",),
        findings=findings,
        node_findings=(check_samples.finding("iommu-active", Verdict.FAIL, "IOMMU_OFF"),),
    )


def diff_view(*, comparable: bool = True) -> diff.DiffView:
    return diff.DiffView(
        before="/srv/evidence/2026-11-01/pve07-with-a-long-path.json",
        after="/",
        changes=samples.drift() if comparable else (),
        name_of=lambda change: "NVIDIA RTX A5000" if change.identity else "",
        not_compared=("BMC", "ACPI IVRS"),
        comparable=comparable,
    )


UNHEARD = "not heard since the coordinator's start"
NEVER = replace(
    samples.node("pve07", "revalidating", Reason("NODE_UNHEARD", "auto:NODE_UNHEARD", UNHEARD)),
    verdict=Verdict.UNKNOWN,
    heard_age_s=-1.0,
    evidence_age_s=-1.0,
)
NODES = samples.cluster_status().nodes
COMMANDS = tuple(
    CommandView(
        id=f"{number:012x}",
        node="pve07",
        verb=verb,
        address=address,
        state="ended" if outcome else "taken",
        outcome=outcome,
        code=code,
        text=text,
        by="ops",
        at=f"2026-11-22T14:3{number}:02Z",
        ended_at="",
    )
    for number, verb, address, outcome, code, text in (
        (3, "reset-test", "0000:41:00.0", "", "", "under way"),
        (2, "bind", "0000:41:00.0", "refused", "HOST_CRITICAL", "HOST_CRITICAL"),
        (1, "check", "", "unknown", "COMMAND_LOST", "the host has booted since"),
    )
)


def with_resets(node: NodeView) -> NodeView:
    """Its unit once for each class, good and bad ones."""
    (unit,) = node.units
    classes = ("proven", "wedged", "capable", "one-shot", "")
    units = tuple(
        replace(unit, addresses=(f"0000:0{n}:00.0",), intended=True, reset=word)
        for n, word in enumerate(classes, 1)
    )
    return replace(node, units=units)


SCREENS: dict[str, Callable[[], Lines]] = {
    "check": lambda: check.check_screen(check_samples.check_view()),
    "check-many": lambda: check.check_screen(check_samples.many_subjects_view()),
    "check-short": lambda: check.short_screen(check_samples.many_subjects_view()),
    "check-node": lambda: check.check_screen(nodes.as_check(samples.node("pve07", detail=True))),
    "check-node-unheard": lambda: check.check_screen(nodes.as_check(NEVER)),
    "device-list": lambda: devices.list_screen("pve07", device_rows(), known=True),
    "device-list-unknown": lambda: devices.list_screen("pve07", (), known=False),
    "device-show": lambda: devices.show_screen(device_view()),
    "diff": lambda: diff.diff_screen(diff_view()),
    "diff-unknown": lambda: diff.diff_screen(diff_view(comparable=False)),
    "status": lambda: status.status_screen(samples.cluster_status()),
    "status-detail": lambda: status.status_screen(samples.cluster_status(), detail=True),
    "node-list": lambda: nodes.list_screen(NODES),
    "node-show": lambda: nodes.show_screen(samples.node("pve07", "cordoned", detail=True)),
    "refused": lambda: decision.decision_screen(samples.REFUSED),
    "placed": lambda: decision.decision_screen(samples.PLACED),
    "placed-dry-run": lambda: decision.decision_screen(samples.PLACED, word=decision.DRY_RUN),
    "vm-list": lambda: vms.list_screen(samples.cluster_status().vms[-6:]),
    "vm-explain": lambda: vms.explain_screen(
        samples.judged_now(Verdict.UNKNOWN, UNHEARD),
        samples.vm("train-9", at_risk=UNHEARD, state="unknown"),
        placed=samples.placement(),
    ),
    "vm-release": lambda: vms.released_screen(samples.vm("train-9")),
    "events": lambda: events.events_screen(samples.cluster_status().recent),
    "baseline": lambda: baseline.baseline_screen(samples.baseline(drifted=True)),
    "baseline-same": lambda: baseline.baseline_screen(samples.baseline(drifted=False)),
    "baseline-unheard": lambda: baseline.baseline_screen(
        samples.baseline(drifted=False, why=UNHEARD)
    ),
    "baseline-silent": lambda: baseline.baseline_screen(
        samples.baseline(drifted=True, why="heard 42s ago")
    ),
    "baseline-accepted": lambda: baseline.accepted_screen(samples.baseline(drifted=False)),
    "baseline-forced": lambda: baseline.baseline_screen(baseline_samples.forced()),
    "baseline-foreign": lambda: baseline.baseline_screen(baseline_samples.foreign()),
    "baseline-held": lambda: baseline.baseline_screen(baseline_samples.held()),
    "baseline-stale": lambda: baseline.baseline_screen(baseline_samples.stale()),
    "baseline-newer": lambda: baseline.baseline_screen(baseline_samples.newer()),
    "baseline-untold": lambda: baseline.baseline_screen(baseline_samples.untold(drifted=False)),
    "baseline-untold-drift": lambda: baseline.baseline_screen(
        baseline_samples.untold(drifted=True)
    ),
    "baseline-harmed": lambda: baseline.baseline_screen(baseline_samples.harmed()),
    "baseline-refused": lambda: baseline.refused_screen(baseline_samples.refusal()),
    "baseline-history": lambda: baseline.history_screen("pve07", baseline_samples.rows()),
    "policy": lambda: policy.policy_screen(baseline_samples.settings()),
    "revalidate-ready": lambda: revalidate.revalidate_screen(baseline_samples.looked_at("ready")),
    "revalidate-unsound": lambda: revalidate.revalidate_screen(baseline_samples.unsound()),
    "revalidate-waits": lambda: revalidate.revalidate_screen(
        baseline_samples.looked_at(
            "revalidating", baseline_samples.SPLIT, baseline_samples.PENDING, tested=True
        )
    ),
    "revalidate-cordoned": lambda: revalidate.revalidate_screen(
        baseline_samples.looked_at("cordoned", baseline_samples.CORDON)
    ),
    "node-show-since": lambda: nodes.show_screen(
        samples.node("pve07", "cordoned", baseline_samples.SINCE, baseline_samples.SPLIT)
    ),
    "node-show-commands": lambda: nodes.show_screen(
        replace(samples.node("pve07"), commands=COMMANDS)
    ),
    "node-show-resets": lambda: nodes.show_screen(with_resets(risk_samples.node())),
    "node-show-risk": lambda: nodes.show_screen(risk_samples.node(*risk_samples.risks()[:2])),
    "placed-on-risk": lambda: decision.decision_screen(risk_samples.placement()),
    "incident-list": lambda: incidents.list_screen(
        [incident_samples.incident(), incident_samples.alone(), incident_samples.silence()],
        total=3,
        at=samples.AT,
        closed=False,
    ),
    "incident-list-all": lambda: incidents.list_screen(
        [incident_samples.silence(), incident_samples.closed()], total=7, at=samples.AT, closed=True
    ),
    "incident-list-none": lambda: incidents.list_screen((), total=0, at=samples.AT, closed=False),
    "incident-show": lambda: incidents.show_screen(incident_samples.shown(), at=samples.AT),
    "incident-show-alone": lambda: incidents.show_screen(incident_samples.alone(), at=samples.AT),
    "incident-show-silence": lambda: incidents.show_screen(
        incident_samples.silence(), at=samples.AT
    ),
    "incident-show-closed": lambda: incidents.show_screen(incident_samples.closed(), at=samples.AT),
    "incident-acked": lambda: incidents.acked_screen(incident_samples.silence()),
    "mute-added": lambda: mute.added_screen(mute_samples.mute()),
    "mute-added-node": lambda: mute.added_screen(mute_samples.one_node()),
    "mute-added-planned": lambda: mute.added_screen(mute_samples.planned()),
    "mute-list": lambda: mute.list_screen(mute_samples.mutes()),
    "mute-list-none": lambda: mute.list_screen(()),
    "mute-removed": lambda: mute.removed_screen(mute_samples.one_node()),
    "risk-accepted": lambda: risk.accepted_screen(risk_samples.risk(seen="no", vms=())),
    "risk-list": lambda: risk.list_screen(risk_samples.risks()),
    "risk-list-none": lambda: risk.list_screen((), node="pve03"),
    "risk-revoked": lambda: risk.revoked_screen(risk_samples.risks()[0]),
    "forecast-bad": lambda: forecast.forecast_screen(forecast_samples.bad()),
    "forecast-silent": lambda: forecast.forecast_screen(forecast_samples.silent()),
    "forecast-unknown": lambda: forecast.forecast_screen(forecast_samples.unknown()),
    "device-history-proven": lambda: history.history_screen(history_samples.proven()),
    "device-history-wedged": lambda: history.history_screen(history_samples.wedged()),
    "device-history-gone": lambda: history.history_screen(history_samples.gone()),
    "device-history-none": lambda: history.history_screen(history_samples.untried()),
    "explain-code": lambda: explain.code_screen(GROUP_WIDENED, ()),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_as_it_was_agreed(name: str) -> None:
    text = plain(SCREENS[name]())
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("VFIOCTL_WRITE_GOLDEN"):
        path.write_text(text, encoding="ascii")
    assert text == path.read_text(encoding="ascii")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCREENS)


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_keeps_to_80_columns_of_ascii(name: str) -> None:
    for line in plain(SCREENS[name]()).splitlines():
        assert len(line) <= WIDTH, line
        assert line.isascii()
        assert line.isprintable() or not line
        assert line == line.rstrip()


@pytest.mark.parametrize("note", [notes_of(c) for c in CATALOGUE], ids=lambda n: n.id)
def test_every_check_can_be_explained_within_80_columns(note: explain.CheckNotes) -> None:
    text = plain(explain.check_screen(note))
    assert all(len(line) <= WIDTH for line in text.splitlines())
    for code in note.codes:
        assert code.name in text


def test_the_counts_of_a_check_add_up_to_the_findings_that_count() -> None:
    view = check_samples.many_subjects_view()
    first = plain(check.check_screen(view)).splitlines()[0]
    counted = [f for f in view.report.findings if f.intended is not False]
    numbers = [int(word) for word in first.split() if word.isdigit()]
    assert sum(numbers[:-1]) == len(counted)  # the last number is the uid


def test_the_node_counts_and_vm_counts_of_a_status_add_up() -> None:
    found = samples.cluster_status()
    lines = plain(status.status_screen(found)).splitlines()
    for word, total in (("NODES", 12), ("VMS", 31)):
        line = next(row for row in lines if row.startswith(word))
        numbers = [int(w) for w in line.split() if w.isdigit()]
        assert numbers[0] == total == sum(numbers[1:])


def test_where_not_all_nodes_fit_in_a_status_those_with_vms_do() -> None:
    nodes = tuple(
        samples.node(
            f"n{n:03}", "cordoned" if n % 2 else "revalidating", vms=("train-9",) * (n == 99)
        )
        for n in range(100)
    )
    found = replace(samples.cluster_status(), nodes=nodes)
    lines = plain(status.status_screen(found)).splitlines()
    shown = [line.split()[:2] for line in lines if line.startswith("  n0")]
    assert ["n099", "cordoned"] in shown
    # and they stand in the order of the states all the same
    states = [state for _, state in shown]
    assert states == sorted(states, key=states.index)


def test_a_wide_refusal_lists_every_node_with_its_evidence() -> None:
    text = plain(decision.decision_screen(samples.REFUSED, wide=True))
    assert "pve03  isolation  ACS_OVERRIDE" in text
    assert "kernel log: overrides enabled" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.PASS, "FITS"),
        (Verdict.WARN, "FITS"),
        (Verdict.UNKNOWN, "UNKNOWN"),
        (Verdict.BLOCKED, "UNKNOWN"),
        (Verdict.FAIL, "WOULD BE REFUSED"),
    ],
)
def test_a_claim_fits_now_only_by_what_is_proved_now(verdict: Verdict, words: str) -> None:
    now = samples.judged_now(verdict, "said")
    text = plain(vms.explain_screen(now, samples.vm("v"), placed=samples.placement()))
    assert f"\nJudged now: {words}\n" in text
    today, _, then = text.partition("Proof of the placement (2026-11-22T14:32:07Z)")
    assert "iommu-active" not in today
    assert ("iommu-active" in then) == (words != "FITS")
    assert now.placement is not None
    bare = replace(now.placement, units=tuple(replace(u, proof=()) for u in now.placement.units))
    assert decision.proof_word(bare)[0] == "UNKNOWN"


def test_nothing_of_a_silent_node_is_said_to_pass() -> None:
    rows = samples.node("pve01", detail=True)
    passing = "PASS  not listed"
    assert passing in plain(check.check_screen(nodes.as_check(rows)))
    late = Reason("NODE_UNHEARD", "auto:NODE_UNHEARD", "heard 42s ago")
    silent = replace(rows, verdict=Verdict.UNKNOWN, reasons=(late,), state="revalidating")
    for shown in (NEVER, silent, replace(silent, reasons=()), replace(rows, state="lost")):
        text = plain(check.check_screen(nodes.as_check(shown)))
        assert "PASS" not in text
        assert "nothing of it is known to pass now" in " ".join(text.split())


@pytest.mark.parametrize("code", ["NODE_UNHEARD", "HOSTD_AWAY"])
def test_old_evidence_of_a_node_is_unknown_and_says_how_old_it_is(code: str) -> None:
    node = samples.node("pve07", detail=True)
    (finding, *_) = (f for f in node.findings if f.verdict is Verdict.FAIL)
    blind = replace(
        node,
        state="revalidating",
        verdict=Verdict.UNKNOWN,
        heard_age_s=0.0,
        evidence_age_s=130.0,
        reasons=(Reason(code, f"auto:{code}", "nobody looks"),),
        findings=(finding,),
    )
    view = nodes.as_check(blind, note="not looked at now")
    assert view.report.exit_code == 3
    assert check.check_screen(view)[0].text.endswith("evidence 2m10s old")
    document = output.report_document(view.report, kept=view.kept)
    assert document["kept"] == {
        "heard_age_s": 0.0,
        "evidence_age_s": 130.0,
        "note": "not looked at now",
    }


def test_a_decision_about_a_risk_says_one_thing_about_now() -> None:
    for seen, words in (("yes", "on pve03 now"), ("no", "nothing yet"), ("unknown", "not heard")):
        text = plain(risk.accepted_screen(risk_samples.risk(seen=seen)))
        assert words in text
        assert ("on pve03 now\n" in text) == (seen == "yes")


def test_an_unknown_verdict_is_never_headed_ready() -> None:
    for verdict in Verdict:
        report = summarise("h", [check_samples.finding("iommu-active", verdict)])
        head = check.heading(report, report.findings, "").text
        healthy = verdict in (Verdict.PASS, Verdict.WARN, Verdict.NOT_APPLICABLE)
        assert ("READY" in head.replace("NOT READY", "")) is healthy


@pytest.mark.parametrize("state", ["lost", "ready"])
def test_a_node_that_is_not_heard_is_unknown(state: str) -> None:
    silent = samples.node("pve01", state, verdict=Verdict.PASS, heard_age_s=-1.0)
    assert nodes.heard_verdict(silent) is Verdict.UNKNOWN
    assert "UNKNOWN" in plain(nodes.list_screen([silent]))
    assert nodes.as_check(silent).report.verdict is Verdict.UNKNOWN


def test_a_vm_state_from_a_newer_coordinator_counts_as_unknown() -> None:
    assert status.vm_word(samples.vm("x", state="migrating")) == "unknown"


def test_health_of_a_newer_coordinator_exits_unknown() -> None:
    odd = replace(samples.cluster_status(), health="HEALTH_ODD")
    assert status.exit_code(odd) == 3


def test_every_class_of_drift_has_a_word() -> None:
    assert set(diff._WORDS) == set(CONSEQUENCES)


def test_the_first_line_keeps_to_80_columns_whatever_a_host_is_called() -> None:
    verdicts = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.BLOCKED, Verdict.WARN, Verdict.PASS)
    rows = [
        check_samples.finding(f"check-{number}", verdict, blocked_by="x", subject=f"unit:{number}")
        for number in range(14)
        for verdict in (*verdicts, Verdict.NOT_APPLICABLE)
    ]
    for chosen in (rows, [r for r in rows if r.verdict not in verdicts[:3]]):
        line = check.heading(summarise("a-very-long-name-of-a-host", chosen), chosen, "uid 1000")
        assert len(line.text) <= WIDTH
        assert line.text.startswith("a-very")
        assert "14 pass" in line.text
        assert line.text[line.start : line.end].isupper()
