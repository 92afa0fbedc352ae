"""From a user's model to a trainable copy whose activations have levels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from casc_core.activation import CQReLU, Quantised, Rounded, check_levels, check_threshold
from casc_core.composed_activations import LeakyCQReLU, RoundedGLU, Swish
from casc_core.conversion.adapter import Adapter, choose_adapter
from casc_core.conversion.clipping import require_clipped
from casc_core.conversion.functional_activations import (
    kind_of_call,
    signatures,
    ways_in_mode,
    without_functional_activations,
)
from casc_core.conversion.graph import Graph
from casc_core.conversion.passes import read_each
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import RULES, UNPREPARED
from casc_core.conversion.tracing.behind_readout import has_weights, move_out, what_follows
from casc_core.conversion.tracing.dataflow import called_on, reading_inputs
from casc_core.conversion.tracing.trace import arguments_of, each_way
from casc_core.conversion.wrappers import bare
from casc_core.engine.conditions import is_of_sizes
from casc_core.errors import ConfigError, ConversionError
from casc_core.numerics import Exact
from casc_core.spiking_model import SpikingModel

Replacement = Callable[[nn.Module, int, float], nn.Module]


def _cq_relu(module: nn.Module, q: int, threshold: float) -> CQReLU:
    return CQReLU(q, threshold)


def _clip(module: nn.Module, q: int, threshold: float) -> CQReLU | Rounded:
    assert isinstance(module, nn.Hardtanh)
    low, high = float(module.min_val), float(module.max_val)
    if low == 0:
        return CQReLU(q, threshold)
    if low == -high:
        return Rounded(q, "hardtanh", threshold)
    scale = threshold / max(-low, high)
    return Rounded(q, "hardtanh", ends=(low * scale, high * scale))


def _leaky(module: nn.Module, q: int, threshold: float) -> LeakyCQReLU:
    if isinstance(module, nn.PReLU):
        return LeakyCQReLU(q, threshold, module.weight)
    assert isinstance(module, nn.LeakyReLU)
    return LeakyCQReLU(q, threshold, module.negative_slope)


def _squashing(function: str) -> Replacement:
    return lambda module, q, threshold: Rounded(q, function)


def _swish(gate: str) -> Replacement:
    return lambda module, q, threshold: Swish(q, gate, threshold)


def _glu(module: nn.Module, q: int, threshold: float) -> RoundedGLU:
    assert isinstance(module, nn.GLU)
    return RoundedGLU(q, module.dim)


ACTIVATIONS: dict[type[nn.Module], Replacement] = {
    nn.ReLU: _cq_relu, nn.ReLU6: _cq_relu, nn.Threshold: _cq_relu, nn.Hardtanh: _clip, nn.LeakyReLU: _leaky,
    nn.PReLU: _leaky, nn.Tanh: _squashing("tanh"), nn.Sigmoid: _squashing("sigmoid"), nn.Softsign: _squashing("softsign"),
    nn.Hardsigmoid: _squashing("hardsigmoid"), nn.SiLU: _swish("sigmoid"), nn.Hardswish: _swish("hardsigmoid"),
    nn.GLU: _glu,
}  # fmt: skip
"""What takes the place of a module."""
_PROBABILITIES = (nn.Sigmoid, nn.Hardsigmoid)
_PRODUCTS = frozenset(("mul", "mul_", "multiply", "matmul", "bmm", "einsum"))
# The largest value of a Swish, unless one is given: where a hard gate is wide open.
_SWISH_REACH = 3.0


def prepare(
    model: nn.Module,
    adapter: str | Adapter | None = None,
    *,
    q: int,
    threshold: float | None = None,
    trainable_threshold: bool = False,
    half_step: bool = False,
) -> nn.Module:
    """A trainable copy of `model` whose activations, modules or functions, have levels. `model` is left alone.

    ReLU and what clips like it become CQReLU; sigmoid, tanh, hardsigmoid, hardtanh and softsign become `Rounded`; leaky
    ReLUs become two CQReLUs, Hardswish and SiLU the product of two rounded activations, and the gate of a GLU is rounded.

    Activations of parameters and buffers alone stay what they are. Of a model that `torch.compile`, `DataParallel`,
    `DistributedDataParallel` or `AveragedModel` wraps, what is inside is taken. Weights carry over, recurrent layers become
    CQReLU recurrent layers of the same parameter names, and the copy trains like any module. Where an activation is called
    as a function (`F.relu(x)`), the copy is a `torch.fx.GraphModule`; otherwise it keeps the class of `model`. A forward
    with both such calls and optional arguments is refused: write the activations as modules.

    Args:
        model: any module that the adapter can convert.
        adapter: a name such as "rnn", an `Adapter`, or None to pick by the model's modules.
        q: levels of every activation, at least 1. More levels are finer, and take more time steps. CQReLU activations
            that `model` has already get them too.
        threshold: largest activation; None: 1, 3 for Hardswish and SiLU, the larger end of a ReLU6 or Hardtanh, or what a
            CQReLU activation has already. Other rounded activations have ends of their own.
        trainable_threshold: the threshold of each CQReLU is a parameter of its own, which starts there.
        half_step: activations are rounded to the nearest level instead of down; with trainable thresholds, this is QCFS
            (Bu et al. 2022, "Optimal ANN-SNN Conversion").

    Raises:
        ConfigError: `q` or `threshold` out of range, or no such adapter.
        ConversionError: the model holds what cannot be converted, a hook, or no activation at all: whatever `convert`
            would refuse is refused here, before the training.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> prepare(model, q=4)[1]
    CQReLU(q=4, threshold=1)
    """
    require_module(model, "prepare takes a")
    check_levels(q)
    if threshold is not None:
        check_threshold(threshold)
    prepared = bare(model)
    chosen = choose_adapter(prepared, adapter)
    rules = RULES.merged(chosen.rules)
    replacements: Mapping[type[nn.Module], Replacement] = {**ACTIVATIONS, **chosen.replacements}
    replacement = _replacement(prepared, replacements)
    after: Sequence[fx.Graph | ConversionError] | None = None
    if replacement is not None:  # the model is an activation
        refuse_modules(prepared, rules, prepared=False)
        prepared = replacement(prepared, q, _reach(prepared, threshold))
    else:
        # In evaluation, as it is converted; and before activations in place become others that are not.
        def is_replaced(module: nn.Module) -> bool:
            return _replacement(module, replacements) is not None

        evaluated = copy.deepcopy(prepared).eval()
        ways = each_way(evaluated, lambda module: rules.is_leaf(module) or is_replaced(module))
        of_constants = refuse_module_uses(evaluated, rules, ways, prepared=False, is_replaced=is_replaced)
        _refuse_probabilities(evaluated, ways)
        _replace_modules(prepared, replacements, q, threshold, of_constants)
        after = ways_in_mode(prepared, False, rules)
        _require_same_forward(prepared, ways, after)

        def replaced(activation: nn.Module) -> nn.Module:
            return ACTIVATIONS[type(activation)](activation, q, _reach(activation, threshold))

        with_modules = without_functional_activations(prepared, after, rules, replaced)
        if with_modules is not prepared:
            prepared, after = with_modules, None
    if trainable_threshold:
        _train_thresholds(prepared)
    for module in prepared.modules():
        if half_step and isinstance(module, Quantised):
            module.half_step = True
    if replacement is None:
        _require_rules(prepared, rules, after)
    return prepared


def require_module(model: Any, wanted: str) -> None:
    """Raise `ConfigError` unless `model` is a module that is no converted network."""
    if isinstance(model, nn.Module) and not isinstance(model, SpikingModel):
        return
    hint = "; take its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
    hint = f", the class; make one: {model.__name__}(...)" if isinstance(model, type) else hint
    raise ConfigError(f"{wanted} torch.nn.Module; got {getattr(model, '__name__', type(model).__name__)}{hint}")


def _require_same_forward(
    model: nn.Module, before: list[fx.Graph | ConversionError], after: list[fx.Graph | ConversionError]
) -> None:
    """Refuse a forward that does something else now that its activations are CQReLU modules."""
    for one, other in zip(before, after, strict=True):
        if isinstance(one, fx.Graph) and isinstance(other, fx.Graph) and signatures(one) != signatures(other):
            raise ConversionError(
                f"the forward of {type(model).__name__} asks for the type of an activation, as by isinstance(m, nn.ReLU), "
                "which is another in the prepared copy: ask for its name or its place instead"
            )


def read_prepared(prepared: nn.Module, adapter: str | Adapter | None) -> Graph:
    """A prepared network as a conversion reads it, in the first way of calling it that can be converted.

    Raises:
        ConversionError: a conversion would refuse it.
    """
    return _require_rules(prepared, RULES.merged(choose_adapter(prepared, adapter).rules))


def _require_rules(
    prepared: nn.Module, rules: RuleTable, ways: Sequence[fx.Graph | ConversionError] | None = None
) -> Graph:
    """Refuse what a conversion would refuse: better now than after the training.

    Args:
        ways: `prepared`, traced in evaluation; None: that is still to be done.
    """
    model = copy.deepcopy(prepared).eval()
    ways = each_way(model, rules.is_leaf) if ways is None else ways
    refuse_module_uses(model, rules, ways, prepared=True)
    return read_each(model, ways, rules, Exact())[0]


def _replace_modules(
    model: nn.Module,
    replacements: Mapping[type[nn.Module], Replacement],
    q: int,
    threshold: float | None,
    of_constants: Collection[str],
) -> None:
    made: dict[nn.Module, nn.Module] = {}  # a module used at several places stays one module
    evaluated = {model.get_submodule(name) for name in of_constants}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in evaluated:
            continue
        replacement = _replacement(module, replacements)
        if replacement is not None:
            if module not in made:
                if parametrize.is_parametrized(module):
                    raise ConversionError(
                        f"module {name!r}: {type(module).__name__} has parametrizations, which its CQReLU counterpart "
                        "would not have; make them permanent with torch.nn.utils.parametrize.remove_parametrizations"
                    )
                try:
                    made[module] = replacement(module, q, _reach(module, threshold)).train(module.training)
                except ConversionError as error:
                    raise ConversionError(f"module {name!r}: {error}") from error
            _set_module(model, name, made[module])
        elif isinstance(module, Quantised):
            module.q = q
            if threshold is not None and isinstance(module, CQReLU):
                module.set_threshold(threshold)
            elif threshold is not None and not isinstance(module, Rounded):
                module.threshold = threshold


def _replacement(module: nn.Module, replacements: Mapping[type[nn.Module], Replacement]) -> Replacement | None:
    """What takes the place of a module, by its type or by the parent whose forward it has."""
    kind: Any = next((kind for kind in type(module).__mro__ if kind in replacements), None)
    return replacements[kind] if kind is not None and type(module).forward is kind.forward else None


def _reach(activation: Any, threshold: float | None) -> float:
    """The threshold asked for, or (None) the activation's own upper end, 1 if it has none."""
    if isinstance(activation, nn.Module):
        require_clipped(activation)
    if threshold is not None:
        return float(threshold)
    if isinstance(activation, (nn.Hardswish, nn.SiLU)):
        return _SWISH_REACH
    if isinstance(activation, nn.Hardtanh):
        return check_threshold(max(-activation.min_val, activation.max_val))
    return 1.0


def _refuse_probabilities(model: nn.Module, ways: Sequence[fx.Graph | ConversionError]) -> None:
    """Refuse a sigmoid whose values the network returns, or what it makes of them without a layer in between: rounded, they
    are no probabilities to train with, and no places of boxes."""

    def module_of(node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return model.get_submodule(str(node.target))
        kind = kind_of_call(node)
        return None if kind is None else kind()

    def is_layer(node: fx.Node) -> bool:
        return isinstance(module_of(node), tuple(ACTIVATIONS)) or has_weights(model, node)

    def said(node: fx.Node) -> str:
        module = module_of(node)
        return type(module).__name__ if module is not None else f"{getattr(node.target, '__name__', node.target)}()"

    for way in ways:
        nodes = reading_inputs(way, arguments_of(model)) if isinstance(way, fx.Graph) else set()
        found = {
            node: what_follows(node, is_layer)
            for node in (way.nodes if isinstance(way, fx.Graph) else ())
            if node in nodes and isinstance(module_of(node), _PROBABILITIES)
        }
        last = {node: following for node, following in found.items() if following is not None}
        of_last = {*last, *(each for following in last.values() for each in following)}
        for node, following in last.items():
            if any(_is_gated(each, of_last) for each in following):
                continue
            raise ConversionError(
                f"the forward of {type(model).__name__} returns what a {said(node)} makes of its logits; return the "
                "logits, train with a loss that takes those (nn.BCEWithLogitsLoss), and apply it to the converted "
                f"network's output\n  at {node.meta.get('line', '?')}\n  {move_out([node], following, said)}"
            )


def _is_gated(node: fx.Node, of_last: Collection[fx.Node]) -> bool:
    """Whether it multiplies what follows from a last sigmoid with what does not: that is a gate then, and of a layer."""
    is_product = getattr(node.target, "__name__", node.target) in _PRODUCTS
    return is_product and any(each not in of_last and _holds_values(each) for each in node.all_input_nodes)


def _holds_values(node: fx.Node) -> bool:
    """Whether it follows from the values of an input, and not from sizes, parameters and buffers alone."""
    if node.op in ("placeholder", "get_attr") or is_of_sizes(node):
        return node.op == "placeholder"
    return any(map(_holds_values, node.all_input_nodes))


def _train_thresholds(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, CQReLU):
            module.set_threshold(module.threshold, trainable=True)
        elif isinstance(module, Quantised) and not isinstance(module, Rounded):
            raise ConfigError(
                f"module {name!r}: {type(module).__name__} has no threshold that can be trained; leave trainable_threshold "
                "out, and call set_threshold(1.0, trainable=True) of each CQReLU of the prepared copy"
            )


def levels_of(model: nn.Module) -> int | None:
    """The q of the model's CQReLU activations; None if it has none.

    Raises:
        ConversionError: they differ.
    """
    found = {name: m.q for name, m in model.named_modules() if isinstance(m, Quantised) and m.q is not None}
    if len(set(found.values())) > 1:
        raise ConversionError(
            f"all activations must have the same number of levels q, since one schedule wakes all of them; got {found}. "
            "Prepare the whole model with one q"
        )
    return next(iter(found.values()), None)


def refuse_module_uses(
    model: nn.Module,
    rules: RuleTable,
    ways: Sequence[fx.Graph | ConversionError],
    prepared: bool,
    is_replaced: Callable[[nn.Module], bool] = lambda module: False,
) -> set[str]:
    """Raise `ConversionError` for the first module that cannot be converted where it is used.

    Args:
        rules: the whole table.
        ways: the model traced.
        prepared: whether an unprepared activation is refused too.
        is_replaced: whether a preparation replaces a module.

    Returns:
        Paths of the modules that are called on parameters and buffers alone: they are evaluated as they are.
    """
    graphs = [way for way in ways if isinstance(way, fx.Graph)]
    of_inputs, of_constants = called_on(graphs, arguments_of(model))
    refuse_modules(model, rules, prepared, of_inputs if graphs else None)
    if not graphs:
        raise next(way for way in ways if isinstance(way, ConversionError))
    for name in sorted(of_inputs & of_constants):
        module = model.get_submodule(name)
        if is_replaced(module):
            raise ConversionError(
                f"module {name!r}: {type(module).__name__} is called on a parameter or buffer, where it must stay as it "
                "is, and on what follows from the inputs, where it becomes CQReLU; use a module of its own for each"
            )
    return of_constants - of_inputs


def refuse_modules(model: nn.Module, rules: RuleTable, prepared: bool, called: Collection[str] | None = None) -> None:
    """Raise `ConversionError` for the first module that no rule will ever take.

    An unprepared activation is refused only where the model counts as `prepared`.

    Args:
        called: paths of the modules that matter; None: all of them.
    """
    for name, module in model.named_modules():
        where = f"module {name or '(the model)'!r}"
        if (module is model or rules.is_leaf(module)) and _is_called_otherwise(module):
            raise ConversionError(
                f"{where} is called by what stands outside the forward of its class (a forward set on the instance, or a "
                "__call__ of its own), which a conversion would leave out: write it into the forward of a class"
            )
        matters = (called is None or name in called) and type(module) not in rules.elementwise
        why = rules.refusal(module) if matters else None
        if why is not None and (prepared or why != UNPREPARED):
            raise ConversionError(f"{where}: {type(module).__name__} cannot be converted exactly: {why}")


def _is_called_otherwise(module: nn.Module) -> bool:
    calls = type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule)
    return calls or "forward" in vars(module)


def _set_module(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def require_prepared(model: nn.Module, adapter: Adapter, q: int | None) -> tuple[nn.Module, bool]:
    """`model` if its activations are CQReLU, else a prepared copy; and whether it was one already.

    Raises:
        ConfigError: it is not prepared and `q` is None, or it is with another q.
    """
    trained = levels_of(model)
    if trained is None:
        if q is None:
            prepare(model, adapter, q=1)  # what cannot be converted is reported first
            raise ConfigError(
                f"{type(model).__name__} has no CQReLU activation, so its number of levels is not known: call "
                "casc_core.prepare(model, q=...) and train it, or pass q=... to convert it untrained"
            )
        return prepare(model, adapter, q=q), False
    if q is not None and q != trained:
        raise ConfigError(f"the model was prepared with q={trained}; got q={q}. Leave q out, or prepare it again")
    return model, True
