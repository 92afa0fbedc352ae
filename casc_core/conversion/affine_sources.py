"""Which layer's bias moves the mean of which activation's input."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from casc_core.activation import CQReLU
from casc_core.conversion.adapter import Adapter, choose_adapter
from casc_core.conversion.rules import RULES
from casc_core.conversion.tracing.containers import opened, plain
from casc_core.conversion.tracing.trace import each_way
from casc_core.engine.structure import Structure, structure_of

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


Place = tuple[str, int]
"""An activation's path, and how many of its calls come before; or `output_place`."""


def output_place(number: int) -> Place:
    """The place of the network's output of this number among those of its activations."""
    return "", number


@dataclass(frozen=True)
class AffineSources:
    """For each call of an activation, and each output: the layers whose output is a summand of its input and nothing else.

    A layer that is called at several places is none of them.

    Attributes:
        layers: paths of those layers, in the order of the calls, outputs last: convolutions, linear layers, batch norms.
        batch_norms: paths of the batch norms that are called once, in the order of their calls.
        structure: where the outputs stand in what the forward returns.
    """

    model: nn.Module
    layers: dict[Place, tuple[str, ...]]
    batch_norms: tuple[str, ...]
    structure: Structure

    @staticmethod
    def of(prepared: nn.Module, adapter: str | Adapter | None) -> AffineSources:
        """Those of a prepared network, in the first way of calling it that can be traced."""
        rules = RULES.merged(choose_adapter(prepared, adapter).rules)
        ways = each_way(copy.deepcopy(prepared).eval(), rules.is_leaf)
        graph = next(way for way in ways if isinstance(way, fx.Graph))  # `prepare` has seen to it that there is one
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        seen: Counter[str] = Counter()
        layers: dict[Place, tuple[str, ...]] = {}
        norms = []
        for node in graph.nodes:
            name = str(node.target)
            module = prepared.get_submodule(name) if node.op == "call_module" else None
            if isinstance(module, _BatchNorm) and calls[name] == 1:
                norms.append(name)
            if isinstance(module, CQReLU):
                layers[name, seen[name]] = tuple(_summands(node.all_input_nodes[0], prepared, calls))
                seen[name] += 1
        outputs: dict[fx.Node, int] = {}
        (returned,) = graph.output_node().args
        structure = structure_of(plain(returned), lambda node: outputs.setdefault(node, len(outputs)), opened)
        for node, number in outputs.items():
            layers[output_place(number)] = tuple(_summands(node, prepared, calls))
        return AffineSources(prepared, layers, tuple(norms), structure)

    @property
    def activations(self) -> tuple[str, ...]:
        """Their paths, in the order of their first calls."""
        return tuple(dict.fromkeys(name for name, _ in self.layers if name))

    def has_channels(self, activation: str) -> bool:
        """Whether dimension 1 of the activation's input counts channels: it comes from a convolution or a batch norm."""
        return all(
            any(isinstance(self.model.get_submodule(path), (_ConvNd, _BatchNorm)) for path in paths)
            for (name, _), paths in self.layers.items()
            if name == activation
        )


def _summands(node: fx.Node, model: nn.Module, calls: Counter[str]) -> Iterator[str]:
    """Layers whose output is a summand of what this node gives, and is used nowhere else."""
    if len(node.users) != 1:
        return
    if node.op == "call_module" and calls[str(node.target)] == 1:
        module = model.get_submodule(str(node.target))
        if isinstance(module, (_ConvNd, _BatchNorm, nn.Linear)):
            yield str(node.target)
        elif isinstance(module, (nn.Identity, nn.Dropout)):
            yield from _summands(node.all_input_nodes[0], model, calls)
    elif node.target in _ADDITIONS and not node.kwargs:
        for before in node.all_input_nodes:
            yield from _summands(before, model, calls)
