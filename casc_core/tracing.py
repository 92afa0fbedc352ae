"""Tracing a model's forward with torch.fx, remembering the user's own line of code for each operation."""

from __future__ import annotations

import dis
import inspect
import linecache
import math
import operator
import sys
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from casc_core.errors import ConversionError
from casc_core.functions import LAYOUT, name_of

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


class Tracer(fx.Tracer):
    """A tracer to which every module that has a rule is one operation."""

    def __init__(self, leaves: Iterable[type[nn.Module]]) -> None:
        # Packing a sequence is refused by name; without this, its C++ code would choke on a proxy first.
        modules: Any = (math, torch.nn.utils.rnn)
        super().__init__(autowrap_modules=modules)
        # The functions of that module only: its types must stay types, for `isinstance` in a user's forward.
        self._autowrap_function_ids -= {
            id(value) for value in vars(torch.nn.utils.rnn).values() if isinstance(value, type)
        }
        self.leaves = tuple(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"], node.meta["augmented"] = user_line(), _augmented()
        return node


def user_frame() -> FrameType | None:
    """The innermost frame on the stack that belongs neither to torch nor to this library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return frame


def user_line() -> str:
    """The user's line that is being executed: `file:line: code`."""
    frame = user_frame()
    if frame is None:
        return "unknown line"
    file = frame.f_code.co_filename
    return f"{file}:{frame.f_lineno}: {linecache.getline(file, frame.f_lineno).strip()}"


def _augmented() -> bool:
    """Whether the user's frame is executing `x += y` or the like, which a proxy records as `x + y`."""
    frame = user_frame()
    if frame is None:
        return False
    operation, argument = frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]
    name = dis.opname[operation]
    return name.startswith("INPLACE_") or (name == "BINARY_OP" and argument in _INPLACE_ARGUMENTS)


_INPLACE_ARGUMENTS = range(13, 26)  # CPython's NB_INPLACE_ADD .. NB_INPLACE_XOR


def trace(model: nn.Module, leaves: Iterable[type[nn.Module]], fixed: Mapping[str, Any] | None = None) -> fx.Graph:
    """The graph of `model.forward`, with the arguments in `fixed` held at those values.

    Raises:
        ConversionError: the forward cannot be traced; the message quotes the line at which tracing stopped.
    """
    tracer = Tracer(leaves)
    try:
        graph = tracer.trace(model, concrete_args=dict(fixed or {}))
    except Exception as error:
        line = _line_of(error)
        raise ConversionError(
            f"the forward of {type(model).__name__} cannot be traced: {_first_sentence(error)}\n  at {line}\n"
            "  The operations must not depend on the values of the input: use masks in place of `if` and loops over a "
            "tensor's values, x.shape[0] in place of len(x), and module attributes for sizes"
        ) from error
    _refuse_changes_in_place(model, graph)
    return graph


def _refuse_changes_in_place(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse an operation that changes a tensor which is read again under another name: a trace does not see that.

    Reading the operation's own result is fine (`x += y`, `x = x.mul_(2)`).
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _in_place(node) or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        for other in _sharing(model, node.args[0], node):
            if any(order[user] > order[node] for user in other.users):
                raise ConversionError(
                    f"the forward of {type(model).__name__} changes a tensor in place and then reads it again by another "
                    "name, which a trace cannot follow: write x = x * 2, say, in place of x *= 2 or x.mul_(2)\n"
                    f"  at {node.meta.get('line', '?')}"
                )


def _in_place(node: fx.Node) -> bool:
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.endswith("_"):
        return not name.endswith("__") and name != "requires_grad_"
    return bool(node.meta.get("augmented")) and node.target in _OPERATORS


_OPERATORS = {operator.add, operator.sub, operator.mul, operator.truediv, operator.pow}


def _sharing(model: nn.Module, base: fx.Node, change: fx.Node) -> set[fx.Node]:
    """Nodes that may share memory with `base`, but for what `change` gives."""
    found: set[fx.Node] = set()
    open_: list[fx.Node] = [base]
    while open_:
        node = open_.pop()
        if node is change or node in found:
            continue
        found.add(node)
        open_ += [user for user in node.users if _is_view(model, user) and user.args and user.args[0] is node]
        if _is_view(model, node) and node.args and isinstance(node.args[0], fx.Node):
            open_.append(node.args[0])
    return found


def _is_view(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(
            model.get_submodule(str(node.target)), (nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd)
        )
    if node.target is getattr:
        return node.args[1] in ("T", "mT", "values", "data")
    if _in_place(node) or str(node.target) in ("to", "float", "type", "type_as", "double"):
        return True
    return name_of(node.target, node.op == "call_method") in LAYOUT


def _line_of(error: BaseException) -> str:
    frames = []
    trace_back = error.__traceback__
    while trace_back is not None:
        file = trace_back.tb_frame.f_code.co_filename
        if not file.startswith(_LIBRARIES):
            code = linecache.getline(file, trace_back.tb_lineno).strip()
            frames.append(f"{file}:{trace_back.tb_lineno}: {code}")
        trace_back = trace_back.tb_next
    return frames[-1] if frames else "unknown line"


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0] if str(error).strip() else type(error).__name__


def arguments_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of the model's forward, in order."""
    return tuple(inspect.signature(model.forward).parameters)


def call_variants(model: nn.Module) -> list[dict[str, Any]]:
    """The ways to call `model.forward`: for each, the arguments held fixed.

    An argument with default None may be given or not, so each choice is traced on its own; other defaults are fixed.
    """
    optional: list[str] = []
    fixed: dict[str, Any] = {}
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConversionError(
                f"the forward of {type(model).__name__} takes {parameter}, so its inputs are not known; name its arguments"
            )
        if parameter.default is None:
            optional.append(name)
        elif parameter.default is not parameter.empty:
            fixed[name] = parameter.default
    chosen = range(len(optional) + 1) if len(optional) <= 3 else (0, len(optional))
    return [
        fixed | {name: None for name in optional if name not in given}
        for count in chosen
        for given in combinations(optional, count)
    ]
