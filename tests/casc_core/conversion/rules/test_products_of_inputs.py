"""Products of spikes with what follows from the inputs alone: a real-valued input, or a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import agrees, dyadic, network
from torch import nn

import casc_core
from casc_core.engine.ops import Multiply, TimesInput

ROWS = dyadic(4, 6, parts=16, reach=40)


def gate_on_the_input(self, x):
    return self.fc(F.relu(x * torch.sigmoid(self.a(x))))


def gate_at_the_end(self, x):
    return x * torch.sigmoid(self.a(x))


def gate_on_what_is_computed_of_it(self, x):
    return self.fc(F.relu((2 * x[:, :3] - 1) * torch.sigmoid(self.fc(x))) @ self.w)


def input_that_drives_neurons_later(self, x):
    y = F.relu(self.a(x.abs()) * 0 + 0.75) * x
    return self.fc(F.relu(y + self.a(x)))


def two_gates_on_the_input(self, x):
    return self.fc(F.relu(x * torch.sigmoid(self.a(x)) - torch.tanh(self.a(x)) * x))


GATES = [
    gate_on_the_input, gate_at_the_end, gate_on_what_is_computed_of_it, input_that_drives_neurons_later,
    two_gates_on_the_input,
]  # fmt: skip


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("forward", GATES, ids=lambda forward: forward.__name__)
def test_a_gate_on_a_real_valued_input_is_exact(forward, numerics):
    model = network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3), w=dyadic(3, 6))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval(), numerics=numerics)
    assert any(isinstance(op, Multiply) for op in snn.operations())
    for x in (ROWS, 100 * ROWS):
        report = casc_core.verify(snn, x)
        assert report.exact, str(report)
        assert torch.equal(snn(x), snn.reference(x))


def test_inputs_that_are_too_large_for_a_product_are_said_to_be():
    model = network(gate_on_the_input, a=nn.Linear(6, 6), fc=nn.Linear(6, 3))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    with pytest.raises(casc_core.InputError, match=r"(?s)real-valued inputs cause .*Scale the inputs"):
        snn(2.0**20 * ROWS)


def masked_by_a_comparison(self, x):
    return self.fc(F.relu(self.a(x)) * (x > 0.25))


def masked_by_an_input(self, x, mask):
    return self.fc(F.relu(self.a(x)) * mask)


@pytest.mark.parametrize(
    ("forward", "inputs"), [(masked_by_a_comparison, (ROWS,)), (masked_by_an_input, (ROWS, (ROWS > 0).float()))]
)
def test_a_mask_stays_a_mask(forward, inputs):
    snn = agrees(network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3)), *inputs)
    kinds = {type(op) for op in snn.operations()}
    assert TimesInput in kinds
    assert Multiply not in kinds


def test_an_input_that_drives_no_neurons_holds_whole_numbers():
    snn = agrees(network(masked_by_an_input, a=nn.Linear(6, 6), fc=nn.Linear(6, 3)), ROWS, (ROWS > 0).float())
    with pytest.raises(
        casc_core.InputError, match=r"does not hold whole numbers.* let a real-valued input drive neurons"
    ):
        snn(ROWS, ROWS)


def test_a_quotient_by_a_real_valued_input_is_refused():
    model = network(lambda self, x: self.fc(F.relu(self.a(x)) / x), a=nn.Linear(6, 6), fc=nn.Linear(6, 3))
    for call in (casc_core.prepare, casc_core.convert):
        with pytest.raises(casc_core.ConversionError, match=r"truediv\(\) .*divides by a real-valued input; divide by"):
            call(model, q=4)


def least_of_a_window(self, x):
    return self.fc(F.relu(self.a(x)).unflatten(1, (3, 2)).amin(2).repeat(1, 2))


def least_with_its_place_left_out(self, x):
    values, _ = torch.min(F.relu(self.a(x)).unflatten(1, (2, 3)) * 0.5, dim=1, keepdim=True)
    return self.fc(F.relu(0.75 - values.flatten(1)).repeat(1, 2))


def least_of_all_with_biases(self, x):
    return self.fc(F.relu(self.a(x) - 0.5) - torch.stack([self.a(x), -self.a(x)], 1).amin(1))


@pytest.mark.parametrize("forward", [least_of_a_window, least_with_its_place_left_out, least_of_all_with_biases])
def test_a_minimum_is_the_opposite_of_a_maximum(forward):
    agrees(network(forward, a=nn.Linear(6, 6), fc=nn.Linear(6, 3)), ROWS)


@pytest.mark.parametrize("seed", range(4))
def test_what_lies_below_zero_behind_a_product_is_not_lost(seed):
    """The opposite of a product was once rounded to nothing on its way to the neurons of a leaky ReLU."""
    torch.manual_seed(seed)
    model = network(lambda self, x: self.fc(self.act(self.a(x) * torch.sigmoid(self.b(x)))), seed)
    model.a, model.b, model.fc, model.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.LeakyReLU(0.1)
    snn = casc_core.convert(casc_core.prepare(model.eval(), q=3))
    x = 30 * torch.randn(5, 6)
    _, counts = snn.reference_counts((x,), {})
    assert int(counts["act.negative"].sum()) > 0
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
