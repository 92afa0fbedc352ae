"""A gated recurrence over a whole sequence, forward and backward: one autograd function for whichever cell it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_seq.layers.cell import Arriving, Cell
from casc_seq.layers.dense import dense, dense_of, weight_gradient
from casc_seq.layers.recurrent import only_first_derivatives
from casc_seq.layers.rows import TimeOrder, in_groups, previous_rows, state_before, visited

# Of the input, that make one product.
_ROWS_AT_ONCE = 512


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


def _by_row(x: Tensor) -> Tensor:
    """With the entries of each row side by side; rows may lie apart, as half of those of two directions do."""
    return x if x.stride(1) == 1 and x.stride(0) > 0 else x.contiguous()


def _backward(
    cell: Cell, order: TimeOrder, grads: Sequence[Tensor | None], kept: _Kept, weight: Tensor, start: Sequence[Tensor]
) -> _Gradients:
    """All positions, the last first."""
    computing, (rows, width) = cell.computing(kept.gates), kept.gates.shape
    into_gates = computing.empty(rows, width, kept.gates)
    into_product = into_gates if cell.HAS_CELLS else computing.empty(rows, width, kept.gates)
    above = torch.zeros_like(kept.previous) if grads[0] is None else _by_row(grads[0])
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
