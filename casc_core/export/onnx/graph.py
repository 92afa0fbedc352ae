"""An ONNX graph as it is written: nodes, constants, and tensors of which shape and type are known beforehand.

Shapes are known at two sizes of everything that may vary, such as the batch: a dimension that differs between the two is
dynamic, and all that the graph says of it is read while it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from casc_core.engine.leaves import map_leaves
from casc_core.errors import ConversionError

SIZES = (0, 1)
"""The two examples of what may vary."""
Likes = tuple[Tensor, Tensor]
_END = 2**62


class DynamicSizeError(ConversionError):
    """A size that varies would have to be a constant."""


@dataclass(frozen=True)
class SymbolicTensor:
    """A tensor that the graph computes.

    Attributes:
        name: of the value in the graph.
        like: its shape and type, at either size.
        most: the largest magnitude, where it is known that all entries are whole numbers up to this; else None.
    """

    name: str
    like: Likes
    most: float | None = None

    @property
    def dim(self) -> int:
        """How many dimensions it has."""
        return self.like[0].dim()

    @property
    def dtype(self) -> torch.dtype:
        return self.like[0].dtype


Tensors = Sequence[SymbolicTensor]


@dataclass(frozen=True)
class SymbolicSize:
    """A size that varies: a whole number that the graph computes, and what it is at either size."""

    name: str
    values: tuple[int, int]


def at(value: Any, size: int) -> Any:
    """Arguments as they are at one of the two sizes: shapes and types of tensors, and numbers."""

    def known(leaf: Any) -> Any:
        if isinstance(leaf, SymbolicTensor):
            return leaf.like[size]
        if isinstance(leaf, SymbolicSize):
            return leaf.values[size]
        return leaf.to("meta") if isinstance(leaf, Tensor) else leaf

    return map_leaves(value, known)


def likes(function: Callable[..., Any], *args: Any) -> Likes:
    """What a function of tensors makes of these arguments, at either size."""
    first, second = (function(*at(list(args), size)) for size in SIZES)
    return first, second


class Cut(NamedTuple):
    """Every `step`-th entry along a dimension, from `start` on and without the last `from_end`."""

    dim: int
    start: int
    from_end: int
    step: int = 1


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Body:
    """Nodes, inputs and outputs of a graph, or of one inside it that is run for each position."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[SymbolicTensor] = field(default_factory=list)
    outputs: list[SymbolicTensor] = field(default_factory=list)


class Graph:
    """A graph that grows node by node.

    Attributes:
        body: its nodes; within `scan`, those of the inner graph.
        constants: by name.
        conditions: names of single truth values, all of which must hold, or an answer would not be that of the network.
    """

    def __init__(self) -> None:
        self.body = Body()
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.conditions: list[str] = []
        self._names = (f"/{index}" for index in itertools.count())
        self._known: dict[tuple[Any, ...], str] = {}

    def fresh(self) -> str:
        """A name that nothing has."""
        return next(self._names)

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> tuple[str, ...]:
        """The names of what a new node gives."""
        names = tuple(self.fresh() for _ in range(outputs))
        self.body.nodes.append(Node(operator, inputs, names, attributes))
        return names

    def apply(
        self, operator: str, like: Callable[..., Tensor], *inputs: SymbolicTensor | str, **attributes: Any
    ) -> SymbolicTensor:
        """What an operator makes of these inputs, as a function of the tensors among them foresees it."""
        names = (each if isinstance(each, str) else each.name for each in inputs)
        tensors = [each for each in inputs if isinstance(each, SymbolicTensor)]
        return SymbolicTensor(self.node(operator, *names, **attributes)[0], likes(like, *tensors))

    def constant(self, value: Tensor | float | Sequence[int]) -> SymbolicTensor:
        """A constant tensor; a number is one of float64, whole numbers in a list are of int64."""
        if isinstance(value, float):
            value = torch.tensor(value, dtype=torch.float64)
        tensor = value if isinstance(value, Tensor) else torch.tensor(list(value), dtype=torch.int64)
        array = tensor.detach().cpu().contiguous().numpy()
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh()
            self.constants[self._known[key]] = array
        return SymbolicTensor(self._known[key], (tensor.to("meta"), tensor.to("meta")))

    def tensor(self, value: Any, dtype: torch.dtype | None = None) -> SymbolicTensor:
        """A value as a tensor of the graph, of this type."""
        if isinstance(value, SymbolicSize):
            scalar = torch.empty((), dtype=torch.int64, device="meta")
            value = SymbolicTensor(value.name, (scalar, scalar))
        if not isinstance(value, SymbolicTensor):
            value = self.constant(torch.as_tensor(value) if dtype is None else torch.as_tensor(value).to(dtype))
        return value if dtype in (None, value.dtype) else self.cast(value, dtype)

    def require(self, condition: SymbolicTensor) -> None:
        """Each entry of a condition must hold."""
        if condition.dim:
            condition = self.apply("ReduceMin", lambda x: x.all(), condition, keepdims=0)
        self.conditions.append(condition.name)

    def named(self, x: SymbolicTensor, name: str) -> SymbolicTensor:
        """`x` under a name of its own."""
        self.body.nodes.append(Node("Identity", (x.name,), (name,), {}))
        return SymbolicTensor(name, x.like)

    # Entry by entry.

    def binary(self, operator: str, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        """Arithmetic on two tensors of one type, which broadcast."""
        return self.apply(operator, torch.add, a, b)

    def compare(self, operator: str, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        """Truth values of two tensors of one type, which broadcast."""
        return self.apply(operator, torch.eq, a, b)

    def add(self, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        return self.binary("Add", a, b)

    def sub(self, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        return self.binary("Sub", a, b)

    def mul(self, a: SymbolicTensor, b: SymbolicTensor | float) -> SymbolicTensor:
        if isinstance(b, float):
            return a if b == 1.0 else self.binary("Mul", a, self.constant(b))
        return self.binary("Mul", a, b)

    def div(self, a: SymbolicTensor, b: SymbolicTensor | float) -> SymbolicTensor:
        return self.binary("Div", a, self.constant(b) if isinstance(b, float) else b)

    def unary(self, operator: str, x: SymbolicTensor) -> SymbolicTensor:
        """A function of each entry."""
        return self.apply(operator, lambda x: x, x)

    def where(self, mask: SymbolicTensor, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        return self.apply("Where", torch.where, mask, a, b)

    def cast(self, x: SymbolicTensor, dtype: torch.dtype) -> SymbolicTensor:
        """The entries as another type; to a whole one, towards zero."""
        if x.dtype == dtype:
            return x
        cast = self.apply("Cast", lambda x: x.to(dtype), x, to=dtype)
        return replace(cast, most=1.0 if x.dtype == torch.bool else x.most)

    def snap(self, x: SymbolicTensor, exponent: int) -> SymbolicTensor:
        """Rounded to multiples of `2**exponent`, halves to the even one."""
        return self.mul(self.unary("Round", self.mul(x, 2.0**-exponent)), 2.0**exponent)

    def clip(self, x: SymbolicTensor, low: float, high: float) -> SymbolicTensor:
        return self.apply("Clip", lambda x, low, high: x, x, self.constant(low), self.constant(high))

    # Sums, products and maxima.

    def matmul(self, a: SymbolicTensor, b: SymbolicTensor) -> SymbolicTensor:
        return self.apply("MatMul", torch.matmul, a, b)

    def reduce(self, operator: str, x: SymbolicTensor, dims: Sequence[int], keepdim: bool) -> SymbolicTensor:
        """A sum, minimum or maximum over dimensions."""
        dims = [dim % x.dim for dim in dims]
        return self.apply(
            operator, lambda x, _: x.amax(dims, keepdim=keepdim), x, self.constant(dims), keepdims=int(keepdim)
        )

    # Layout.

    def reshape(self, x: SymbolicTensor, shapes: tuple[Sequence[int], Sequence[int]]) -> SymbolicTensor:
        """`x` in another shape, given at either size."""
        first, second = (like.reshape(list(shape)) for like, shape in zip(x.like, shapes, strict=True))
        known = {sizes: dim for dim, sizes in enumerate(sizes_of(x.like)) if sizes[0] != sizes[1]}
        given: list[int | SymbolicSize] = []
        inferred = sum(sizes[0] != sizes[1] for sizes in sizes_of((first, second))) == 1
        for sizes in sizes_of((first, second)):
            if sizes[0] == sizes[1]:
                given.append(sizes[0])
            elif sizes in known and not inferred:
                given.append(self._size(x, known[sizes]))
            elif -1 not in given:
                given.append(-1)
            else:
                raise DynamicSizeError(f"a tensor of shape {list(x.like[0].shape)} is reshaped to {list(first.shape)}")
        return SymbolicTensor(self.node("Reshape", x.name, self.shape(given).name)[0], (first, second), x.most)

    def transpose(self, x: SymbolicTensor, order: Sequence[int]) -> SymbolicTensor:
        return replace(self.apply("Transpose", lambda x: x.permute(*order), x, perm=list(order)), most=x.most)

    def unsqueeze(self, x: SymbolicTensor, dim: int) -> SymbolicTensor:
        dim %= x.dim + 1
        apart = self.apply("Unsqueeze", lambda x, _: x.unsqueeze(dim), x, self.constant([dim]))
        return replace(apart, most=x.most)

    def concat(self, parts: Sequence[SymbolicTensor], dim: int) -> SymbolicTensor:
        dim %= parts[0].dim
        return self.apply("Concat", lambda *parts: torch.cat(parts, dim), *parts, axis=dim)

    def slice(self, x: SymbolicTensor, cuts: Sequence[Cut]) -> SymbolicTensor:
        """Some entries along some dimensions."""
        cuts = [cut for cut in cuts if (cut.start, cut.from_end, cut.step) != (0, 0, 1)]
        if not cuts:
            return x
        columns = (
            [cut.start for cut in cuts],
            [-cut.from_end if cut.from_end else _END for cut in cuts],
            [cut.dim % x.dim for cut in cuts],
            [cut.step for cut in cuts],
        )

        def like(x: Tensor, *_: Tensor) -> Tensor:
            places = [slice(None)] * x.dim()
            for cut in cuts:
                places[cut.dim] = slice(cut.start, x.shape[cut.dim] - cut.from_end, cut.step)
            return x[tuple(places)]

        return self.apply("Slice", like, x, *map(self.constant, columns))

    def pad(self, x: SymbolicTensor, around: Sequence[tuple[int, int]], fill: float) -> SymbolicTensor:
        """More entries before and after along each of the last dimensions, the last one last; fewer where negative."""
        if not any(itertools.chain(*around)):
            return x
        ahead = [0] * (x.dim - len(around))
        both = [*ahead, *(before for before, _ in around), *ahead, *(after for _, after in around)]
        torch_order = list(itertools.chain(*reversed(around)))
        value = self.constant(torch.tensor(fill, dtype=x.dtype))

        def like(x: Tensor, *_: Tensor) -> Tensor:
            return torch.nn.functional.pad(x, torch_order)

        return self.apply("Pad", like, x, self.constant(both), value)

    def gather(self, x: SymbolicTensor, dim: int, index: SymbolicTensor) -> SymbolicTensor:
        """The entries along a dimension that a tensor of places names."""
        dim %= x.dim

        def like(x: Tensor, index: Tensor) -> Tensor:
            return x.new_empty([*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]])

        return self.apply("Gather", like, x, index, axis=dim)

    # Sizes.

    def size(self, x: SymbolicTensor, dim: int) -> int | SymbolicSize:
        """How long a dimension is: a number, or what varies."""
        first, second = (like.shape[dim] for like in x.like)
        return first if first == second else self._size(x, dim % x.dim)

    def _size(self, x: SymbolicTensor, dim: int) -> SymbolicSize:
        shape = self.node("Shape", x.name)[0]
        name = self.node("Gather", shape, self.constant(torch.tensor(dim)).name, axis=0)[0]
        return SymbolicSize(name, (x.like[0].shape[dim], x.like[1].shape[dim]))

    def shape(self, sizes: Sequence[int | SymbolicSize]) -> SymbolicTensor:
        """Sizes as a tensor `[n]` of int64."""
        whole = [each for each in sizes if isinstance(each, int)]
        if len(whole) == len(sizes):
            return self.constant(whole)
        return self.concat([self.unsqueeze(self.tensor(each, torch.int64), 0) for each in sizes], 0)

    def scan(
        self,
        states: Tensors,
        read: Tensors,
        axis: int,
        reverse: bool,
        step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    ) -> list[SymbolicTensor]:
        """What one step after another gives along a dimension of what is read, states carried from one to the next.

        Args:
            states: before the first step.
            axis: the dimension of what is read, and of what is given.
            reverse: from the last entry to the first.
            step: of the states and of what is read at one entry, the next states and what is given there.
        """
        outer, inner = self.body, Body()
        conditions = list(self.conditions)
        self.body = inner
        before = [SymbolicTensor(self.fresh(), state.like) for state in states]
        entries = [SymbolicTensor(self.fresh(), likes(lambda x: x.select(axis, 0), each)) for each in read]
        after, given = step(before, entries)
        # A value may be given once only.
        after, given = ([self.unary("Identity", each) for each in some] for some in (after, given))
        inner.inputs, inner.outputs = [*before, *entries], [*after, *given]
        self.body = outer
        if conditions != self.conditions:
            raise ConversionError("a condition on what a recurrent layer computes cannot be written as ONNX")
        count, turned = len(read), [int(reverse)]
        names = self.node(
            "Scan", *(each.name for each in (*states, *read)), outputs=len(inner.outputs), body=inner,
            num_scan_inputs=count, scan_input_axes=[axis] * count, scan_input_directions=turned * count,
            scan_output_axes=[axis] * len(given), scan_output_directions=turned * len(given),
        )  # fmt: skip
        lengths = [read[0].like[size].shape[axis] for size in SIZES]
        stacked: list[SymbolicTensor] = []
        for name, each in zip(names[len(states) :], given, strict=True):
            first, second = (
                like.unsqueeze(axis).expand(*like.shape[:axis], length, *like.shape[axis:])
                for like, length in zip(each.like, lengths, strict=True)
            )
            stacked.append(SymbolicTensor(name, (first, second)))
        return stacked


def fixed_size(x: SymbolicTensor, dim: int, what: str) -> int:
    """How long a dimension is, which must not vary.

    Raises:
        DynamicSizeError: it does.
    """
    first, second = (int(like.shape[dim]) for like in x.like)
    if first != second:
        raise DynamicSizeError(f"{what} needs dimension {dim % x.dim} of its input to be of one size")
    return first


def sizes_of(like: Likes) -> Iterator[tuple[int, int]]:
    """The sizes of each dimension."""
    if like[0].dim() != like[1].dim():
        raise ConversionError("a tensor whose number of dimensions varies cannot be written as ONNX")
    return zip(like[0].shape, like[1].shape, strict=True)
