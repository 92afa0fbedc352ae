"""Changes in place: torch.fx records `x.mul_(2)` and `x += y` as new values, so a later reader of the old name is wrong."""

from __future__ import annotations

import operator

import torch.nn.functional as F
from torch import fx, nn

from casc_core.conversion.tracing.randomness import DROPOUTS
from casc_core.engine.conditions import expect_parts, is_of_sizes
from casc_core.engine.functions import REARRANGING, name_of
from casc_core.errors import ConversionError


def refuse_changes_in_place(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse an operation that changes a tensor which is read again under another name: a trace does not see that.

    Reading the operation's own result is fine (`x += y`, `x = x.mul_(2)`).
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        base = _read(node)
        if base is None or not _in_place(model, node):
            continue
        shared = _sharing(model, base, node)
        if any(each.op == "get_attr" and not str(each.target).startswith("_tensor_constant") for each in shared):
            raise ConversionError(
                f"the forward of {type(model).__name__} writes to its own weights or buffers: constrain weights after each "
                "step of the optimiser, or as a parametrization (torch.nn.utils.parametrize)\n"
                f"  at {node.meta.get('line', '?')}"
            )
        for other in shared:
            if any(order[user] > order[node] for user in other.users):
                raise ConversionError(
                    f"the forward of {type(model).__name__} changes a tensor in place and then reads it again by another "
                    "name, which a trace cannot follow: write x = x * 2, say, in place of x *= 2 or x.mul_(2)\n"
                    f"  at {node.meta.get('line', '?')}"
                )


def _read(node: fx.Node) -> fx.Node | None:
    """What it reads first, and changes if it changes anything; torch's functions and modules call it `input`."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    if node.kwargs.get("inplace") is True or (node.target is F.relu and True in node.args[1:2]):
        return True
    if node.target in _OPERATORS:  # a size is a number, which nothing changes
        return bool(node.meta.get("augmented")) and not is_of_sizes(node)
    name = _name(node)
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


# Besides the functions that rearrange: what may give its tensor itself, or a view of it.
_VIEWS = {
    "to", "float", "type", "type_as", "double", "view_as", "expand_as", "reshape_as", "moveaxis", "requires_grad_",
}  # fmt: skip
_OPERATORS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.floordiv, operator.mod,
    operator.and_, operator.or_, operator.xor,
}  # fmt: skip


def _sharing(model: nn.Module, base: fx.Node, change: fx.Node) -> set[fx.Node]:
    """Nodes that may share memory with `base`, but for what `change` gives."""
    found: set[fx.Node] = set()
    open_: list[fx.Node] = [base]
    while open_:
        node = open_.pop()
        if node is change or node in found:
            continue
        found.add(node)
        open_ += [user for user in node.users if _is_view(model, user) and _read(user) is node]
        if _is_view(model, node) and (read := _read(node)) is not None:
            open_.append(read)
    return found


def _is_view(model: nn.Module, node: fx.Node) -> bool:
    if _in_place(model, node):
        return True
    if node.op == "call_module":
        return isinstance(
            model.get_submodule(str(node.target)),
            (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd),
        )
    if node.target in DROPOUTS:  # in evaluation it returns its input itself
        return True
    if node.target is expect_parts:
        return True
    if node.target is getattr:
        return node.args[1] in ("T", "mT", "values", "data")
    if _name(node) in _VIEWS:
        return True
    return name_of(node.target, node.op == "call_method") in REARRANGING
