"""Of what type the value of a node in a trace will be: a tensor, a size, a number, a tuple of tensors, a data type."""

from __future__ import annotations

import inspect
import operator
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from casc_core.conversion.tracing.known_sizes import called, splits
from casc_core.engine.conditions import is_of_sizes

_ATTRIBUTES: dict[str, type] = {
    "shape": torch.Size, "dtype": torch.dtype, "device": torch.device, "layout": torch.layout, "ndim": int,
    "itemsize": int, "nbytes": int, "requires_grad": bool, "retains_grad": bool, "grad": type(None), "grad_fn": type(None),
}  # fmt: skip
_RETURNED = {"Tensor": Tensor, "int": int, "SymInt": int, "bool": bool, "float": float, "number": float}
_COMPARED = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "not_"))
_REAL = frozenset(("truediv", "sqrt"))


def kind_of(node: fx.Node, root: nn.Module) -> type:
    """The type of what a node of the trace of `root` gives where the network runs.

    >>> def forward(x):
    ...     return x.shape, x.size(0), x.shape[0] / 2, x.max(1), x.max(1).values, x.dtype, x.split(2)
    >>> made = [node for node in fx.symbolic_trace(forward).graph.nodes if node.op == "output"][0].args[0]
    >>> [kind_of(node, nn.Identity()).__name__ for node in made]
    ['Size', 'int', 'float', 'max', 'Tensor', 'dtype', 'tuple']
    """
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        several = isinstance(module, nn.MultiheadAttention) or getattr(module, "return_indices", False)
        return tuple if several else Tensor
    if node.op not in ("call_function", "call_method"):
        return Tensor
    name = called(node.target)
    if node.target is getattr:
        return attribute_kind(str(node.args[1]))
    if name == "size" and len(node.args) + len(node.kwargs) == 1:
        return torch.Size
    if node.target is operator.getitem:
        return _item_kind(_kind_of(node.args[0], root), node.args[1])
    if is_of_sizes(node):
        return bool if name in _COMPARED else float if name in _REAL else int
    if node.op == "call_function" and not inspect.isbuiltin(node.target):
        return tuple if splits(node.target) or node.kwargs.get("return_indices") is True else Tensor
    return _returned(name, _has_dim(node))


def attribute_kind(name: str) -> type:
    """The type of an attribute of a tensor, or of what is a tuple of them."""
    return _ATTRIBUTES.get(name, bool if name.startswith("is_") else Tensor)


def _kind_of(value: Any, root: nn.Module) -> type:
    return kind_of(value, root) if isinstance(value, fx.Node) else type(value)


def _item_kind(kind: type, index: Any) -> type:
    if isinstance(index, slice) and issubclass(kind, tuple):
        return torch.Size if kind is torch.Size else tuple
    return int if kind is torch.Size else Tensor


def _has_dim(node: fx.Node) -> bool:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(dim, int)


@cache
def _returned(name: str, has_dim: bool) -> type:
    """What an operation of that name returns; what torch knows no schema of gives a tensor."""
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    returns = [[str(each.type) for each in schema.returns] for schema in schemas if schema.returns]
    if ["List[Tensor]"] in returns and ["Tensor"] not in returns:
        return tuple
    if any(len(each) > 1 for each in returns) and (has_dim or all(len(each) > 1 for each in returns)):
        several: type = getattr(torch.return_types, name, tuple)
        return several
    alone = {each[0] for each in returns if len(each) == 1}
    return Tensor if not alone or "Tensor" in alone else _RETURNED.get(alone.pop(), Tensor)
