"""The network as trained, whatever lies between its populations: its levels are those of exact rational arithmetic."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rational import Oracle, rational
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core import Continuous, CQReLU, WakeSleep

CHANNELS = 3
TIE = Fraction(1, 2**26)
Call = Callable[[str, Any], Any]


class Net(nn.Module):
    """Blocks of convolutions one after another, and a readout. `run` evaluates it by whatever calls its layers."""

    def __init__(self, blocks: list[str], q: int, thresholds: str, half_step: bool) -> None:
        super().__init__()
        self.blocks, self.layers = blocks, nn.ModuleDict()
        self.about = q, thresholds, half_step
        self._activated("begin", nn.Conv2d(2, CHANNELS, 3, padding=1))
        for index, block in enumerate(blocks):
            getattr(self, f"_add_{block}")(f"{index}")
        self.layers["pool"], self.layers["flat"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.layers["out"] = nn.Linear(CHANNELS, 3)

    def _act(self, channels: int = CHANNELS) -> CQReLU:
        q, thresholds, half_step = self.about
        drawn = {"one": 1.0, "trained": 0.3 + torch.rand(()), "channels": 0.3 + torch.rand(channels)}
        return CQReLU(q, drawn[thresholds], half_step=half_step)

    def _activated(self, name: str, conv: nn.Conv2d) -> None:
        self.layers[f"{name}-conv"], self.layers[f"{name}-act"] = conv, self._act(conv.out_channels)

    @staticmethod
    def _norm() -> nn.BatchNorm2d:
        norm = nn.BatchNorm2d(CHANNELS)
        for values, low, high in ((norm.weight, -1.5, 1.5), (norm.bias, -0.2, 0.2), (norm.running_mean, -0.2, 0.2)):
            nn.init.uniform_(values, low, high)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        return norm

    def _add(self, name: str, **layers: nn.Module) -> None:
        self.layers.update({f"{name}-{key}": layer for key, layer in layers.items()})

    def _add_plain(self, name: str) -> None:
        self._add(name, a=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), b=self._norm(), c=self._act())

    _add_residual = _add_normalised = _add_plain

    def _add_separable(self, name: str) -> None:
        depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self._add(name, a=depthwise, b=self._norm(), c=nn.Conv2d(CHANNELS, CHANNELS, 1), d=self._act())

    def _add_expanded(self, name: str) -> None:
        pointwise = nn.Conv2d(CHANNELS, 4, 1, bias=False)
        self._add(name, a=pointwise, b=nn.Conv2d(4, CHANNELS, 3, padding=1), c=self._act())

    def _add_joined(self, name: str) -> None:
        first, second = (nn.Conv2d(CHANNELS, 2, size, padding=size // 2) for size in (1, 3))
        joined = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self._add(name, a=first, b=self._act(2), c=second, d=self._act(2), e=joined, f=self._act())

    def _add_summed(self, name: str) -> None:
        first, second = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self._add(name, a=first, b=self._act(), c=second, d=self._act())

    def _add_averaged(self, name: str) -> None:
        self._add(name, a=nn.AvgPool2d(2, 1), b=nn.Conv2d(CHANNELS, CHANNELS, 1), c=self._act())

    def _add_largest(self, name: str) -> None:
        self._add(name, a=nn.MaxPool2d(2, 1), b=nn.Conv2d(CHANNELS, CHANNELS, 1), c=self._act())

    # Maps with no neurons between them.

    def _add_chained(self, name: str) -> None:
        first, second, third = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))
        self._add(name, a=first, b=self._norm(), c=second, d=third, e=self._act())

    def _add_separable_twice(self, name: str) -> None:
        one, other = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS) for _ in range(2))
        pointwise, last = (nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(2))
        self._add(name, a=one, b=pointwise, c=other, d=last, e=self._act())

    def _add_pooled(self, name: str) -> None:
        first, second = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self._add(name, a=first, b=nn.MaxPool2d(2, 1), c=nn.AvgPool2d(2, 1), d=second, e=self._act())

    def _add_pyramid(self, name: str) -> None:
        lateral, inner = (nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(2))
        output, coarser, last = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))
        self._add(name, a=coarser, b=self._act(), c=nn.AvgPool2d(2, 2), d=inner, e=nn.Upsample(scale_factor=2))
        self._add(name, f=lateral, g=output, h=last, i=self._act())

    def _add_joined_up(self, name: str) -> None:
        first, second = nn.Conv2d(2 * CHANNELS, 2, 3, padding=1), nn.Conv2d(2, CHANNELS, 3, padding=1)
        self._add(name, a=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), b=first, c=second, d=self._act())

    def run(self, x: Any, call: Call, joined: Callable[[list[Any]], Any]) -> Any:
        x = call("begin-act", call("begin-conv", x))
        for index, block in enumerate(self.blocks):

            def step(key: str, value: Any, name: str = str(index)) -> Any:
                return call(f"{name}-{key}", value)

            if block == "residual":
                x = step("c", step("b", step("a", x)) + x)
            elif block == "normalised":  # the sum of both, as in networks whose activations come first
                x = step("c", step("b", step("a", x) + x))
            elif block == "joined":
                x = step("f", step("e", joined([step("b", step("a", x)), step("d", step("c", x))])))
            elif block == "pyramid" and x.shape[-1] % 2 == 0:
                fine = step("b", step("a", x))
                x = step("i", step("h", step("g", step("f", x) + step("e", step("d", step("c", fine))))))
            elif block == "pyramid":  # of a size that is not doubled
                x = step("i", step("h", step("g", step("f", step("b", step("a", x))))))
            elif block == "joined_up":  # what a decoder reads: spikes beside currents
                x = step("d", step("c", step("b", joined([x, step("a", x)]))))
            elif block == "summed":
                x = step("d", step("c", step("b", step("a", x)) + x))
            else:
                for key in [name.split("-")[1] for name in self.layers if name.startswith(f"{index}-")]:
                    x = step(key, x)
        return call("out", call("flat", call("pool", x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, lambda name, value: self.layers[name](value), lambda parts: torch.cat(parts, 1))


BLOCKS = [name.removeprefix("_add_") for name in vars(Net) if name.startswith("_add_")]


def check(model: Net, x: Tensor, schedule: WakeSleep) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = casc_core.convert(model.eval(), schedule=schedule)
    assert torch.equal(snn(x), snn.reference(x))
    logits, levels = snn.reference_counts((x,), {})
    for sample in range(len(x)):
        own = {name.removeprefix("layers."): level[sample] for name, level in levels.items()}
        oracle = Oracle(own, snn.settings.levels, TIE)
        expected = model.run(
            rational(x[sample]), lambda name, value, o=oracle: o(name, model.layers[name], value), np.concatenate
        )
        assert oracle.differing == 0
        largest = max(map(abs, expected)) + Fraction(1, 10)
        for value, logit in zip(expected, logits[sample].tolist(), strict=True):
            assert abs(value - Fraction(logit)) < largest / 2**22


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3),
    st.sampled_from([1, 2, 7, 16]),
    st.sampled_from(["one", "trained", "channels"]),
    st.booleans(),
    st.sampled_from([WakeSleep(), WakeSleep(cycles=3), WakeSleep(wake=1, sleep=2), WakeSleep(wake=5, cycles=2)]),
)
def test_levels_are_those_of_rational_arithmetic(seed, blocks, q, thresholds, half_step, schedule):
    torch.manual_seed(seed)
    check(Net(blocks, q, thresholds, half_step), torch.randn(1, 2, 4, 4), schedule)


@pytest.mark.parametrize("thresholds", ["trained", "channels"])
@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_twice(block, thresholds):
    torch.manual_seed(0)
    check(Net([block, block], 8, thresholds, False), torch.randn(1, 2, 5, 5), WakeSleep())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 8, 256]), st.booleans())
def test_linear_layers_in_a_row_and_normalised_ones(seed, q, half_step):
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(5)
    nn.init.uniform_(norm.weight, -2.0, 2.0)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(
        nn.Linear(4, 6), CQReLU(q, 0.7, half_step=half_step), nn.Linear(6, 5), nn.Linear(5, 5), norm,
        CQReLU(q, 1.3, half_step=half_step), nn.Linear(5, 4, bias=False), nn.Linear(4, 3),
    )  # fmt: skip
    x = torch.randn(3, 4)
    snn = casc_core.convert(model.eval())
    _, levels = snn.reference_counts((x,), {})
    assert torch.equal(snn(x), snn.reference(x))
    for sample in range(3):
        oracle, value = Oracle({name: level[sample] for name, level in levels.items()}, q, TIE), rational(x[sample])
        for name, layer in model.named_children():
            value = oracle(name, layer, value)
        assert oracle.differing == 0


def network(q: int = 4, threshold: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), CQReLU(q, threshold), nn.Conv2d(4, 4, 3), CQReLU(q), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


IMAGES = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("q", [2, 256])
def test_continuous_input_of_any_length_is_not_refused(q):
    snn = casc_core.convert(network(q), neuron=casc_core.IF(), schedule=Continuous())
    assert snn.simulate(IMAGES[:1], T=2**14).T == 2**14
    assert casc_core.convert(network(q)).under(schedule=Continuous()).simulate(IMAGES[:1], T=512).T == 512


@pytest.mark.filterwarnings("ignore:.* computes with")
@pytest.mark.parametrize("schedule", [WakeSleep(cycles=200), WakeSleep(wake=3000)])
def test_schedules_of_many_wake_steps_are_not_refused(schedule):
    snn = casc_core.convert(network(), schedule=schedule)
    assert torch.equal(snn(IMAGES[:1]), snn.reference(IMAGES[:1]))


@pytest.mark.parametrize("q", [1, 8, 256])
@pytest.mark.parametrize("scale", [255.0, 1e5, 1e30])
def test_no_input_is_too_large_for_neurons(q, scale):
    snn = casc_core.convert(network(q), neuron=casc_core.CIF(initial_potential=0.5))
    first = casc_core.convert(network(q, 1.0))
    report = casc_core.verify(first, IMAGES * scale)
    assert report.exact
    assert sum(report.grid.layers.values()) == 0
    assert torch.equal(snn(IMAGES * scale), snn(IMAGES * scale * 2.0))  # whatever is not zero decides at once


@pytest.mark.parametrize("q", [2, 16])
def test_no_input_is_too_large_for_a_recurrence(q):
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = casc_seq.RNN(5, 8, q=q, batch_first=True, threshold=0.9), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    snn = casc_core.convert(Recurrent().eval())
    report = casc_core.verify(snn, torch.randn(3, 6, 5) * 1e20)
    assert report.exact
    assert sum(report.grid.layers.values()) == 0


def test_maxima_of_large_inputs_are_not_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 2), nn.MaxPool2d(2), CQReLU(8), nn.Flatten(), nn.Linear(16, 3))
    report = casc_core.verify(casc_core.convert(model.eval()), IMAGES * 1e5)
    assert report.exact
    assert sum(report.grid.layers.values()) == 0


def test_a_readout_of_next_to_nothing_beside_its_bias_is_not_refused():
    model = network()
    model[-1].weight.data.mul_(1e-9)
    model[-1].bias.data.fill_(1e6)
    assert torch.equal(casc_core.convert(model)(IMAGES), torch.full((2, 3), 1e6))


def test_a_threshold_that_no_sum_can_tell_from_nothing_is_refused_by_name():
    model = network()
    model[3] = CQReLU(4, 1e-30)
    with pytest.raises(
        casc_core.ConversionError, match=r"module '3'.* its threshold is 1e-30, and sums .* are exact to"
    ):
        casc_core.convert(model)
