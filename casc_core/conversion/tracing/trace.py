"""Tracing a model's forward with torch.fx, remembering the user's own line of code for each operation."""

from __future__ import annotations

import dis
import inspect
import linecache
import math
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from casc_core.conversion.tracing.causes import explained, wrapper
from casc_core.conversion.tracing.containers import recorded
from casc_core.conversion.tracing.frames import LIBRARIES, kept_line, user_frame, user_line
from casc_core.conversion.tracing.in_place import refuse_changes_in_place
from casc_core.conversion.tracing.kinds import kind_of
from casc_core.conversion.tracing.known_sizes import (
    UNKNOWN_PARTS,
    called,
    known_length,
    known_number,
    known_parts,
    splits,
)
from casc_core.conversion.tracing.number_arguments import functions, recorded_methods
from casc_core.conversion.tracing.own_state import as_before
from casc_core.conversion.tracing.patterns import OPERATIONS, rearrange, reduce
from casc_core.conversion.tracing.randomness import RANDOM, NothingRandom, other_generators
from casc_core.conversion.tracing.stand_ins import (
    Builtins,
    ParameterProxy,
    Parts,
    Proxy,
    refused,
    tensors_for_stand_ins,
)
from casc_core.engine.conditions import expect, expect_parts, is_asserted, is_of_sizes
from casc_core.errors import ConversionError

# A trace patches what all threads see.
_ONE_AT_A_TIME = threading.RLock()
# fx keeps tensors that a forward makes under such names.
_CONSTANT = "_tensor_constant"


class Tracer(fx.Tracer):
    """A tracer to which every module that has a rule is one operation."""

    def __init__(self, is_leaf: Callable[[nn.Module], bool] = lambda module: False) -> None:
        # Packing a sequence is refused by name; without this, its C++ code would choke on a proxy first.
        modules: Any = (math, torch.nn.utils.rnn)
        super().__init__(autowrap_modules=modules, param_shapes_constant=True)
        # The functions of that module only: its types must stay types, for `isinstance` in a user's forward.
        self._autowrap_function_ids -= {
            id(value) for value in vars(torch.nn.utils.rnn).values() if isinstance(value, type)
        }
        self._autowrap_search += [torch, torch.nn.functional]
        self._autowrap_function_ids |= functions()
        einops = sys.modules.get("einops")  # where it is not loaded, no forward calls it
        if einops is not None:
            self._autowrap_search.append(einops)
            self._autowrap_function_ids |= {id(getattr(einops, name)) for name in OPERATIONS}
        self.is_leaf = is_leaf
        self.unasked: list[fx.Node] = []  # parts made without the forward's asking
        self.refused: list[Exception] = []  # what the forward may have caught
        self.builtins = Builtins()
        self.begun_under = _blocks()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        a = tuple(a) if type(a) is Parts else a
        container = recorded(self, a)
        return super().create_arg(a) if container is None else container

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"], node.meta["augmented"] = user_line(), _augmented()
        if _blocks() != self.begun_under:
            node.meta["in_block"] = True
        return node

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> Any:  # fmt: skip
        """The stand-in for a result; a tuple of them where it has a known number of parts."""
        if kind == "call_function" and getattr(target, "__module__", "") == "einops.einops":
            return OPERATIONS[target.__name__](*args, line=kept_line(), **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        if isinstance(proxy, fx.proxy.ParameterProxy):
            return ParameterProxy(proxy)
        # The code of a graph takes parts by their places, and holds the checks that its own trace has made.
        count = None if isinstance(self.root, fx.GraphModule) else known_parts(target, args, kwargs, self.root)
        return proxy if count is None else self._parts_unasked(proxy, count)

    def _parts_unasked(self, whole: fx.Proxy, count: int) -> tuple[fx.Proxy, ...]:
        first = len(self.graph.nodes)
        parts = Parts(self.parts(whole, count))
        parts.whole = whole
        self.unasked += list(self.graph.nodes)[first:]
        return parts

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.builtins.answer_in(m.forward)
        if self._is_made_in_the_forward(m):
            return forward(*args, **kwargs)
        if type(m).__module__ != "einops.layers.torch":
            result = super().call_module(m, forward, args, kwargs)
            is_one = isinstance(result, fx.Proxy) and result.node.op == "call_module"
            return self._taken_apart(result, _structure(m)) if is_one else result
        layer: Any = m
        if type(m).__name__ == "Rearrange":
            return rearrange(args[0], layer.pattern, line=kept_line(), **layer.axes_lengths)
        if type(m).__name__ == "Reduce":
            return reduce(args[0], layer.pattern, layer.reduction, line=kept_line(), **layer.axes_lengths)
        raise ConversionError(f"{m} cannot be converted exactly: use nn.Linear, and einops.rearrange around it")

    def _is_made_in_the_forward(self, module: nn.Module) -> bool:
        """Whether it is none of the model's own and has no tensors but theirs: `self.layers[:3]`, `nn.ReLU()`."""
        try:
            self.path_of_module(module)
        except NameError:
            own = {id(tensor) for tensor in (*self.root.parameters(), *self.root.buffers())}
            return all(id(tensor) in own for tensor in (*module.parameters(), *module.buffers()))
        return False

    def _taken_apart(self, whole: Any, structure: Any) -> Any:
        """Tuples where the module gives tuples, so that `isinstance(states, tuple)` is answered as it would be."""
        if structure is None:
            return whole
        parts = [whole[index] for index in range(len(structure))]
        self.unasked += [part.node for part in parts]
        return tuple(map(self._taken_apart, parts, structure))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def parts(self, whole: fx.Proxy, count: int) -> tuple[fx.Proxy, ...]:
        """The parts of what `x.chunk(3)` and the like give, which the network checks to be this many whenever it runs."""
        node = whole.node
        is_tensor = splits(node.target) or node.op == "placeholder"
        checked: Any = expect_parts(whole, count, kept_line()) if is_tensor else whole
        return tuple(checked[index] for index in range(count))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        if splits(obj.node.target):
            refused(obj, ConversionError(f"forward: {called(obj.node.target)}() {UNKNOWN_PARTS}\n  at {user_line()}"))
        length = self.length(obj)
        if length is not None:
            shape: Any = obj
            return iter(tuple(shape[index] for index in range(length)))
        try:
            return super().iter(obj)
        except TraceError as error:
            refused(obj, error)

    def length(self, shape: fx.Proxy) -> int | None:
        """How many entries a shape, or a part of one, has, where the layers decide that; the network checks it."""
        if kind_of(shape.node, self.root) is not torch.Size:
            return None
        known = known_length(shape.node, self.root)
        if known is None:
            return None
        tensor, rank, length = known
        dims: Any = self.proxy(tensor).dim()
        expect(True, dims == rank, kept_line())
        return length

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition on sizes is what layers make it; if the inputs decide, false, or true where it is asserted."""
        if not is_of_sizes(obj.node):
            try:
                return super().to_bool(obj)
            except TraceError as error:
                refused(obj, error)
        frame, known = user_frame(), known_number(obj.node, self.root)
        outcome = bool(known) if known is not None else frame is not None and is_asserted(frame)
        expect(outcome, obj, kept_line())
        return outcome


def _structure(module: nn.Module) -> Any:
    """The tuples that a recurrent layer gives, with None for each tensor; None where that is not known."""
    if isinstance(module, nn.LSTM):
        return (None, (None, None))
    return (None, None) if isinstance(module, nn.RNNBase) else getattr(module, "RETURNED", None)


def _augmented() -> bool:
    """Whether the user's frame is executing `x += y` or the like, which a proxy records as `x + y`."""
    frame = user_frame()
    if frame is None:
        return False
    operation, argument = frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]
    name = dis.opname[operation]
    return name.startswith("INPLACE_") or (name == "BINARY_OP" and argument in _INPLACE_ARGUMENTS)


_INPLACE_ARGUMENTS = range(13, 26)  # CPython's NB_INPLACE_ADD .. NB_INPLACE_XOR


def _blocks() -> tuple[bool, ...]:
    """What `torch.no_grad`, `inference_mode` and `autocast` have set."""
    casts = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *casts)


def trace(model: nn.Module, is_leaf: Callable[[nn.Module], bool], fixed: Mapping[str, Any] | None = None) -> fx.Graph:
    """The graph of `model.forward`, with the arguments in `fixed` held at those values.

    Raises:
        ConversionError: the forward cannot be traced; the message quotes the line at which tracing stopped.
    """
    _forget_wrapped_names()
    tracer, others = Tracer(is_leaf), other_generators()
    try:
        # Gradients as in the mode that is traced: evaluation has none.
        grads = torch.set_grad_enabled(model.training)
        patched = tensors_for_stand_ins(), recorded_methods(), tracer.builtins
        with (
            _ONE_AT_A_TIME,
            grads,
            patched[0],
            patched[1],
            patched[2],
            as_before(model) as kept,
            NothingRandom(_random),
        ):
            tracer.begun_under = _blocks()
            tracer.builtins.answer_in(inspect.unwrap(model.forward))
            before = frozenset(vars(model))
            graph = tracer.trace(model, concrete_args=dict(fixed or {}))
            for error in tracer.refused:
                raise error
            constants = {name: tensor for tensor, name in tracer.tensor_attrs.items() if name.startswith(_CONSTANT)}
            for name in constants.keys() - before:  # fx has put them there, not the forward
                delattr(model, name)
            written = kept.written({str(node.target) for node in graph.nodes if node.op == "get_attr"})
            if written is None and (left := kept.left()) is not None and _differs_again(graph, model, tracer, fixed):
                written = left
        for name, tensor in constants.items():  # which the graph reads
            setattr(model, name, tensor)
    except ConversionError:
        raise
    except Exception as error:
        raise explained(error, type(model).__name__, _frames_of(error)) from error
    if written is not None:
        raise ConversionError(
            f"the forward of {type(model).__name__} changes its own {written!r}, so that its answer may differ at the "
            "next call: change it outside the forward, or only while training (`if self.training:`)"
        )
    if other_generators() != others:
        raise ConversionError(
            f"the forward of {type(model).__name__} draws a number with Python's or NumPy's generator: {RANDOM}"
        )
    for node in reversed(tracer.unasked):
        if not node.users:
            graph.erase_node(node)
    for node in graph.nodes:
        node.meta.pop("is_wrapped", None)  # or the code of a GraphModule would wrap it once more, for every trace
        if node.op == "get_attr":
            _remember_value(model, node)
    if isinstance(model, fx.GraphModule):
        _remember_lines(graph, model.graph)
    refuse_changes_in_place(model, graph)
    return graph


def _forget_wrapped_names() -> None:
    """Whoever unpickles a GraphModule that calls `torch.zeros` leaves that name with torch.fx, to be wrapped in every
    trace; but it is the name of nothing, and every trace would fail."""
    wrapped = vars(torch.fx._symbolic_trace).get("_wrapped_fns_to_patch", {})
    for key, space in list(wrapped.items()):
        if "." in key[1] and key[1] not in space:
            del wrapped[key]


def _differs_again(graph: fx.Graph, model: nn.Module, tracer: Tracer, fixed: Mapping[str, Any] | None) -> bool:
    """Whether a forward, run again on what it has left in its modules, does something else."""
    again = Tracer(tracer.is_leaf)
    again.begun_under = tracer.begun_under
    try:
        second = again.trace(model, concrete_args=dict(fixed or {}))
    except Exception:  # such as for stand-ins that the first trace has left
        return True
    return _operations(second) != _operations(graph)


def _operations(graph: fx.Graph) -> list[tuple[str, ...]]:
    return [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.nodes]


def _remember_value(model: nn.Module, node: fx.Node) -> None:
    """A tensor of one entry that is not trained is as good as a number; one that a forward makes has no lasting name."""
    path, _, name = str(node.target).rpartition(".")
    value = getattr(model.get_submodule(path), name)
    if not isinstance(value, torch.Tensor) or isinstance(value, nn.Parameter):
        return
    if value.shape in ((), (1,)):
        node.meta["number"] = value.item()
    if name.startswith(_CONSTANT):
        node.meta["constant"] = value.tolist()


def _remember_lines(graph: fx.Graph, traced: fx.Graph) -> None:
    """Code written by an earlier trace has no lines of the user's; those of that trace are its own."""
    for new, old in zip(graph.nodes, traced.nodes, strict=False):
        if new.op != old.op or str(new.target) != str(old.target):
            return
        new.meta |= {key: old.meta[key] for key in ("line", "nn_module_stack") if key in old.meta}


def _random(what: str) -> ConversionError:
    return ConversionError(f"forward: {what} cannot be converted exactly: {RANDOM}\n  at {user_line()}")


def _frames_of(error: BaseException) -> list[tuple[str, str]]:
    """Where an error came from, outermost first: `file:line` and the code there, of frames that are the user's."""
    frames = []
    trace_back = error.__traceback__
    while trace_back is not None:
        file = trace_back.tb_frame.f_code.co_filename
        if not file.startswith(LIBRARIES):
            code = linecache.getline(file, trace_back.tb_lineno).strip()
            frames.append((f"{file}:{trace_back.tb_lineno}", code))
        trace_back = trace_back.tb_next
    return frames


def argument_name(placeholder: str, names: Collection[str]) -> str:
    """The argument among these that a placeholder stands for: fx numbers those that are held.

    >>> argument_name("position_1", ["x", "position"]), argument_name("x_1", ["x_1"])
    ('position', 'x_1')
    """
    name = re.sub(r"_\d+$", "", placeholder)
    return name if placeholder not in names and name in names else placeholder


def arguments_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of the model's forward, in order."""
    return tuple(inspect.signature(model.forward).parameters)


def call_variants(model: nn.Module) -> list[dict[str, Any]]:
    """The ways to call `model.forward` that are tried at conversion: for each, the arguments held fixed.

    An argument with default None may be given or not, so each choice is a way of its own; where there are more than three
    of them, none, each alone, and all. Other defaults are fixed.

    Raises:
        ConversionError: the forward takes `*args` or `**kwargs`.
    """
    optional = optional_arguments(model)
    chosen = range(len(optional) + 1) if len(optional) <= 3 else (0, 1, len(optional))
    return [way(model, given) for count in chosen for given in combinations(optional, count)]


def optional_arguments(model: nn.Module) -> list[str]:
    """The arguments with default None, in order."""
    return [name for name, parameter in _parameters(model).items() if parameter.default is None]


def held_arguments(model: nn.Module) -> dict[str, Any]:
    """The arguments with another default, which a conversion holds there."""
    return {
        name: parameter.default
        for name, parameter in _parameters(model).items()
        if parameter.default is not None and parameter.default is not parameter.empty
    }


def required_arguments(model: nn.Module) -> set[str]:
    """The arguments without a default."""
    return {name for name, parameter in _parameters(model).items() if parameter.default is parameter.empty}


def way(model: nn.Module, given: Collection[str]) -> dict[str, Any]:
    """The arguments held fixed where, of the optional ones, those in `given` are given."""
    return held_arguments(model) | {name: None for name in optional_arguments(model) if name not in given}


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(model.forward).parameters
    variable = [each for each in parameters.values() if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if variable:
        name, named = type(model).__name__, [each for each in parameters.values() if each not in variable]
        given = (
            [each.name for each in named if each.default is each.empty] or [each.name for each in named[:1]] or ["x"]
        )
        in_order = given == [each.name for each in named[: len(given)]] or not named
        call = ", ".join(each if in_order else f"{each}={each}" for each in given)
        raise ConversionError(
            f"the forward of {name} takes {variable[0]}, so its inputs are not known; name its arguments, or wrap it:\n"
            f"{wrapper(name, given, call)}"
        )
    return parameters


def each_way(model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> list[fx.Graph | ConversionError]:
    """For each way of calling the model its graph, or why it has none."""
    found: list[fx.Graph | ConversionError] = []
    for fixed in call_variants(model):
        try:
            found.append(trace(model, is_leaf, fixed))
        except ConversionError as error:
            found.append(error)
    return found
