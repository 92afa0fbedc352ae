"""Products of totals: a running function, rounded once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import casc_core
from casc_core import CQReLU, ExactnessError
from casc_core.engine.products.exact_sums import exact_sum, weight_limbs
from casc_core.engine.products.total_product import TotalProduct
from casc_core.engine.signal import Signal
from casc_core.numerics import AsTrained, on_grid

WEIGHT = torch.randn(5, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def received(steps: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**30), 2**30, (steps, 3, 40), generator=generator).double() * 2.0**-27


def product(totals: Tensor) -> Tensor:
    return exact_sum(totals, weight_limbs(WEIGHT), F.linear)


def made(train: Tensor) -> TotalProduct:
    return TotalProduct(Signal(train, None, None, 8.0), product, torch.Size([3, 5]))


def test_it_is_the_exact_product_rounded_once():
    totals, found = received().sum(0), made(received()).total()
    for sample in range(3):
        for output in range(5):
            terms = zip(totals[sample].tolist(), WEIGHT[output].tolist(), strict=True)
            exact = sum((Fraction(a) * Fraction(b) for a, b in terms), Fraction())
            assert found[sample, output] == float(exact)


def test_the_steps_in_which_spikes_come_change_no_bit():
    train = received()
    running = made(train).running(9)
    assert running.shape == (9, 3, 5)
    for step in range(9):
        assert torch.equal(running[step], made(train[: step + 1]).total())
    assert torch.equal(made(train.flip(0)).total(), made(train).total())


def test_what_travels_on_adds_up_to_what_it_is_of_the_totals():
    on_a_grid = replace(made(received()), product=lambda totals: on_grid(product(totals), -40))
    train = on_a_grid.tensor()
    assert train.shape == on_a_grid.shape == (7, 3, 5)
    assert torch.equal(train.cumsum(0), on_a_grid.running(7))
    assert torch.equal(train.sum(0), on_a_grid.total())
    assert on_a_grid.tensor() is train


def test_currents_of_single_steps_are_refused_where_there_is_no_grid():
    refusing = replace(made(received()), refuse=lambda: AsTrained().dtype(1.0, -90, "the last layer"))
    with pytest.raises(ExactnessError, match="the last layer: sums may reach"):
        refusing.tensor()


@pytest.mark.parametrize("schedule", [casc_core.WakeSleep(), casc_core.WakeSleep(2, cycles=2), casc_core.Continuous()])
def test_a_readout_behind_maps_keeps_the_bits_of_both(schedule):
    """Channels that are read by neurons and, averaged, by the readout: neither map gives up bits for the other."""

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)
            self.relu, self.next, self.head = CQReLU(4), CQReLU(4), nn.Linear(9, 5)

        def forward(self, x):
            trunk = self.second(self.relu(self.first(x)))
            return self.head(torch.cat([trunk, self.third(self.next(trunk))], 1).mean((2, 3)))

    torch.manual_seed(0)
    snn = casc_core.convert(Joined().eval(), schedule=schedule)
    images = torch.randn(6, 3, 9, 9)
    if isinstance(schedule, casc_core.Continuous):
        assert snn.simulate(images, T=8).logits.shape == (8, 6, 5)
        return
    report = casc_core.verify(snn, images)
    assert report.exact, str(report)
    whole, parts = snn(images), torch.cat([snn(image[None]) for image in images])
    assert torch.equal(whole, parts)
    assert torch.equal(whole, snn.reference(images))
    assert torch.equal(snn.simulate(images).logits[-1], whole)
    if schedule == casc_core.WakeSleep():
        with torch.no_grad():
            exact = snn.ann.double()(images.double())
        assert torch.allclose(whole.double(), exact, rtol=1e-6, atol=1e-7)
