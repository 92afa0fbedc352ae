"""Activations whose forward is wrong, and running functions and bins that are: `verify` finds each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from user_cnns import IMAGES, Head, cnn, conv

import casc_core
from casc_core import CQReLU, Rounded, activation
from casc_core.engine.ops import arithmetic, bins, pooling, reduction

STEPS = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.75])


def network() -> nn.Module:
    """Two maps in a row, a gate, a maximum."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.act1(self.first(x))
        x = self.act2(self.pool(self.second(self.narrow(x)) + x))
        x = x * self.gate(self.mixed(x))
        return self.head(self.act3(self.last(x)).amax(2, keepdim=True))

    return cnn(
        forward, first=conv(), narrow=conv(6, 3), second=conv(3, 6, 1, 0), mixed=conv(6, 6, 1, 0), last=conv(6),
        act1=CQReLU(4), act2=CQReLU(4, STEPS), act3=CQReLU(4, half_step=True), gate=Rounded(4, "sigmoid"),
        pool=nn.MaxPool2d(2), head=Head(),
    )  # fmt: skip


def rounding_up(x: Tensor, q: int, threshold: Any) -> Tensor:
    return (x * q / threshold).ceil().clamp(0, q) * threshold / q


def a_level_more(right: Any) -> Any:
    return lambda x, q, threshold: right(x, q, threshold) + (x > threshold) / q


def to_zero(y: Tensor, q: int, threshold: float, ends: None) -> Tensor:
    return (y * q).trunc() * threshold / q


def of_mean(right: Any) -> Any:
    return lambda run, signal, pool, *_: right(run, signal, lambda x: pool(x).div(2, rounding_mode="floor"))


def once_more(right: Any) -> Any:
    def product(run: Any, a: Any, b: Any, *given: Any) -> Any:
        result = right(run, a, b, *given)
        train = result.train.clone()
        train[:1, 0] += (train[:1, 0] != 0).to(train.dtype)
        return type(result)(train, None, result.divisor, result.bound)

    return product


def without_the_last(right: Any) -> Any:
    return lambda train, steps, kind: right(train[: max(len(train) - 1, 1)], steps, kind)


FORWARDS = {
    "CQReLU rounds up": ("_straight_through", rounding_up, "act1"),
    "CQReLU has a level more": ("_straight_through", a_level_more(activation._straight_through), "act1"),
    "CQReLU of channels rounds up": ("_learned_threshold", rounding_up, "act2"),
    "a rounded sigmoid is cut off": ("_nearest", to_zero, "gate"),
}
FUNCTIONS = {
    "a maximum is halved": ("running_maximum", of_mean(reduction.running_maximum)),
    "a product counts once more": ("running_product", once_more(arithmetic.running_product)),
    "a bin loses its last step": ("in_bins", without_the_last(bins.in_bins)),
}


@pytest.fixture(scope="module")
def right() -> nn.Module:
    model = network()
    assert casc_core.verify(casc_core.convert(model), IMAGES).exact
    return model


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize(("name", "wrong", "layer"), FORWARDS.values(), ids=FORWARDS)
def test_a_fault_of_an_activations_forward_is_one_of_its_layer(
    monkeypatch: Any, right: nn.Module, name: str, wrong: Any, layer: str, numerics: Any
) -> None:
    snn = casc_core.convert(right, numerics=numerics)
    monkeypatch.setattr(activation, name, wrong)
    report = casc_core.verify(snn, IMAGES)
    assert report.spikes_exact
    assert not report.exact
    assert report.lowering is not None
    assert report.lowering.first_fault is not None
    assert report.lowering.first_fault.name == layer


@pytest.mark.parametrize(("name", "wrong"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_fault_of_a_running_function_is_found(monkeypatch: Any, right: nn.Module, name: str, wrong: Any) -> None:
    snn = casc_core.convert(right)
    for holder in (reduction, pooling, arithmetic, bins):
        if hasattr(holder, name):
            monkeypatch.setattr(holder, name, wrong)
    report = casc_core.verify(snn, IMAGES)
    assert not report.exact
    assert "NOT EXACT" in str(report)
