"""The network as trained: levels equal those that exact rational arithmetic gives from the float32 weights.

The oracle computes with `fractions.Fraction`, nothing rounded, layer by layer from the levels of the layer before. A level
may differ only where the rational sum lies within the proven bound of an edge between two levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.products.exact_sums import exact_product, limbs, weight_limbs, whole_sums
from casc_core.numerics import AsTrained

# What weights rounded to a grid of some 35 bits, over all terms of a sum, may move, in thresholds.
TIE = Fraction(1, 2**28)
SEEDS = st.integers(0, 2**32 - 1)


def rational(x: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in x.detach().double().flatten().tolist()]


def rows(weight: Tensor, bias: Tensor | None, inputs: list[Fraction]) -> list[Fraction]:
    """`weight @ inputs + bias`, exactly."""
    start = [Fraction(0)] * len(weight) if bias is None else rational(bias)
    return [
        begin + sum((w * x for w, x in zip(rational(row), inputs, strict=True) if x), Fraction(0))
        for row, begin in zip(weight, start, strict=True)
    ]


def check_levels(sums: list[Fraction], thresholds: list[Fraction], q: int, found: Tensor, rounds: bool = False) -> None:
    """That each level is the rational sum's, or a neighbour of an edge on which the sum lies."""
    for value, threshold, level in zip(sums, thresholds, found.flatten().tolist(), strict=True):
        z = value * q / threshold + (Fraction(1, 2) if rounds else 0)
        exact = min(max(math.floor(z), 0), q)
        if exact != level:
            assert abs(exact - level) == 1
            assert abs(z - max(exact, level)) < TIE * q, f"{float(z)} levels, and {level} were found"


def levels_of(model: nn.Module, *inputs: Tensor) -> tuple[casc_core.SpikingModel, dict[str, Tensor]]:
    """The levels of the network as trained: of the reference, which the spikes equal in every way of computing them."""
    snn = casc_core.convert(model.eval(), numerics=AsTrained())
    logits, levels = snn.reference_counts(inputs, {})
    for instructions in (None, *all_instructions()):
        with using(instructions):
            again, same = snn.reference_counts(inputs, {})
            assert torch.equal(again, logits)
            assert all(torch.equal(same[name], level) for name, level in levels.items())
            assert torch.equal(snn(*inputs), logits)
    assert casc_core.verify(snn, *inputs).exact
    return snn, levels


def wide_inputs(*shape: int) -> Tensor:
    """Real values of a wide range: from 2**-20 to some tens."""
    return torch.randn(shape) * 2.0 ** torch.randint(-20, 5, shape)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 5, 16]), st.booleans(), st.sampled_from([1.0, 0.7, 3.3]))
def test_perceptrons(seed, q, rounds, threshold):
    torch.manual_seed(seed)
    acts = [casc_core.CQReLU(q, threshold, half_step=rounds) for _ in range(2)]
    model = nn.Sequential(nn.Linear(7, 9), acts[0], nn.Linear(9, 6, bias=False), acts[1], nn.Linear(6, 3))
    x = wide_inputs(3, 7)
    _, levels = levels_of(model, x)
    edge = Fraction(float(acts[0].effective_threshold))
    for sample in range(3):
        first = rows(model[0].weight, model[0].bias, rational(x[sample]))
        check_levels(first, [edge] * 9, q, levels["1"][sample], rounds)
        counts = [edge * level / q for level in levels["1"][sample].tolist()]
        check_levels(rows(model[2].weight, None, counts), [edge] * 6, q, levels["3"][sample], rounds)


class Residual(nn.Module):
    """Convolutions with batch normalisation, thresholds of their own for each channel, a shortcut, and unequal pools."""

    def __init__(self, q: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act1 = casc_core.CQReLU(q, 0.8)
        self.act2 = casc_core.CQReLU(q, 1.3)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc, self.act3, self.head = nn.Linear(16, 5), casc_core.CQReLU(q), nn.Linear(5, 2)
        for values in (self.norm.running_mean, self.norm.bias):
            nn.init.normal_(values, std=0.1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.a(x))
        x = self.act2(self.norm(self.b(x)) + x)
        return self.head(self.act3(self.fc(self.pool(x).flatten(1))))


def convolved(weight: Tensor, bias: Tensor | None, x: list[list[list[Fraction]]]) -> Iterator[list[list[Fraction]]]:
    """A 3x3 convolution with padding 1, channel by channel."""
    size = len(x[0])
    for out in range(len(weight)):
        kernel = weight[out].detach().double().tolist()
        begin = Fraction(0) if bias is None else rational(bias)[out]
        plane = []
        for i in range(size):
            line = []
            for j in range(size):
                total = begin
                for c in range(len(x)):
                    for di in range(3):
                        for dj in range(3):
                            y, z = i + di - 1, j + dj - 1
                            if 0 <= y < size and 0 <= z < size:
                                total += Fraction(kernel[c][di][dj]) * x[c][y][z]
                line.append(total)
            plane.append(line)
        yield plane


def flat(planes: list[list[list[Fraction]]]) -> list[Fraction]:
    return [value for plane in planes for line in plane for value in line]


def shaped(level: Tensor, worth: Fraction) -> list[list[list[Fraction]]]:
    return [[[value * worth for value in line] for line in plane] for plane in level.tolist()]


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.sampled_from([2, 7]))
def test_convolutions_with_normalisation_a_shortcut_and_unequal_pools(seed, q):
    torch.manual_seed(seed)
    model, x = Residual(q).eval(), wide_inputs(1, 2, 3, 3)
    _, levels = levels_of(model, x)
    edges = [Fraction(float(act.effective_threshold)) for act in (model.act1, model.act2, model.act3)]
    norm = model.norm
    first = list(convolved(model.a.weight, model.a.bias, [[rational(line) for line in plane] for plane in x[0]]))
    check_levels(flat(first), [edges[0]] * 36, q, levels["act1"])
    one = shaped(levels["act1"][0], edges[0] / q)
    second = []
    for channel, plane in enumerate(convolved(model.b.weight, None, one)):
        factor, mean, offset = (
            float(norm.weight.detach()[channel].double() / (norm.running_var[channel].double() + norm.eps).sqrt()),
            float(norm.running_mean[channel]), float(norm.bias.detach()[channel]),
        )  # fmt: skip
        second.append([
            [(v - Fraction(mean)) * Fraction(factor) + Fraction(offset) + one[channel][i][j] for j, v in enumerate(line)]
            for i, line in enumerate(plane)
        ])  # fmt: skip
    check_levels(flat(second), [edges[1]] * 36, q, levels["act2"])
    two = shaped(levels["act2"][0], edges[1] / q)
    spans = ((0, 2), (1, 3))  # of three entries in two parts
    pooled = [
        sum((two[c][i][j] for i in range(*rows_of) for j in range(*columns)), Fraction(0)) / 4
        for c in range(4)
        for rows_of in spans
        for columns in spans
    ]
    check_levels(rows(model.fc.weight, model.fc.bias, pooled), [edges[2]] * 5, q, levels["act3"])


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.sampled_from([2, 16]), st.booleans())
def test_recurrences(seed, q, rounds):
    torch.manual_seed(seed)

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 5)
            self.rnn = casc_seq.RNN(5, 6, q=q, batch_first=True, threshold=0.9, half_step=rounds)
            self.fc = nn.Linear(6, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.rnn(self.embedding(tokens))[0][:, -1])

    model, tokens = Classifier().eval(), torch.randint(0, 11, (2, 4))
    _, levels = levels_of(model, tokens)
    (found,) = levels.values()
    rnn = model.rnn
    threshold = Fraction(rnn.threshold)
    w, u, bias = (each.detach().double() for each in rnn.cell_parameters("l0"))
    for sample in range(2):
        state = [Fraction(0)] * 6
        for position in range(4):
            table = rational(model.embedding.weight[tokens[sample, position]])
            sums = [a + b for a, b in zip(rows(w, bias, table), rows(u, None, state), strict=True)]
            check_levels(sums, [threshold] * 6, q, found[sample, position], rounds)
            state = [threshold * level / q for level in found[sample, position].tolist()]


def test_thresholds_for_each_channel():
    torch.manual_seed(3)
    act = casc_core.CQReLU(4, torch.tensor([0.3, 1.7, 0.9]))
    model, x = nn.Sequential(nn.Conv2d(2, 3, 1), act, nn.Flatten(), nn.Linear(12, 2)), wide_inputs(2, 2, 2, 2)
    _, levels = levels_of(model, x)
    edges = [edge for edge in rational(act.effective_threshold) for _ in range(4)]
    for sample in range(2):
        by_position = [
            rows(model[0].weight.flatten(1), model[0].bias, rational(x[sample].flatten(1)[:, at])) for at in range(4)
        ]
        sums = [by_position[at][channel] for channel in range(3) for at in range(4)]
        check_levels(sums, edges, 4, levels["1"][sample])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.booleans())
def test_limbs_add_up_and_do_not_depend_on_what_lies_beside_them(seed, wide):
    torch.manual_seed(seed)
    x = (torch.randn(5) * 2.0 ** torch.randint(-140 if wide else -10, 20, (5,))).double()
    parts = list(limbs(x))
    assert [sum(map(Fraction, column)) for column in zip(*(p.tolist() for p in parts), strict=True)] == rational(x)
    for at in range(5):
        alone = [float(p) for p in limbs(x[at])]
        assert alone == [float(p[at]) for p in parts if float(p[at])]


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_product_is_rounded_as_if_once_whatever_the_order(seed):
    torch.manual_seed(seed)
    x, weight = wide_inputs(4, 40), torch.randn(3, 40, dtype=torch.float64)
    assert torch.equal(sum(weight_limbs(weight)), weight)
    found = exact_product(AsTrained(), x, weight, 0, 0, "test")
    order = torch.randperm(40)
    assert torch.equal(exact_product(AsTrained(), x[:, order], weight[:, order], 0, 0, "test"), found)
    assert torch.equal(exact_product(AsTrained(), x[2:3], weight, 0, 0, "test"), found[2:3])
    for sample in range(4):
        assert found[sample].tolist() == [float(value) for value in rows(weight, None, rational(x[sample]))]


def test_sums_of_inputs_are_rounded_as_if_once():
    torch.manual_seed(0)
    x = wide_inputs(3, 50).double()
    found = whole_sums(AsTrained(), x, lambda each: each.sum(1), by_row=True)
    assert found.tolist() == [float(sum(rational(row))) for row in x]
    nothing = whole_sums(AsTrained(), torch.zeros(3, 2), lambda each: each.sum(1), by_row=True)
    assert torch.equal(nothing, torch.zeros(3).double())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e4])
def test_inputs_of_any_size(scale):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 20), casc_core.CQReLU(4, threshold=scale), nn.Linear(20, 2))
    x = torch.randn(8, 6) * scale
    _, levels = levels_of(model, x)
    for sample in range(8):
        sums = rows(model[0].weight, model[0].bias, rational(x[sample]))
        check_levels(sums, [Fraction(float(model[1].effective_threshold))] * 20, 4, levels["1"][sample])


def near_edges(model: nn.Module, place: int) -> nn.Module:
    """With weights whose sums lie on edges between levels, but for what only bits about `2**place` tell."""
    with torch.no_grad():
        for parameter in model.parameters():
            jitter = torch.randint(-40, 41, parameter.shape) * 2.0 ** (place - 5)
            parameter.copy_(torch.randint(-3, 4, parameter.shape) / 8 + jitter)
    return model.eval()


class Tokens(nn.Module):
    def __init__(self, q: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 24)
        self.rnn = casc_seq.RNN(24, 40, q=q, num_layers=2, batch_first=True)
        self.fc = nn.Linear(40, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embedding(tokens))[0].sum(1))


def images(q: int) -> nn.Module:
    blocks = (nn.Conv2d(3, 40, 3, padding=1), casc_core.CQReLU(q), nn.Conv2d(40, 70, 3), casc_core.CQReLU(q))
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(70 * 16, 30), casc_core.CQReLU(q), nn.Linear(30, 3))


@pytest.mark.parametrize("neuron", [casc_core.CIF(), casc_core.IF()], ids=str)
@pytest.mark.parametrize("q", [2, 8])
@pytest.mark.parametrize("kind", ["images", "tokens"])
@pytest.mark.parametrize("place", [-20, -33])  # what the next bits after int16's tell, and what only the true sum does
def test_neurons_that_rounding_leaves_undecided(kind, q, neuron, place):
    """Rounded sums, and finer ones for neurons near a decision, decide as float64 does, with each set of instructions."""
    torch.manual_seed(q)
    model = near_edges(images(q) if kind == "images" else Tokens(q), place)
    if isinstance(model, Tokens):
        nn.init.constant_(model.embedding.weight, 0.5)
    x = torch.randint(0, 3, (3, 3, 6, 6)) / 4.0 if kind == "images" else torch.randint(0, 20, (4, 9))
    snn = casc_core.convert(model, neuron=neuron)

    def outcome() -> list[Tensor]:
        logits, levels = snn.reference_counts((x,), {})
        return [logits, *levels.values(), *snn.simulate(x).logits, snn(x)]

    with using(None):
        expected = outcome()
    for instructions in all_instructions():
        with using(instructions):
            assert all(torch.equal(one, other) for one, other in zip(outcome(), expected, strict=True)), instructions


def rounding_that_adds_up(inputs: int) -> tuple[Tensor, Tensor]:
    """Weights `[4, inputs]` that rounding to int16 changes by nearly a half, each row one way, and biases with which the
    sum is 1, and a little less than that: twice with rounded sums too small, twice with ones too large."""
    unit = 2.0**-16
    off = torch.tensor([0.4375, 0.4375, -0.4375, -0.4375], dtype=torch.float64)[:, None]
    weight = (torch.full((4, inputs), round(0.45 / inputs / unit) * 1.0, dtype=torch.float64) + off) * unit
    weight[:, 0] = 0.5  # with which int16 has this unit
    bias = 1.0 - weight.sum(1) - torch.tensor([0.0, 1.0, 0.0, 1.0]) * 2.0**-28
    assert torch.equal(weight.float().double(), weight)
    assert torch.equal(bias.float().double(), bias)
    return weight.float(), bias.float()


@pytest.mark.parametrize("instructions", all_instructions())
@pytest.mark.parametrize("kind", ["linear", "convolution", "recurrence"])
def test_rounding_that_adds_up_decides_nothing(kind, instructions):
    """The margin within which true sums decide is as large as what rounding may leave out."""
    inputs, act = 40, casc_core.CQReLU(1)
    weight, bias = rounding_that_adds_up(inputs)
    if kind == "recurrence":
        rnn = casc_seq.RNN(inputs, inputs, q=1, batch_first=True)
        model = nn.Sequential(rnn.eval(), _Last(), nn.Linear(inputs, 2))
        with torch.no_grad():
            for parameter in rnn.parameters():
                parameter.zero_()
            rnn.weight_hh_l0.copy_(weight.repeat(inputs // 4, 1))
            rnn.weight_ih_l0.copy_(torch.eye(inputs))
        x = torch.stack([torch.full((inputs,), 2.0), bias.repeat(inputs // 4)])[None]
    else:
        first, second, x = nn.Linear(1, inputs), nn.Linear(inputs, 4), torch.ones(1, 1)
        if kind == "convolution":
            first, second, x = nn.Conv2d(1, inputs, 1), nn.Conv2d(inputs, 4, 1), torch.ones(1, 1, 1, 1)
        with torch.no_grad():
            first.weight.fill_(1.0), first.bias.zero_()
            second.weight.copy_(weight.reshape(second.weight.shape)), second.bias.copy_(bias)
        model = nn.Sequential(first, act, second, casc_core.CQReLU(1), nn.Flatten(), nn.Linear(4, 2))
    snn = casc_core.convert(model, adapter="rnn" if kind == "recurrence" else None)
    with using(instructions):
        levels = list(snn.reference_counts((x,), {})[1].values())[-1]
        assert levels.flatten()[-4:].tolist() == [1, 0, 1, 0]
        assert casc_core.verify(snn, x).exact


class _Last(nn.Module):
    """The last position of what a recurrent layer gives."""

    def forward(self, given: tuple[Tensor, Tensor]) -> Tensor:
        return given[0][:, -1]
