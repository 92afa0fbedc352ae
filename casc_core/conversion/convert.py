"""Conversion: a trained network with CQReLU activations becomes a spiking network that gives the same answer."""

from __future__ import annotations

import copy
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import nn

from casc_core.conversion.adapter import Adapter, choose_adapter
from casc_core.conversion.passes import OpPool, Reader, lower, lower_each
from casc_core.conversion.prepare import levels_of, refuse_module_uses, require_module, require_prepared
from casc_core.conversion.rules import RULES
from casc_core.conversion.tracing.trace import arguments_of, each_way, trace, way
from casc_core.conversion.wrappers import bare
from casc_core.engine.float64 import in_float64
from casc_core.engine.program import Program, in_order_of_calls
from casc_core.errors import ConfigError
from casc_core.neuron import CIF, Neuron
from casc_core.numerics import Numerics, Unrounded, as_numerics
from casc_core.schedule import Schedule, WakeSleep
from casc_core.spiking_model import Origin, Settings, SpikingModel, resolved_schedule


def convert(
    model: nn.Module,
    adapter: str | Adapter | None = None,
    *,
    q: int | None = None,
    neuron: Neuron | None = None,
    schedule: Schedule | None = None,
    numerics: Numerics | str = "exact",
) -> SpikingModel:
    """The spiking network of `model`; under CIF and WakeSleep it equals its quantised ANN bit for bit.

    The model's forward is traced, each operation is lowered by its rule, and each path from neuron to neuron becomes a
    linear map whose weights are snapped to a power-of-two grid on which no sum is ever rounded. `model` is left alone. Of a
    model that `torch.compile`, `DataParallel`, `DistributedDataParallel` or `AveragedModel` wraps, what is inside is taken.
    Where the forward has optional arguments, each way of calling it is lowered: those that can be at once, or when it is
    first asked for.

    Args:
        model: a module with CQReLU activations (see `prepare`). An unprepared one is prepared first, with a warning.
        adapter: a name such as "rnn", an `Adapter`, or None to pick by the model's modules.
        q: levels, for an unprepared model only.
        neuron: `CIF()` (default) or `IF()`, the baseline's.
        schedule: `WakeSleep()` (default: q wake steps) or `Continuous()`, the baseline's.
        numerics: "exact" (16-bit weights), `Exact(weight_bits=...)`, or "float": the weights as they are, in float32;
            then a neuron on the edge between two levels may fall to either side, and `verify` counts how many do.

    Raises:
        ConversionError: an operation cannot be converted exactly, or the forward cannot be traced; the message names
            the module, the line and the remedy.
        ConfigError: an argument out of range, or an unprepared model without `q`.

    >>> from casc_core import prepare
    >>> ann = prepare(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), adapter="rnn", q=4)
    >>> snn = convert(ann, adapter="rnn")
    >>> x = torch.randn(3, 4)
    >>> torch.equal(snn(x), snn.reference(x))
    True
    """
    require_module(model, "convert takes the trained")
    model = bare(model)
    chosen = choose_adapter(model, adapter)
    settled = as_numerics(numerics)
    ann, was_prepared = require_prepared(model, chosen, q)
    if not was_prepared:
        warnings.warn(
            f"{type(model).__name__} was not trained with CQReLU activations: it has been prepared with q={q}, and its "
            "answers will differ from the original's. Call casc_core.prepare(model, q=...), train, then convert",
            stacklevel=2,
        )
    trained = levels_of(ann)
    assert trained is not None
    resolved = resolved_schedule(WakeSleep() if schedule is None else schedule, trained)
    if neuron is not None and not isinstance(neuron, Neuron):
        raise ConfigError(f"neuron must be CIF(), IF() or another Neuron, an instance; got {neuron!r}")
    ann = ann.eval()
    settings = Settings(chosen.name, trained, neuron or CIF(), resolved, settled, arguments_of(ann))
    snn = _lowered(ann, chosen, settings)
    snn.origin = Origin(ann, chosen)
    return snn


def unrounded(snn: SpikingModel) -> SpikingModel:
    """`snn` lowered again without grids, in float64, from the network that it was converted from; kept in its origin.

    Raises:
        ConfigError: that network is not at hand. ConversionError: it cannot be lowered in float64.
    """
    origin = snn.origin
    if origin is None:
        raise ConfigError("the network that was converted is not at hand: load(folder, model=...) brings it back")
    settings = replace(snn.settings, numerics=Unrounded())
    tensors = [*origin.ann.parameters(), *origin.ann.buffers()]
    state = [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
    if origin.unrounded is None or origin.unrounded[0] != state:
        wide = Origin(copy.deepcopy(origin.ann).double(), origin.adapter)
        network = _lowered(wide.ann, wide.adapter, settings)
        network.origin = wide
        origin.unrounded = state, network
    kept = origin.unrounded[1]
    for given in snn.programs:  # ways of calling it that were added since
        kept.program_for(given)
    return SpikingModel(kept.operations(), kept.programs, kept.layers, settings)


def _lowered(ann: nn.Module, adapter: Adapter, settings: Settings) -> SpikingModel:
    """The network, with a program for each way to call the model that can be lowered."""
    rules, pool = RULES.merged(adapter.rules), OpPool()
    with _traced_for(settings.numerics):
        ways = each_way(ann, rules.is_leaf)
    refuse_module_uses(ann, rules, ways, prepared=True)
    programs: dict[frozenset[str], Program] = {}
    layers: list[str] = []
    for program, names in lower_each(ann, ways, rules, settings.numerics, pool):
        programs[frozenset(program.inputs)] = program
        layers += [name for name in names if name not in layers]
    ops, programs = in_order_of_calls(pool.ops, programs)
    device = next((parameter.device for parameter in ann.parameters()), torch.device("cpu"))
    return SpikingModel(ops, programs, tuple(layers), settings).to(device)


def _traced_for(numerics: Numerics) -> AbstractContextManager[None]:
    return in_float64() if numerics.is_float64 else nullcontext()


_ONE_AT_A_TIME = threading.Lock()


def lower_way(snn: SpikingModel, given: frozenset[str]) -> None:
    """Add to `snn` the program for a way of calling its ANN; the operations that it has already are shared.

    Args:
        given: the arguments that are given.

    Raises:
        ConversionError: this way cannot be converted.
    """
    assert snn.origin is not None
    ann, rules, numerics = snn.origin.ann, RULES.merged(snn.origin.adapter.rules), snn.settings.numerics
    with _ONE_AT_A_TIME, torch.no_grad():
        there = snn.operations()
        with _traced_for(numerics):
            graph = trace(ann, rules.is_leaf, way(ann, given))
        read, pool = Reader(ann, rules, numerics).read(graph), OpPool(there)
        program = lower(read, numerics, pool)
        further = sorted({step.op for step in program.steps if step.op >= len(there)})
        number = {index: index for index in range(len(there))}
        number |= {old: len(there) + new for new, old in enumerate(further)}
        snn.extend([pool.ops[index] for index in further], program.renumbered(number), read.layers)
