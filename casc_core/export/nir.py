"""A converted network as a NIR graph (Pedersen et al. 2024, "Neuromorphic intermediate representation").

NIR has integrate-and-fire neurons, linear maps, sums over windows and flattening. It has no soft reset, no negative spike,
no count of spikes and no initial potential: what a network of `IF()` neurons under `Continuous()` does can be said, and
what consistent neurons do cannot. The graph begins at the current of the first layer, which flows at each step.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.guards.isolation import undisturbed
from casc_core.engine.level_run import LevelRun
from casc_core.engine.network import Network
from casc_core.engine.ops import (
    Add,
    AveragePool,
    Convolution,
    DividedByInput,
    Fire,
    Layout,
    Linear,
    Op,
    RequireFeatures,
    Sum,
    by_channel,
    dims_of,
)
from casc_core.engine.program import Program, Readout, Ref, refs, substitute
from casc_core.engine.signal import Signal
from casc_core.errors import ConfigError, ConversionError
from casc_core.neuron import IF
from casc_core.reporting.summaries import Summarised
from casc_core.schedule import Continuous

INPUT, OUTPUT = "current", "output"
_NEURON = "NIR's neurons have no negative spike and no count of their spikes"
_SCHEDULE = "a NIR graph gets the same input at every step, and has no step without biases"
_FLATTENING = ("flatten", "view", "reshape")


@dataclass(frozen=True, repr=False)
class WrittenNir(Summarised):
    """What belongs to a NIR graph that has been written.

    Attributes:
        current: `[batch, *shape]` float64, the current of the first layer for the given inputs: what the graph is given at
            each step.
        scale: the logits after T steps are the sum of what the graph has given, times this, over T.
        neurons: the name of each layer's node in the graph.
    """

    current: Tensor
    scale: float
    neurons: Mapping[str, str]


class _Source(NamedTuple):
    """What comes of spikes: the sum of what some nodes of the graph give, over a divisor."""

    nodes: tuple[str, ...]
    divisor: float


def write_nir(network: Network, program: Program, inputs: Mapping[str, Tensor]) -> tuple[bytes, WrittenNir]:
    """A network as the bytes of a NIR file.

    Args:
        inputs: of the network, by name; no number of them is in the file.

    Raises:
        ConfigError: the package nir is not installed.
        ConversionError: NIR cannot say what the network does; the message names it, and why.
    """
    nir, settings = _nir(), network.settings
    wrong = None
    if type(settings.neuron) is not IF or settings.neuron.initial_potential:
        wrong = _NEURON
    elif not isinstance(settings.schedule, Continuous):
        wrong = _SCHEDULE
    if wrong is not None:
        raise ConversionError(
            f"{settings.neuron} under {settings.schedule} cannot be written as NIR: {wrong}. It can be under "
            "casc_core.IF() and casc_core.Continuous(), which are not exact: snn.under(...)"
        )
    (output,) = program.outputs if len(program.outputs) == 1 else (None,)
    if not isinstance(output, Readout):
        raise ConversionError("a network of several outputs cannot be written as NIR: a graph of one is")
    return _Writer(nir, network, program, inputs).written(output)


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ConfigError('NIR graphs are written with the package nir: pip install "casc[nir]"') from error
    return nir


def _refused(op: Op, why: str) -> ConversionError:
    name = op.settings.get("name") or op.settings.get("function")
    called = f"{op.kind} {name!r}" if name else op.kind
    return ConversionError(f"{called} cannot be written as NIR: {why}")


class _Writer:
    """Writes the nodes and edges of a graph, step by step."""

    def __init__(self, nir: Any, network: Network, program: Program, inputs: Mapping[str, Tensor]) -> None:
        self.nir, self.network, self.program = nir, network, program
        self.run = LevelRun(network.settings.numerics, network.settings.levels)
        self.values = self._evaluated(inputs)
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.neurons: dict[str, str] = {}
        self.biased: dict[str, Tensor] = {}
        self.current: Tensor | None = None

    def _evaluated(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The value of every step in levels: shapes, and what flows into the first layer."""
        steps = self.program.steps
        every = replace(self.program, outputs=tuple(Readout(Ref(step.result), 1.0, 0) for step in steps))
        found = undisturbed(lambda: every.run(self.network.ops, self.run, inputs, lambda readout, value: value))
        return {step.result: value for step, value in zip(steps, found, strict=True)}

    def written(self, output: Readout) -> tuple[bytes, WrittenNir]:
        sources: dict[str, _Source] = {}
        for step in self.program.steps:
            op = self.network.ops[step.op]
            read = refs((step.args, dict(step.kwargs)))
            if not (read & sources.keys()):
                if op.is_layer:
                    sources[step.result] = self._first(op, step.result, *read)
                continue
            for name in read - sources.keys():
                if isinstance(self.values.get(name), Signal):
                    raise _refused(op, "real-valued input meets spikes behind the first layer")
            rule = _RULES.get(type(op))
            if rule is None:
                raise _refused(op, "NIR has no such operation")
            args, kwargs = substitute((step.args, dict(step.kwargs)), {**self.values, **sources})
            before = next(self.values[name] for name in read if name in sources)
            sources[step.result] = rule(self, op, before, self.values[step.result], *args, **kwargs)
        if output.ref.name not in sources or self.current is None:
            raise ConversionError("a network without a spiking layer cannot be written as NIR")
        source, signal = sources[output.ref.name], self.values[output.ref.name]
        self._flow(self.network.ops[self.program.steps[-1].op], signal.drive, source)
        self._add(OUTPUT, self.nir.Output(output_type={"output": np.array(signal.shape[1:])}), source.nodes)
        scale = output.scale / source.divisor
        return self._file(), WrittenNir(self.current, scale, self.neurons)

    def _file(self) -> bytes:
        graph = self.nir.NIRGraph(nodes=self.nodes, edges=self.edges, type_check=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.nir"
            self.nir.write(path, graph)
            return path.read_bytes()

    def _first(self, op: Op, result: str, *read: str) -> _Source:
        """The first layer, whose current is the input of the graph."""
        if not isinstance(op, Fire) or self.current is not None:
            raise _refused(op, "it begins at one layer of neurons, whose current the inputs decide; this is another")
        (signal,) = (self.values[name] for name in read)
        current = self._received(op, signal)
        divisor = signal.divisor
        if current is None or signal.steps or (divisor is not None and divisor.dim()):
            raise _refused(op, "its current is not what the inputs alone decide")
        self.current = current.clone()
        self._add(INPUT, self.nir.Input(input_type={"input": np.array(signal.shape[1:])}), ())
        return self._neurons(op, signal.shape, _Source((INPUT,), 1.0 if divisor is None else float(divisor)))

    def _received(self, op: Fire, signal: Signal) -> Tensor | None:
        """What neurons receive at each step besides what comes of spikes."""
        if op.bias is not None:
            drive = signal.constant(op.bias)
            signal = replace(signal, lazy_drive=drive if signal.drive is None else signal.drive + drive)
        return signal.drive_on_grid(self.network.settings.numerics, op.settings["exponent"])

    def _neurons(self, op: Fire, shape: torch.Size, source: _Source) -> _Source:
        """A population; its thresholds are multiplied by what its current is yet to be divided by."""
        if op.charge is not None:
            raise _refused(
                op, "its neurons begin with a potential, which NIR's cannot (a half step, or a threshold's share)"
            )
        threshold = torch.tensor(op.settings["threshold"], dtype=torch.float64)
        if op.thresholds is not None:
            threshold = (
                by_channel(op.thresholds.double(), shape).squeeze(0) if len(shape) > 2 else op.thresholds.double()
            )
        values = (threshold * source.divisor).expand(shape[1:]).contiguous()
        node = self.nir.IF(r=np.ones(values.shape), v_threshold=values.cpu().numpy(), v_reset=np.zeros(values.shape))
        name = self._add(op.settings["name"], node, source.nodes)
        self.neurons[op.settings["name"]] = name
        return _Source((name,), 1.0)

    def _add(self, name: str, node: Any, sources: Sequence[str]) -> str:
        """The name of a new node that reads these."""
        plain = re.sub(r"\W", "_", name)
        plain = plain if plain.isidentifier() else f"layer_{plain}"
        count, unique = 1, plain
        while unique in self.nodes:
            count += 1
            unique = f"{plain}_{count}"
        self.nodes[unique] = node
        self.edges += [(each, unique) for each in sources]
        return unique

    # Operations.

    def fire(self, op: Fire, before: Signal, result: Signal, source: _Source) -> _Source:
        self._flow(op, self._received(op, before), source)
        return self._neurons(op, before.shape, source)

    def linear(self, op: Linear, before: Signal, result: Signal, source: _Source) -> _Source:
        if len(before.shape) != 2:
            raise _refused(op, f"an affine node reads features [batch, features]; this one reads {list(before.shape)}")
        weight, bias = self._affine(op)
        return source._replace(nodes=(self._add(op.settings["name"], self.nir.Affine(weight, bias), source.nodes),))

    def convolution(self, op: Convolution, before: Signal, result: Signal, source: _Source) -> _Source:
        given, dims = op.settings, op.settings["dims"]
        around = [given["padding"][2 * at : 2 * at + 2] for at in (0, 1)][-dims:]
        if any(low != high or low < 0 for low, high in around) or op.is_spread:
            raise _refused(op, "a convolution pads alike before and after, and does not spread its input")
        weight, bias = self._affine(op)
        stride, dilation, padding = (
            tuple(each[-dims:]) for each in (given["stride"], given["dilation"], [low for low, _ in around])
        )
        if dims == 1:
            node = self.nir.Conv1d(
                int(before.shape[2]), weight.squeeze(2), stride[0], padding[0], dilation[0], given["groups"], bias
            )
        else:
            size = tuple(map(int, before.shape[2:]))
            node = self.nir.Conv2d(size, weight, stride, padding, dilation, given["groups"], bias)
        return source._replace(nodes=(self._add(given["name"], node, source.nodes),))

    def _affine(self, op: Linear | Convolution) -> tuple[Any, Any]:
        """Weights, and biases of zero: what flows at each step is put in where it is received."""
        if op.settings["rounds"] or op.weight is None:
            raise _refused(op, "it rounds what it reads, which is no spikes")
        return op.weight.double().cpu().numpy(), np.zeros(op.outputs)

    def _flow(self, op: Op, drive: Tensor | None, source: _Source) -> None:
        """Let this flow at each step, `[batch, *shape]`: as the biases of a map among the nodes."""
        if drive is None or not drive.any():
            return
        one = drive[0]
        by_channel = one.flatten(1)[:, 0] if one.dim() > 1 else one
        uniform = bool((one == by_channel.reshape([-1, *[1] * (one.dim() - 1)])).all())
        node = next((each for each in source.nodes if hasattr(self.nodes[each], "bias")), None)
        if node is None or not uniform or (node in self.biased and not torch.equal(self.biased[node], by_channel)):
            raise _refused(op, "its biases are not those of one linear map just before it")
        self.biased[node] = by_channel
        self.nodes[node].bias = by_channel.double().cpu().numpy().copy()

    def average(self, op: AveragePool, before: Signal, result: Signal, source: _Source) -> _Source:
        given, counts = op.settings, op.counts(tuple(before.shape[2:]))
        floored = [
            (size + 2 * window.padding - window.kernel) // window.stride + 1
            for size, window in zip(before.shape[2:], op.windows, strict=True)
        ]
        if op.dims != 2 or given["grids"] is not None or floored != list(result.shape[2:]):
            raise _refused(op, "a sum pool slides over two dimensions, with whole windows")
        if op.divides and len(counts.unique()) > 1:
            raise _refused(op, "its windows hold unequal numbers of entries")
        divisor = source.divisor * (float(counts.flatten()[0]) if op.divides else 1.0)
        return _Source(
            (self._pool(given["name"], given["kernel"], given["stride"], given["padding"], source),), divisor
        )

    def _pool(
        self, name: str, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], source: _Source
    ) -> str:
        sizes = (np.array(each) for each in (kernel, stride, padding))
        return self._add(name, self.nir.SumPool2d(*sizes), source.nodes)

    def total(
        self, op: Sum, before: Signal, result: Signal, source: _Source, dim: Any = None, keepdim: bool = False
    ) -> _Source:
        plane = list(map(int, before.shape[2:]))
        if sorted(dims_of(before.shape, dim)) != [-2, -1] or len(before.shape) != 4 or op.settings["grids"] is not None:
            raise _refused(op, "a sum over anything but height and width has no node")
        divisor = source.divisor * (math.prod(plane) if op.settings["mean"] else 1)
        pooled = _Source((self._pool("sum", plane, plane, [0, 0], source),), float(divisor))
        return pooled if keepdim else self._flattened([before.shape[1], 1, 1], pooled)

    def _flattened(self, shape: Sequence[int], source: _Source) -> _Source:
        node = self.nir.Flatten(input_type={"input": np.array(list(shape))}, start_dim=0, end_dim=-1)
        return source._replace(nodes=(self._add("flatten", node, source.nodes),))

    def layout(self, op: Layout, before: Signal, result: Any, source: _Source, *args: Any, **kwargs: Any) -> _Source:
        if isinstance(result, Signal) and op.settings["function"].rpartition(".")[2] in _FLATTENING:
            if result.shape == before.shape:
                return source
            if result.shape == torch.Size([before.shape[0], math.prod(before.shape[1:])]):
                return self._flattened(before.shape[1:], source)
        raise _refused(op, "of layouts, it has flattening alone")

    def add(self, op: Add, before: Signal, result: Signal, a: _Source, b: _Source) -> _Source:
        if a.divisor != b.divisor or set(a.nodes) & set(b.nodes):
            raise _refused(op, "what it adds is divided by unequal numbers, or one and the same")
        return _Source((*a.nodes, *b.nodes), a.divisor)

    def divided(self, op: DividedByInput, before: Signal, result: Signal, source: _Source, divisor: Any) -> _Source:
        if isinstance(divisor, Tensor) and divisor.dim():
            raise _refused(op, "a divisor differs by sample")
        return source._replace(divisor=source.divisor * float(divisor))

    def passed(self, op: Op, before: Signal, result: Signal, source: _Source) -> _Source:
        return source


_RULES: dict[type[Op], Callable[..., _Source]] = {
    Fire: _Writer.fire,
    Linear: _Writer.linear,
    Convolution: _Writer.convolution,
    AveragePool: _Writer.average,
    Sum: _Writer.total,
    Layout: _Writer.layout,
    Add: _Writer.add,
    DividedByInput: _Writer.divided,
    RequireFeatures: _Writer.passed,
}
