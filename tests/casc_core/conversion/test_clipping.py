"""Clipped ReLUs by other names become neurons; what clips in another way is refused, and what clips inputs is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import ROWS, agrees, network
from torch import nn

import casc_core
from casc_core import ConversionError, CQReLU, Rounded

ZERO = torch.zeros(())

# What is called, and its own upper end.
CLIPS = {
    "clamp(0, 1)": (lambda x: x.clamp(0, 1), 1.0),
    "clamp by name": (lambda x: x.clamp(min=0, max=2), 2.0),
    "clamp from 0": (lambda x: x.clamp(min=0.0), None),
    "clamp in place": (lambda x: x.clamp_(0, 4), 4.0),
    "torch.clamp": (lambda x: torch.clamp(x, 0.0, 0.5), 0.5),
    "torch.clamp of a keyword": (lambda x: torch.clamp(input=x, min=0, max=1), 1.0),
    "clip": (lambda x: torch.clip(x, min=0), None),
    "clip by method": (lambda x: x.clip(0, 0.75), 0.75),
    "clamp_min": (lambda x: x.clamp_min(0), None),
    "torch.clamp_min": (lambda x: torch.clamp_min(x, 0.0), None),
    "clamp of tensors": (lambda x: x.clamp(torch.tensor(0.0), torch.tensor([2.0])), 2.0),
    "threshold": (lambda x: F.threshold(x, 0, 0), None),
    "threshold in place": (lambda x: F.threshold(x, 0.0, 0.0, True), None),
    "maximum": (lambda x: torch.maximum(x, ZERO), None),
    "maximum from the left": (lambda x: torch.maximum(torch.zeros_like(x), x), None),
    "maximum by method": (lambda x: x.maximum(x.new_zeros(x.shape)), None),
    "max of two": (lambda x: torch.max(x, torch.zeros_like(x)), None),
    "max by method": (lambda x: x.max(torch.zeros(x.size())), None),
    "fmax": (lambda x: torch.fmax(x, torch.zeros(1)), None),
    "relu6": (lambda x: F.relu6(x), 6.0),
    "hardtanh": (lambda x: F.hardtanh(x, 0.0, 2.0), 2.0),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_clipped_relu_becomes_neurons(name):
    clip, high = CLIPS[name]

    def forward(self, x):
        return self.b(clip(self.a(x)))

    model = network(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 3))
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    assert [module.threshold for module in ann.modules() if isinstance(module, CQReLU)] == [high or 1.0]
    if name in ("clamp(0, 1)", "clamp in place", "threshold", "maximum by method"):
        agrees(model, ROWS)
    fine = casc_core.prepare(model, adapter="cnn", q=2**12, threshold=high or 64)
    torch.testing.assert_close(fine(ROWS * 4), model(ROWS * 4), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "maximum",
    [
        lambda x: x.max(0)[0], lambda x: x.max(dim=0).values, lambda x: torch.max(x, 0)[0],
        lambda x: torch.max(x, dim=0).values,
        lambda x: x.amax(0), lambda x: x.max(0, True)[0].squeeze(0),
    ],
)  # fmt: skip
def test_a_maximum_over_the_first_dimension_is_no_maximum_with_zero(maximum):
    def forward(self, x):
        return self.b(maximum(-self.relu(self.a(x)).transpose(0, 1)))

    model = network(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 3), relu=nn.ReLU())
    ann = casc_core.prepare(model, adapter="cnn", q=2**12, threshold=64.0)
    assert len([module for module in ann.modules() if isinstance(module, CQReLU)]) == 1
    rows = torch.stack([ROWS] * 6, 1)[:, :, :5] * torch.arange(1, 7).reshape(-1, 1)
    torch.testing.assert_close(ann(rows), model(rows), rtol=0, atol=0.1)
    assert casc_core.convert(casc_core.prepare(model, adapter="cnn", q=4).eval()).layers == ("relu",)


def test_what_is_clipped_around_zero_becomes_neurons_with_a_range():
    def forward(self, x):
        return F.hardtanh(self.a(x), -2, 0.5) + torch.clamp(self.a(x), -0.5, 1.5) + self.hard(self.a(x))

    model = network(forward, a=nn.Linear(5, 6), hard=nn.Hardtanh(-2, 0))
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    found = {module.ends: module.ranges() for module in ann.modules() if isinstance(module, Rounded)}
    assert found == {(-2, 0.5): ((-4, 1),), (-0.5, 1.5): ((-1, 4),), (-2, 0): ((-4, 0),)}
    agrees(model, ROWS, spikes=False)
    asked = casc_core.prepare(model, adapter="cnn", q=4, threshold=1)
    assert sorted(module.ends for module in asked.modules() if isinstance(module, Rounded)) == [
        (-1, 0), (-1, 0.25), (-0.5 / 1.5, 1)
    ]  # fmt: skip
    fine = casc_core.prepare(model, adapter="cnn", q=2**12)
    torch.testing.assert_close(fine(ROWS), model(ROWS), rtol=0, atol=1e-3)


def test_modules_and_thresholds_asked_for():
    model = nn.Sequential(nn.Linear(5, 6), nn.Threshold(0, 0), nn.Linear(6, 6), nn.Threshold(0.0, 0.0, inplace=True))
    ann = casc_core.prepare(model, adapter="cnn", q=4, threshold=0.5)
    assert [module.threshold for module in ann.modules() if isinstance(module, CQReLU)] == [0.5, 0.5]


def test_what_clips_inputs_sizes_and_parameters_is_left_as_it_is():
    def forward(self, x, lengths):
        x = x.clamp(-0.5, 0.75).maximum(torch.zeros_like(x) - 0.25)
        h = self.act(self.a(x) * self.gain.clamp(min=0))
        return self.b(h) / lengths.clamp(min=1).clamp(max=h.shape[1]).unsqueeze(1)

    model = network(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 3), act=nn.ReLU(), gain=torch.linspace(-1, 1.5, 6))
    ann = casc_core.prepare(model, adapter="cnn", q=4)
    assert sum(isinstance(module, CQReLU) for module in ann.modules()) == 1
    agrees(model, ROWS, torch.tensor([0, 1, 4, 2]))


def both_ends_above(x):
    return x.clamp(0.5, 1)


def upper_end_alone(x):
    return x.clamp(max=1)


def upper_end_by_method(x):
    return x.clamp_max(1.0)


def lower_end_below(x):
    return x.clamp(min=-1)


def nothing_left(x):
    return torch.clip(x, 0, 0)


def another_threshold(x):
    return F.threshold(x, 0.1, 0)


def another_value(x):
    return F.threshold(x, 0, -1)


def hardtanh_from_above(x):
    return F.hardtanh(x, 0.25, 1.0)


def ends_of_the_inputs(x):
    return x.clamp(x.new_ones(4, 1), x.new_ones(4, 1) * 2)


REFUSED = {
    both_ends_above: ("clamp()", r"clips to \[0.5, 1\]"),
    upper_end_alone: ("clamp()", r"clips to \[-, 1\]"),
    upper_end_by_method: ("clamp_max()", r"clips to \[-, 1.0\]"),
    lower_end_below: ("clamp()", r"clips to \[-1, -\]"),
    nothing_left: ("clip()", r"clips to \[0, 0\]"),
    another_threshold: ("threshold()", r"clips to \[0.1, else 0, -\]"),
    another_value: ("threshold()", r"clips to \[0, else -1, -\]"),
    hardtanh_from_above: ("hardtanh()", r"clips to \[0.25, 1.0\]"),
    ends_of_the_inputs: ("clamp()", r"clips to \[a tensor, a tensor\]"),
}


@pytest.mark.parametrize("clip", REFUSED, ids=lambda clip: clip.__name__)
def test_what_is_no_activation_is_refused_with_its_ends(clip):
    def forward(self, x):
        return self.b(self.act(clip(self.a(x))))

    what, why = REFUSED[clip]
    with pytest.raises(ConversionError, match=why) as error:
        casc_core.prepare(network(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 3), act=nn.ReLU()), adapter="cnn", q=4)
    assert what in str(error.value)
    assert "test_clipping.py" in str(error.value)


@pytest.mark.parametrize(
    "module", [nn.Threshold(0.1, 0), nn.Threshold(0, 1), nn.Hardtanh(0.5, 1), nn.Hardtanh(-2, -1)], ids=str
)
def test_modules_that_clip_otherwise_are_refused(module):
    with pytest.raises(ConversionError, match=r"clips to \["):
        casc_core.prepare(nn.Sequential(nn.Conv2d(3, 3, 1), module), adapter="cnn", q=4)
