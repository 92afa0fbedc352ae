"""A network as a NIR graph: what readers make of it, and what NIR cannot say."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import casc_core
from casc_core import (
    CIF,
    IF,
    AsTrained,
    ConfigError,
    Continuous,
    ConversionError,
    CQReLU,
    Exact,
    StorageError,
    WakeSleep,
)
from casc_core.engine.program import Readout, Ref
from casc_core.engine.spiking_run import SpikingRun

nir = pytest.importorskip("nir")

pytestmark = pytest.mark.filterwarnings("ignore")  # what the readers use is theirs
T = 12


class Convolutional(nn.Module):
    def __init__(self, residual=False, pooled=True):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.fc = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(24 if pooled else 6, 5)
        self.acts = nn.ModuleList(CQReLU(4) for _ in range(3))
        self.residual, self.pooled = residual, pooled

    def forward(self, x):
        x = self.acts[0](self.a(x))
        x = self.acts[1](self.b(x) + x if self.residual else self.b(x))
        x = self.acts[2](self.c(nn.functional.avg_pool2d(x, 2)))
        return self.fc(x.flatten(1) if self.pooled else x.mean((2, 3)))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), CQReLU(4), nn.Linear(20, 16), CQReLU(4, 0.5), nn.Linear(16, 3))


NETWORKS = {
    "mlp": (mlp, torch.randn(20, 6, generator=torch.Generator().manual_seed(1)) * 2),
    "convolutions": (Convolutional, torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))),
    "residual": (lambda: Convolutional(residual=True, pooled=False), torch.randn(4, 2, 8, 8)),
}
READ_BY_ALL = ("mlp", "convolutions", "residual")


def integrating(model, numerics=None):
    """The network of IF neurons that gets its input at every step."""
    return casc_core.convert(model.eval(), numerics=numerics or Exact(8)).under(IF(), Continuous())


def spikes_of(snn, x):
    """Spikes `[T, batch, ...]` of each layer, and the logits after each step."""
    (program,) = snn.programs.values()
    steps = [step for step in program.steps if snn.ops[step.op].is_layer]
    layers = replace(program, outputs=tuple(Readout(Ref(step.result), 1.0, 0) for step in steps))
    run = SpikingRun(snn.settings.numerics, snn.settings.neuron, snn.settings.schedule, T, None)
    trains = layers.run(snn.operations(), run, {program.inputs[0]: x}, lambda readout, signal: signal.train)
    found = {}
    for step, train in zip(steps, trains, strict=True):
        found[snn.ops[step.op].settings["name"]] = whole = torch.zeros(T, *train.shape[1:], dtype=torch.float64)
        whole[: len(train)] = train
    return found, snn.simulate(x, T=T).logits


def readout(out, scale):
    """The logits after each step, of what a graph gives at each `[T, batch, classes]`."""
    steps = torch.arange(1, T + 1, dtype=torch.float64).reshape(-1, 1, 1)
    return (out.double().cumsum(0) * scale / steps).float()


def by_hand(graph, current):
    """Spikes of each IF node, its reset soft, and what comes out, of a graph that gets a current at each step."""
    before = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    potential, spikes, given = {}, {name: [] for name in graph.nodes}, []
    for _ in range(T):
        values = {}
        pending = list(graph.nodes)
        while pending:
            name = next(each for each in pending if all(source in values for source in before[each]))
            pending.remove(name)
            node, x = graph.nodes[name], sum(values[source] for source in before[name])
            kind = type(node).__name__
            if kind == "Input":
                x = current
            elif kind == "IF":
                threshold = torch.from_numpy(node.v_threshold)
                v = potential.get(name, 0) + torch.from_numpy(node.r) * x
                x = (v >= threshold).double()
                potential[name] = v - x * threshold
                spikes[name].append(x)
            elif kind == "Affine":
                x = x @ torch.from_numpy(node.weight).T + torch.from_numpy(node.bias)
            elif kind == "Conv2d":
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
                moves = (tuple(map(int, each)) for each in (node.stride, node.padding, node.dilation))
                x = nn.functional.conv2d(x, weight, bias, *moves, int(node.groups))
            elif kind == "SumPool2d":
                x = nn.functional.lp_pool2d(x, 1, tuple(node.kernel_size.tolist()), tuple(node.stride.tolist()))
            elif kind == "Flatten":
                x = x.flatten(1)
            values[name] = x
        given.append(values["output"])
    return {name: torch.stack(each) for name, each in spikes.items() if each}, torch.stack(given)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_says_what_the_network_does(name, tmp_path):
    model, x = NETWORKS[name]
    snn = integrating(model())
    written = snn.export_nir(tmp_path / "net.nir", x)
    spikes, logits = spikes_of(snn, x)
    found, given = by_hand(nir.read(tmp_path / "net.nir"), written.current)
    assert set(written.neurons) == set(spikes)
    for layer, node in written.neurons.items():
        assert torch.equal(found[node], spikes[layer])
        assert spikes[layer].any()
    assert torch.equal(readout(given, written.scale), logits)


def set_sinabs(net):
    from sinabs import layers
    from sinabs.activation import SingleSpike

    for module in net.modules():
        if isinstance(module, layers.IAFSqueeze):
            module.min_v_mem, module.spike_fn = None, SingleSpike


def run_sinabs(graph, current, settings=None):
    from sinabs import layers
    from sinabs.nir import from_nir

    net = from_nir(graph, num_timesteps=T)
    if settings is not None:
        settings(net)
    spikes = {}
    for name, module in net.named_modules():
        if isinstance(module, layers.IAFSqueeze):
            module.register_forward_hook(lambda module, given, out, name=name: spikes.__setitem__(name, out))
    over_time = current.float().unsqueeze(1).expand(-1, T, *current.shape[1:]).flatten(0, 1)
    with torch.no_grad():
        out = net(over_time)

    def by_step(each):
        return each.unflatten(0, (len(current), T)).transpose(0, 1)

    out = out[0] if isinstance(out, tuple) else out
    return {name.rpartition(".")[2]: by_step(each) for name, each in spikes.items()}, by_step(out)


def set_spikingjelly(net):
    from spikingjelly.activation_based import neuron

    for module in net.modules():
        if isinstance(module, neuron.IFNode):
            module.v_reset = None


def run_spikingjelly(graph, current, settings=None):
    from spikingjelly.activation_based import nir_exchange

    net = nir_exchange.import_from_nir(graph, dt=1)
    if settings is not None:
        settings(net)
    spikes = {}
    for name, module in net.named_modules():
        if type(module).__name__ == "_NIRStatefulModule":
            module.register_forward_hook(
                lambda module, given, out, name=name: spikes.setdefault(name, []).append(out[0])
            )
    state, outs = None, []
    with torch.no_grad():
        for _ in range(T):
            out, state = net(current.float(), state)
            outs.append(out)
    return {name: torch.stack(each) for name, each in spikes.items()}, torch.stack(outs)


READERS = {"sinabs": (run_sinabs, set_sinabs), "spikingjelly": (run_spikingjelly, set_spikingjelly)}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", READ_BY_ALL)
def test_readers_give_the_same_spikes_once_they_are_set(name, reader, tmp_path):
    pytest.importorskip(reader)
    pytest.importorskip("nirtorch")
    model, x = NETWORKS[name]
    snn = integrating(model())
    written = snn.export_nir(tmp_path / "net.nir", x)
    ours, logits = spikes_of(snn, x)
    run, settings = READERS[reader]
    spikes, out = run(nir.read(tmp_path / "net.nir"), written.current, settings)
    assert sum(int((spikes[node] != ours[layer]).sum()) for layer, node in written.neurons.items()) == 0
    assert torch.equal(readout(out, written.scale), logits)
    spikes, _ = run(nir.read(tmp_path / "net.nir"), written.current)
    assert sum(int((spikes[node] != ours[layer]).sum()) for layer, node in written.neurons.items()) > 0


def one_neuron():
    one = np.ones(1)
    nodes = {
        "current": nir.Input(input_type={"input": np.array([1])}),
        "neuron": nir.IF(r=one, v_threshold=one, v_reset=0 * one),
        "same": nir.Affine(np.ones((1, 1)), np.zeros(1)),
        "output": nir.Output(output_type={"output": np.array([1])}),
    }
    return nir.NIRGraph(nodes, [("current", "neuron"), ("neuron", "same"), ("same", "output")])


def sinabs_neuron(currents):
    from sinabs.nir import from_nir

    out = from_nir(one_neuron(), num_timesteps=len(currents))(torch.tensor(currents)[:, None])
    return (out[0] if isinstance(out, tuple) else out).flatten().tolist()


def in_steps(net):
    def run(currents):
        state, out = None, []
        for current in currents:
            given, state = net(torch.tensor([[current]]), state)
            out.append(float(given))
        return out

    return run


def spikingjelly_neuron(currents):
    from spikingjelly.activation_based import nir_exchange

    return in_steps(nir_exchange.import_from_nir(one_neuron(), dt=1))(currents)


def norse_neuron(currents):
    import norse.torch

    return in_steps(norse.torch.from_nir(one_neuron()))(currents)


def snntorch_neuron(currents):
    from snntorch.import_nir import import_from_nir

    neuron = import_from_nir(one_neuron()).get_submodule("neuron")
    potential, out = neuron.reset_mem(), []
    for current in currents:
        spike, potential = neuron(torch.tensor([[current]]), potential)
        out.append(float(spike))
    return out


@pytest.mark.parametrize(
    ("reader", "neuron", "at_threshold", "reset", "several", "floor"),
    [
        ("sinabs", sinabs_neuron, [1, 0], [1, 1], [2, 0], [0, 1]),
        ("spikingjelly", spikingjelly_neuron, [1, 0], [1, 0], [1, 0], [0, 0]),
        ("norse", norse_neuron, [0, 0], [1, 0], [1, 0], [0, 0]),
        ("snntorch", snntorch_neuron, [0, 0], [1, 1], [1, 0], [0, 0]),
    ],
)
def test_what_readers_do_as_they_are(reader, neuron, at_threshold, reset, several, floor):
    """The table of docs/nir.md: exactly the threshold; a soft reset keeps 0.5; several spikes at once; a floor at -1."""
    pytest.importorskip(reader)
    pytest.importorskip("nirtorch")
    assert neuron([1.0, 0.0]) == at_threshold
    assert neuron([1.5, 0.75]) == reset
    assert neuron([2.5, 0.0]) == several
    assert neuron([-3.0, 2.5]) == floor


def test_one_of_them_leaks():
    pytest.importorskip("snntorch")
    pytest.importorskip("nirtorch")
    assert snntorch_neuron([0.75, 0.3, 0.0]) == [0, 0, 0]  # 0.9 * 0.75 + 0.3 is below 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda snn: snn.under(CIF(), Continuous()), "no negative spike and no count"),
        (lambda snn: snn.under(IF(), WakeSleep()), "no step without biases"),
    ],
)
def test_neurons_and_schedules_that_nir_has_not(change, why, tmp_path):
    snn = change(integrating(mlp()))
    with pytest.raises(ConversionError, match=f"cannot be written as NIR: .*{why}"):
        snn.export_nir(tmp_path / "net.nir", torch.randn(2, 6))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "x", "why"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(12, 2)),
            torch.randn(2, 2, 8, 8),
            "MaxPool '2' .*NIR has no such operation",
        ),
        (
            nn.Sequential(nn.Linear(4, 4), CQReLU(4, half_step=True), nn.Linear(4, 2)),
            torch.randn(2, 4),
            "Fire '1' .*begin with a potential",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Flatten(),
                          nn.Linear(27, 2)),
            torch.randn(2, 2, 8, 8),
            "unequal numbers of entries",
        ),
        (
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Unflatten(1, (2, 2)), nn.Linear(2, 2), nn.Flatten()),
            torch.randn(2, 4),
            "Layout 'Tensor.unflatten' .*flattening alone",
        ),
    ],
)  # fmt: skip
def test_operations_that_nir_has_not(model, x, why, tmp_path):
    snn = integrating(casc_core.prepare(model, q=4))
    with pytest.raises(ConversionError, match=why):
        snn.export_nir(tmp_path / "net.nir", x)


def test_quotients_by_a_size_are_rounded_as_trained_alone(tmp_path):
    class Quotient(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.act = nn.ModuleList(CQReLU(4) for _ in range(2))

        def forward(self, x):
            x = self.act[0](self.a(x))
            return self.c(self.act[1](self.b(x) / x.shape[1]))

    x = 2 * torch.randn(4, 6)
    with pytest.raises(ConversionError, match=r"Bin cannot be written as NIR: maps in a row.*Exact\(8\)"):
        integrating(Quotient(), AsTrained()).export_nir(tmp_path / "net.nir", x)
    snn = integrating(Quotient())
    written = snn.export_nir(tmp_path / "net.nir", x)
    _, given = by_hand(nir.read(tmp_path / "net.nir"), written.current)
    assert torch.equal(readout(given, written.scale), snn.simulate(x, T=T).logits)


def test_real_valued_input_behind_the_first_layer(tmp_path):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
            self.act = nn.ModuleList(CQReLU(4) for _ in range(2))

        def forward(self, x):
            return self.c(self.act[1](self.b(self.act[0](self.a(x))) + x))

    with pytest.raises(ConversionError, match="real-valued input meets spikes behind the first layer"):
        integrating(Skip()).export_nir(tmp_path / "net.nir", torch.randn(2, 4))


def test_without_nir_and_without_a_place(tmp_path, monkeypatch):
    snn = integrating(mlp())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot write"):
        snn.export_nir(tmp_path / "file" / "net.nir", torch.randn(2, 6))
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ConfigError, match=r'pip install "casc\[nir\]"'):
        snn.export_nir(tmp_path / "net.nir", torch.randn(2, 6))
