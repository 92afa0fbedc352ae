"""Activations that a forward calls as functions: a prepared copy has modules for them, and a forward made of a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from casc_core.conversion.clipping import clipped
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.tracing.dataflow import reading_inputs
from casc_core.conversion.tracing.randomness import DROPOUTS, rate
from casc_core.conversion.tracing.trace import argument_name, arguments_of, each_way
from casc_core.errors import ConversionError

ACTIVATION_CALLS: dict[Any, type[nn.Module]] = {
    target: kind
    for kind, targets in {
        nn.ReLU: (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
        nn.Tanh: (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"),
        nn.Sigmoid: (F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"),
        nn.Softsign: (F.softsign,),
        nn.Hardsigmoid: (F.hardsigmoid,),
        nn.Hardswish: (F.hardswish,),
        nn.SiLU: (F.silu,),
        nn.LeakyReLU: (F.leaky_relu, F.leaky_relu_),
        nn.GLU: (F.glu,),
    }.items()
    for target in targets
}
"""Functions and methods that do what a module does; what they take beside their input, it is made from."""


def without_functional_activations(
    model: nn.Module,
    ways: Sequence[fx.Graph | ConversionError],
    rules: RuleTable,
    replaced: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """`model`, or, where its forward calls activations of its inputs as functions, a GraphModule with modules for them.

    Args:
        ways: the model traced in evaluation.
        rules: the whole table.
        replaced: gives what takes the place of an activation.

    Raises:
        ConversionError: there are such calls, and a trace would lose what else the forward does.
    """
    inputs = arguments_of(model)
    graphs = [way for way in ways if isinstance(way, fx.Graph)]
    if not any(_activations(graph, inputs) for graph in graphs):
        return model
    if len(ways) > 1:
        raise ConversionError(
            f"the forward of {type(model).__name__} has optional arguments and calls an activation as a function; use "
            "nn.ReLU() modules, so that every way of calling it can be kept"
        )
    (graph,) = graphs
    (trained,) = ways_in_mode(model, True, rules)
    if not isinstance(trained, fx.Graph) or signatures(trained) != signatures(graph):
        raise ConversionError(
            f"the forward of {type(model).__name__} branches on self.training and calls an activation as a function; use "
            "nn.ReLU() modules, so that both branches survive, nn.Dropout in place of the branch, or a model without what "
            "only training uses (auxiliary classifiers: aux_logits=False)"
        )
    activations = _activations(graph, inputs)
    blocked = next((node for node in (*graph.nodes, *trained.nodes) if "in_block" in node.meta), None)
    if blocked is not None:
        raise ConversionError(
            f"the forward of {type(model).__name__} runs in part under torch.no_grad(), under torch.autocast() or as a "
            "torch.autograd.Function, and calls an activation as a function: a traced copy would leave that out. Use "
            f"nn.ReLU() modules, or put a block around the call of the model\n  at {blocked.meta.get('line', '?')}"
        )
    result = fx.GraphModule(model, graph, class_name=type(model).__name__)
    _with_own_names(result, model)
    for node, counterpart in zip(list(result.graph.nodes), trained.nodes, strict=True):
        node.type = None  # annotations kept as strings could not be pickled with it
        module: nn.Module | None = None
        if node in activations:
            module = replaced(_called(node))
        elif node.target in DROPOUTS and _rate(node) == 0 and _rate(counterpart) != 0:
            # A trace fixes `training=self.training`; a module keeps following train() and eval().
            module = DROPOUTS[node.target](float(_rate(counterpart)))
        if module is None:
            continue
        name = _free_name(result, node.name)
        result.add_submodule(name, module)
        with result.graph.inserting_after(node):
            call = result.graph.call_module(name, (_activated(node),))
            call.meta = node.meta
        node.replace_all_uses_with(call)
        result.graph.erase_node(node)
    result.recompile()
    _carry_over(model, result)
    result.meta[_SOURCE] = _Source(model)
    return result


_SOURCE = "casc source"


class _Source:
    """The model whose forward a prepared copy has a trace of. It is not copied with that, nor saved."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> _Source:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Source, ()


def source_of(model: nn.Module) -> nn.Module | None:
    """The model whose forward `model` has a trace of; None: it has its own forward, or that model is not at hand."""
    source = model.meta.get(_SOURCE) if isinstance(model, fx.GraphModule) else None
    return source.model if isinstance(source, _Source) else None


def _carry_over(model: nn.Module, copied: fx.GraphModule) -> None:
    """Modes stay as they were, and so does what the forward does not call: a checkpoint holds it."""
    copied.training = model.training
    for name, module in model.named_modules():
        parent, _, child = name.rpartition(".")
        there = dict(copied.named_modules())
        if name in there:
            there[name].training = module.training
        elif parent in there:
            there[parent].add_module(child, module)
    there = dict(copied.named_modules())
    for name, parameter in model.named_parameters():
        parent, _, child = name.rpartition(".")
        if child not in there[parent]._parameters:
            there[parent].register_parameter(child, parameter)
    kept = {
        name
        for module, prefix in ((m, n) for n, m in model.named_modules())
        for name in (f"{prefix}.{each}" if prefix else each for each in module._non_persistent_buffers_set)
    }
    for name, buffer in model.named_buffers():
        parent, _, child = name.rpartition(".")
        if child not in there[parent]._buffers:
            there[parent].register_buffer(child, buffer, persistent=name not in kept)


def _with_own_names(copied: fx.GraphModule, model: nn.Module) -> None:
    """Arguments that were held while tracing have their own names again: fx numbers them."""
    for node in copied.graph.nodes:
        if node.op == "placeholder":
            node.target = argument_name(str(node.target), arguments_of(model))


def ways_in_mode(model: nn.Module, training: bool, rules: RuleTable) -> list[fx.Graph | ConversionError]:
    """The model traced in training or in evaluation; its own modes are left as they were."""
    modes = {module: module.training for module in model.modules()}
    try:
        return each_way(model.train(training), rules.is_leaf)
    finally:
        for module, mode in modes.items():
            module.training = mode


def signatures(graph: fx.Graph) -> list[tuple[str, ...]]:
    """What each node does, but for whether a dropout is active, and whatever names a trace gives."""
    place = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    signatures: list[tuple[str, ...]] = []
    for node in graph.nodes:
        args, kwargs = (fx.node.map_arg(value, place.__getitem__) for value in (node.args, node.kwargs))
        what = node.op, str(node.meta.get("constant", node.target))
        signatures.append((*what, str(args[:1])) if node.target in DROPOUTS else (*what, str(args), str(kwargs)))
    return signatures


def _rate(node: fx.Node) -> Any:
    return rate(node.target, node.args, node.kwargs)


def _activations(graph: fx.Graph, inputs: tuple[str, ...]) -> set[fx.Node]:
    """The calls of activations as functions, of what follows from the inputs."""
    return {node for node in reading_inputs(graph, inputs) if _is_activation(node)}


def _is_activation(node: fx.Node) -> bool:
    return clipped(node) is not None or kind_of_call(node) is not None


def kind_of_call(node: fx.Node) -> type[nn.Module] | None:
    """The module that does what a call does, clips left out."""
    return ACTIVATION_CALLS.get(node.target) if node.op in ("call_function", "call_method") else None


def _activated(node: fx.Node) -> Any:
    """What the call of an activation is given."""
    found = clipped(node)
    return found.input if found is not None else node.args[0] if node.args else node.kwargs["input"]


def _called(node: fx.Node) -> nn.Module:
    """The module that does what a call of an activation does."""
    found, kind = clipped(node), kind_of_call(node)
    if found is not None:
        return nn.ReLU() if found.high is None else nn.Hardtanh(float(found.low), float(found.high))
    assert kind is not None
    return kind(*node.args[1:], **{name: value for name, value in node.kwargs.items() if name != "input"})


def _free_name(model: nn.Module, name: str) -> str:
    while hasattr(model, name):
        name += "_"
    return name
