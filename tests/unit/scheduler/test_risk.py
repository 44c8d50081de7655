"""What a risk decision does to an offer and to a refusal."""

from __future__ import annotations

import pytest

from tests.fakes.snapshots import make_host, nic
from tests.unit.scheduler.findings import passing
from tests.unit.scheduler.fleet import MOMENT, Spec, decided, entry, index_of, request, standing
from vfio_contract.findings import Verdict
from vfio_contract.views import PlaceRequest, Refusal
from vfio_coordinator.scheduler.gates import ALLOWS, RISKS
from vfio_coordinator.scheduler.index import Entry, make_entry, offer, same_offer
from vfio_coordinator.scheduler.place import place
from vfio_coordinator.scheduler.qualify import qualify_host
from vfio_coordinator.scheduler.risk import RiskDecision


def refused(node: Entry, asked: PlaceRequest) -> Refusal:
    found = place(index_of(node), asked, MOMENT)
    assert isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(
    ("risk", "words"),
    [
        ("", "no risk decision recorded"),
        ("expired", "the risk decision of ops expired 2027-03-01"),
        ("revoked", "the risk decision of ops was revoked"),
    ],
)
def test_a_risk_that_nobody_carries_is_refused_with_the_command(risk: str, words: str) -> None:
    node = entry("a", Spec(needs=("acs-override",), risk=risk))
    command = "vfioctl risk accept --node a --code ACS_OVERRIDE --reason TEXT --until DATE"
    assert words in node.offers[0].why
    for allow in ((), ("acs-override",)):
        refusal = refused(node, request("gpu", allow=allow))
        assert [stage.stage for stage in refusal.stages] == ["isolation"]
        assert words in refusal.stages[0].why
        assert command in refusal.stages[0].why
        assert ("lacks --allow acs-override" in refusal.stages[0].why) == (not allow)
        # who has not said --allow is not told to have the risk accepted
        assert [near.command for near in refusal.nearest] == ([command] if allow else [])


@pytest.mark.parametrize(
    ("check", "subject", "code", "word", "risk"),
    [
        (
            "interrupt-remapping",
            "node",
            "IRQ_REMAP_OFF",
            "unsafe-interrupts",
            "UNSAFE_INTERRUPTS",
        ),
        ("group-isolation", "group:1", "GROUP_DIRTY", "acs-override", "ACS_OVERRIDE"),
    ],
)
def test_what_nobody_can_accept_is_not_taken_for_the_risk_that_was_allowed(
    check: str, subject: str, code: str, word: str, risk: str
) -> None:
    host = make_host(nic("0000:01:00.0", group=1))
    found = passing(host, {(check, subject): (Verdict.FAIL, code)})
    node = make_entry("a", tuple(offer(unit, {}) for unit in qualify_host(host, found)))
    said = f"; --allow {word} is about {risk} (WARN), not {code} (FAIL)"
    assert refused(node, request("nic", allow=(word,))).stages[0].why.endswith(said)
    others = tuple(sorted(set(ALLOWS.values()) - {word}))
    assert "is about" not in refused(node, request("nic", allow=others)).stages[0].why
    assert set(RISKS.values()) == set(ALLOWS)


def test_a_decision_permits_its_own_risk_only() -> None:
    decision = RiskDecision("UNSAFE_INTERRUPTS", "risk-1", "r", "ops", "2027-03-01T23:59:59Z")
    unit = standing(Spec(needs=("acs-override",)), 0)
    shown = offer(unit, {}, {"UNSAFE_INTERRUPTS": decision})
    node = make_entry("a", (shown,))
    asked = request("gpu", allow=("acs-override", "unsafe-interrupts"))
    assert refused(node, asked).stages[0].stage == "isolation"
    assert shown.risks == ()


def test_an_offer_is_kept_until_a_decision_about_its_needs_changes() -> None:
    unit, plain = standing(Spec(needs=("acs-override",)), 0), standing(Spec(), 1)
    accepted = decided(Spec(needs=("acs-override",)))
    shown, other = offer(unit, {}, accepted), offer(plain, {}, accepted)
    assert same_offer(shown, unit, {}, accepted) is shown
    assert same_offer(other, plain, {}, {}) is other
    ended = decided(Spec(needs=("acs-override",), risk="expired"))
    for now in (ended, {}):
        changed = same_offer(shown, unit, {}, now)
        assert changed == offer(unit, {}, now)
        assert changed.shape != shown.shape
