"""The first pass: each operation of a traced forward is read as a node, by its rule; what has no rule is refused.

A rule takes a `Reader` and the arguments of the operation, nodes among them, and returns the node of its result. Everything
that can be refused without computing a weight is refused here.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from casc_core.activation import Quantised
from casc_core.conversion.functional_activations import source_of
from casc_core.conversion.graph import (
    FILLED,
    Applied,
    Argument,
    AttributeOf,
    ByLevel,
    Encoded,
    FunctionCall,
    Graph,
    InputNode,
    Known,
    Node,
    Place,
    SignalNode,
    SpikingNode,
    is_boolean,
    levels_of,
)
from casc_core.conversion.passes.parameters import Parameters
from casc_core.conversion.passes.refusing import refusing
from casc_core.conversion.passes.returned import Unreadable, outputs_of
from casc_core.conversion.rule_table import Rule, RuleTable
from casc_core.conversion.tracing.batch_tables import key_of, wrapper_of_tables
from casc_core.conversion.tracing.behind_readout import has_weights, move_out, what_follows
from casc_core.conversion.tracing.containers import container_of, is_container, plain
from casc_core.conversion.tracing.dataflow import reading_inputs
from casc_core.conversion.tracing.known_sizes import known_rank
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.engine.conditions import expect
from casc_core.engine.functions import FIELDS, FILLING, REARRANGING, filled_with, may_read, name_of
from casc_core.engine.leaves import leaves
from casc_core.engine.ops import Op
from casc_core.errors import CascError, ConversionError
from casc_core.numerics import Numerics

NodeT = TypeVar("NodeT", bound=Node)


class Reader:
    """Reads one traced forward; rules call its methods.

    Attributes:
        model: the network that was traced.
        rules: the whole table.
        place: where the operation stands that is being read.
        target: what it calls.
        left: how many operations have not been read yet.
    """

    place: Place
    target: Any
    left: int = 0
    _node: fx.Node

    def __init__(self, model: nn.Module, rules: RuleTable, numerics: Numerics) -> None:
        self.model, self.rules = model, rules
        self.is_float64 = numerics.is_float64
        self._nodes: list[Node] = []
        self._checks: list[InputNode] = []
        self._layers: list[str] = []
        # Arguments of the forward that are real-valued, since they drive neurons; and those taken for masks so far.
        self._real: set[str] = set()
        self._whole: set[str] = set()
        # The operations that follow from the inputs; and what the others are.
        self._reading: set[fx.Node] = set()
        self._parameters = Parameters(model, self.is_float64, self.refuse)
        self._ranks: dict[fx.Node, int | None] = {}

    # What rules use.

    def add(self, node: NodeT) -> NodeT:
        """`node`, as what the current operation becomes, or part of it.

        Raises:
            ConversionError: it can never be converted.
        """
        node = replace(node, place=self.place)
        if isinstance(node, SpikingNode):
            node.settle()
            if not node.takes_fills and any(each.is_filled for each in node.sources):
                raise self.refuse(FILLED)
        node.check()
        self._nodes.append(node)
        return node

    def apply(self, op: Op, *args: Any, **kwargs: Any) -> Applied:
        """The result of an operation of the engine that needs no grid, called with signals and what else it takes."""
        return self.add(Applied(op, args, kwargs))

    def signal(self, value: Any) -> SignalNode:
        """`value` as a signal: a real-valued input or parameter is encoded as a drive, and zeros as nothing at all."""
        if isinstance(value, SignalNode):
            return value
        if isinstance(value, InputNode):
            self._real |= value.arguments
            return self.add(Encoded(value))
        raise self.refuse(f"{value!r} is no tensor that can drive neurons")

    def is_real(self, value: InputNode) -> bool:
        """Whether its numbers are real-valued: it is computed with an input that drives neurons, somewhere in the forward.

        What is not may be a mask or the lengths of texts: whole numbers, checked when the network runs.
        """
        if value.arguments & self._real:
            return True
        self._whole |= value.arguments
        return False

    def call(self, function: str, *args: Any, filled: Tensor | None = None, **kwargs: Any) -> FunctionCall:
        """A function of the inputs alone, by its name; `filled` are the numbers among which every entry of it is."""
        return self.add(FunctionCall(function, args, kwargs, filled))

    def attribute(self, x: SpikingNode, name: str) -> AttributeOf:
        """Shape, device or number of dimensions of a signal, known when the network runs."""
        return self.add(AttributeOf(x, name))

    def check(self, function: Callable[..., Any], *args: Any) -> FunctionCall:
        """Call `function` whenever the network runs, only for the error that it may raise."""
        name = name_of(function, False)
        assert name is not None
        node = self.call(name, *args)
        self._checks.append(node)
        return node

    def by_level(self, x: Any, function: Callable[[Tensor], Tensor]) -> SignalNode | None:
        """A function of `x`, entry by entry, where that is levels of one population; None: it is something else.

        Args:
            function: of float64 numbers, as the network computes it; what holds is 1, and what does not 0.
        """
        found = levels_of(x, self.levels) if isinstance(x, SignalNode) else None
        if found is None:
            return None
        values = function(found.values.clone())
        if not isinstance(values, Tensor) or values.shape != found.values.shape or values.is_complex():
            return None
        for value, result in zip(found.values.tolist(), values.tolist(), strict=True):
            if not math.isfinite(result):
                raise self.refuse(
                    f"of {value:g}, which is a level of what it reads, it gives {result:g}; only finite numbers can be "
                    "exact. Add a small number to what it reads"
                )
        holds = values.dtype == torch.bool
        return self.add(ByLevel(found.x, found.lowest, values.double(), found.unit, self.levels, holds))

    def constant(self, value: Any) -> Tensor | None:
        """The tensor behind `value` if it is a parameter or buffer as it stands, else None."""
        return value.value if isinstance(value, Known) else None

    def layer_name(self, name: str) -> str:
        """`name`, made unique among the populations so far: one module used twice has its own neurons at each place."""
        unique, count = name, 1
        while unique in self._layers:
            count += 1
            unique = f"{name}#{count}"
        self._layers.append(unique)
        return unique

    @property
    def levels(self) -> int:
        """Of the model's activations."""
        each = (module.q for module in self.model.modules() if isinstance(module, Quantised))
        return next((q for q in each if q is not None), 1)

    @property
    def rank(self) -> int | None:
        """How many dimensions the result of the current operation has; None: the inputs decide."""
        return known_rank(self._node, self.model, self._ranks)

    @property
    def name(self) -> str:
        """Module path of the current operation, or the name that the trace gave it."""
        return self.place.name

    def refuse(self, why: str) -> ConversionError:
        """The error for the current operation: where it stands, what it is, why it is refused."""
        return self.place.refuse(why)

    # The pass itself.

    def read(self, graph: fx.Graph) -> Graph:
        """The graph of what a traced forward computes.

        Raises:
            ConversionError: an operation is refused, or what the forward returns.
        """
        inputs, returned = self._operations(graph)
        kind = self._kind
        outputs, structure = outputs_of(returned, kind)
        if not inputs:
            raise ConversionError(f"the forward of {kind} reads no input, so there is nothing to convert")
        for output in outputs:
            if isinstance(output, SignalNode) and output.is_filled:
                raise ConversionError(f"the output of {kind} cannot be converted exactly: {FILLED}")
            if isinstance(output, SignalNode) and is_boolean(output):
                raise ConversionError(
                    f"the forward of {kind} returns a comparison, whose numbers the converted network does not have as "
                    "truth values: return what is compared, and compare the converted network's output"
                )
        if not self._layers:
            raise ConversionError(
                f"{kind} has no activation to convert: no ReLU, tanh, CQReLU or RNN stands between its input and its "
                "output, so there is nothing that could spike"
            )
        nodes, checks, layers = tuple(self._nodes), tuple(self._checks), tuple(self._layers)
        return Graph(tuple(inputs), nodes, checks, outputs, layers, structure)

    @property
    def _kind(self) -> str:
        """What the model is called in messages: a copy whose activations are modules is called as what it is a copy of."""
        return type(source_of(self.model) or self.model).__name__

    def _operations(self, graph: fx.Graph) -> tuple[list[str], Any]:
        """Names of the inputs, and what is returned."""
        values: dict[fx.Node, Any] = {}
        self._reading, self.left = reading_inputs(graph, arguments_of(self.model)), len(graph.nodes)
        inputs: list[str] = []
        output: Any = None
        for node in graph.nodes:
            self._node = node
            self.place, self.target, self.left = self._place(node), node.target, self.left - 1
            if node.op == "placeholder":
                values[node] = self._argument(node, inputs)
                continue
            args, kwargs = (plain(fx.node.map_arg(value, values.__getitem__)) for value in (node.args, node.kwargs))
            if isinstance(node.target, type) and is_container(node.target):
                values[node] = container_of(node.target, args, kwargs)
                continue
            if node.op == "output":
                output = args[0]
                continue
            try:
                with refusing(self.place):  # what the user's arguments make of a rule, or of an operation of constants
                    values[node] = self._operation(node, args, kwargs)
            except ConversionError as error:
                said = self._moved_out(node) if _holds((args, kwargs), SpikingNode) else None
                if said is None:
                    raise
                raise ConversionError(f"{error}\n  {said}") from error
        if self._whole & self._real:  # some were taken for masks before they were found to drive neurons
            self._whole.clear()
            for each in (self._nodes, self._checks, self._layers):
                each.clear()
            return self._operations(graph)
        return inputs, output

    def _moved_out(self, node: fx.Node) -> str | None:
        """What to do about a refused operation behind the last layer, and others like it; None: it is none."""
        if not self._is_refused(node) or has_weights(self.model, node):
            return None
        following = what_follows(node, self._is_layer)
        if following is None:
            return None
        calls = (each for each in node.graph.nodes if each.op in ("call_function", "call_method") and each is not node)
        others = [
            each
            for each in calls
            if each in self._reading
            and self.rules.refusal(each.target) is not None
            and what_follows(each, self._is_layer) is not None
        ]
        return move_out([node, *others], following, lambda each: self._place(each).operation)

    def _is_refused(self, node: fx.Node) -> bool:
        """Whether no rule takes the operation, whatever it is given."""
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return self.rules.refusal(module) is not None or self.rules.find_module(module) is None
        return self.rules.refusal(node.target) is not None or node.target not in self.rules.functions

    def _is_layer(self, node: fx.Node) -> bool:
        """Whether it has weights, or neurons."""
        if node.op == "call_module" and _is_activation(self.model.get_submodule(str(node.target))):
            return True
        return has_weights(self.model, node)

    def _place(self, node: fx.Node) -> Place:
        line = node.meta.get("line")
        if node.op == "call_module":
            operation = type(self.model.get_submodule(str(node.target))).__name__
            return Place(str(node.target), f"module {node.target!r}", operation, line)
        around = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
        where = f"forward of module {around[-1]!r}" if around else "forward"
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
        return Place(node.name, where, f"{name}()", line)

    def _argument(self, node: fx.Node, inputs: list[str]) -> Any:
        name = str(node.target)
        # An argument held fixed keeps a placeholder named `argument_1`, whose only use is an assertion.
        if name not in arguments_of(self.model):
            return None
        inputs.append(name)
        return self.add(Argument(name))

    def _operation(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            value = self._parameters.of(node)
            return self.add(Known(value.clone())) if isinstance(value, Tensor) else value
        if "_assert" in getattr(node.target, "__name__", ""):
            return None
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        if not args and "input" in kwargs:  # what torch calls the first argument of most functions
            args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
        unreadable = next((value for value in (*args, *kwargs.values()) if isinstance(value, Unreadable)), None)
        if unreadable is not None:
            raise self.refuse(unreadable.why)
        key = key_of(node)
        if key is not None and isinstance(args[0], InputNode):
            raise self.refuse(
                f"it takes {key!r} out of an input, which is then no tensor: give each tensor as an argument of its own, "
                f"as by\n{wrapper_of_tables(self._kind, arguments_of(self.model), node)}"
            )
        method = node.op == "call_method"
        signals = _holds((args, kwargs), SpikingNode)
        name = name_of(node.target, method)
        if not signals:
            of_numbers = name is None or name.startswith(("operator.", "math."))
            if not _holds((args, kwargs), InputNode) and not method and of_numbers and callable(node.target):
                return node.target(*args, **kwargs)
            if node not in self._reading and (known := self._as_constants(self._parameters.of(node))) is not None:
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
        if signals and node.target in self.rules.elementwise:
            found = self._tabulated(node.target, args, kwargs)
            if found is not None:
                return found
        if rule is not None:
            return self._ruled(rule, args, kwargs)
        if node not in self._reading and (known := self._as_constants(self._parameters.of(node))) is not None:
            return known
        if name in REARRANGING and isinstance(args[0], SignalNode):
            return self._ruled(self.rules.functions["layout"], (name, *args), kwargs)
        why = self.rules.refusal(node.target)
        if signals:
            raise self.refuse(
                why
                or "no rule is known for it; compute it from the inputs alone, or express it by operations that are linear "
                "between activations"
            )
        if why is not None and node.target in self.rules.anywhere:
            raise self.refuse(why)
        raise self.refuse(
            "of the inputs alone a network calls only functions that it can save and that give the same on any machine; "
            "compute it beforehand, and hold it as a buffer or give it as an input"
        )

    def _called(self, name: str, args: Any, kwargs: Any) -> InputNode:
        """What a function of the inputs gives; one that fills, or moves what is known, gives known numbers."""
        number, numbers = filled_with(name, args, kwargs), None
        if number is not None:
            numbers = torch.tensor([number], dtype=torch.float64)
        elif name in REARRANGING and isinstance(args[0], InputNode) and args[0].numbers is not None:
            numbers = torch.cat([args[0].numbers.flatten(), torch.zeros(1)]) if name in FILLING else args[0].numbers
        return self.add(FunctionCall(name, tuple(args), kwargs, numbers))

    def _as_constants(self, value: Any) -> Any:
        """`value`, its tensors known ones; None if there is anything else in it than they and numbers."""
        if isinstance(value, Tensor):
            undefined = value.is_floating_point() and bool(value.isnan().any())
            return None if undefined else self.add(Known(value.detach().clone()))
        if isinstance(value, (int, float, torch.Size)):
            return value
        if not isinstance(value, (tuple, list)):
            return None
        items = [self._as_constants(item) for item in value]
        return None if any(item is None for item in items) else tuple(items)

    def _module(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        module = self.model.get_submodule(str(node.target))
        why, rule = self.rules.refusal(module), self.rules.find_module(module)
        if node not in self._reading and (rule is None or why is not None or _is_activation(module)):
            known = self._as_constants(self._parameters.of(node))
            if known is not None:
                return known
        if type(module) in self.rules.elementwise:
            found = self._tabulated(copy.deepcopy(module).double(), args, kwargs)
            if found is not None:
                return found
        if rule is None or why is not None:
            raise self.refuse(why or "no rule is known for it; replace it, or write an adapter with a rule for it")
        return self._ruled(rule, (module, *args), kwargs)

    def _tabulated(self, target: Any, args: Any, kwargs: Any) -> SignalNode | None:
        """A call of an elementwise function as a table, if it reads levels; None: it is none."""
        (x, *rest), named = args or (kwargs.get("input"),), {key: kwargs[key] for key in kwargs if key != "input"}
        rest, named = list(map(self._number, rest)), {key: self._number(value) for key, value in named.items()}
        if any(isinstance(each, Node) for each in (*rest, *named.values())):
            return None

        def call(values: Tensor) -> Any:
            function = getattr(torch.Tensor, target) if isinstance(target, str) else target
            return function(values, *rest, **named)

        return self.by_level(x, call)

    def _number(self, value: Any) -> Any:
        """A tensor of one number that is known, as that number; whatever else, as it is."""
        constant = self.constant(value)
        return value if constant is None or constant.dim() > 1 or constant.numel() != 1 else constant.item()

    def _ruled(self, rule: Rule, args: Any, kwargs: Any) -> Any:
        try:
            bound = _signature(rule).bind(self, *args, **kwargs)
        except TypeError as error:
            raise self.refuse(f"it is called in a way its rule does not know ({error})") from error
        for name, value in bound.arguments.items():
            if isinstance(value, InputNode) and bound.signature.parameters[name].annotation == SignalNode.__name__:
                bound.arguments[name] = self.signal(value)
        try:
            return rule(*bound.args, **bound.kwargs)
        except CascError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            if _holds((bound.args, bound.kwargs), InputNode):
                raise self.refuse(
                    "one of its arguments is computed from the inputs, where a number is needed that is known before"
                ) from error
            raise


@cache
def _signature(rule: Rule) -> inspect.Signature:
    return inspect.signature(rule)


def _is_activation(module: nn.Module) -> bool:
    return any(isinstance(each, Quantised) for each in module.modules())


def _holds(value: Any, kind: type) -> bool:
    return any(isinstance(leaf, kind) for leaf in leaves(value))
