"""Conversions that are wrong on purpose, each in one place, and networks whose sums are hard for float64.

`verify` finds the first and lets the second be.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from user_cnns import IMAGES, cnn, conv, settled

import casc_core
from casc_core import CQReLU
from casc_core.conversion.grids import Stretch
from casc_core.conversion.rules import RULES
from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.convolution import _convolved
from casc_core.conversion.rules.population import neurons
from casc_core.engine.kernels import using
from casc_core.engine.program import READOUT
from casc_core.engine.spiking_run import SpikingRun
from casc_core.errors import NotExactError
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.report import Experiment, report

NUMERICS = [casc_core.AsTrained(), casc_core.Exact(weight_bits=16)]
CHANNELS = torch.tensor([0.7, 1.1, 0.9, 1.3, 0.8, 1.2])


def network() -> nn.Module:
    """A shortcut, a concatenation, an average pool, thresholds for each channel, a square map and a head."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        a = self.act1(self.first(x))
        b = self.act2(a - self.second(a))
        c = self.act3(self.third(F.avg_pool2d(torch.cat([a, b], 1), 2)))
        return self.last(self.act4(self.square(c.flatten(1))))

    return cnn(
        forward, first=conv(), second=conv(6), third=conv(12, 6, 1, 0), square=nn.Linear(96, 96), last=nn.Linear(96, 5),
        act1=CQReLU(4, 0.9), act2=CQReLU(4), act3=CQReLU(4, CHANNELS), act4=CQReLU(4, half_step=True),
    )  # fmt: skip


def of(name: str, wrong):
    """The rule of a module that is wrong for the one of this name."""
    return lambda right: lambda reader, module, x: (wrong if reader.name == name else right)(reader, module, x)


def without_bias(reader, module, x):
    return _convolved(reader, reader.signal(x), module.weight, None, 1, module.padding, 1, 1)


def moved_by_a_pixel(reader, module, x):
    weight = F.pad(module.weight.detach(), (0, 0, 1, 0))[..., :-1, :]
    return _convolved(reader, reader.signal(x), weight, module.bias, 1, module.padding, 1, 1)


def transposed(reader, module, x):
    return linear_map(reader, reader.signal(x), module.weight.t().contiguous(), module.bias, reader.name)


def with_one_threshold_off(reader, module, x):
    thresholds = module.threshold * torch.tensor([1.0, 1.0, 1.0, 1.02, 1.0, 1.0])
    return neurons(reader, reader.signal(x), thresholds, reader.layer_name(reader.name), False)


def without_half_step(reader, module, x):
    return neurons(reader, reader.signal(x), 1.0, reader.layer_name(reader.name), False)


def with_a_sum_for_a_mean(right):
    return lambda reader, x, *args: RULES.functions[torch.mul](reader, right(reader, x, *args), 4.0)


def in_another_order(right):
    return lambda reader, tensors, dim=0: right(reader, tensors[::-1], dim)


def with_another_sign(right):
    return lambda reader, a, b: RULES.functions[torch.add](reader, a, b)


FAULTS = {
    "a bias is lost": ("modules", nn.Conv2d, of("second", without_bias), "act2"),
    "a kernel lies one pixel off": ("modules", nn.Conv2d, of("second", moved_by_a_pixel), "act2"),
    "a matrix is transposed": ("modules", nn.Linear, of("square", transposed), "act4"),
    "the threshold of one channel is off": ("modules", CQReLU, of("act3", with_one_threshold_off), "act3"),
    "half a step is lost": ("modules", CQReLU, of("act4", without_half_step), "act4"),
    "a pool sums": ("functions", F.avg_pool2d, with_a_sum_for_a_mean, "act3"),
    "a concatenation is turned around": ("functions", torch.cat, in_another_order, "act3"),
    "a shortcut has another sign": ("functions", torch.sub, with_another_sign, "act2"),
}


@pytest.fixture(scope="module")
def verified() -> nn.Module:
    model = network()
    for numerics in NUMERICS:
        assert casc_core.verify(casc_core.convert(model, numerics=numerics), IMAGES).exact
    return model


@pytest.fixture
def right(verified) -> nn.Module:
    return copy.deepcopy(verified)


def make(monkeypatch, kind: str, key, wrong) -> None:
    table = getattr(RULES, kind)
    for name in (key, operator.sub) if key is torch.sub else (key,):
        monkeypatch.setitem(table, name, wrong(table[name]))


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
@pytest.mark.parametrize(("kind", "key", "wrong", "layer"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_lowering_is_found_in_its_layer(monkeypatch, right, kind, key, wrong, layer, numerics):
    make(monkeypatch, kind, key, wrong)
    report = casc_core.verify(casc_core.convert(right, numerics=numerics), IMAGES)
    assert report.spikes_exact  # against a reference that is not the network
    assert not report.exact
    found = report.lowering
    assert (found.at_fault, found.first_fault.name) == ("lowering", layer)
    # Each population is held, so what follows a fault is right; but a threshold is what a spike is worth, too.
    assert [each.name for each in found.layers.values() if each.wrong] in ([layer], [layer, "act4"])
    assert f"FAULT OF THE LOWERING: {layer!r}" in str(report)
    assert "Please report this" in str(report)


def test_a_grid_that_is_too_coarse_is_a_fault_of_the_grid(monkeypatch, right):
    of = Stretch.of

    def coarse(*given: object) -> Stretch:
        fine = of(*given)
        return Stretch(fine.finest + 32)

    monkeypatch.setattr(Stretch, "of", coarse)
    report = casc_core.verify(casc_core.convert(right), IMAGES)
    assert report.spikes_exact
    assert not report.exact
    assert report.lowering.at_fault == "grid"
    assert "FAULT OF THE GRID" in str(report)
    assert "the fault moved" in str(report)
    assert sum(report.grid.layers.values()) > 0


def test_a_drive_that_goes_on_asleep_is_seen_in_the_spikes(monkeypatch, right):
    fire = SpikingRun.fire

    def once_more(self, train, drive, threshold, dtype, potential=None):
        if drive is not None:
            longer = train.new_zeros((max(len(train), len(self.awake) + 1), *train.shape[1:]), dtype=dtype)
            longer[: len(train)] = train
            longer[len(self.awake)] += drive.to(dtype)
            train = longer
        return fire(self, train, drive, threshold, dtype, potential)

    monkeypatch.setattr(SpikingRun, "fire", once_more)
    with using(None):
        report = casc_core.verify(casc_core.convert(right), IMAGES)
    assert not report.spikes_exact
    assert not report.exact
    assert report.lowering.exact
    assert report.first_divergence.name == "act1"


def test_a_recipe_tells_a_fault_and_ends_with_an_error(monkeypatch, right, tmp_path, capsys):
    def batches(share: object) -> Iterator[Batch]:
        yield Batch((IMAGES,), torch.zeros(6, dtype=torch.int64), torch.arange(6))

    given = Experiment(right, "cnn", batches, "a network", "noise", 6, 6, 4, "", {})
    evaluation = report(given, tmp_path, 4, None, {}, {})
    assert evaluation.exact
    assert "lowering: all 5,760 neurons are your network's in float64, the logits to within" in capsys.readouterr().out
    make(monkeypatch, *FAULTS["a bias is lost"][:3])
    with pytest.raises(NotExactError, match=r"NOT EXACT: see .*table\.md"):
        report(given, tmp_path, 4, None, {}, {})
    assert "FAULT OF THE LOWERING: 'act2'" in capsys.readouterr().out
    assert "FAULT OF THE LOWERING: 'act2'" in (tmp_path / "table.md").read_text()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    q=st.sampled_from((1, 2, 4, 8, 16)),
    half=st.booleans(),
    threshold=st.sampled_from((0.25, 0.5, 1.0, 2.0)),
)
def test_sums_that_meet_thresholds_exactly_are_no_faults(seed, q, half, threshold):
    """Everything on coarse grids: half of all sums lie on an edge between two levels, in every arithmetic."""
    model = settled(network(), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator) / 8)
    for module in model.modules():
        if isinstance(module, CQReLU):
            module.q, module.half_step = q, half
            module.set_threshold(threshold)
    images = torch.randint(-4, 5, IMAGES.shape, generator=generator) / 4
    found = casc_core.verify(casc_core.convert(model), images)
    assert found.exact, str(found)
    assert found.lowering.ties == 0
    assert sum(found.float32.layers.values()) == 0


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_activations_of_any_size(size, numerics):
    model = network()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name.startswith("first"):
                parameter.mul_(size)
    for module in model.modules():
        if isinstance(module, CQReLU):
            module.set_threshold(module.threshold * size)
    found = casc_core.verify(casc_core.convert(model, numerics=numerics), IMAGES)
    assert found.exact, str(found)


@pytest.mark.parametrize("numerics", NUMERICS, ids=str)
def test_normalisations_of_next_to_no_variance(numerics):
    """Pixels of 0 to 255 and activations far from zero, of which a normalisation leaves the last digits."""
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), CQReLU(8), conv(8, 8), nn.BatchNorm2d(8), nn.Dropout(0.5), CQReLU(8), nn.Flatten(),
        nn.Linear(8 * 64, 5),
    ).eval()  # fmt: skip
    images = torch.randint(0, 256, IMAGES.shape, generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        model[1].running_mean.copy_(model[0](images).mean((0, 2, 3)))
        model[1].running_var.copy_(model[0](images).var((0, 2, 3)))
        model[3].bias.fill_(1e4)
        seen = model[:4](images)
        model[4].running_mean.copy_(seen.mean((0, 2, 3)))
        model[4].running_var.copy_(seen.double().var((0, 2, 3)) * 1e-6)
    for each in (model, model.double()):
        found = casc_core.verify(casc_core.convert(each, numerics=numerics), images)
        assert found.exact, str(found)


def test_a_sum_that_cancels_is_a_tie_where_float64_cannot_tell():
    model = nn.Sequential(nn.Linear(3, 1, bias=False), CQReLU(1, 0.3), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0**30, 0.3, -(2.0**30)]]))
    found = casc_core.verify(casc_core.convert(model.eval()), torch.ones(1, 3))
    assert found.exact, str(found)
    assert found.lowering.ties <= 1
    assert found.lowering.layers[READOUT].wrong == 0
