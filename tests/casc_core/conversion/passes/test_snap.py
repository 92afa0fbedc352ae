"""The third and fourth pass: every map is put on its grid once, and what is called becomes a program."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from user_cnns import settled

import casc_core
from casc_core import CQReLU, Exact
from casc_core.conversion.graph import ConvolutionMap, MapNode, TableLookup, maps
from casc_core.conversion.grids import Form, Stretch
from casc_core.conversion.passes import OpPool, emit, fold, snap
from casc_core.conversion.snapping import snapped_map
from casc_core.engine.ops import Convolution, Linear
from casc_core.engine.program import Ref, substitute
from casc_core.engine.saved import write
from casc_core.numerics import Unrounded


def convolutions():
    """Convolutions and normalisations before and behind neurons, and a shortcut."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
            self.one, self.two, self.three = (nn.BatchNorm2d(4) for _ in range(3))
            self.act, self.fc = CQReLU(4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.act(self.one(self.a(x)))
            x = self.act(self.two(self.b(x)) + self.c(self.three(x)))
            return self.fc(x.mean((2, 3)))

    return settled(Block())


@pytest.fixture
def counted(monkeypatch):
    """The number of maps that have been put on a grid."""
    count = [0]

    def counting(*args, snapped=maps.snapped_map, **kwargs):
        count[0] += 1
        return snapped(*args, **kwargs)

    monkeypatch.setattr(maps, "snapped_map", counting)
    return count


def test_each_map_is_snapped_once(read, counted):
    graph = fold(read(convolutions()))
    snap(graph, Exact(), 2)
    assert counted[0] == sum(isinstance(node, MapNode) for node in graph.nodes) == 4
    counted[0] = 0
    casc_core.convert(convolutions(), adapter="cnn")
    assert counted[0] == 4


def test_maps_of_one_table_are_snapped_once_for_each_that_is_read(read, counted):
    model = nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 4), nn.Linear(4, 5), CQReLU(2))
    graph = fold(read(model))
    snap(graph, Exact(), 2)
    assert [len(node.maps) for node in graph.nodes if isinstance(node, TableLookup)] == [2]
    assert counted[0] == 2


class Weighed(nn.Module):
    """Spikes beside the same spikes times numbers, then a map that gives the logits."""

    def __init__(self, factor):
        super().__init__()
        self.a, self.act, self.out = nn.Linear(5, 4), CQReLU(4), nn.Linear(4, 3)
        self.register_buffer("factor", factor)

    def forward(self, x):
        x = self.act(self.a(x))
        return self.out(x + x * torch.relu(self.factor))


@pytest.mark.parametrize("factor", [torch.tensor([-1.0]), torch.tensor(2.0**-36), torch.tensor([0.0, 0.3, 1e-9, 0.0])])
def test_a_map_keeps_its_weights_whatever_grid_arrives(factor):
    model, x = settled(Weighed(factor)), torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    report = casc_core.verify(snn := casc_core.convert(model), x)
    assert report.exact, str(report)
    torch.testing.assert_close(snn(x).double(), model.double()(x.double()), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("arriving", [0, -10, -30, -40])
def test_weights_that_a_grid_would_lose_are_kept_and_the_product_is_rounded(arriving):
    weight, numerics = torch.tensor([[0.3, -0.7], [0.1, 0.2]], dtype=torch.float64), Stretch(-40)
    on = snapped_map(numerics, Form(exponent=arriving), weight, weight, None)
    assert on.rounds == (arriving <= -30)
    torch.testing.assert_close(on.weight, weight, rtol=0, atol=2.0**-20)
    assert on.form.exponent >= -40


def test_without_grids_the_weights_are_those_that_were_folded(read):
    """Spikes of four levels have a threshold of 1, so that nothing but the fold is in the weights."""
    graph = fold(read(convolutions()))
    called = [call.op for call in snap(graph, Unrounded(), 4).calls if isinstance(call.op, Convolution)]
    folded = [node for node in graph.nodes if isinstance(node, ConvolutionMap)]
    assert [op.settings["name"] for op in called] == [node.name for node in folded] == ["a", "b", "c"]
    for op, node in zip(called, folded, strict=True):
        met = op.fine if op.weight is None else op.weight
        assert torch.equal(met.double(), node.weight if node.spiking is None else node.spiking)


def test_a_program_names_what_it_calls_in_order_and_shares_what_is_equal(read):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), CQReLU(4)

        def forward(self, x):
            self.fc(x.abs())  # nothing reads it
            return self.fc(self.act(x)) + self.fc(self.act(x * 2))

    pool = OpPool()
    program = emit(snap(fold(read(Twice())), Exact(), 4), pool)
    assert [step.result for step in program.steps] == [f"%{index}" for index in range(len(program.steps))]
    linear = [step.op for step in program.steps if isinstance(pool.ops[step.op], Linear)]
    assert len(linear) == 2
    assert len(set(linear)) == 1
    assert {step.op for step in program.steps} == set(range(len(pool.ops)))


def spread(program):
    """The same program with other names."""
    names = {step.result: Ref(f"%{3 * index + 7}") for index, step in enumerate(program.steps)}
    names |= {name: Ref(name) for name in program.inputs}
    steps = []
    for step in program.steps:
        args, kwargs = substitute((step.args, dict(step.kwargs)), names)
        steps.append(replace(step, args=args, kwargs=kwargs, result=names[step.result].name))
    outputs = tuple(replace(output, ref=names[output.ref.name]) for output in program.outputs)
    return replace(program, steps=tuple(steps), outputs=outputs)


def test_a_network_with_other_names_and_numbers_is_the_same_one(tmp_path):
    """As an earlier version saved it."""
    model = convolutions()
    snn = casc_core.convert(model, adapter="cnn")
    network = snn.network
    last = len(network.ops) - 1
    turned = {index: last - index for index in range(last + 1)}
    programs = {key: spread(program.renumbered(turned)) for key, program in network.programs.items()}
    write(network._replace(ops=network.ops[::-1], programs=programs), tmp_path / "network")
    loaded = casc_core.load(tmp_path / "network", model=model)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), snn(x))
    with torch.no_grad():
        model.fc.weight[0, 0] += 1
    with pytest.raises(casc_core.StorageError, match="was converted from another network"):
        casc_core.load(tmp_path / "network", model=model)


FORWARD = """
def forward(self, x):
    activation = self.act or relu
    if x.shape[-1] < 3:
        x = x * 2
    a, b = activation(self.fc(x)).chunk(2, -1)
    return a - b
"""


@pytest.mark.parametrize("traced", [False, True])
def test_a_network_is_the_same_one_wherever_the_users_code_stands(tmp_path, traced):
    def model(lines):
        inside = {"relu": torch.relu}
        exec(compile("\n" * lines + FORWARD, f"{tmp_path}/model{lines}.py", "exec"), inside)
        torch.manual_seed(0)
        own = type("Model", (nn.Module,), {"forward": inside["forward"]})()
        own.fc, own.act = nn.Linear(4, 6), None if traced else CQReLU(4)
        return casc_core.prepare(own, "cnn", q=4) if traced else own

    snn = casc_core.convert(model(0), "cnn")
    snn.save(tmp_path / "network")
    assert casc_core.verify(casc_core.load(tmp_path / "network", model=model(9)), torch.randn(3, 4)).exact
    with pytest.raises(casc_core.InputError, match=r"model0\.py:4") as refused:
        snn(torch.randn(3, 2))
    assert "other sizes" in str(refused.value)
