"""Which methods apply to which network, and what they say of themselves."""

from __future__ import annotations

import pytest
from one_layer import perceptron
from torch import nn

import casc_core
from casc_core import CIF, Rounded, WakeSleep
from casc_core.rivals.methods import FOUR, OURS, QCFS, RIVALS, Method, applicable, chosen, methods_for, why_not


def test_which_methods_apply():
    plain, half = (casc_core.convert(perceptron([[1.0]], [0.0], half=half)) for half in (False, True))
    assert list(methods_for(plain, 16)) == [*FOUR, *RIVALS]
    assert list(methods_for(half, 16)) == [*FOUR, *(name for name in RIVALS if name != "OPI")]
    # With a half step, IF under continuous input is QCFS, if it was trained so.
    assert methods_for(half, 16)["baseline"].label == "baseline (IF) = QCFS"
    assert methods_for(half, 16, trained=False)["baseline"].label == "baseline (IF) = OPI"
    assert all("begin with half a threshold" in method.note for method in methods_for(half, 16).values())
    assert methods_for(plain, 16)["ACP"].steps == 16
    # A half step is where SRP begins already.
    assert methods_for(half, 16)["SRP"].neuron.initial_potential == 0.0


def test_thresholds_by_level_are_for_their_wake_steps():
    snn = casc_core.convert(nn.Sequential(nn.Linear(3, 4), Rounded(4, "tanh"), nn.Linear(4, 2)))
    methods = methods_for(snn, 16)
    assert list(methods) == [*FOUR, *RIVALS]
    assert list(applicable(snn, methods)) == ["baseline+WSC", OURS]
    assert "for 4 wake steps and CIF or IF" in why_not(snn, methods["SNM"])


def test_every_method_says_what_it_is():
    for method in (*FOUR.values(), *RIVALS.values(), QCFS):
        assert method.label
        assert method.equations
        assert method.source
        assert method.config == f"{method.neuron} under {method.schedule}"
    assert FOUR[OURS].neuron == CIF()
    assert FOUR[OURS].schedule == WakeSleep()


def test_methods_by_name():
    assert list(chosen(FOUR, ["baseline+WSC"])) == ["baseline+WSC", OURS]
    assert list(chosen(FOUR, None)) == list(FOUR)
    with pytest.raises(
        casc_core.ConfigError, match=r"there is no method 'best' for this network; there are baseline, "
    ):
        chosen(FOUR, ["best"])


def test_a_method_is_frozen():
    with pytest.raises(AttributeError):
        Method().label = "another"
