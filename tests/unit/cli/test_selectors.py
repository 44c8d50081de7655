"""What is typed to ask for devices, and what is said when it cannot be understood."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.snapshots import function
from vfio_cli.screens.risk import WORDS
from vfio_cli.selectors import RISK_CODES, RISKS, RiskChoice, parse_device, parse_devices
from vfio_contract.units import KINDS, kind_of
from vfio_contract.views import DeviceRequest
from vfio_coordinator.scheduler.gates import ALLOWS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu", DeviceRequest("gpu", "", 1)),
        ("gpu=3", DeviceRequest("gpu", "", 3)),
        ("gpu:a5000=2", DeviceRequest("gpu", "a5000", 2)),
        ("GPU:A5000", DeviceRequest("gpu", "a5000", 1)),
        ("nic:8086:10d3=1", DeviceRequest("nic", "8086:10d3", 1)),
        ("nvme:pm9a3 u.2", DeviceRequest("nvme", "pm9a3 u.2", 1)),
    ],
)
def test_selectors(text: str, expected: DeviceRequest) -> None:
    assert parse_device(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gup:a5000", "did you mean gpu?"),
        ("spaceship", "write one of gpu, accel"),
        ("", "write one of"),
        ("gpu:", "the model is empty"),
        ("gpu=0", "no number from 1 to 64"),
        ("gpu=two", "no number from 1 to 64"),
        ("gpu=", "no number from 1 to 64"),
        ("gpu=65", "no number from 1 to 64"),
        ("gpu=99999999999999999999", "no number from 1 to 64"),
        ("gpu=\u0663", "no number from 1 to 64"),
        ("gpu:\x1b[2J", "not plain text"),
    ],
)
def test_a_mistake_names_the_option_and_the_fix(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="--device") as caught:
        parse_device(text)
    assert says in str(caught.value)


def test_the_same_device_twice_is_added_up() -> None:
    assert parse_devices(["gpu", "gpu=2", "nic"]) == (
        DeviceRequest("gpu", "", 3),
        DeviceRequest("nic", "", 1),
    )


def test_no_device_at_all_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="--device is missing"):
        parse_devices([])


def test_too_many_together_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="more than 64"):
        parse_devices(["gpu=60", "nic=5"])


MODELS = st.text(st.sampled_from("abz09 .-"), max_size=20)


@given(st.sampled_from(KINDS), MODELS, st.integers(1, 64))
def test_a_selector_means_what_it_says(kind: str, model: str, count: int) -> None:
    text = f"{kind}:{model}={count}" if model.strip() else f"{kind}={count}"
    assert parse_device(text) == DeviceRequest(kind, model.strip(), count)


@given(st.integers(0, 0xFFFFFF))
def test_every_kind_that_a_host_can_have_may_be_asked_for(class_code: int) -> None:
    assert kind_of(function("0000:01:00.0", class_code=class_code)) in {*KINDS, ""}


@pytest.mark.parametrize(("word", "code"), list(zip(RISKS, RISK_CODES, strict=True)))
def test_a_risk_may_be_typed_as_its_word_or_as_its_code(word: str, code: str) -> None:
    for typed in (word, code, word.upper(), code.lower(), code.replace("_", "-")):
        assert RiskChoice(RISK_CODES).convert(typed, None, None) == code
        assert RiskChoice(RISKS).convert(typed, None, None) == word


@pytest.mark.parametrize("typed", ["", "ACS", "IRQ_REMAP_OFF", "everything"])
def test_what_is_no_risk_is_refused_with_those_there_are(typed: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        RiskChoice(RISK_CODES).convert(typed, None, None)
    assert all(code in caught.value.message for code in RISK_CODES)


def test_the_coordinator_knows_the_same_risks() -> None:
    assert set(ALLOWS.values()) == set(RISKS)
    assert set(ALLOWS) == set(RISK_CODES)
    assert ALLOWS == WORDS
