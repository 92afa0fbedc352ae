"""Populations that read currents from the spikes: those of the currents written down."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from current_terms import currents, term, whole
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF
from casc_core.engine import kernels
from casc_core.engine.kernels import Exact, KernelNeuron
from casc_core.engine.products.exact_sums import largest_row
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.spiking_population import SpikingPopulation, are_spikes
from casc_core.engine.products.term import Term
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.signal import along
from casc_core.numerics import binade, on_grid
from casc_core.schedule import WakeSleep

COMPILED_ONLY = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def spikes(own, drive, exponent, threshold, neuron, guess, units=None):
    """Those of a population that reads the currents; None where the kernel cannot take them."""
    if not are_spikes(own, exponent):
        return None
    thresholds = along(threshold, own.size, 1)
    population = SpikingPopulation(exponent, thresholds, neuron, own.aligned(drive), None, units)
    return population.spikes(own, guess)


@COMPILED_ONLY
@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    terms=st.integers(1, 4),
    driven=st.sampled_from(("none", "channel", "full")),
    alike=st.booleans(),
    dims=st.sampled_from((1, 2)),
    instructions=st.sampled_from(COMPILED),
)
def test_the_population_behind_them_is_that_behind_their_tensor(seed, terms, driven, alike, dims, instructions):
    size = (1, 5) if dims == 1 else (3, 4)
    own = currents(
        *(
            term(seed + k, outputs=6, steps=4 - k, size=size, groups=3 if k == 1 else 1, exponent=-6 + k)
            for k in range(terms)
        ),
        dims=dims,
    )  # fmt: skip
    generator, drive = torch.Generator().manual_seed(seed), None
    shape = own.shape[1:]
    if driven != "none":
        drawn = (1, 6, *[1] * dims) if driven == "channel" else shape
        drive = (whole(generator, -300, 600, *drawn).double() * 2.0**-8).expand(shape)
    threshold = 1.25 if alike else (whole(generator, 100, 700, 6, *[1] * dims).double() * 2.0**-8)
    neuron = KernelNeuron.spiking(CIF(), WakeSleep(4, 4).awake(4), None)
    with kernels.using(instructions):
        found = spikes(own, drive, -8, threshold, neuron, 0)
        assert not own.is_computed
        expected = kernels.scan(own.tensor().double(), drive, threshold, torch.float64, neuron, 0)
    assert found.shape[1:] == shape
    assert torch.equal(found, expected)
    with kernels.using(None):
        assert spikes(own, drive, -8, 1.25, neuron, 0) is None


@COMPILED_ONLY
def test_lists_are_tried_where_tables_have_no_room(monkeypatch):
    neuron = KernelNeuron.spiking(CIF(), WakeSleep(4, 4).awake(4), None)
    one = term(1, channels=16, outputs=16, steps=8, size=(32, 32))
    asked = []

    def packed(self, peak, blocks, *others):
        asked.append(blocks.tabled)
        return None if blocks.tabled else pack(self, peak, blocks, *others)

    pack = Filter.packed
    with kernels.using(COMPILED[-1]):
        expected = spikes(currents(one), None, -6, 1.0, neuron, 0)
        monkeypatch.setattr(Filter, "packed", packed)
        found = spikes(currents(one), None, -6, 1.0, neuron, 0)
    assert asked == [True, False]
    assert torch.equal(found, expected)


@COMPILED_ONLY
def test_a_row_may_be_longer_than_lists_can_be():
    one = term(1, outputs=257, channels=64, kernel=1, steps=1, size=(1, 1))
    one = replace(one, train=one.train.expand(1, 2, 64, 1, 200_000))
    neuron = KernelNeuron.spiking(CIF(), [True], None)
    with kernels.using(COMPILED[-1]):
        assert spikes(currents(one), None, -6, 1.0, neuron, 0) is None


@COMPILED_ONLY
@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("outputs", [16, 40])
def test_channels_of_very_different_weights_are_rounded_each_finely_enough(driven, outputs):
    generator = torch.Generator().manual_seed(outputs)
    one = term(3, outputs=outputs, channels=40, steps=6)
    sizes = 2.0 ** whole(generator, -2, 12, outputs).double()
    weight = on_grid(torch.randn(one.filter.weight.shape, generator=generator) * sizes[:, None, None, None] / 8, -28)
    one = replace(one, filter=Filter("conv", weight, -28, one.filter.geometry, largest_row(weight), WeightCache()))
    drive = on_grid(torch.randn(outputs, generator=generator) * sizes, -28)[:, None, None].expand(2, outputs, 4, 6)
    sent = F.conv2d(one.train.double().flatten(0, 1), weight, padding=1).unflatten(0, (6, 2))
    received = torch.cat([sent, torch.zeros(6, 2, outputs, 4, 6)])
    received[:4] += drive if driven else 0.0
    caps = [min(step + 1, 4) for step in range(len(received))]
    expected = CIF().run(received.numpy(), caps, np.ones((outputs, 1, 1)))[0]
    neuron, margins = KernelNeuron.spiking(CIF(), WakeSleep(4, 4).awake(4), None), []
    units = binade(5 * (float(drive.abs().max()) + one.filter.reach + 1)) - kernels.SUM_BITS
    with kernels.using(COMPILED[-1]), patch.object(kernels, "Exact", lambda *a: margins.append(a[2]) or Exact(*a)):
        found = spikes(currents(one), drive if driven else None, -28, 1.0, neuron, 0, units)
    assert margins, "nothing was rounded"
    np.testing.assert_array_equal(found, expected[: len(found)])
    assert not expected[len(found) :].any()


@COMPILED_ONLY
def test_what_the_kernel_cannot_do_is_left_to_others():
    neuron = KernelNeuron.spiking(CIF(), [True], None)
    own = term(1)
    with kernels.using(COMPILED[-1]):
        assert spikes(currents(own), None, -6, 1.0, neuron, 0) is not None
        assert spikes(currents(own), None, -5, 1.0, neuron, 0) is None, "a grid coarser than the weights'"
        counted = Term(own.filter, own.train.int(), 1.0)
        assert spikes(currents(counted), None, -6, 1.0, neuron, 0) is None, "no spikes"
        assert spikes(currents(own, peak=1000), None, -6, 1.0, neuron, 0) is None, "counts beyond int8"
        assert spikes(currents(term(1, exponent=30)), None, -20, 1.0, neuron, 0) is None, "grids too far apart"
