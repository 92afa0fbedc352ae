"""Populations that read currents from the spikes: those of the currents written down."""

from __future__ import annotations

import pytest
import torch
from current_terms import currents, term, whole
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.spiking_population import SpikingPopulation, are_spikes
from casc_core.engine.products.term import Term
from casc_core.engine.signal import along
from casc_core.schedule import WakeSleep

COMPILED_ONLY = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def spikes(own, drive, exponent, threshold, neuron, guess):
    """Those of a population that reads the currents; None where the kernel cannot take them."""
    if not are_spikes(own, exponent):
        return None
    thresholds = along(threshold, own.size, 1)
    population = SpikingPopulation(exponent, thresholds, neuron, own.aligned(drive))
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

    def packed(self, peak, blocks, rounding):
        asked.append(blocks.tabled)
        return None if blocks.tabled else pack(self, peak, blocks, rounding)

    pack = Filter.packed
    with kernels.using(COMPILED[-1]):
        expected = spikes(currents(one), None, -6, 1.0, neuron, 0)
        monkeypatch.setattr(Filter, "packed", packed)
        found = spikes(currents(one), None, -6, 1.0, neuron, 0)
    assert asked == [True, False]
    assert torch.equal(found, expected)


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
