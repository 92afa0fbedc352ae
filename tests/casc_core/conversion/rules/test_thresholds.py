"""Thresholds of convolutional networks: per channel, trained, taken from clipped activations."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, SERIES, Head, check, cnn, conv, settled

import casc_core
from casc_core import ConfigError, CQReLU

PER_CHANNEL = torch.tensor([0.3, 1.0, 0.7, 2.5, 0.11, 1.3])


def plain(self, x):
    return self.head(self.act2(self.b(self.act1(self.a(x)))))


def residual(self, x):
    x = self.act1(self.a(x))
    return self.head(self.act2(self.n(self.b(x)) + x))


def pools_and_concatenation(self, x):
    x = self.act1(self.a(x))
    x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(self.act2(self.b(x)), 2)], 1)
    return self.head(self.act1(self.wide(x)))


def grouped_and_padded(self, x):
    x = F.pad(self.act1(self.a(x)), (1, 1, 1, 1), mode="reflect")
    return self.head(self.act2(self.grouped(x)))


def straight_after_a_normalisation_and_a_pool(self, x):
    return self.head(self.act2(F.max_pool2d(self.n(self.b(self.act1(F.avg_pool2d(self.a(x), 2)))), 2)))


THRESHOLDS = {
    "two numbers": (CQReLU(4, 0.7), CQReLU(4, 1.9)),
    "per channel": (CQReLU(4, PER_CHANNEL), CQReLU(4, PER_CHANNEL.flip(0))),
    "trained": (CQReLU(4, 0.7, trainable=True), CQReLU(4, PER_CHANNEL, trainable=True)),
    "a number, and per channel": (CQReLU(4, 1.25), CQReLU(4, PER_CHANNEL)),
}


@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize(
    "forward", [plain, residual, pools_and_concatenation, grouped_and_padded, straight_after_a_normalisation_and_a_pool],
    ids=lambda forward: forward.__name__,
)  # fmt: skip
def test_it_is_exact_and_the_same_function(forward, thresholds):
    act1, act2 = THRESHOLDS[thresholds]
    model = cnn(
        forward, a=conv(), b=conv(6), n=nn.BatchNorm2d(6), grouped=conv(6, padding=0, groups=3), wide=conv(12), act1=act1,
        act2=act2, head=Head(),
    )  # fmt: skip
    check(model, IMAGES)


def test_the_upper_ends_of_clipped_activations_are_thresholds():
    model = nn.Sequential(conv(), nn.ReLU6(), conv(6), nn.Hardtanh(-1, 2.5), conv(6), nn.ReLU(), conv(6), nn.Hardtanh())
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    assert [module.threshold for module in ann.modules() if isinstance(module, CQReLU)] == [6.0, 1.0]
    assert repr(ann[3]) == "Rounded(q=4, 'hardtanh', ends=(-1, 2.5))"
    assert repr(ann[7]) == "Rounded(q=4, 'hardtanh')"

    def forward(self, x):
        x = F.hardtanh(F.relu6(self.a(x)), 0.0, 3.0)
        return F.hardtanh(F.relu(self.a(x)), max_val=0.5).mean((2, 3))

    functional = casc_core.prepare(cnn(forward, a=conv(3, 3)), adapter="cnn", q=4)
    assert [module.threshold for module in functional.modules() if isinstance(module, CQReLU)] == [6.0, 3.0, 1.0]
    assert [module.ends for module in functional.modules() if isinstance(module, casc_core.Rounded)] == [(-1.0, 0.5)]
    asked = casc_core.prepare(model, adapter="cnn", q=4, threshold=0.25)
    assert {module.threshold for module in asked.modules() if isinstance(module, CQReLU)} == {0.25}


def test_every_activation_trains_a_threshold_of_its_own():
    model = nn.Sequential(conv(), nn.ReLU(), conv(6), nn.ReLU6(), Head())
    ann = casc_core.prepare(settled(model), adapter="cnn", q=4, trainable_threshold=True)
    thresholds = [parameter for name, parameter in ann.named_parameters() if name.endswith("threshold")]
    assert [threshold.item() for threshold in thresholds] == [1.0, 6.0]
    before = ann(IMAGES)
    optimiser = torch.optim.SGD(ann.parameters(), 0.5)
    ann(IMAGES).square().sum().backward()
    assert all(threshold.grad != 0 for threshold in thresholds)
    optimiser.step()
    assert not torch.equal(ann(IMAGES), before)
    check(ann.eval(), IMAGES)


@pytest.mark.parametrize("channels", [None, 5])
@pytest.mark.parametrize("q", [1, 4])
def test_the_threshold_s_gradient_is_that_of_the_straight_through_surrogate(q, channels):
    """Against finite differences of the surrogate: the level is held where it fell, the rest is differentiated."""
    generator = torch.Generator().manual_seed(q)
    x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    start = torch.full((), 0.7) if channels is None else torch.linspace(0.4, 1.2, channels)
    weight = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    act = CQReLU(q, start, trainable=True)
    act(x.requires_grad_()).mul(weight).sum().backward()
    theta = start.double().reshape(-1, 1) if channels else start.double()
    remainder = torch.floor(q * x.detach() / theta) - q * x.detach() / theta  # of the floor, held

    inside = (x.detach() >= 0) & (x.detach() <= theta)

    def surrogate(theta):
        levels = torch.where(inside, q * x.detach() / theta + remainder, torch.where(x.detach() > 0, q, 0))
        return (weight * theta / q * levels).sum()

    entries = x.numel() // (channels or 1)
    numeric = torch.zeros_like(theta).reshape(-1)
    for index in range(numeric.numel()):
        step = torch.zeros_like(numeric)
        step[index] = 1e-6
        step = step.reshape(theta.shape)
        numeric[index] = (surrogate(theta + step) - surrogate(theta - step)) / 2e-6
    torch.testing.assert_close(
        act.threshold.grad.double().reshape(-1), numeric / (q * entries) ** 0.5, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(x.grad, weight * inside.double())


@pytest.mark.parametrize(
    "bad", [torch.tensor([0.5, 0.0]), torch.tensor([1.0, float("nan")]), torch.ones(2, 2), 0.0, -1]
)
def test_thresholds_that_are_none(bad):
    with pytest.raises(ConfigError, match="positive and finite"):
        CQReLU(4, bad)


def test_thresholds_for_another_number_of_channels():
    model = nn.Sequential(conv(), CQReLU(4, torch.ones(5)), conv(6))
    with pytest.raises((casc_core.ConversionError, casc_core.InputError), match=r"'1'.*for 5 channels.*has 6"):
        casc_core.convert(model, adapter="cnn")(IMAGES)


def test_one_dimension_and_rows():
    model = nn.Sequential(
        nn.Conv1d(3, 6, 3),
        CQReLU(4, PER_CHANNEL),
        nn.Flatten(),
        nn.Linear(60, 6),
        CQReLU(4, PER_CHANNEL),
        nn.Linear(6, 3),
    )
    check(settled(model), SERIES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "trained", [0.0, -1.0, 1e-9, 2.0**-15, 2.0**-14, 2.0**-13, [-2.0, 0.0, 5e-5, 2.0**-12, 2.0**-30]], ids=str
)
def test_what_training_has_driven_to_nothing_is_held_where_the_network_holds_it(trained, dtype):
    generator = torch.Generator().manual_seed(0)
    activation = CQReLU(4, torch.ones(5) if isinstance(trained, list) else 1.0, trainable=True)
    model = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 4))
    with torch.no_grad():
        activation.threshold.copy_(torch.tensor(trained))
        for module in (model[0], model[2]):  # on a grid on which nothing is rounded
            for parameter in module.parameters():
                parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 8)
        model[0].weight *= 2.0**-14
        model[0].bias *= 2.0**-14
        model[2].weight *= 2.0**12
    x = torch.randint(-8, 9, (50, 3), generator=generator) / 4.0
    activation.to(dtype)
    snn = casc_core.convert(model)
    found = snn(x)
    assert torch.equal(found, snn.reference(x))
    model[1] = activation.float()
    alone = model(x).detach()
    assert torch.equal(alone.double(), model.double()(x.double()).detach()), "the same number in every type"
    assert len(alone.unique()) > 20
    assert torch.equal(found, alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_thresholds_that_are_no_numbers_are_refused(bad):
    model = nn.Sequential(nn.Linear(3, 5), CQReLU(4, torch.ones(5), trainable=True), nn.Linear(5, 4))
    model[1].threshold.data[2] = bad
    with pytest.raises(casc_core.CascError, match="threshold"):
        casc_core.convert(model)


def test_calibrated_thresholds_are_those_that_the_network_computes_with():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.1, 1e-6, 0.05]).reshape(3, 1, 1, 1))
        model[0].bias.zero_()
    images = [torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(0))]
    calibration = casc_core.calibrate(model, images, q=4, per_channel=True)
    thresholds = calibration.thresholds["1"]
    assert thresholds.min() == 2.0**-14
    assert torch.equal(thresholds, calibration.model[1].effective_threshold)


@pytest.mark.parametrize("half_step", [False, True])
def test_sums_that_a_normalisation_brings_to_an_edge_reach_it(half_step):
    """Multiples of a 64th times factors that are no powers of two, by fractions."""
    factors, shifts = [1.5, 3.0, 0.75, 0.625, 0.375] * 6, [shift / 64 for shift in range(-15, 15)]
    norm = nn.BatchNorm1d(30, eps=0.0).eval()
    norm.load_state_dict(norm.state_dict() | {"weight": torch.tensor(factors), "bias": torch.tensor(shifts)})
    linear = nn.Linear(2, 30, bias=False)
    linear.weight.data = (torch.arange(60) * 7 % 17 - 6).reshape(30, 2) / 8
    model = nn.Sequential(CQReLU(8), linear, norm, CQReLU(8, half_step=half_step)).eval()
    x = torch.cartesian_prod(*[torch.arange(9) / 8] * 2)
    _, counts = casc_core.convert(model).reference_counts((x,), {})
    edges = 0
    for found, levels in zip(counts["3"].tolist(), counts["0"].tolist(), strict=True):
        for count, row, factor, shift in zip(found, linear.weight.tolist(), factors, shifts, strict=True):
            total = sum(Fraction(weight) * n for weight, n in zip(row, levels, strict=True))
            level = total * Fraction(factor) + 8 * Fraction(shift) + Fraction(half_step, 2)
            edges += level.denominator == 1 and 0 < level <= 8
            assert count == min(max(math.floor(level), 0), 8)
    assert edges > 50
