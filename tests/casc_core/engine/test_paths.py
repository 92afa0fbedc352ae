"""Which way the currents of common architectures take: all that comes from spikes is summed where it spikes."""

from __future__ import annotations

import pytest
import torch
from architectures import ARCHITECTURES, settled
from engines import COMPILED
from torch import nn

import casc_core
from casc_core.engine.products import input_product

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("network", ARCHITECTURES)
def test_no_dense_sum_over_patches_is_taken(network, numerics, monkeypatch):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = settled(network, 8, x)
    calibrated = casc_core.calibrate(model, [x], q=4, steps=()).model
    snn = casc_core.convert(calibrated, numerics=numerics)
    expected = snn.reference(x)
    monkeypatch.setattr(input_product, "convolve", lambda *_: pytest.fail("a dense sum, patch by patch"))
    assert torch.equal(snn(x), expected)


def test_a_perceptron_whose_features_have_thresholds_of_their_own_takes_the_kernels(monkeypatch):
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.ReLU())]
    model, x = nn.Sequential(*layers, nn.Linear(32, 4)).eval(), torch.rand(16, 32)
    snn = casc_core.convert(casc_core.calibrate(model, [x], q=4, per_channel=True).model)
    expected, fired = snn.reference(x), casc_core.engine.ops.population.Fire._fired
    late = []
    monkeypatch.setattr(
        casc_core.engine.ops.population.Fire, "_fired", lambda self, *rest: (late.append(self), fired(self, *rest))[1]
    )
    assert torch.equal(snn(x), expected)
    assert not late
