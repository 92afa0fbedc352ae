"""Lowering a trained network, once or again: for another way of calling it, or without grids."""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from casc_core.conversion.adapter import Adapter
from casc_core.conversion.passes import OpPool, Reader, lower, lower_each
from casc_core.conversion.prepare import refuse_module_uses
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import RULES
from casc_core.conversion.tracing.trace import each_way, held_arguments, required_arguments, trace, way
from casc_core.engine.float64 import in_float64
from casc_core.engine.guards.seals import checksum
from casc_core.engine.network import Network, Settings
from casc_core.engine.program import Program
from casc_core.errors import ConfigError
from casc_core.numerics import Numerics, Unrounded
from casc_core.spiking_model import SpikingModel

_ONE_AT_A_TIME = threading.Lock()


@dataclass
class TrainedOrigin:
    """The trained network that a spiking one was converted from: its `Origin`.

    Attributes:
        ann: the network that was converted, its activations CQReLU.
        adapter: that of the conversion.
        steps: for how many it left room.
        given: the network as it was given, where the conversion prepared it; None: `ann` was.
        unrounded: what `unrounded` keeps: its lowering without grids, and the state of `ann` it is of.
        traced: what came of holding its trace against its forward, by how it was called.
        checksum: of the tensors of `ann` when it was converted.
    """

    ann: nn.Module
    adapter: Adapter
    steps: int
    given: nn.Module | None = None
    unrounded: tuple[object, SpikingModel] | None = None
    traced: dict[object, Any] = field(default_factory=dict)
    checksum: int = field(init=False)

    def __post_init__(self) -> None:
        self.checksum = self._checksum()

    @property
    def is_changed(self) -> bool:
        """Whether `ann` is another network than it was."""
        return self._checksum() != self.checksum

    @cached_property
    def held(self) -> Mapping[str, Any]:
        """The arguments of its forward that a conversion holds at their defaults."""
        return held_arguments(self.ann)

    @property
    def required(self) -> Collection[str]:
        """The arguments of its forward that must be given."""
        return required_arguments(self.ann)

    def lower(self, snn: SpikingModel, given: frozenset[str]) -> None:
        """Extend `snn` by the way of calling `ann` that gives these arguments; operations that it has are shared.

        Raises:
            ConversionError: this way cannot be converted.
        """
        rules, numerics = _rules(self.adapter), snn.settings.numerics
        with _ONE_AT_A_TIME, torch.no_grad():
            there = snn.operations()
            with _traced_for(numerics):
                graph = trace(self.ann, rules.is_leaf, way(self.ann, given))
            read, pool = Reader(self.ann, rules, numerics).read(graph), OpPool(there)
            program = lower(read, numerics, self.steps, pool)
            further = sorted({step.op for step in program.steps if step.op >= len(there)})
            number = {index: index for index in range(len(there))}
            number |= {old: len(there) + new for new, old in enumerate(further)}
            snn.extend([pool.ops[index] for index in further], program.renumbered(number), read.layers)

    def _checksum(self) -> int:
        return checksum((*self.ann.parameters(), *self.ann.buffers()))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "held"} | {"unrounded": None}


def lowered(ann: nn.Module, adapter: Adapter, settings: Settings, given: nn.Module | None = None) -> SpikingModel:
    """The spiking network of `ann`, with a program for each way of calling it that can be lowered.

    Args:
        given: the network that `ann` has been prepared from, if the conversion did that.

    Raises:
        ConversionError: none can.
    """
    rules, pool = _rules(adapter), OpPool()
    with _traced_for(settings.numerics):
        ways = each_way(ann, rules.is_leaf)
    refuse_module_uses(ann, rules, ways, prepared=True)
    programs: dict[frozenset[str], Program] = {}
    layers: list[str] = []
    for program, names in lower_each(ann, ways, rules, settings.numerics, settings.most_spikes, pool):
        programs[frozenset(program.inputs)] = program
        layers += [name for name in names if name not in layers]
    network = Network(pool.ops, programs, tuple(layers), settings).in_order_of_calls()
    device = next((parameter.device for parameter in ann.parameters()), torch.device("cpu"))
    snn = SpikingModel(network).to(device)
    snn.origin = TrainedOrigin(ann, adapter, settings.most_spikes, given)
    return snn


def unrounded(snn: SpikingModel) -> SpikingModel:
    """`snn` lowered again without grids, in float64, from the network that it was converted from; kept in its origin.

    Raises:
        ConfigError: that network is not at hand. ConversionError: it cannot be lowered in float64.
    """
    origin = snn.origin
    if not isinstance(origin, TrainedOrigin):
        raise ConfigError("the network that was converted is not at hand: load(folder, model=...) brings it back")
    settings = replace(snn.settings, numerics=Unrounded())
    tensors = [*origin.ann.parameters(), *origin.ann.buffers()]
    state = [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
    if origin.unrounded is None or origin.unrounded[0] != state:
        origin.unrounded = state, lowered(copy.deepcopy(origin.ann).double(), origin.adapter, settings)
    wide = origin.unrounded[1]
    for given in snn.programs:  # ways of calling it that were added since
        wide.program_for(given)
    return SpikingModel(wide.network._replace(settings=settings))


def traced_again(model: nn.Module, origin: TrainedOrigin, given: frozenset[str]) -> fx.Graph:
    """What a conversion reads of `model`, a copy of the network that was converted, where these arguments are given."""
    return trace(model, _rules(origin.adapter).is_leaf, way(model, given))


def _rules(adapter: Adapter) -> RuleTable:
    return RULES.merged(adapter.rules)


def _traced_for(numerics: Numerics) -> AbstractContextManager[None]:
    return in_float64() if numerics.is_float64 else nullcontext()
