"""Sizes that follow from the layers alone, before any input is seen: of the channels of a convolution, say.

So a forward may iterate over `x.split(16, 1)` or `x.unbind(1)`. That the sizes are these is checked whenever a network
runs.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from casc_core.activation import CQReLU, Rounded
from casc_core.composed_activations import LeakyCQReLU, Swish
from casc_core.engine.conditions import ARITHMETIC, is_of_sizes

UNKNOWN_PARTS = (
    "is taken apart into as many parts as its input's size makes, which is known only when the network runs; unpack it "
    "(a, b = x.unbind(1)), or call x.chunk(2) or x.split([sizes, ...])"
)
_KEEP_ALL: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh,
    nn.Threshold, nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.LeakyReLU, nn.PReLU, CQReLU,
    Rounded, LeakyCQReLU, Swish,
)  # fmt: skip
_KEEP_CHANNELS = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.Upsample,
)  # fmt: skip
_KEPT_BY_NAME = frozenset(
    "relu relu_ relu6 tanh tanh_ sigmoid sigmoid_ hardsigmoid hardswish silu softsign leaky_relu hardtanh clamp clip "
    "dropout neg contiguous clone float double detach".split()
)


def known_size(node: fx.Node, dim: int, root: nn.Module) -> int | None:
    """The size of a dimension of what a node of a trace gives; None: the inputs decide.

    Dimensions of layers are those of a batch: 1 is that of the channels.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> *_, last, _ = fx.symbolic_trace(model).graph.nodes
    >>> known_size(last, 1, model), known_size(last, 2, model)
    (8, None)
    """
    if node.op == "get_attr":
        value: Any = root
        for part in str(node.target).split("."):
            value = getattr(value, part)
        fits = isinstance(value, Tensor) and -value.dim() <= dim < value.dim()
        return int(value.shape[dim]) if fits else None
    if node.op == "call_module":
        return _of_module(root.get_submodule(str(node.target)), node, dim, root)
    if node.op in ("call_function", "call_method"):
        return _of_call(node, dim, root)
    return None


def _of_module(module: nn.Module, node: fx.Node, dim: int, root: nn.Module) -> int | None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return int(module.out_channels) if dim == 1 else None
    if isinstance(module, nn.Linear) and dim == -1:
        return module.out_features
    if isinstance(module, nn.Embedding) and dim == -1:
        return module.embedding_dim
    passes = isinstance(module, _KEEP_ALL) or (isinstance(module, _KEEP_CHANNELS) and dim == 1)
    return _of_first(node, dim, root) if passes else None


def _of_call(node: fx.Node, dim: int, root: nn.Module) -> int | None:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _KEPT_BY_NAME:
        return _of_first(node, dim, root)
    if name in ("view", "reshape"):
        given = node.args[1:]
        shape = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
        size = shape[dim] if isinstance(shape, (tuple, list)) and -len(shape) <= dim < len(shape) else None
        return size if isinstance(size, int) and size >= 0 else None
    along = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = node.args[0] if node.args and isinstance(node.args[0], (tuple, list)) else None
    if parts is None or along != dim or node.target not in (torch.cat, torch.concat, torch.concatenate, torch.stack):
        return None
    if node.target is torch.stack:
        return len(parts)
    sizes = [known_size(part, dim, root) if isinstance(part, fx.Node) else None for part in parts]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def known_rank(node: fx.Node, root: nn.Module, found: dict[fx.Node, int | None] | None = None) -> int | None:
    """The number of dimensions of what a node of a trace gives, batch included; None: the inputs decide.

    Args:
        found: what has been found of other nodes, and will be of this one.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> first, *_, last, _ = fx.symbolic_trace(model).graph.nodes
    >>> known_rank(first, model), known_rank(last, model)
    (None, 4)
    """
    found = {} if found is None else found
    if node not in found:
        found[node] = _rank(node, root, found)
    return found[node]


def _rank(node: fx.Node, root: nn.Module, found: dict[fx.Node, int | None]) -> int | None:
    name = called(node.target)
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        name = type(module).__name__
        keeps = isinstance(module, (*_KEEP_ALL, nn.Linear, nn.Upsample))
    else:
        keeps = name in _KEPT_BY_NAME or name in _KEEP_RANK or node.kwargs.get("keepdim") is True
    spatial = re.search(r"(?:conv|pool|pad|norm)\w*([123])d$", name.lower())
    if spatial is not None and name != "BatchNorm1d":
        return int(spatial[1]) + 2
    if name == "permute":
        return len(node.args) - 1 if len(node.args) > 2 else None
    if not keeps:
        return None
    read = [known_rank(each, root, found) for each in node.all_input_nodes if not is_of_sizes(each)]
    known = [rank for rank in read if rank is not None]
    return max(known) if known and (name not in _BROADCAST or len(known) == len(read)) else None


_BROADCAST = frozenset("add sub mul truediv".split())
_KEEP_RANK = _BROADCAST | frozenset("cat concat concatenate interpolate pad transpose flip roll masked_fill".split())


def known_number(value: Any, root: nn.Module) -> Any:
    """What a trace computes of sizes, where layers alone decide it; None: the inputs do.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> graph = fx.symbolic_trace(model).graph
    >>> *_, last, output = graph.nodes
    >>> with graph.inserting_before(output):
    ...     channels = graph.call_function(operator.getitem, (graph.call_function(getattr, (last, "shape")), 1))
    ...     wide = graph.call_function(operator.gt, (channels, graph.call_method("dim", (last,))))
    >>> known_number(channels, model), known_number(wide, model)
    (8, True)
    """
    if not isinstance(value, fx.Node):
        return value if isinstance(value, (bool, int, float)) else None
    if value.target in ARITHMETIC and value.target is not operator.getitem:
        read = [known_number(each, root) for each in value.args]
        return None if None in read or value.kwargs else value.target(*read)  # type: ignore[operator]  # a function
    of, index = value.args[0], value.args[1] if len(value.args) > 1 else None
    if not isinstance(of, fx.Node):
        return None
    if called(value.target) in ("dim", "ndimension") or (value.target is getattr and index == "ndim"):
        return known_rank(of, root)
    if value.target is operator.getitem and isinstance(index, int) and _is_whole_shape(of):
        return known_size(of.all_input_nodes[0], index, root)
    return known_size(of, index, root) if value.target == "size" and isinstance(index, int) else None


def _is_whole_shape(node: fx.Node) -> bool:
    return (node.target == "size" and len(node.args) == 1) or (node.target is getattr and node.args[1] == "shape")


def known_length(shape: fx.Node, root: nn.Module) -> tuple[fx.Node, int, int] | None:
    """Of a shape, or a part of one: the tensor, its number of dimensions, and how many entries the shape has."""
    if shape.target is operator.getitem:
        before, index = shape.args
        of = known_length(before, root) if isinstance(before, fx.Node) else None
        if of is None or not isinstance(index, slice) or any(isinstance(each, fx.Node) for each in _ends(index)):
            return None
        tensor, rank, length = of
        return tensor, rank, len(range(length)[index])
    whole = shape.args[0] if called(shape.target) in ("size", "getattr") else None
    dims = known_rank(whole, root) if isinstance(whole, fx.Node) else None
    return None if dims is None or not isinstance(whole, fx.Node) else (whole, dims, dims)


def _ends(index: slice) -> tuple[Any, Any, Any]:
    return index.start, index.stop, index.step


def _of_first(node: fx.Node, dim: int, root: nn.Module) -> int | None:
    before = node.args[0] if node.args else node.kwargs.get("input")
    return known_size(before, dim, root) if isinstance(before, fx.Node) else None


def known_parts(target: Any, args: Any, kwargs: Any, root: nn.Module) -> int | None:
    """How many parts a call of `chunk`, `split` or `unbind` gives; None: the inputs decide.

    >>> known_parts("chunk", ("x", 3), {}, nn.Identity()), known_parts(torch.split, ("x", [1, 2]), {}, nn.Identity())
    (3, 2)
    """
    name = called(target)
    if not splits(target) or not args:
        return None
    if isinstance(args[0], fx.proxy.ParameterProxy):
        return len(getattr(args[0].param.detach(), name)(*args[1:], **kwargs))
    named = ("chunks", "split_size", "split_size_or_sections", "split_sizes")
    given = list(args[1:])
    how = None if name == "unbind" else given.pop(0) if given else next((kwargs[n] for n in named if n in kwargs), None)
    if isinstance(how, (tuple, list)):
        return len(how)
    dim = given[0] if given else kwargs.get("dim", 0)
    size = known_size(args[0].node, dim, root) if isinstance(args[0], fx.Proxy) and isinstance(dim, int) else None
    if name == "unbind":
        return size
    if not isinstance(how, int) or how < 1:
        return None
    if name == "chunk":  # of few entries there are fewer parts
        return how if not size else math.ceil(size / math.ceil(size / how))
    return None if size is None else math.ceil(size / how)


def splits(target: Any) -> bool:
    """Whether a call gives parts of a tensor."""
    return called(target) in ("chunk", "split", "split_with_sizes", "unbind")


def called(target: Any) -> str:
    """The name of a function or a method."""
    return target if isinstance(target, str) else getattr(target, "__name__", "")
