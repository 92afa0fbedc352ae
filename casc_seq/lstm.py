"""Long short-term memory: that of `torch.nn.LSTM`, or with activations rounded to levels, which converts exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_core.errors import ConfigError, InputError
from casc_seq.dense import dense, linear, weight_gradient
from casc_seq.gated import GatedLayers, before_nearest, begin, hidden_product, nearest, state_levels, to_levels_in_place
from casc_seq.layers import Course, Visit
from casc_seq.rows import previous_rows

# Cells grow by at most 1 at each position, and what remembers for long grows for long.
CELL_RANGE = 32

_Order = list[tuple[int, int, int]]


class _Pass(NamedTuple):
    """What a pass over all rows leaves. A tanh is computed as `2 sigmoid(2 x) - 1`, which torch does several times as fast.

    Attributes:
        smooth: `[rows, 4 * hidden]`: sigmoids of input and forget gate, of twice the candidate, and of the output gate.
        gates: the same in levels: what they are rounded to.
        seen: `[rows, hidden]`: sigmoids of twice the cell after.
        previous, previous_cells: `[rows, hidden]`: hidden state and cell before, in levels.
        levels, cells: the same after.
    """

    smooth: Tensor
    gates: Tensor
    seen: Tensor
    previous: Tensor
    previous_cells: Tensor
    levels: Tensor
    cells: Tensor


def _forward(
    drive: Tensor, start: Tensor, start_cells: Tensor, weight: Tensor, order: _Order, q: int | None, cell_range: int
) -> _Pass:
    hidden, scale = start.shape[1], q or 1
    candidate = slice(2 * hidden, 3 * hidden)
    smooth, weight = drive.clone(), weight / scale
    smooth[:, candidate] *= 2
    weight[candidate] *= 2
    levels, cells, seen, previous, previous_cells = (drive.new_empty(len(drive), hidden) for _ in range(5))
    gates = torch.empty_like(smooth)
    last = 0
    for row, size, known in order:
        before = begin(levels, start, row, size, known, last, previous)
        cell_before = begin(cells, start_cells, row, size, known, last, previous_cells)
        at = slice(row, row + size)
        opened, cell, state = gates[at], cells[at], levels[at]
        torch.mul(smooth[at].add_(dense(before, weight)).sigmoid_(), scale, out=opened)
        opened[:, candidate].mul_(2).sub_(scale)
        taken, kept, new, shown = to_levels_in_place(opened, q).chunk(4, 1)
        torch.mul(kept, cell_before, out=cell).addcmul_(taken, new)
        if q is not None:
            nearest(cell.div_(q), q).clamp_(-cell_range * q, cell_range * q)
        torch.mul(cell, 2 / scale, out=seen[at]).sigmoid_()
        torch.mul(shown, _shown(seen[at], q), out=state)
        if q is not None:
            nearest(state.div_(q), q)
        last = row
    return _Pass(smooth, gates, seen, previous, previous_cells, levels, cells)


def _shown(seen: Tensor, q: int | None) -> Tensor:
    """The cell as the output gate meets it, `round(q tanh(C/q))`, of the sigmoid of twice the cell."""
    scale = q or 1
    return to_levels_in_place((seen * (2 * scale)).sub_(scale), q)


def _slope(sigmoid: Tensor) -> Tensor:
    """The derivative of a sigmoid, of its value; that of a tanh that is computed by it is four times that."""
    return torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1)


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence, in levels: the hidden states, and the cells.

    The gradient goes straight through every rounding, and is zero where the cell is clipped to its range. Each position is
    done while what it reads is in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        start: Tensor,
        start_cells: Tensor,
        weight: Tensor,
        order: _Order,
        q: int | None,
        cell_range: int,
    ) -> tuple[Tensor, Tensor]:
        done = _forward(drive, start, start_cells, weight, order, q, cell_range)
        ctx.order, ctx.q, ctx.cell_range = order, q, cell_range
        ctx.save_for_backward(
            done.smooth, done.gates, done.seen, done.previous, done.previous_cells, done.cells, weight
        )
        return done.levels, done.cells

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        smooth, gates, seen, previous, previous_cells, cells, weight = ctx.saved_tensors
        order, q, hidden = ctx.order, ctx.q, previous.shape[1]
        scale = q or 1
        inside = None if q is None else _inside(gates, previous_cells, cells, q, ctx.cell_range * q)
        grad, grad_cells = grads[0].clone(), grads[1].clone()
        grad_drive, back = smooth.new_empty(len(smooth), 4, hidden), (weight / scale).t()
        rows = max(size for _, size, _ in order)
        grad_start, grad_start_cells = torch.zeros_like(previous[:rows]), torch.zeros_like(previous[:rows])
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            at = slice(row, row + size)
            taken, kept, new, shown = gates[at].chunk(4, 1)
            arriving, own = grad[at], grad_drive[at]
            cell = grad_cells[at].addcmul_(arriving, _slope(seen[at]).mul_(shown), value=4 / scale)
            if inside is not None:
                cell *= inside[at]
            torch.mul(cell, new, out=own[:, 0])
            torch.mul(cell, previous_cells[at], out=own[:, 1])
            torch.mul(cell, taken, out=own[:, 2]).mul_(4)
            torch.mul(arriving, _shown(seen[at], q), out=own[:, 3])
            flat = own.flatten(1).mul_(_slope(smooth[at]))
            into_previous, into_cell = dense(flat, back), cell.mul_(kept).div_(scale)
            if known:
                earlier = order[visit - 1][0]
                grad[earlier : earlier + known] += into_previous[:known]
                grad_cells[earlier : earlier + known] += into_cell[:known]
            if known < size:
                grad_start[known:size] = into_previous[known:]
                grad_start_cells[known:size] = into_cell[known:]
        flat = grad_drive.flatten(1)
        grad_weight = weight_gradient(flat, previous).div_(scale)
        return flat, grad_start, grad_start_cells, grad_weight, None, None, None


def _inside(gates: Tensor, previous_cells: Tensor, cells: Tensor, q: int, largest: int) -> Tensor | None:
    """Where a cell is not clipped to its largest level, to which nothing goes back; None: nowhere is it."""
    if float(cells.abs().max()) < largest:
        return None
    taken, kept, new, _ = gates.chunk(4, 1)
    return nearest((kept * previous_cells).addcmul_(taken, new).div_(q), q).abs_() <= largest


_recurrence: Callable[[Tensor, Tensor, Tensor, Tensor, _Order, int | None, int], tuple[Tensor, Tensor]]
_recurrence = _Recurrence.apply


class LSTM(GatedLayers):
    r"""Long short-term memory; constructor, parameters and shapes of `torch.nn.LSTM`, its arithmetic if `q` is None.

    With `q` levels, sigmoid and tanh are rounded to the nearest level, and so are cell and state (Hochreiter and
    Schmidhuber 1997, "Long short-term memory", with the forget gate of Gers et al. 2000; in levels, units of 1/q):

    - `I = round(q sigmoid(W_ii x + b_ii + W_hi h + b_hi))`, `F` and `O` likewise, and `G` with tanh;
    - `C' = clip(round((F C + I G) / q), -k q, k q)`, halves to the even level;
    - `H' = round(O round(q tanh(C'/q)) / q)`, likewise, and `h = H/q`, `c = C/q`.

    The gradient passes straight through the rounding: it is that of the smooth activations. A `state_dict` of a
    `torch.nn.LSTM` of the same sizes loads unchanged.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.LSTM`.
        proj_size: accepted so that calls of `torch.nn.LSTM` work unchanged; there is no projection, so it must be 0.
        q: levels of every gate and, of either sign, of the state; None: nothing is rounded, nor clipped.
        cell_range: k, the largest magnitude of a cell. A cell takes as many steps as its own level, so room costs nothing.

    Shape of the call `lstm(input, hx=None, lengths=None)`:
        as of `casc_seq.RNN`; hx `(h_0, c_0)`, and the result `(output, (h_n, c_n))`. With levels, initial states are
        rounded to the nearest within `[-1, 1]` and `[-k, k]`.

    Raises:
        ConfigError: sizes, `q` or `cell_range` out of range, or a projection.
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`.

    >>> lstm = LSTM(5, 3, batch_first=True, q=4)
    >>> output, (h_n, c_n) = lstm(torch.randn(2, 7, 5), lengths=torch.tensor([7, 4]))
    >>> output.shape, h_n.shape, c_n.shape
    (torch.Size([2, 7, 3]), torch.Size([1, 2, 3]), torch.Size([1, 2, 3]))
    >>> bool((c_n * 4 == (c_n * 4).round()).all())
    True
    """

    KEEPS_TYPE = True

    GATES = 4
    RETURNED = (None, (None, None))
    POPULATIONS = (".input", ".forget", ".candidate", ".output", ".cell", ".hidden")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        q: int | None = None,
        cell_range: int = CELL_RANGE,
    ) -> None:
        if proj_size:
            raise ConfigError(f"casc_seq.LSTM has no projection of its states: proj_size must be 0; got {proj_size!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, q
        )
        if isinstance(cell_range, bool) or not isinstance(cell_range, int) or not 1 <= cell_range <= 1_000:
            raise ConfigError(f"cell_range must be an integer in 1..1,000; got {cell_range!r}")
        self.cell_range = cell_range

    def given_states(self, hx: Any) -> tuple[Tensor | None, ...]:
        if hx is None:
            return None, None
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise InputError(f"expected hx to be (h_0, c_0); got a {type(hx).__name__}")
        return tuple(hx)

    def returned_states(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(states)

    def _read(self, visit: Visit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What input and biases drive, the initial states in levels, and the recurrent weights."""
        bias_ih, bias_hh = self.biases(visit.suffix)
        bias = None if bias_ih is None or bias_hh is None else bias_ih + bias_hh
        drive = linear(visit.x, self.own("weight_ih", visit.suffix), bias)
        state, cell = (visit.start_rows(index, drive, self.hidden_size) for index in range(2))
        starts = state_levels(state, self.q, 1), state_levels(cell, self.q, self.cell_range)
        return drive, *starts, self.own("weight_hh", visit.suffix)

    def recur(self, visit: Visit) -> tuple[Tensor, Tensor]:
        read = self._read(visit)
        if torch.is_grad_enabled():
            levels, cells = _recurrence(*read, visit.order, self.q, self.cell_range)
        else:
            done = _forward(*read, visit.order, self.q, self.cell_range)
            levels, cells = done.levels, done.cells
        return self.states([cells, levels])

    def course(self, visit: Visit, levels: Sequence[Tensor] | None = None) -> Course:
        drive, start, start_cells, weight = self._read(visit)
        scale, hidden = self.scale, self.hidden_size
        candidate = slice(2 * hidden, 3 * hidden)
        if levels is None:
            done = _forward(drive, start, start_cells, weight, visit.order, self.q, self.cell_range)
            previous_cells, smooth = done.previous_cells, done.smooth
            levels = [*done.gates.chunk(4, 1), done.cells, done.levels]
        else:
            previous = previous_rows(levels[-1], start, visit.order)
            previous_cells = previous_rows(levels[-2], start_cells, visit.order)
            smooth = drive + hidden_product(previous, weight, None, scale)
            smooth[:, candidate] *= 2
            smooth.sigmoid_()
        smooth[:, candidate].mul_(2).sub_(1)
        taken, kept, new, shown, cells, _ = levels
        cell = (kept * previous_cells + taken * new) / scale
        state = shown * _shown((cells * (2 / scale)).sigmoid_(), self.q) / scale
        return Course(
            list(levels),
            [*(smooth * scale + 0.5).chunk(4, 1), before_nearest(cell, scale), before_nearest(state, scale)],
        )

    def states(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        *_, cells, state = levels
        return (state, cells) if self.q is None else (state / self.q, cells / self.q)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        q = self.scale
        return ((0, q), (0, q), (-q, q), (0, q), (-self.cell_range * q, self.cell_range * q), (-q, q)) * len(
            self.cells()
        )

    def _options(self) -> list[str]:
        return [*super()._options(), *([] if self.cell_range == CELL_RANGE else [f"cell_range={self.cell_range}"])]
