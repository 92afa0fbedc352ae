"""Lowering: a traced model becomes a `Program`, one rule for each operation.

Between two populations of spiking neurons every operation is affine. A rule takes the static values of an operation's
arguments, emits operations, and returns the static value of the result. What has no rule is refused.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from casc_core.conditions import expect
from casc_core.errors import ConversionError
from casc_core.float64 import in_float64
from casc_core.functions import LAYOUT, name_of
from casc_core.numerics import EXPECTED_INPUT, INPUT_EXPONENT, Numerics, stored
from casc_core.ops import Call, Constant, Embed, Encode, Op
from casc_core.program import Program, Ref, Step, map_leaves
from casc_core.tracing import arguments_of
from casc_core.values import Form, InputValue, PartsValue, SignalValue, Table, Unreadable

FILLED = (
    "entries that were filled with a large negative number stand for minus infinity, which only a maximum may read; fill "
    "with 0, or mask the converted network's output"
)
Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)


LOOKED_INTO: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d,
    nn.AvgPool2d,
)  # fmt: skip
"""Modules that can also be written as a function of their parameters: a forward of one's own is traced through."""


@dataclass
class RuleTable:
    """What each operation becomes.

    Attributes:
        modules: by module type (a subclass takes its parent's rule); called as `rule(lowering, module, *args, **kwargs)`.
        functions: by function, or by name for a method of a tensor; called as `rule(lowering, *args, **kwargs)`.
        refused: by module type, function or method name: why it cannot be exact and what to do instead.
    """

    modules: dict[type[nn.Module], Rule] = field(default_factory=dict)
    functions: dict[Any, Rule] = field(default_factory=dict)
    refused: dict[Any, str] = field(default_factory=dict)

    def module(self, *kinds: type[nn.Module]) -> Callable[[RuleT], RuleT]:
        """Decorator: the rule of these module types."""
        return self._registrar(self.modules, kinds)

    def function(self, *targets: Any) -> Callable[[RuleT], RuleT]:
        """Decorator: the rule of these functions and methods."""
        return self._registrar(self.functions, targets)

    def refuse(self, why: str, *targets: Any) -> None:
        """Refuse these modules, functions and methods: `why`, and what to do instead."""
        self.refused.update(dict.fromkeys(targets, why))

    def _registrar(self, table: dict[Any, Rule], keys: tuple[Any, ...]) -> Callable[[RuleT], RuleT]:
        def register(rule: RuleT) -> RuleT:
            table.update(dict.fromkeys(keys, rule))
            return rule

        return register

    def merged(self, other: RuleTable) -> RuleTable:
        """Both tables; `other` wins."""
        return RuleTable(self.modules | other.modules, self.functions | other.functions, self.refused | other.refused)

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether `module` is one operation to the tracer: it has a rule or is refused, and is not to be looked into."""
        kind = next((kind for kind in type(module).__mro__ if kind in self.modules or kind in self.refused), None)
        return kind is not None and not (kind in LOOKED_INTO and type(module).forward is not kind.forward)

    def find_module(self, module: nn.Module) -> Rule | None:
        """The rule of `module`'s type or nearest parent type."""
        return next((self.modules[kind] for kind in type(module).__mro__ if kind in self.modules), None)

    def refusal(self, target: Any) -> str | None:
        """Why `target` (a module, function or method name) is refused, if it is."""
        if not isinstance(target, nn.Module):
            return self.refused.get(target)
        for kind in type(target).__mro__:
            if kind in self.refused:
                return self.refused[kind]
            if kind in self.modules:
                # A rule speaks for the forward it was written for, and for no other.
                own = type(target).forward is not kind.forward and kind not in LOOKED_INTO
                return f"it overrides the forward of {kind.__name__}; hold one instead of inheriting" if own else None
        return None


class OpPool:
    """The operations of a network; one that is already there is shared."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._known: dict[str, int] = {}

    def add(self, op: Op) -> int:
        """Index of `op`, or of an equal one."""
        digest = hashlib.sha256(repr((type(op).__name__, sorted(op.settings.items()))).encode())
        for name, tensor in sorted(op.tensors().items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        key = digest.hexdigest()
        if key not in self._known:
            self._known[key] = len(self.ops)
            self.ops.append(op)
        return self._known[key]


class Lowering:
    """One pass over one traced graph; rules call its methods."""

    def __init__(self, model: nn.Module, rules: RuleTable, numerics: Numerics, pool: OpPool) -> None:
        self.model, self.rules, self.numerics, self.pool = model, rules, numerics, pool
        self.steps: list[Step] = []
        self.layers: list[str] = []
        # What is called for its complaints alone, by name.
        self.checks: list[str] = []
        self.node: fx.Node | None = None

    # What rules use.

    def emit(self, op: Op, *args: Any, **kwargs: Any) -> Ref:
        """Append a call of `op`; static values among the arguments become references."""
        if not op.takes_fills and _any_leaf((args, kwargs), _is_filled):
            raise self.refuse(FILLED)
        result = f"%{len(self.steps)}"  # no argument of a forward can be called so
        args, kwargs = (map_leaves(value, _as_ref) for value in (args, kwargs))
        self.steps.append(Step(self.pool.add(op), args, kwargs, result))
        return Ref(result)

    def signal(self, value: Any) -> SignalValue:
        """`value` as a signal: a real-valued input or parameter is encoded as a drive."""
        if isinstance(value, SignalValue):
            return value
        if isinstance(value, InputValue):
            form = Form(drive_exponent=INPUT_EXPONENT, drive_reach=EXPECTED_INPUT)
            return SignalValue(self.emit(Encode(exponent=INPUT_EXPONENT), value), form)
        raise self.refuse(f"{value!r} is no tensor that can drive neurons")

    def look_up(self, table: Table, form: Form, multiplies: int = 0, biases: int = 0) -> SignalValue:
        """Rows of `table` by token id, a signal of this form; the rest is what `Embed` counts."""
        op = Embed(name=table.embedding, table=stored(table.rows), multiplies=multiplies, biases=biases)
        return SignalValue(self.emit(op, table.tokens), form, table)

    def constant(self, value: Any) -> Tensor | None:
        """The tensor behind `value` if it is a parameter or buffer as it stands, else None."""
        if not isinstance(value, InputValue):
            return None
        step = next((step for step in self.steps if step.result == value.ref.name), None)
        op = None if step is None else self.pool.ops[step.op]
        return op.value if isinstance(op, Constant) else None

    def check(self, function: Callable[..., Any], *args: Any) -> InputValue:
        """Call `function` whenever the network runs, for its complaints alone."""
        name = name_of(function, False)
        assert name is not None
        ref = self.emit(Call(name), *args)
        self.checks.append(ref.name)
        return InputValue(ref)

    def layer_name(self, name: str) -> str:
        """`name`, made unique among the populations so far: one module used twice has its own neurons at each place."""
        unique, count = name, 1
        while unique in self.layers:
            count += 1
            unique = f"{name}#{count}"
        self.layers.append(unique)
        return unique

    @property
    def node_name(self) -> str:
        """Module path of the current operation, or the name fx gave it."""
        assert self.node is not None
        return str(self.node.target) if self.node.op == "call_module" else self.node.name

    def refuse(self, why: str) -> ConversionError:
        """The error for the current operation: where it stands, what it is, why it is refused."""
        assert self.node is not None
        if self.node.op == "call_module":
            where = f"module {self.node.target!r}"
        else:
            around = [path for path, _ in self.node.meta.get("nn_module_stack", {}).values() if path]
            where = f"forward of module {around[-1]!r}" if around else "forward"
        return ConversionError(
            f"{where}: {self._operation()} cannot be converted exactly: {why}\n  at {self.node.meta.get('line', '?')}"
        )

    # The pass itself.

    def read(self, graph: fx.Graph) -> tuple[list[str], Any]:
        """Lower each operation of `graph`: names of the inputs, and the static value of what it returns.

        Raises:
            ConversionError: an operation is refused.
        """
        values: dict[fx.Node, Any] = {}
        inputs: list[str] = []
        output: Any = None
        for node in graph.nodes:
            self.node = node
            if node.op == "placeholder":
                values[node] = self._placeholder(node, inputs)
                continue
            args, kwargs = (_plain(fx.node.map_arg(value, values.__getitem__)) for value in (node.args, node.kwargs))
            if node.op == "output":
                output = args[0]
            else:
                values[node] = self._operation_value(node, args, kwargs)
        return inputs, output

    def lower(self, graph: fx.Graph) -> Program:
        """The program of `graph`."""
        inputs, output = self.read(graph)
        if not isinstance(output, SignalValue):
            raise ConversionError(
                f"the forward of {type(self.model).__name__} must return one tensor computed by the network, its logits; "
                f"it returns {_describe(output)}. Return the logits alone, without softmax, states or dictionaries"
            )
        if output.form.is_filled:
            raise ConversionError(f"the output of {type(self.model).__name__} cannot be converted exactly: {FILLED}")
        if not self.layers:
            raise ConversionError(
                f"{type(self.model).__name__} has no activation to convert: no ReLU, tanh, CQReLU or RNN stands between "
                "its input and its output, so there is nothing that could spike"
            )
        form = output.form
        exponent = min(e for e in (form.exponent, form.drive_exponent) if e is not None)
        return Program(tuple(inputs), tuple(self.steps), output.ref, form.factor, exponent).pruned(self.checks)

    def _placeholder(self, node: fx.Node, inputs: list[str]) -> Any:
        name = str(node.target)
        # An argument held fixed keeps a placeholder named `argument_1`, whose only use is an assertion.
        if name not in arguments_of(self.model):
            return None
        inputs.append(name)
        return InputValue(Ref(name))

    def _operation_value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            value: Any = self.model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return InputValue(self.emit(Constant(value.detach().clone()))) if isinstance(value, Tensor) else value
        if "_assert" in getattr(node.target, "__name__", ""):
            return None
        if node.op == "call_module":
            return self._module_value(node, args, kwargs)
        unreadable = next((value for value in (*args, *kwargs.values()) if isinstance(value, Unreadable)), None)
        if unreadable is not None:
            raise self.refuse(unreadable.why)
        method = node.op == "call_method"
        signals = _any_leaf((args, kwargs), lambda leaf: isinstance(leaf, (SignalValue, PartsValue)))
        name = name_of(node.target, method)
        if not signals:
            of_numbers = name is None or name.startswith(("operator.", "math."))
            if (
                not _any_leaf((args, kwargs), lambda leaf: isinstance(leaf, InputValue))
                and not method
                and of_numbers
                and callable(node.target)
            ):
                return node.target(*args, **kwargs)
            known = self._constant_result(node, args, kwargs)
            if known is not None:
                return InputValue(self.emit(Constant(known))) if isinstance(known, Tensor) else known
            if name is not None or node.target is getattr:
                if node.target is expect:
                    return self.check(expect, *args)
                return InputValue(self.emit(Call(name or "getattr"), *args, **kwargs))
        rule = self.rules.functions.get(node.target)
        if rule is not None:
            return self._apply(rule, args, kwargs)
        if name in LAYOUT and isinstance(args[0], SignalValue):
            return self._apply(self.rules.functions["layout"], (name, *args), kwargs)
        raise self.refuse(
            self.rules.refusal(node.target)
            or "no rule is known for it; "
            + (
                "compute it from the inputs alone, or express it by operations that are linear between activations"
                if signals
                else "compute it once, and hold it as a buffer or give it as an input"
            )
        )

    def _constant_result(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """The tensor, number or shape that an operation makes of parameters and buffers alone.

        None if it reads anything else, gives anything else, or is random.
        """
        tensors: list[Tensor | None] = []

        def tensor_of(leaf: Any) -> Any:
            if not isinstance(leaf, InputValue):
                return leaf
            tensors.append(self.constant(leaf))
            return tensors[-1]

        known = map_leaves((args, kwargs), tensor_of)
        if not tensors or any(tensor is None for tensor in tensors):
            return None
        results = []
        for _ in range(2):
            given, named = copy.deepcopy(known)  # the operation may be one in place
            with in_float64() if self.numerics.is_float64 else nullcontext():
                function: Any = getattr(given[0], str(node.target)) if node.op == "call_method" else node.target
                results.append(function(*(given[1:] if node.op == "call_method" else given), **named))
        first, second = results
        if isinstance(first, Tensor):
            return first.clone() if torch.equal(first, second) else None
        return first if isinstance(first, (int, float, torch.Size)) and first == second else None

    def _module_value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        module = self.model.get_submodule(str(node.target))
        why, rule = self.rules.refusal(module), self.rules.find_module(module)
        if rule is None or why is not None:
            raise self.refuse(why or "no rule is known for it; replace it, or write an adapter with a rule for it")
        return self._apply(rule, (module, *args), kwargs)

    def _apply(self, rule: Rule, args: Any, kwargs: Any) -> Any:
        try:
            bound = inspect.signature(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise self.refuse(f"it is called in a way its rule does not know ({error})") from error
        try:
            return rule(*bound.args, **bound.kwargs)
        except (TypeError, ValueError, AttributeError) as error:
            if _any_leaf((bound.args, bound.kwargs), lambda leaf: isinstance(leaf, InputValue)):
                raise self.refuse(
                    "one of its arguments is computed from the inputs, where a number is needed that is known before"
                ) from error
            raise

    def _operation(self) -> str:
        assert self.node is not None
        if self.node.op == "call_module":
            return type(self.model.get_submodule(str(self.node.target))).__name__
        name = self.node.target if isinstance(self.node.target, str) else getattr(self.node.target, "__name__", "?")
        return f"{name}()"


def _as_ref(value: Any) -> Any:
    return value.ref if isinstance(value, (SignalValue, PartsValue, InputValue)) else value


def _any_leaf(value: Any, holds: Callable[[Any], bool]) -> bool:
    found = []
    map_leaves(value, lambda leaf: found.append(holds(leaf)))
    return any(found)


def _is_filled(leaf: Any) -> bool:
    return isinstance(leaf, (SignalValue, PartsValue)) and leaf.form.is_filled


def _plain(value: Any) -> Any:
    """fx's immutable containers as ordinary ones."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return "a function of its inputs alone" if isinstance(value, InputValue) else repr(value)
