"""Activations that are no clipped ReLU, as a preparation makes them: exact, and what the float64 network gives."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from user_cnns import IMAGES, check, cnn, conv, converted, settled

import casc_core
from casc_core import AsTrained, ConversionError, CQReLU, Exact, Rounded
from casc_core.composed_activations import LeakyCQReLU, Swish
from casc_core.conversion.grids import Stretch
from casc_core.conversion.snapping import level_thresholds
from casc_core.numerics import Unrounded

MODULES = [
    nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardtanh(-2.5, 2.5), nn.Softsign(), nn.LeakyReLU(0.25),
    nn.LeakyReLU(-0.5), nn.PReLU(), nn.PReLU(6), nn.SiLU(), nn.Hardswish(),
    nn.Hardtanh(-1, 2), nn.Hardtanh(-0.7, 0.3),
]  # fmt: skip


class Head(nn.Sequential):
    """Averages over windows of a known size, so that weights keep all their bits."""

    def __init__(self):
        super().__init__(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(24, 5))


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(), Exact(8)], ids=str)
@pytest.mark.parametrize("q", [1, 3, 16])
@pytest.mark.parametrize("activation", MODULES, ids=str)
def test_it_is_exact(activation, q, numerics):
    if isinstance(activation, nn.PReLU):
        activation.weight.data.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    model = settled(nn.Sequential(conv(), nn.BatchNorm2d(6), activation, conv(6), activation, Head()))
    snn = converted(model, q, numerics=numerics)
    report = casc_core.verify(snn, IMAGES)
    assert report.exact, str(report)
    assert report.lowering.not_compared == ()


@pytest.mark.parametrize("arriving", [None, -30, 3])
@pytest.mark.parametrize("numerics", [Stretch(-40), Exact()], ids=str)
def test_thresholds_are_rounded_once_to_the_grid_of_the_potentials(numerics, arriving):
    thresholds = Rounded(8, "tanh").thresholds()
    values, exponent = level_thresholds(numerics, thresholds, arriving)
    assert exponent <= (-10 if arriving is None else arriving)
    for value, threshold in zip(values, thresholds, strict=True):
        assert (value * 2.0**-exponent).is_integer()
        assert abs(value - float(threshold)) <= 2.0 ** (exponent - 1)
    halves = Rounded(4, "hardtanh").thresholds()
    assert level_thresholds(numerics, halves, arriving)[0] == [level - 0.5 for level in range(-3, 5)]


SHARES = {
    "parts": (nn.AdaptiveAvgPool2d((2, 4)), None),
    "at the border": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), None),
    "a rest": (nn.AvgPool2d(2, 2, ceil_mode=True), None),
    "lengths": (nn.Flatten(2), torch.arange(96) % 12 + 1),
}
"""Means of unequal numbers of entries."""


def by_definition(activation: Rounded, x: Fraction) -> int:
    """The level of a rounded activation, nothing rounded on the way."""
    y = x / Fraction(activation.threshold)
    value = {
        "softsign": y / (1 + abs(y)),
        "hardsigmoid": min(max((y + 3) / 6, Fraction(0)), Fraction(1)),
        "hardtanh": min(max(y, Fraction(-1)), Fraction(1)),
    }[activation.function]
    return math.floor(activation.q * value + Fraction(1, 2))


@pytest.mark.parametrize("numerics", [AsTrained(), Exact()], ids=str)
@pytest.mark.parametrize("function", ["softsign", "hardsigmoid", "hardtanh"])
@pytest.mark.parametrize("share", SHARES)
def test_a_mean_of_unequal_windows_that_lies_on_an_edge_reaches_it(share, function, numerics):
    pool, lengths = SHARES[share]

    def forward(self, x, lengths=None):
        pooled = self.pool(self.first(x))
        return self.second(pooled if lengths is None else pooled.sum(-1) / lengths.unsqueeze(1))

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(96, 1, 5, 7, generator=generator).mul(2.4).sub(1.2)
    x = (x.abs() * 1.5 * torch.rand(96, 1, 1, 1, generator=generator)).copysign(x)
    inputs = (x,) if lengths is None else (x[:, :, :2, :6], lengths)
    edges = 0
    for q in (2, 3, 5):
        first, second = Rounded(q, "hardtanh", threshold=1.5), Rounded(q, function, threshold=1.5)
        model = cnn(forward, pool=pool, first=first, second=second)
        counts = casc_core.convert(model, numerics=numerics).reference_counts(inputs, {})[1]
        found, levels = counts["second"].flatten().tolist(), counts["first"].double()
        sums, sizes = levels.sum((2, 3)), lengths
        if lengths is None:
            sizes = entries_of(pool, torch.ones_like(levels))
            sums = pool(levels) * sizes
        for count, total, entries in zip(found, sums.flatten().tolist(), sizes.flatten().tolist(), strict=True):
            mean = Fraction(round(total), round(entries)) * Fraction(3, 2 * q)
            expected = by_definition(second, mean)
            edges += by_definition(second, mean - Fraction(1, 10**9)) < expected
            assert count == expected, f"{float(mean)} of q={q}"
    assert edges > 0, "no mean lies on an edge"


def entries_of(pool: nn.Module, ones: Tensor) -> Tensor:
    """Over how many entries each of its windows averages: each entry's share in the windows' means, added up, inverted."""
    places = torch.eye(ones[0].numel(), dtype=ones.dtype).reshape(-1, *ones.shape[1:])
    return 1 / pool(places).amax(0).expand(len(ones), -1, -1, -1)


def test_where_nothing_is_rounded_no_threshold_is():
    thresholds = Rounded(8, "sigmoid").thresholds()
    assert level_thresholds(Unrounded(), thresholds, None)[0] == [float(threshold) for threshold in thresholds]


def test_counts_go_below_zero():
    snn = converted(settled(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))), 4)
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    _, counts = snn.reference_counts((x,), {})
    assert int(counts["1"].min()) == -4
    assert int(counts["1"].max()) == 4
    spikes = snn.simulate(x).spikes["1"]
    assert int((spikes.positive - spikes.negative).sum()) == int(counts["1"].sum())
    assert int(snn.simulate(x).silent_at.max()) <= 4 + 8


def test_a_divisor_that_only_a_run_knows_multiplies_every_threshold():
    def forward(self, x, lengths):
        return self.b(torch.tanh(self.act(self.a(x)).sum((2, 3)) / lengths.unsqueeze(1)))

    model = cnn(forward, a=conv(), act=nn.ReLU(), b=nn.Linear(6, 3))
    check(model, IMAGES, torch.tensor([1, 7, 40, 64, 300, 2]))


def test_several_uses_have_neurons_of_their_own():
    model = cnn(lambda self, x: self.head(self.act(self.b(self.act(self.a(x))))), a=conv(), b=conv(6), act=nn.Hardswish(),
                head=Head())  # fmt: skip
    assert check(model, IMAGES).layers == ("act.value", "act.gate", "act.value#2", "act.gate#2")


def test_products_of_signals_with_inputs_constants_and_themselves():
    def forward(self, x):
        y = self.relu(self.a(x))
        gate = torch.sigmoid(self.b(y).mean((2, 3), keepdim=True))
        y = torch.addcmul(y, y, gate, value=0.5) * (1 - gate) - y.square() / 4
        return self.head(self.relu(self.b(y) * self.relu(self.one(y))))

    check(cnn(forward, a=conv(), b=conv(6), one=conv(6, 1), relu=nn.ReLU(), head=Head()), IMAGES)


def test_a_product_of_currents_is_one_of_many_bits():
    def forward(self, x):
        y = self.relu(self.a(x))
        return self.head(self.relu(self.b(y) * torch.sigmoid(self.c(y))))

    check(cnn(forward, a=conv(), b=conv(6), c=conv(6), relu=nn.ReLU(), head=Head()), IMAGES)


def test_products_whose_neurons_have_no_threshold_but_zero():
    def forward(self, x):
        y = self.a(x).flatten(2)
        return self.head((self.gate(y @ (y.mT @ y)) - 0.5).view(x.shape[0], 6, 8, 8))

    check(cnn(forward, a=conv(), gate=nn.Sigmoid(), head=Head()), IMAGES, q=1)


def test_gated_linear_units():
    def forward(self, x):
        y = self.relu(self.a(self.glu(self.wide(x))))
        return self.head(F.glu(torch.cat([y, self.b(y)], 1), dim=1))

    model = cnn(forward, wide=nn.Conv2d(3, 6, 1), a=conv(), b=conv(6), glu=nn.GLU(1), relu=nn.ReLU(), head=Head())
    snn = check(model, IMAGES)
    assert [name for name in snn.layers if "gate" in name] == ["glu.gate", "glu_1.gate"]
    assert repr(casc_core.prepare(nn.GLU(1), adapter="cnn", q=4).gate) == "Rounded(q=4, 'sigmoid')"


def test_what_prepare_puts():
    model = nn.Sequential(*MODULES[:8], nn.PReLU(6), nn.SiLU(), nn.Hardswish(), nn.Linear(2, 2))
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    assert [repr(each) for each in ann[:6]] == [
        "Rounded(q=4, 'sigmoid')", "Rounded(q=4, 'tanh')", "Rounded(q=4, 'hardsigmoid')", "Rounded(q=4, 'hardtanh')",
        "Rounded(q=4, 'hardtanh', threshold=2.5)", "Rounded(q=4, 'softsign')",
    ]  # fmt: skip
    assert [type(each) for each in ann[6:11]] == [LeakyCQReLU, LeakyCQReLU, LeakyCQReLU, Swish, Swish]
    assert (ann[6].slope, ann[8].slope.shape, ann[9].value.threshold) == (0.25, torch.Size([6]), 3.0)
    assert isinstance(ann[8].slope, nn.Parameter)
    again = casc_core.prepare(ann, adapter="cnn", q=8, threshold=2.0)
    assert {each.q for each in again.modules() if isinstance(each, (CQReLU, Rounded))} == {8}
    assert (again[0].threshold, again[6].positive.threshold) == (1.0, 2.0)
    trained = casc_core.prepare(model, adapter="cnn", q=4, trainable_threshold=True, half_step=True)
    assert trained[6].negative.threshold.requires_grad
    assert casc_core.prepare(model, adapter="cnn", q=4, threshold=6.0)[10].value.threshold == 6.0


def test_it_trains():
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.Hardswish(), nn.Linear(16, 2))
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    optimiser = torch.optim.Adam(ann.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss = F.cross_entropy(ann(x), labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.2
    snn = casc_core.convert(ann.eval(), adapter="cnn")
    assert casc_core.verify(snn, x).exact


def test_an_untrained_conversion_says_so():
    with pytest.warns(UserWarning, match="has been prepared with q=4"):
        casc_core.convert(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), adapter="cnn", q=4)


@pytest.mark.parametrize("end", [nn.Sigmoid(), nn.Hardsigmoid()], ids=str)
def test_a_network_that_returns_probabilities_is_refused(end):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), end)
    with pytest.raises(ConversionError, match=r"return the logits, train with a loss that takes those \(nn\.BCEWith"):
        casc_core.prepare(model, adapter="cnn", q=4)
    functional = cnn(
        lambda self, x: torch.sigmoid(self.b(self.act(self.a(x)))), a=nn.Linear(4, 4), act=nn.ReLU(), b=nn.Linear(4, 2)
    )
    with pytest.raises(
        ConversionError, match=r"returns what a Sigmoid makes of its logits(.*\n)*.*test_rounded\.py:\d+"
    ):
        casc_core.prepare(functional, adapter="cnn", q=4)
