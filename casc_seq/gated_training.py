"""A gated recurrence over a whole sequence, forward and backward: one autograd function for whichever cell it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from casc_core.operations import kernels
from casc_seq.dense import dense, is_plain, weight_gradient
from casc_seq.rows import TimeOrder, state_before


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


@dataclass(frozen=True)
class Arriving:
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
    def activate(self, gates: Tensor, product: Tensor, levels: Sequence[Tensor] | None = None) -> Tensor:
        """Makes of what the input drives the activations before they are rounded, in place, given `W_h h + b_h`.

        Where `levels` of the gates are given, those multiply; else their own.
        """

    @abstractmethod
    def forward(self, gates: Tensor, product: Tensor, before: Tensor, state: Tensor, beside: Tensor) -> None:
        """The states after a position, written to `state` and `beside`, and activations to `gates`.

        Args:
            gates: what the input drives; afterwards the activations, before they are rounded.
            product: `W_h h + b_h`.
            before: the cells before, or without them the hidden state.
            beside: the cells, or without them what else the gradient needs.
        """

    @abstractmethod
    def backward(
        self, gates: Tensor, before: Tensor, beside: Tensor, arriving: Arriving, into_gates: Tensor, into_product: Tensor
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

    @property
    def kernel(self) -> kernels.CellKind:
        """What it is to the compiled kernels."""
        largest = self.ranges[self.GATES][1] * self.scale if self.HAS_CELLS else 0
        return kernels.CellKind(self.KERNEL, self.q, largest)

    def is_compiled(self, like: Tensor) -> bool:
        """Whether the compiled kernels compute with such arrays."""
        return is_plain(like) and kernels.ready(like) and self.kernel.fits


class Pass(NamedTuple):
    """What a pass over all rows leaves, row by row.

    Attributes:
        gates: activations before they are rounded.
        previous: hidden states before.
        state, beside: as `Cell.forward` writes them.
    """

    gates: Tensor
    previous: Tensor
    state: Tensor
    beside: Tensor


def forward(
    cell: Cell, order: TimeOrder, drive: Tensor, start: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> Pass:
    """All positions, one after another; `drive`, what the input drives, becomes the activations in place.

    Args:
        start: the initial hidden state, and cells.
    """
    previous, state, beside = (drive.new_empty(len(drive), weight.shape[1]) for _ in range(3))
    compiled, last = cell.is_compiled(drive), 0
    for row, size, known in order:
        rows, behind = slice(row, row + size), slice(last, last + known)
        hidden = state_before(state[behind], start[0], size, out=previous[rows])
        before = state_before(beside[behind], start[1], size) if cell.HAS_CELLS else hidden
        arrays = drive[rows], dense(hidden, weight, bias), before, state[rows], beside[rows]
        if compiled:
            kernels.cell(cell.kernel, *arrays)
        else:
            cell.forward(*arrays)
        last = row
    return Pass(drive, previous, state, beside)


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
        done = forward(cell, order, dense(x, weight_ih, bias_ih), start, weight_hh, bias_hh)
        ctx.cell, ctx.order, ctx.biased = cell, order, bias_ih is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight_ih, weight_hh, done.gates, done.previous, done.beside, *start)
        return (done.state, done.beside) if cell.HAS_CELLS else (done.state,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, gates, previous, beside, *start = ctx.saved_tensors
        cell, order = ctx.cell, ctx.order
        above = torch.zeros_like(previous) if grads[0] is None else grads[0].contiguous()
        above_cells = grads[1].contiguous() if cell.HAS_CELLS and grads[1] is not None else None
        into_gates = torch.empty_like(gates)
        into_product = into_gates if cell.HAS_CELLS else torch.empty_like(gates)
        into_start = [torch.zeros_like(each) for each in start]
        carry, later = torch.empty_like(start[0]), previous[:0]
        compiled, back = cell.is_compiled(gates), weight_hh.t()
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            rows, behind = slice(row, row + size), slice(order[visit - 1][0], order[visit - 1][0] + known)
            before = state_before(beside[behind], start[1], size) if cell.HAS_CELLS else previous[rows]
            arriving = Arriving(above[rows], None if above_cells is None else above_cells[rows], later, carry[:size])
            arrays = gates[rows], before, beside[rows], arriving, into_gates[rows], into_product[rows]
            if compiled:
                _compiled_backward(cell, *arrays)
            else:
                cell.backward(*arrays)
            into_previous = dense(into_product[rows], back)
            later = into_previous[:known]
            if known < size:
                into_start[0][known:size] = into_previous[known:]
                into_start[-1][known:size] += carry[known:size]
        _, _, wants_x, wants_ih, _, wants_hh, *_ = ctx.needs_input_grad
        return (
            None,
            None,
            dense(into_gates, weight_ih.t()) if wants_x else None,
            weight_gradient(into_gates, x) if wants_ih else None,
            into_gates.sum(0) if ctx.biased else None,
            weight_gradient(into_product, previous) if wants_hh else None,
            into_product.sum(0) if ctx.biased else None,
            *into_start,
        )


def _compiled_backward(
    cell: Cell, gates: Tensor, before: Tensor, beside: Tensor, at: Arriving, into_gates: Tensor, into_product: Tensor
) -> None:
    kernels.cell_gradient(
        cell.kernel, gates, before, beside, at.above, at.above_cells, at.later, at.carry, into_gates, into_product
    )


recurrence: Callable[..., tuple[Tensor, ...]] = _Recurrence.apply
