"""Functions of levels: tables, whose entries are those of torch's own function in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from dyadic import ROWS, agrees, network
from engines import ENGINES, engine
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import ConversionError, Exact
from casc_core.engine.ops import LevelTable

# What is written, and the same of one number.
FUNCTIONS = {
    "exp": (torch.exp, math.exp),
    "expm1": (lambda x: x.expm1(), math.expm1),
    "root": (lambda x: (x.abs() + 0.1).sqrt(), lambda x: math.sqrt(abs(x) + 0.1)),
    "cube": (lambda x: x**3, lambda x: x**3),
    "power of two": (lambda x: 2**x, lambda x: 2**x),
    "reciprocal": (lambda x: 1 / (1 + x.abs()), lambda x: 1 / (1 + abs(x))),
    "sine": (lambda x: (3 * x).sin(), lambda x: math.sin(3 * x)),
    "GELU": (F.gelu, lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
    "softplus": (nn.Softplus(), lambda x: math.log1p(math.exp(x))),
    "floor": (lambda x: torch.floor(2 * x - 0.1), lambda x: math.floor(2 * x - 0.1)),
    "quotient": (lambda x: x // 0.4, lambda x: x // 0.4),
    "remainder": (lambda x: x % 0.375, lambda x: x % 0.375),
    "compared": (lambda x: (x > 0.3).float(), lambda x: float(x > 0.3)),
    "opposite": (lambda x: ~(x > torch.tensor([0.3])) * 1.0, lambda x: float(x <= 0.3)),
    "chosen": (lambda x: torch.where(x > 0.25, x, 0.5 * x - 1), lambda x: x if x > 0.25 else 0.5 * x - 1),
    "filled": (lambda x: x.masked_fill(x <= 0.25, 0), lambda x: x if x > 0.25 else 0),
    "larger": (lambda x: torch.maximum(x, torch.tensor(0.25)), lambda x: max(x, 0.25)),
    "whole": (
        lambda x: (3 * x).int().float() + (3 * x).to(torch.int64) + (x != 0.5).sum(1, keepdim=True) * 0,
        lambda x: 2 * int(3 * x),
    ),
    "one of another": (lambda x: torch.sin(x.exp() + 0.25), lambda x: math.sin(math.exp(x) + 0.25)),
    "in halves": (lambda x: torch.cat([half.exp() for half in x.chunk(2, 1)], 1), math.exp),
    "rearranged": (lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).cos().mT.flatten(1), math.cos),
}
ACTIVATIONS = {"ReLU": nn.ReLU(), "tanh": nn.Tanh(), "hard tanh": nn.Hardtanh(-1.0, 2.5)}


class Tabulated(nn.Module):
    """A function of an activation, on its way to neurons."""

    def __init__(self, function, activation):
        super().__init__()
        self.a, self.act, self.b, self.c = nn.Linear(5, 8), activation, nn.Linear(8, 8), nn.Linear(8, 3)
        self.function, self.relu = function, nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(self.b(self.function(self.act(self.a(x))))))


@settings(max_examples=10)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)), activation=st.sampled_from(sorted(ACTIVATIONS)), q=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_neurons_get_the_function_of_the_levels(name, activation, q, seed):
    """By Python's own functions, summed in rationals."""
    function, of_one = FUNCTIONS[name]
    torch.manual_seed(seed)
    ann = casc_core.prepare(Tabulated(function, ACTIVATIONS[activation]), q=q).eval()
    snn, x = casc_core.convert(ann), 3 * torch.randn(3, 5)
    logits, counts = snn.reference_counts((x,), {})
    theta = float(ann.act.threshold)
    for sample in range(len(x)):
        values = [Fraction(of_one(level * theta / q)) for level in counts["act"][sample].tolist()]
        for row, bias, level in zip(ann.b.weight.tolist(), ann.b.bias.tolist(), counts["relu"][sample], strict=True):
            exact = q * (sum(map(lambda w, v: Fraction(w) * v, row, values), Fraction()) + Fraction(bias))
            expected = min(max(math.floor(exact), 0), q)
            assert expected == int(level) or abs(exact - max(expected, int(level))) < Fraction(1, 10**8)
    assert torch.equal(snn(x), logits)
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)


@pytest.mark.parametrize(("activation", "numerics"), [("hard tanh", "as trained"), ("tanh", "exact")])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_are_exact(name, activation, numerics):
    torch.manual_seed(1)
    model, x = Tabulated(FUNCTIONS[name][0], ACTIVATIONS[activation]), 2 * torch.randn(20, 5)
    snn = casc_core.convert(casc_core.prepare(model, q=6).eval(), numerics=numerics)
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
    assert report.lowering.ties == 0
    assert torch.equal(snn(x), torch.cat([snn(row[None]) for row in x]))


def test_engines_and_files(tmp_path):
    model = Tabulated(lambda x: x * F.gelu(x - 0.25), nn.Hardtanh(-1.5, 3.0))
    snn, x = casc_core.convert(casc_core.prepare(model, q=5).eval()), torch.randn(7, 5)
    found = snn(x)
    for choice in ENGINES:
        with engine(choice):
            assert torch.equal(snn(x), found)
            assert torch.equal(snn.reference(x), found)
    snn.save(tmp_path / "saved")
    assert torch.equal(casc_core.load(tmp_path / "saved")(x), found)
    assert torch.equal(snn.simulate(x).logits[-1], found)


WHOLE = {
    "absolute": lambda x: x.abs(),
    "clipped above": lambda x: x.clamp(max=0.5),
    "clipped by other names": lambda x: x.clip(max=1.25) - x.clamp_max(0.25),
    "shrunk": lambda x: F.hardshrink(x, 0.4),
    "relu by hand": lambda x: (x + x.abs()) * 0.5,
    "rounded": lambda x: (2 * x).trunc() / 2,
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_gives_levels_again_is_rounded_nowhere(name):
    """The network itself, whose weights are dyadic, in float64: bit for bit."""

    def forward(self, x):
        return self.b(F.relu(self.c(WHOLE[name](self.act(self.a(x))))))

    layers = {"a": nn.Linear(5, 6), "c": nn.Linear(6, 6), "b": nn.Linear(6, 3)}
    snn = agrees(network(forward, act=nn.Hardtanh(-1, 2), **layers), ROWS, q=8, spikes=False)
    tables = [op for op in snn.operations() if isinstance(op, LevelTable)]
    assert tables
    assert all(op.settings["exponent"] == 0 for op in tables)


def test_a_gate_of_exponentials_and_what_is_padded():
    def forward(self, x):
        x = F.relu(self.a(x))
        gates = F.pad(x, (0, 2)).exp() * F.pad(x.cos(), (1, 1))
        return self.b(F.relu(self.c(gates - 0.5)))

    torch.manual_seed(0)
    model = network(forward, a=nn.Linear(5, 6), c=nn.Linear(8, 6), b=nn.Linear(6, 3))
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    report = casc_core.verify(snn, ROWS)
    assert report.exact, str(report)
    with torch.no_grad():
        expected = snn.ann.double()(ROWS.double())
    torch.testing.assert_close(snn(ROWS).double(), expected, rtol=1e-6, atol=1e-6)


def of_currents(x, act):
    return act(x.exp())


def of_a_sum(x, act):
    return (act(x) + act(-x).sin() * 0.5).sqrt()


def not_finite(x, act):
    return act(x).log()


def divided_by_zero(x, act):
    return 1 / act(x)


def padded_beyond_one(x, act):
    return F.pad(act(x) + 1, (0, 0, 0, 1)).log()


def by_entry(x, act):
    return act(x) ** torch.arange(6)


def smooth_on_currents(x, act):
    return act(F.gelu(x))


REFUSED = {
    of_currents: r"exp\(\) .*exponentials do not travel as spikes; return the logits",
    of_a_sum: r"sqrt\(\) .*Or quantise before it: of levels it is exact: put nn\.ReLU\(\) or nn\.Hardtanh\(-3, 3\)",
    not_finite: r"log\(\) .*of 0, which is a level of what it reads, it gives -inf; .*Add a small number",
    divided_by_zero: r"truediv\(\) .*of 0, which is a level of what it reads, it gives inf",
    padded_beyond_one: r"log\(\) .*exponentials do not travel",
    by_entry: r"powers but the second, third and fourth are exact of levels.*quantise before, by nn\.ReLU or nn\.Hardtanh",
    smooth_on_currents: r"gelu\(\) .*replace it by nn\.ReLU, or by nn\.SiLU.*Or quantise before it",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_what_stays_refused_says_what_to_do(function):
    model = network(
        lambda self, x: self.b(function(self.a(x), self.act)), a=nn.Linear(5, 6), b=nn.Linear(6, 3), act=nn.ReLU()
    )
    with pytest.raises(casc_core.ConversionError, match=REFUSED[function]):
        casc_core.prepare(model, q=4)


def test_thresholds_of_each_channel_have_no_table():
    model = nn.Sequential(nn.Linear(5, 6), casc_core.CQReLU(4, torch.rand(6) + 0.5), nn.GELU(), nn.Linear(6, 3))
    with pytest.raises(casc_core.ConversionError, match=r"module '2': GELU .*Or quantise before it"):
        casc_core.convert(model.eval())


def test_levels_are_those_of_the_trained_network():
    snn = casc_core.convert(casc_core.prepare(Tabulated(torch.exp, nn.ReLU()), q=4).eval(), numerics=Exact())
    with pytest.raises(casc_core.ConfigError, match="is for the q=4 levels"):
        snn.under(schedule=casc_core.Continuous())


@pytest.mark.parametrize("tensors", [{"table": torch.tensor([1.0, 2.0])}, {"table": torch.zeros(2), "lowest": -2}])
def test_what_is_no_table(tensors):
    with pytest.raises(casc_core.ConfigError, match="'table' must"):
        LevelTable(**{"lowest": 0, "exponent": 0, **tensors})


SUMS_OF_MASKS = {
    "two": lambda x: (x > 0.25) + (x > 0.5),
    "moved": lambda x: (x > 0.25).flip(1) + torch.cat([(x > 0.5)[:, :4], (x > 0.75)[:, 4:]], 1),
    "a mask of the parameters": lambda x: (x > 0.25) + torch.tensor([True, False] * 4),
    "a truth value": lambda x: (x > 0.25) + True,
    "a mask of the inputs": lambda x: (x > 0.25) + (x.detach() > 0.5),
    "products": lambda x: (x > 0.25) * (x < 0.75) + (x > 0.5),
    "both": lambda x: ((x > 0.25) & (x < 0.75)) + (x > 0.5),
    "either": lambda x: ((x < 0.25) | (x > 0.75)) + (x > 0.5),
    "the opposite": lambda x: ~(x > 0.25) + (x > 0.5),
    "choices": lambda x: torch.where(x > 0.5, x > 0.25, x < 0.75) + (x > 0.5),
}


@pytest.mark.parametrize("mask", SUMS_OF_MASKS)
def test_a_sum_of_masks_is_no_sum(mask):
    with pytest.raises(ConversionError, match=r"of two masks it is a logical or(.*\n)*.*test_by_level\.py"):
        casc_core.prepare(Tabulated(lambda x: x * SUMS_OF_MASKS[mask](x), nn.ReLU()), q=4)


def test_masks_cast_to_numbers_have_a_sum():
    def counted(x):
        both, either = (x > 0.25) & (x.flip(1) < 0.75), (x < 0.25) | (x > 0.75)
        return both.float() + either.to(x) + torch.where(x > 0.5, both, either).to(torch.float32) + 1

    model = Tabulated(counted, nn.ReLU())
    ann, x = casc_core.prepare(model, q=8).eval(), 2 * torch.randn(20, 5)
    snn = casc_core.convert(ann)
    assert casc_core.verify(snn, x).exact
    torch.testing.assert_close(snn(x).double(), ann.double()(x.double()), rtol=0, atol=1e-6)


REFUSED_MASKS = {
    "of two tensors": (lambda x: x * (x > x.flip(1)), r"gt\(\).*torch\.relu\(x\) > 0\.5"),
    "of a sum": (lambda x: torch.where(x.cumsum(1) > 1, x, 0), "cumsum"),
    "a constant": (lambda x: x * ((x > 0.5) * torch.tensor([True, False] * 4)), r"mul\(\).*cast one to numbers"),
    "of numbers": (lambda x: x * ((x > 0.5) & x.int()), r"and_\(\).*no comparison"),
    "no mask of levels": (lambda x: x * ~((x > 0.5) & (x < 0.75)), r"invert\(\).*no comparison"),
    "no comparison": (lambda x: x * ~x.int(), r"invert\(\).*no comparison"),
    "a spiking tensor": (lambda x: torch.where(x, x, 0), r"where\(\).*no comparison"),
}


@pytest.mark.parametrize("mask", REFUSED_MASKS)
def test_other_masks_are_refused(mask):
    function, why = REFUSED_MASKS[mask]
    with pytest.raises(ConversionError, match=why):
        casc_core.prepare(Tabulated(function, nn.ReLU()), q=4)


def test_a_comparison_is_no_output():
    class Compared(Tabulated):
        def forward(self, x):
            return (self.act(self.a(x)) > 0.5).flatten(1)

    with pytest.raises(ConversionError, match=r"returns a comparison.*compare the converted network's output"):
        casc_core.prepare(Compared(None, nn.ReLU()), q=4)
