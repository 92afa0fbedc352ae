"""Lowering: a traced model becomes a `Program`, one rule for each operation.

Between two populations of spiking neurons every operation is affine. A rule takes the static values of an operation's
arguments, emits operations, and returns the static value of the result. What has no rule is refused.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from casc_core.activation import Quantised
from casc_core.conversion.symbols import Form, InputValue, PartsValue, SignalValue, Table, Unreadable
from casc_core.conversion.tracing.causes import wrapper
from casc_core.conversion.tracing.dataflow import reading_inputs
from casc_core.conversion.tracing.randomness import RANDOM, NothingRandom
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.engine.conditions import expect
from casc_core.engine.float64 import in_float64
from casc_core.engine.functions import FIELDS, REARRANGING, filled_with, may_read, name_of
from casc_core.engine.leaves import map_leaves
from casc_core.engine.ops import Call, Constant, Embed, Encode, Op, Silence
from casc_core.engine.program import Program, Ref, Step
from casc_core.errors import CascError, ConversionError
from casc_core.numerics import DRIVE_BITS, EXPECTED_INPUT, INPUT_EXPONENT, Numerics, snapped, stored

FILLED = (
    "entries that were filled with a large negative number stand for minus infinity, which only a maximum may read; fill "
    "with 0, or mask the converted network's output"
)
Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)


# Of what a maximum and a sort return.

LOOKED_INTO: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.BatchNorm3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
"""Modules that can also be written as a function of their parameters: a forward of one's own is traced through."""


def _has_own_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `module` computes otherwise than the type whose rule it would take: what torch's forwards call counts too."""
    names = [name for name in ("forward", "_conv_forward", "_output_padding") if hasattr(kind, name)]
    return any(getattr(type(module), name) is not getattr(kind, name) for name in names)


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
        return kind is not None and not (kind in LOOKED_INTO and _has_own_forward(module, kind))

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
                own = _has_own_forward(target, kind) and kind not in LOOKED_INTO
                return f"it overrides the forward of {kind.__name__}; hold one instead of inheriting" if own else None
        return None


class OpPool:
    """The operations of a network; one that is already there is shared."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self.ops: list[Op] = list(ops)
        self._known = {self._digest(op): index for index, op in enumerate(self.ops)}

    def add(self, op: Op) -> int:
        """Index of `op`, or of an equal one."""
        key = self._digest(op)
        if key not in self._known:
            self._known[key] = len(self.ops)
            self.ops.append(op)
        return self._known[key]

    @staticmethod
    def _digest(op: Op) -> str:
        digest = hashlib.sha256(repr((op.kind, sorted(op.settings.items()))).encode())
        for name, tensor in sorted(op.tensors().items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Lowering:
    """One pass over one traced graph; rules call its methods."""

    def __init__(self, model: nn.Module, rules: RuleTable, numerics: Numerics, pool: OpPool) -> None:
        self.model, self.rules, self.numerics, self.pool = model, rules, numerics, pool
        self.steps: list[Step] = []
        self.layers: list[str] = []
        # What is called for its complaints alone, by name.
        self.checks: list[str] = []
        self.node: fx.Node | None = None
        # The operations that follow from the inputs; and what the others are.
        self.reading: set[fx.Node] = set()
        self.evaluated: dict[fx.Node, Any] = {}
        # How many operations have not been lowered yet.
        self.left = 0

    # What rules use.

    def emit(self, op: Op, *args: Any, **kwargs: Any) -> Ref:
        """Append a call of `op`; static values among the arguments become references."""
        if not op.takes_fills and _any_leaf((args, kwargs), _is_filled):
            raise self.refuse(FILLED)
        result = f"%{len(self.steps)}"  # no argument of a forward can be called so
        args, kwargs = (map_leaves(value, _as_ref) for value in (args, kwargs))
        line = None if self.node is None else self.node.meta.get("line")
        self.steps.append(Step(self.pool.add(op), args, kwargs, result, line))
        return Ref(result)

    def signal(self, value: Any) -> SignalValue:
        """`value` as a signal: a real-valued input or parameter is encoded as a drive, and zeros as nothing at all."""
        if isinstance(value, SignalValue):
            return value
        if isinstance(value, InputValue):
            entries = self.entries(value)
            if entries is not None and not bool(entries.any()):
                return SignalValue(self.emit(Silence(), value), Form(exponent=0, is_exact=True))
            if entries is not None:
                on, exponent = snapped(self.numerics, entries.double(), DRIVE_BITS)
                reach, is_exact = float(on.abs().max()), torch.equal(on, entries.double())
                form = Form(drive_exponent=exponent, drive_reach=reach, is_exact=is_exact)
                return SignalValue(self.emit(Encode(exponent=exponent), value), form)
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

    def entries(self, value: InputValue) -> Tensor | None:
        """The numbers among which every entry of `value` is; None: the inputs decide."""
        constant = self.constant(value)
        return value.entries if constant is None else constant

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

    @property
    def line(self) -> str:
        """The user's line of the current operation."""
        return "?" if self.node is None else str(self.node.meta.get("line", "?"))

    def refuse(self, why: str) -> ConversionError:
        """The error for the current operation: where it stands, what it is, why it is refused."""
        assert self.node is not None
        if self.node.op == "call_module":
            where = f"module {self.node.target!r}"
        else:
            around = [path for path, _ in self.node.meta.get("nn_module_stack", {}).values() if path]
            where = f"forward of module {around[-1]!r}" if around else "forward"
        return ConversionError(f"{where}: {self._operation()} cannot be converted exactly: {why}\n  at {self.line}")

    # The pass itself.

    def read(self, graph: fx.Graph) -> tuple[list[str], Any]:
        """Lower each operation of `graph`: names of the inputs, and the static value of what it returns.

        Raises:
            ConversionError: an operation is refused.
        """
        values: dict[fx.Node, Any] = {}
        self.reading, self.left = reading_inputs(graph, arguments_of(self.model)), len(graph.nodes)
        inputs: list[str] = []
        output: Any = None
        for node in graph.nodes:
            self.node, self.left = node, self.left - 1
            if node.op == "placeholder":
                values[node] = self._placeholder(node, inputs)
                continue
            args, kwargs = (_plain(fx.node.map_arg(value, values.__getitem__)) for value in (node.args, node.kwargs))
            if node.op == "output":
                output = args[0]
                continue
            try:
                values[node] = self._operation_value(node, args, kwargs)
            except CascError:
                raise
            except Exception as error:  # what the user's arguments make of a rule, or of an operation of constants
                raise self.refuse(f"it fails on its arguments ({type(error).__name__}: {error})") from error
        return inputs, output

    def lower(self, graph: fx.Graph) -> Program:
        """The program of `graph`."""
        record = _record(graph)
        inputs, output = self.read(graph) if record is None else ([], record)
        if not isinstance(output, SignalValue):
            name, part, arguments = type(self.model).__name__, _logits_in(output), arguments_of(self.model)
            wrapped = f", or wrap it:\n{wrapper(name, arguments, inputs or arguments, part)}" if part else ""
            raise ConversionError(
                f"the forward of {name} must return one tensor computed by the network, its logits; it returns "
                f"{_describe(output)}. Return the logits alone, without softmax, states or dictionaries{wrapped}"
            )
        if not inputs:
            raise ConversionError(
                f"the forward of {type(self.model).__name__} reads no input, so there is nothing to convert"
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
            value = self._evaluated(node)
            return InputValue(self.emit(Constant(value.clone()))) if isinstance(value, Tensor) else value
        if "_assert" in getattr(node.target, "__name__", ""):
            return None
        if node.op == "call_module":
            return self._module_value(node, args, kwargs)
        unreadable = next((value for value in (*args, *kwargs.values()) if isinstance(value, Unreadable)), None)
        if unreadable is not None:
            raise self.refuse(unreadable.why)
        if node.target is operator.getitem and isinstance(args[0], InputValue) and isinstance(args[1], str):
            raise self.refuse(
                f"it takes {args[1]!r} out of an input, which is then no tensor: give each tensor as an argument of its "
                "own, as by\n"
                "  class Wrapped(torch.nn.Module):\n"
                "      def __init__(self, model): super().__init__(); self.model = model\n"
                f"      def forward(self, {args[1]}): return self.model({{{args[1]!r}: {args[1]}}})"
            )
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
            if node not in self.reading and (known := self._as_constants(self._evaluated(node))) is not None:
                return known
            if node.target is getattr and not hasattr(Tensor, args[1]) and args[1] not in FIELDS:
                raise self.refuse(f"it reads the attribute {args[1]!r}, which a tensor does not have")
            if node.target is getattr and not may_read(str(args[1])):
                raise self.refuse(f"it reads the attribute {args[1]!r}; read shapes, types and devices alone")
            if name is not None:
                if node.target is expect:
                    return self.check(expect, *args)
                return self._called(name, args, kwargs)
        rule = self.rules.functions.get(node.target)
        if rule is not None:
            return self._apply(rule, args, kwargs)
        if node not in self.reading and (known := self._as_constants(self._evaluated(node))) is not None:
            return known
        if name in REARRANGING and isinstance(args[0], SignalValue):
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

    def _called(self, name: str, args: Any, kwargs: Any) -> InputValue:
        """What a function of the inputs gives; one that fills, or moves what is known, gives known numbers."""
        filled, entries = filled_with(name, args, kwargs), None
        if filled is not None:
            entries = torch.tensor([filled], dtype=torch.float64)
        elif name in REARRANGING and isinstance(args[0], InputValue):
            entries = self.entries(args[0])
        return InputValue(self.emit(Call(name), *args, **kwargs), entries)

    def _evaluated(self, node: fx.Node) -> Any:
        """What an operation makes of parameters and buffers alone, computed as the model computes it.

        Raises:
            ConversionError: it is random.
        """
        if node not in self.evaluated:
            self.evaluated[node] = self._evaluate(node)
        return self.evaluated[node]

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":  # of an argument that is not given
            return None
        if node.op == "get_attr":
            value: Any = self.model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value.detach() if isinstance(value, Tensor) else value
        args, kwargs = copy.deepcopy(  # it may be an operation in place
            tuple(_plain(fx.node.map_arg(value, self._evaluated)) for value in (node.args, node.kwargs))
        )
        wide = in_float64() if self.numerics.is_float64 else nullcontext()
        with wide, NothingRandom(lambda _: self.refuse(RANDOM)):
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            module = node.op == "call_module"
            function: Any = self.model.get_submodule(str(node.target)) if module else node.target
            return function(*args, **kwargs)

    def _as_constants(self, value: Any) -> Any:
        """`value`, its tensors constants of the program; None if there is anything else in it than they and numbers."""
        if isinstance(value, Tensor):
            undefined = value.is_floating_point() and bool(value.isnan().any())
            return None if undefined else InputValue(self.emit(Constant(value.detach().clone())))
        if isinstance(value, (int, float, torch.Size)):
            return value
        if not isinstance(value, (tuple, list)):
            return None
        items = [self._as_constants(item) for item in value]
        return None if any(item is None for item in items) else tuple(items)

    def _module_value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        module = self.model.get_submodule(str(node.target))
        why, rule = self.rules.refusal(module), self.rules.find_module(module)
        if node not in self.reading and (rule is None or why is not None or isinstance(module, Quantised)):
            known = self._as_constants(self._evaluated(node))
            if known is not None:
                return known
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


def lower_each(
    model: nn.Module,
    ways: Iterable[fx.Graph | ConversionError],
    rules: RuleTable,
    numerics: Numerics,
    pool: OpPool,
) -> list[tuple[Program, list[str]]]:
    """The programs of those ways of calling the model that can be lowered, each with the names of its populations.

    Raises:
        ConversionError: none can; the error is that of the way that got furthest.
    """
    done: list[tuple[Program, list[str]]] = []
    refusals: list[tuple[float, ConversionError]] = []
    with torch.no_grad():
        for way in ways:
            if isinstance(way, ConversionError):
                refusals.append((math.inf, way))
                continue
            lowering = Lowering(model, rules, numerics, pool)
            try:
                done.append((lowering.lower(way), lowering.layers))
            except ConversionError as error:
                refusals.append((lowering.left, error))
    if not done:
        raise min(refusals, key=lambda refusal: refusal[0])[1]
    return done


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


@dataclass(frozen=True)
class _Record:
    """What a forward returns that fx knows only by its type: a dataclass, or a named tuple."""

    kind: str
    fields: tuple[str, ...]


def _record(graph: fx.Graph) -> _Record | None:
    (returned,) = graph.output_node().args
    if not isinstance(returned, fx.Node) or not isinstance(returned.target, type):
        return None
    return _Record(returned.target.__name__, tuple(returned.kwargs) or getattr(returned.target, "_fields", ()))


def _describe(value: Any) -> str:
    if isinstance(value, _Record):
        return f"a {value.kind} of {', '.join(value.fields)}"
    if isinstance(value, dict):
        return f"a dict of {len(value)} ({', '.join(map(repr, value))})"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, PartsValue):
        return "a tuple of parts"
    return "a function of its inputs alone" if isinstance(value, InputValue) else repr(value)


def _logits_in(value: Any) -> str:
    """How the logits are read out of what a forward returns: the entry of that name, or the first; "" if there is none."""
    if isinstance(value, _Record) and value.fields:
        return f".{'logits' if 'logits' in value.fields else value.fields[0]}"
    if isinstance(value, dict) and value:
        return f"[{('logits' if 'logits' in value else next(iter(value)))!r}]"
    return "[0]" if isinstance(value, (tuple, list, PartsValue)) and value else ""
