"""A gated recurrence over a whole sequence, forward and backward: one autograd function for whichever cell it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from casc_core.operations import kernels
from casc_seq.dense import dense, dense_of, is_plain, weight_gradient
from casc_seq.layers import only_first_derivatives
from casc_seq.rows import TimeOrder, in_groups, previous_rows, state_before, visited

# Of the input, that make one product.
_ROWS_AT_ONCE = 512


def to_levels(x: Tensor, q: int | None) -> Tensor:
    """`floor(q x + 1/2)`, the nearest level of each entry; without levels, `x` as it is.

    >>> to_levels(torch.tensor([0.1, 0.4, -0.4, 1.0]), 4)
    tensor([ 0.,  2., -2.,  4.])
    """
    return x if q is None else (x * q).add_(0.5).floor_()


def nearest(x: Tensor, q: int | None) -> Tensor:
    """`x`, in levels, rounded in place to the nearest, halves to the even one; without levels, as it is.

    A product of two levels lies halfway between two others often, and a state is rounded at every position: if halves were
    rounded up, states would drift.
    """
    return x if q is None else x.round_()


def sigmoid_slope(y: Tensor) -> Tensor:
    """The derivative of a sigmoid, of its value."""
    return y - y * y


def tanh_slope(y: Tensor) -> Tensor:
    """The derivative of a tanh, of its value."""
    return 1 - y * y


class Arriving(NamedTuple):
    """What arrives at the states of one position from behind: what the gradient of a cell begins with.

    Attributes:
        above, above_cells: from what reads the hidden states, and the cells (None: nothing does).
        later: `[known, hidden]`, at the first of them, by the product of the next position.
        carry: `[rows, hidden]`, there elementwise; a cell writes over it what goes on to the position before.
    """

    above: Tensor
    above_cells: Tensor | None
    later: Tensor
    carry: Tensor

    @property
    def whole(self) -> Tensor:
        """At the hidden states, but for what is elementwise."""
        whole = self.above.clone()
        whole[: len(self.later)] += self.later
        return whole

    def with_carry(self, x: Tensor) -> Tensor:
        """`x` and what arrives elementwise, in place."""
        x[: len(self.later)] += self.carry[: len(self.later)]
        return x


@dataclass(frozen=True)
class Cell(ABC):
    """The equations of one position. Its arrays are rows, `[rows, hidden]`, or of so many entries for each gate.

    Attributes:
        q: levels of activations and states; None: nothing is rounded.
    """

    GATES: ClassVar[int]
    KERNEL: ClassVar[str]
    """What the compiled one is called."""
    HAS_CELLS: ClassVar[bool]
    """Whether what goes on to the next position elementwise are cells, rather than the hidden state."""
    q: int | None

    @property
    def scale(self) -> int:
        """Levels for each unit of a state."""
        return 1 if self.q is None else self.q

    @property
    @abstractmethod
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The lowest and the highest value of each population: gates, (cells,) hidden states."""

    @abstractmethod
    def activate(self, drive: Tensor, product: Tensor, gates: Tensor, levels: Sequence[Tensor] | None = None) -> Tensor:
        """`gates`, filled with the activations before they are rounded, of what the input drives and `W_h h + b_h`.

        Where `levels` of the gates are given, those multiply; else their own.
        """

    @abstractmethod
    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        """A position, written to the last three.

        Args:
            drive: what the input drives. product: `W_h h + b_h`.
            before: the cells before, or without them the hidden state.
            gates: the activations, before they are rounded.
            beside: the cells, or without them what else the gradient needs.
        """

    @abstractmethod
    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
    ) -> None:
        """The gradient of `forward`: of what the input drives and of the product, if that is not the same tensor.

        It goes straight through every rounding, and is zero where a cell is clipped to its range.
        """

    @abstractmethod
    def unrounded(self, levels: Sequence[Tensor], before: Tensor) -> list[Tensor]:
        """What each state is rounded from, in levels, of the levels of all populations and those of `before`."""

    def whole(self, state: Tensor) -> Tensor:
        """A state in levels: whole numbers."""
        return nearest(state * self.scale, self.q)

    def empty(self, rows: int, width: int, like: Tensor) -> Tensor:
        """Room for rows of the type of others."""
        return like.new_empty(rows, width)

    def computing(self, like: Tensor) -> Cell | CompiledCell:
        """What computes `forward` and `backward` on such arrays: the compiled kernels where they can, else torch."""
        largest = self.ranges[self.GATES][1] * self.scale if self.HAS_CELLS else 0
        kind = kernels.CellKind(self.KERNEL, self.q, largest)
        return CompiledCell(kind) if is_plain(like) and kernels.ready(like) and kind.fits else self


@dataclass(frozen=True)
class CompiledCell:
    """A cell as the compiled kernels compute it."""

    kind: kernels.CellKind

    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        kernels.cell(self.kind, drive, product, before, gates, state, beside)

    def empty(self, rows: int, width: int, like: Tensor) -> Tensor:
        return kernels.empty((rows, width), like.dtype)

    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
    ) -> None:
        at = arriving
        kernels.cell_gradient(
            self.kind, gates, before, beside, at.above, at.above_cells, at.later, at.carry, into_gates, into_product
        )


class Maps(NamedTuple):
    """The parameters of a cell: `W_x x + b_x`, and `W_h h + b_h`."""

    weight_ih: Tensor
    bias_ih: Tensor | None
    weight_hh: Tensor
    bias_hh: Tensor | None


class Pass(NamedTuple):
    """What a pass over all positions leaves, row by row, as `Cell.forward` writes it."""

    gates: Tensor
    state: Tensor
    beside: Tensor


def forward(cell: Cell, order: TimeOrder, x: Tensor, maps: Maps, start: Sequence[Tensor]) -> Pass:
    """All positions, one after another; `start` are the initial hidden state, and cells."""
    computing, hidden = cell.computing(x), maps.weight_hh.shape[1]
    done = Pass(*(computing.empty(x.shape[0], width, x) for width in (cell.GATES * hidden, hidden, hidden)))
    arrays = [visited(each, order) for each in done]
    _, states, besides = arrays
    product = dense_of(maps.weight_hh, maps.bias_hh, start[0].shape[0])
    for visit, drive in enumerate(_drives(x, maps, order)):
        before = state_before(states, start[0], order, visit)
        recurrent = product(before)
        if cell.HAS_CELLS:
            before = state_before(besides, start[1], order, visit)
        computing.forward(drive, recurrent, before, *(each[visit] for each in arrays))
    return done


def _drives(x: Tensor, maps: Maps, order: TimeOrder) -> Iterator[Tensor]:
    """What the input drives at each visit: that of some visits is one product, read while it is in a cache."""
    product = dense_of(maps.weight_ih, maps.bias_ih, _ROWS_AT_ONCE)
    for some in in_groups(order, _ROWS_AT_ONCE):
        first, rows = min(row for row, _, _ in some), sum(size for _, size, _ in some)
        yield from visited(product(x[first : first + rows]), some)


class _Kept(NamedTuple):
    """Of a pass, what its gradient needs; `previous` are the hidden states before."""

    gates: Tensor
    previous: Tensor
    beside: Tensor


class _Gradients(NamedTuple):
    """Of what the input drives, of the recurrent product, and of the initial states."""

    into_gates: Tensor
    into_product: Tensor
    into_start: list[Tensor]


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence: the hidden states, and where there are any, the cells."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        order: TimeOrder,
        x: Tensor,
        weight_ih: Tensor,
        bias_ih: Tensor | None,
        weight_hh: Tensor,
        bias_hh: Tensor | None,
        *start: Tensor,
    ) -> tuple[Tensor, ...]:
        done = forward(cell, order, x, Maps(weight_ih, bias_ih, weight_hh, bias_hh), start)
        # A caller may change the states in place, so what is kept is a copy.
        kept = _Kept(done.gates, previous_rows(done.state, start[0], order), done.beside)
        ctx.cell, ctx.order, ctx.biased = cell, order, bias_ih is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight_ih, weight_hh, *kept, *start)
        return (done.state, done.beside)[: len(start)]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        only_first_derivatives()
        x, weight_ih, weight_hh, *saved = ctx.saved_tensors
        kept, start = _Kept(*saved[:3]), saved[3:]
        found = _backward(ctx.cell, ctx.order, grads, kept, weight_hh, start)
        _, _, wants_x, wants_ih, _, wants_hh, *_ = ctx.needs_input_grad
        return (
            None,
            None,
            dense(found.into_gates, weight_ih.t()) if wants_x else None,
            weight_gradient(found.into_gates, x) if wants_ih else None,
            found.into_gates.sum(0) if ctx.biased else None,
            weight_gradient(found.into_product, kept.previous) if wants_hh else None,
            found.into_product.sum(0) if ctx.biased else None,
            *found.into_start,
        )


def _backward(
    cell: Cell, order: TimeOrder, grads: Sequence[Tensor | None], kept: _Kept, weight: Tensor, start: Sequence[Tensor]
) -> _Gradients:
    """All positions, the last first."""
    computing, (rows, width) = cell.computing(kept.gates), kept.gates.shape
    into_gates = computing.empty(rows, width, kept.gates)
    into_product = into_gates if cell.HAS_CELLS else computing.empty(rows, width, kept.gates)
    above = torch.zeros_like(kept.previous) if grads[0] is None else grads[0].contiguous()
    above_cells = grads[1].contiguous() if cell.HAS_CELLS and grads[1] is not None else None
    arrays = [visited(each, order) for each in (*kept, above, into_gates, into_product)]
    visits = list(zip(*arrays, strict=True))
    cells_above = [None] * len(order) if above_cells is None else visited(above_cells, order)
    into_start = [torch.zeros_like(each) for each in start]
    later, carry = kept.previous[:0], torch.empty_like(start[0])
    product = dense_of(weight.t(), None, start[0].shape[0])
    for visit in reversed(range(len(order))):
        _, size, known = order[visit]
        gates, before, beside, arriving, *into = visits[visit]
        if cell.HAS_CELLS:
            before = state_before(arrays[2], start[1], order, visit)
        carried = carry if size == carry.shape[0] else carry[:size]
        computing.backward(gates, before, beside, Arriving(arriving, cells_above[visit], later, carried), *into)
        into_previous = product(into[1])
        later = into_previous
        if known < size:
            later = into_previous[:known]
            into_start[0][known:size] = into_previous[known:]
            into_start[-1][known:size] += carried[known:]
    return _Gradients(into_gates, into_product, into_start)


recurrence: Callable[..., tuple[Tensor, ...]] = _Recurrence.apply
