"""From a user's model to a trainable copy whose activations are CQReLU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from casc_core.activation import CQReLU, Quantised, check_levels, check_threshold
from casc_core.adapters import Adapter, choose_adapter
from casc_core.clipping import clipped, require_clipped
from casc_core.errors import ConfigError, ConversionError
from casc_core.lowering import Lowering, OpPool, RuleTable
from casc_core.numerics import Float
from casc_core.rules import RULES, UNPREPARED
from casc_core.tracing import call_variants, trace

Replacement = Callable[[nn.Module, int, float], nn.Module]


def _cq_relu(module: nn.Module, q: int, threshold: float) -> CQReLU:
    return CQReLU(q, threshold)


ACTIVATIONS: dict[type[nn.Module], Replacement] = {
    nn.ReLU: _cq_relu, nn.Tanh: _cq_relu, nn.ReLU6: _cq_relu, nn.Hardtanh: _cq_relu,
    nn.Threshold: _cq_relu,
}  # fmt: skip
ACTIVATION_CALLS = {
    F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_", torch.tanh, F.tanh, "tanh",
}  # fmt: skip
DROPOUT_CALLS: dict[Any, Callable[[float], nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
}


def prepare(
    model: nn.Module,
    adapter: str | Adapter | None = None,
    *,
    q: int,
    threshold: float | None = None,
    trainable_threshold: bool = False,
    half_step: bool = False,
) -> nn.Module:
    """A trainable copy of `model` in which tanh and ReLU, as modules or functions, are CQReLU. `model` is left alone.

    Weights carry over, recurrent layers become CQReLU recurrent layers of the same parameter names, and the copy trains
    like any module. Where an activation is called as a function (`F.relu(x)`), the copy is a `torch.fx.GraphModule`;
    otherwise it keeps the class of `model`. A forward with both such calls and optional arguments is refused: write the
    activations as modules.

    Args:
        model: any module that the adapter can convert.
        adapter: a name such as "rnn", an `Adapter`, or None to pick by the model's modules.
        q: levels of every activation, at least 1. More levels are finer, and take more time steps. CQReLU activations
            that `model` has already get them too.
        threshold: largest activation; None: 1, the upper end of a ReLU6 or Hardtanh, or what a CQReLU activation has
            already.
        trainable_threshold: the threshold of each CQReLU is a parameter of its own, which starts there.
        half_step: activations are rounded to the nearest level instead of down; with trainable thresholds, this is QCFS
            (Bu et al. 2022, "Optimal ANN-SNN Conversion").

    Raises:
        ConfigError: `q` or `threshold` out of range, or no such adapter.
        ConversionError: the model holds what cannot be converted, a hook, or no activation at all.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prepare(model, adapter="rnn", q=4)[1]
    CQReLU(q=4, threshold=1)
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"prepare takes a torch.nn.Module; got {type(model).__name__}")
    check_levels(q)
    if threshold is not None:
        check_threshold(threshold)
    chosen = choose_adapter(model, adapter)
    refuse_modules(model, chosen.rules, prepared=False)
    prepared = copy.deepcopy(model)
    replacements: Mapping[type[nn.Module], Replacement] = {**ACTIVATIONS, **chosen.replacements}
    if type(prepared) in replacements:
        prepared = replacements[type(prepared)](prepared, q, _reach(prepared, threshold))
    else:
        # In evaluation, as it is converted; and before activations in place become others that are not.
        rules = RULES.merged(chosen.rules)
        _first_traceable(
            copy.deepcopy(prepared).eval(),
            lambda module: rules.is_leaf(module) or type(module) in replacements,
            call_variants(prepared),
        )
        _replace_modules(prepared, replacements, q, threshold)
        prepared = _without_functional_activations(prepared, chosen, q, threshold)
    if levels_of(prepared) is None:
        raise ConversionError(
            f"{type(model).__name__} has no activation to convert: no nn.ReLU, nn.Tanh or nn.RNN among its modules and no "
            "relu() or tanh() call in its forward"
        )
    if trainable_threshold:
        _train_thresholds(prepared)
    for module in prepared.modules():
        if half_step and isinstance(module, Quantised):
            module.half_step = True
    if type(model) not in replacements:
        _require_rules(prepared, RULES.merged(chosen.rules))
    return prepared


def _require_rules(prepared: nn.Module, rules: RuleTable) -> None:
    """Refuse what a conversion would refuse: better now than after the training."""
    model = copy.deepcopy(prepared).eval()
    refusals = []
    with torch.no_grad():
        for fixed in call_variants(model):
            try:
                Lowering(model, rules, Float(), OpPool()).read(trace(model, rules.is_leaf, fixed))
                return
            except ConversionError as error:
                refusals.append(error)
    raise refusals[0]


def _replace_modules(
    model: nn.Module, replacements: Mapping[type[nn.Module], Replacement], q: int, threshold: float | None
) -> None:
    made: dict[nn.Module, nn.Module] = {}  # a module used at several places stays one module
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) in replacements:
            if module not in made:
                made[module] = replacements[type(module)](module, q, _reach(module, threshold)).train(module.training)
            _set_module(model, name, made[module])
        elif isinstance(module, Quantised):
            module.q = q
            if threshold is not None and isinstance(module, CQReLU):
                module.set_threshold(threshold)
            elif threshold is not None:
                module.threshold = threshold


def _reach(activation: Any, threshold: float | None) -> float:
    """The threshold asked for, or (None) the activation's own upper end, 1 if it has none."""
    if isinstance(activation, nn.Module):
        require_clipped(activation)
    if threshold is not None:
        return float(threshold)
    return check_threshold(activation.max_val) if isinstance(activation, (nn.Hardtanh, nn.ReLU6)) else 1.0


def _train_thresholds(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, CQReLU):
            module.set_threshold(module.threshold, trainable=True)
        elif isinstance(module, Quantised):
            raise ConfigError(f"module {name!r}: {type(module).__name__} has no threshold that can be trained")


def levels_of(model: nn.Module) -> int | None:
    """The q of the model's CQReLU activations; None if it has none.

    Raises:
        ConversionError: they differ.
    """
    found = {name: module.q for name, module in model.named_modules() if isinstance(module, Quantised)}
    if len(set(found.values())) > 1:
        raise ConversionError(
            f"all activations must have the same number of levels q, since one schedule wakes all of them; got {found}. "
            "Prepare the whole model with one q"
        )
    return next(iter(found.values()), None)


def refuse_modules(model: nn.Module, rules: RuleTable, prepared: bool) -> None:
    """Raise `ConversionError` for the first module that no rule will ever take, before any work is done.

    An unprepared activation is refused only where the model counts as `prepared`.
    """
    table = RULES.merged(rules)
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise ConversionError(
                f"module {name or '(the model)'!r} has a forward hook, which a conversion would leave out: remove it (for "
                "weight normalisation use torch.nn.utils.parametrizations), or do what it does in a forward"
            )
        why = table.refusal(module)
        if why is not None and (prepared or why != UNPREPARED):
            raise ConversionError(
                f"module {name or '(the model)'!r}: {type(module).__name__} cannot be converted exactly: {why}"
            )


def _set_module(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def _without_functional_activations(model: nn.Module, adapter: Adapter, q: int, threshold: float | None) -> nn.Module:
    """`model`, or, where its forward calls activations as functions, a GraphModule in which they are modules."""
    rules = RULES.merged(adapter.rules)
    variants = call_variants(model)
    graph = _first_traceable(model, rules.is_leaf, variants)
    if not any(_is_activation(node) for node in graph.nodes):
        return model
    _require_one_forward(model, rules, variants)
    if len(variants) > 1:
        raise ConversionError(
            f"the forward of {type(model).__name__} has optional arguments and calls an activation as a function; use "
            "nn.ReLU() modules, so that every way of calling it can be kept"
        )
    result = fx.GraphModule(model, graph, class_name=type(model).__name__)
    for node in list(result.graph.nodes):
        node.type = None  # annotations kept as strings could not be pickled with it
        module: nn.Module | None = None
        if _is_activation(node):
            module = CQReLU(q, _reach(_called(node), threshold))
        elif node.op == "call_function" and node.target in DROPOUT_CALLS:
            # A trace fixes `training=self.training`; a module keeps following train() and eval().
            given = dict(zip(("input", "p", "training"), node.args, strict=False)) | dict(node.kwargs)
            module = DROPOUT_CALLS[node.target](float(given.get("p", 0.5)))
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
    return result.train(model.training)


def _first_traceable(
    model: nn.Module, is_leaf: Callable[[nn.Module], bool], variants: list[dict[str, Any]]
) -> fx.Graph:
    """The graph of the first way of calling the model that can be traced."""
    for fixed in variants[:-1]:
        with contextlib.suppress(ConversionError):
            return trace(model, is_leaf, fixed)
    return trace(model, is_leaf, variants[-1])


def _require_one_forward(model: nn.Module, rules: RuleTable, variants: list[dict[str, Any]]) -> None:
    """Raise `ConversionError` if the forward differs between training and evaluation, but for dropout.

    A trace keeps one of the two, so a GraphModule would train, or answer, by the wrong one.
    """
    modes = {module: module.training for module in model.modules()}
    seen = []
    try:
        for mode in (True, False):
            graph = _first_traceable(model.train(mode), rules.is_leaf, variants)
            seen.append([_signature(node) for node in graph.nodes])
    finally:
        for module, mode in modes.items():
            module.training = mode
    if seen[0] != seen[1]:
        raise ConversionError(
            f"the forward of {type(model).__name__} branches on self.training and calls an activation as a function; use "
            "nn.ReLU() modules, so that both branches survive, nn.Dropout in place of the branch, or a model without what "
            "only training uses (auxiliary classifiers: aux_logits=False)"
        )


def _signature(node: fx.Node) -> tuple[str, ...]:
    """What a node does, but for whether a dropout is active."""
    if node.target in DROPOUT_CALLS:
        return node.op, str(node.target), str(node.args[:1])
    return node.op, str(node.target), str(node.args), str(node.kwargs)


def _is_activation(node: fx.Node) -> bool:
    called = node.op in ("call_function", "call_method") and node.target in ACTIVATION_CALLS
    return called or clipped(node) is not None


def _activated(node: fx.Node) -> Any:
    """What the call of an activation is given."""
    found = clipped(node)
    return found.input if found is not None else node.args[0] if node.args else node.kwargs["input"]


def _called(node: fx.Node) -> nn.Module | None:
    """The module that does what a call of a clipped activation does; None: the activation is not clipped."""
    found = clipped(node)
    return None if found is None or found.high is None else nn.Hardtanh(0.0, float(found.high))


def _free_name(model: nn.Module, name: str) -> str:
    while hasattr(model, name):
        name += "_"
    return name


def require_prepared(model: nn.Module, adapter: Adapter, q: int | None) -> tuple[nn.Module, bool]:
    """`model` if its activations are CQReLU, else a prepared copy; and whether it was one already.

    Raises:
        ConfigError: it is not prepared and `q` is None, or it is with another q.
    """
    trained = levels_of(model)
    if trained is None:
        if q is None:
            refuse_modules(model, adapter.rules, prepared=False)
            raise ConfigError(
                f"{type(model).__name__} has no CQReLU activation, so its number of levels is not known: call "
                "casc_core.prepare(model, q=...) and train it, or pass q=... to convert it untrained"
            )
        return prepare(model, adapter, q=q), False
    if q is not None and q != trained:
        raise ConfigError(f"the model was prepared with q={trained}; got q={q}. Leave q out, or prepare it again")
    return model, True
