"""The network as trained where it is hard: sums that int32 units cannot tell from a threshold, and thresholds of next to
nothing. Whatever adds the spikes up, each neuron fires at the same steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.recording.recorder import Recorder

UNIT = 2.0**-16  # of recurrent weights of 16 bits below 1


class Recurrent(nn.Module):
    def __init__(self, inputs: int, hidden: int, q: int, threshold: float = 1.0) -> None:
        super().__init__()
        self.rnn = casc_seq.RNN(inputs, hidden, q=q, batch_first=True, bias=False, threshold=threshold)
        self.fc = nn.Linear(hidden, 2)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self.fc(self.rnn(x, hx)[0][:, -1])


def levels_alike(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """The levels, which are the same in every way of computing them; so are all trains of spikes, step by step."""
    snn = casc_core.convert(model.eval())
    found: tuple[Tensor, dict[str, Tensor]] | None = None
    trains: dict[str, Tensor] = {}
    for instructions in all_instructions():
        with using(instructions):
            logits, levels = snn.reference_counts(inputs, {})
            recorder = Recorder(keep_trains=True)
            sim = snn.simulate_recorded(inputs, {}, None, recorder)
        assert torch.equal(sim.logits[-1], logits)
        if found is None:
            found, trains = (logits, levels), recorder.trains
        assert torch.equal(found[0], logits)
        for name, level in levels.items():
            assert torch.equal(found[1][name], level), (instructions, name)
            assert torch.equal(trains[name], recorder.trains[name]), (instructions, name)
    assert found is not None
    return found[1]


def test_a_drive_that_no_grid_holds_is_rounded_before_a_recurrence_decides():
    # The drive is 1 - 2**-46, which is 1 on the neurons' grid.
    model = Recurrent(1, 1, q=4)
    nn.init.constant_(model.rnn.weight_ih_l0, 1 + 2.0**-23)
    nn.init.constant_(model.rnn.weight_hh_l0, 0.3)
    levels = levels_alike(model, torch.full((1, 1, 1), 1 - 2.0**-23))
    assert levels["rnn"].flatten().tolist() == [4]


def test_what_an_initial_state_loses_in_int32_units_is_part_of_the_margin():
    # Drive and initial current are both rounded up by almost half a unit at each of 64 steps, the threshold down.
    q, below = 64, 40027
    threshold = (below + 0.47) * UNIT
    sums = 63 * threshold / q / UNIT - 1e-5  # just below level 63
    drive = below // 2 + 0.515
    initial = sums - drive
    assert 0.5 < initial % 1 < 0.55
    model = Recurrent(1, 1, q, threshold).double()
    weight = 32768 * UNIT / threshold
    nn.init.constant_(model.rnn.weight_ih_l0, 1.0)
    nn.init.constant_(model.rnn.weight_hh_l0, weight)
    x, hx = (torch.full((1, 1, 1), value * UNIT, dtype=torch.float64) for value in (drive, initial / weight))
    assert levels_alike(model, x, hx)["rnn"].flatten().tolist() == [62]


@pytest.mark.parametrize("threshold", [1e-4, 1e-6, 1e-9, 1e-12])
def test_thresholds_that_are_next_to_nothing_beside_the_sums(threshold):
    torch.manual_seed(0)
    acts = casc_core.CQReLU(4), casc_core.CQReLU(4, threshold)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), acts[0], nn.Conv2d(2, 3, 1), acts[1], nn.Flatten(), nn.Linear(3, 2)
    )
    levels_alike(model, torch.randn(5, 1, 1, 1))


@pytest.mark.parametrize(("threshold", "inputs"), [(1e-6, 1000.0), (1e-4, 1.0)])
def test_such_thresholds_in_a_recurrence(threshold, inputs):
    torch.manual_seed(0)
    model = Recurrent(3, 3, 4, threshold)
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(1e5)
    levels_alike(model, torch.randn(5, 4, 3) * inputs)


def dyadic(*shape: int, digits: int, spread: int) -> Tensor:
    """Multiples of 1/8, and beside them some of `2**-27`, as large as may be."""
    near = torch.randint(-spread, spread + 1, shape).double() * 2.0**-27
    return torch.randint(-digits, digits + 1, shape).double() / 8 + near


@pytest.mark.parametrize("spread", [3, 400, 2**12])
@pytest.mark.parametrize("neuron", [casc_core.CIF(), casc_core.IF(), casc_core.CIF(initial_potential=0.5)])
@pytest.mark.parametrize("steps", [None, 9])
def test_trains_are_those_of_a_plain_loop_where_sums_lie_on_thresholds(spread, neuron, steps):
    torch.manual_seed(spread)
    q, thresholds = 4, (1.0, 0.75)
    model = nn.Sequential(
        nn.Conv2d(2, 40, 3, padding=1), casc_core.CQReLU(q, thresholds[0]),
        nn.Conv2d(40, 6, 3, stride=2, groups=2), casc_core.CQReLU(q, thresholds[1]), nn.Flatten(), nn.Linear(24, 2),
    ).double()  # fmt: skip
    for layer in (model[0], model[2]):
        for values in (layer.weight, layer.bias):
            values.data = dyadic(*values.shape, digits=4, spread=spread)
    x = torch.randint(-8, 9, (2, 2, 5, 5)).double() / 8
    snn = casc_core.convert(model.eval(), neuron=neuron)
    for instructions in all_instructions():
        with using(instructions), torch.no_grad():
            recorder = Recorder(keep_trains=True)
            length = snn.simulate_recorded((x,), {}, steps, recorder).T
            # All numbers are on the network's grids, and small enough for float64: this loop rounds nothing.
            first = plain_loop(neuron, [model[0](x)] * min(q, length), thresholds[0], q, length)
            driven = [model[2](spikes * thresholds[0]) for spikes in first]
            undriven = [each - model[2].bias[:, None, None] for each in driven]
            second = plain_loop(neuron, driven[:q] + undriven[q:], thresholds[1], q, length)
        for name, expected in (("1", first), ("3", second)):
            found = recorder.trains[name].double()
            assert torch.equal(found, torch.stack(expected[: len(found)])), (instructions, name)
            assert not any(bool(late.any()) for late in expected[len(found) :])


def plain_loop(neuron: casc_core.IF, currents: list[Tensor], threshold: float, q: int, length: int) -> list[Tensor]:
    """Spikes at each step, by the definitions in the documentation."""
    v = torch.full_like(currents[0], neuron.initial_potential * threshold)
    count, spikes = torch.zeros_like(v), []
    for step in range(length):
        if step < len(currents):
            v = v + currents[step]
        spike = ((v >= threshold) & (count < min(step + 1, q))).double()
        if isinstance(neuron, casc_core.CIF):
            spike = spike - ((v < 0) & (count > 0)).double()
        count, v = count + spike, v - threshold * spike
        spikes.append(spike)
    return spikes


def test_products_of_inputs_of_any_size_are_rounded_as_if_once():
    from fractions import Fraction

    from casc_core.engine.products.exact_sums import exact_product
    from casc_core.numerics import AsTrained

    torch.manual_seed(5)
    x = (torch.randn(3, 40) * 2.0 ** torch.randint(-100, 20, (3, 40))).double()
    x[0, ::2], x[1] = -x[0, 1::2], 1e-45  # sums that cancel; the least number that float32 has
    weight = torch.randn(2, 40).double() * 2.0 ** torch.randint(-60, 20, (2, 40))
    weight[:, ::2] = weight[:, 1::2] * (1 + 2.0**-40)
    found = exact_product(AsTrained(), x, weight, 0, 0, "test")
    for sample in range(3):
        for row in range(2):
            pairs = zip(x[sample].tolist(), weight[row].tolist(), strict=True)
            true = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
            assert math.isclose(float(found[sample, row]), float(true), rel_tol=2.0**-52)


@pytest.mark.parametrize("threshold", [3.0, torch.tensor([3.0, 3.0])])
def test_an_initial_potential_is_not_rounded_to_the_grid_of_coarse_weights(threshold):
    # Whole weights and thresholds: half a threshold is on a finer grid. 1.5 + 1 is below 3, and 2 + 1 is not.
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), casc_core.CQReLU(1), nn.Conv2d(2, 2, 1, bias=False),
        casc_core.CQReLU(1, threshold), nn.Flatten(), nn.Linear(2, 2),
    )  # fmt: skip
    nn.init.ones_(model[0].weight)
    model[2].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None]
    snn = casc_core.convert(model.eval(), neuron=casc_core.CIF(initial_potential=0.5))
    recorder = Recorder(keep_counts=True)
    snn.simulate_recorded((torch.ones(1, 1, 1, 1),), {}, None, recorder)
    assert recorder.counts["3"].flatten().tolist() == [0, 0]
