"""Long short-term memory: that of `torch.nn.LSTM`, or with activations rounded to levels, which converts exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_core.errors import ConfigError, InputError
from casc_seq.dense import dense, linear
from casc_seq.gated import GatedLayers, before_nearest, begin, hidden_product, nearest, state_levels, to_levels
from casc_seq.layers import Course, Visit
from casc_seq.rows import previous_rows

# Cells grow by at most 1 at each position, and what remembers for long grows for long.
CELL_RANGE = 32

_Order = list[tuple[int, int, int]]


class _Pass(NamedTuple):
    """What a pass over all rows leaves.

    Attributes:
        smooth: `[rows, 4 * hidden]`: input and forget gate, candidate and output gate before they are rounded, in units.
        previous, previous_cells: `[rows, hidden]`: hidden state and cell before, in levels.
        levels, cells: the same after.
    """

    smooth: Tensor
    previous: Tensor
    previous_cells: Tensor
    levels: Tensor
    cells: Tensor


def _forward(
    drive: Tensor, start: Tensor, start_cells: Tensor, weight: Tensor, order: _Order, q: int | None, cell_range: int
) -> _Pass:
    hidden, scale = start.shape[1], q or 1
    smooth = drive.clone()
    levels, cells, previous, previous_cells = (drive.new_empty(len(drive), hidden) for _ in range(4))
    last = 0
    for row, size, known in order:
        before = begin(levels, start, row, size, known, last, previous)
        cell_before = begin(cells, start_cells, row, size, known, last, previous_cells)
        gates, cell = smooth[row : row + size], cells[row : row + size]
        gates.add_(dense(before, weight), alpha=1 / scale)
        gates[:, : 2 * hidden].sigmoid_()
        gates[:, 2 * hidden : 3 * hidden].tanh_()
        gates[:, 3 * hidden :].sigmoid_()
        taken, kept, new, shown = to_levels(gates, q).chunk(4, 1)
        torch.mul(kept, cell_before, out=cell).addcmul_(taken, new)
        if q is not None:
            nearest(cell.div_(q), q).clamp_(-cell_range * q, cell_range * q)
        torch.mul(shown, _shown(cell, q), out=levels[row : row + size])
        if q is not None:
            nearest(levels[row : row + size].div_(q), q)
        last = row
    return _Pass(smooth, previous, previous_cells, levels, cells)


def _shown(cells: Tensor, q: int | None) -> Tensor:
    """The cell as the output gate meets it: `round(q tanh(C/q))`."""
    return cells.tanh() if q is None else to_levels((cells / q).tanh_(), q)


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence, in levels: the hidden states, and the cells.

    The gradient goes straight through every rounding, and is zero where the cell is clipped to its range. What does not
    depend on later positions is computed for all of them at once.
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
        ctx.save_for_backward(done.smooth, done.previous, done.previous_cells, done.cells, weight)
        return done.levels, done.cells

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        smooth, previous, previous_cells, cells, weight = ctx.saved_tensors
        order, q, hidden = ctx.order, ctx.q, previous.shape[1]
        scale = q or 1
        take, forget, candidate, output = smooth.chunk(4, 1)
        taken, kept, new, shown = to_levels(smooth, q).chunk(4, 1)
        cell_shown = (cells / scale).tanh()
        into_cell = shown / scale * (1 - cell_shown * cell_shown)
        slopes = smooth.new_empty(len(smooth), 3, hidden)
        torch.mul(new, take * (1 - take), out=slopes[:, 0])
        torch.mul(previous_cells, forget * (1 - forget), out=slopes[:, 1])
        torch.mul(taken, 1 - candidate * candidate, out=slopes[:, 2])
        if q is not None:  # nothing goes through where the cell is clipped
            inside = nearest((kept * previous_cells).addcmul_(taken, new).div_(q), q).abs_() <= ctx.cell_range * q
            slopes *= inside.unsqueeze(1)
            kept = kept * inside / q
        grad, grad_cells = grads[0].clone(), grads[1].clone()
        output_slopes = _shown(cells, q) * output * (1 - output)
        grad_drive = smooth.new_empty(len(smooth), 4, hidden)
        rows = max(size for _, size, _ in order)
        grad_start, grad_start_cells = torch.zeros_like(previous[:rows]), torch.zeros_like(previous[:rows])
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            at = slice(row, row + size)
            cell = grad_cells[at].addcmul_(grad[at], into_cell[at])
            torch.mul(cell.unsqueeze(1), slopes[at], out=grad_drive[at, :3])
            torch.mul(grad[at], output_slopes[at], out=grad_drive[at, 3])
            into_previous = dense(grad_drive[at].flatten(1), weight.t()).div_(scale)
            if known:
                earlier = order[visit - 1][0]
                grad[earlier : earlier + known] += into_previous[:known]
                grad_cells[earlier : earlier + known].addcmul_(cell[:known], kept[row : row + known])
            if known < size:
                grad_start[known:size] = into_previous[known:]
                grad_start_cells[known:size] = cell[known:] * kept[row + known : row + size]
        flat = grad_drive.flatten(1)
        grad_weight = dense(flat.t(), previous.t()).div_(scale)
        return flat, grad_start, grad_start_cells, grad_weight, None, None, None


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
        if levels is None:
            done = _forward(drive, start, start_cells, weight, visit.order, self.q, self.cell_range)
            previous_cells, smooth = done.previous_cells, done.smooth
            levels = [*to_levels(smooth, self.q).chunk(4, 1), done.cells, done.levels]
        else:
            previous = previous_rows(levels[-1], start, visit.order)
            previous_cells = previous_rows(levels[-2], start_cells, visit.order)
            smooth = drive + hidden_product(previous, weight, None, scale)
            smooth[:, : 2 * hidden].sigmoid_()
            smooth[:, 2 * hidden : 3 * hidden].tanh_()
            smooth[:, 3 * hidden :].sigmoid_()
        taken, kept, new, shown, cells, _ = levels
        cell = (kept * previous_cells + taken * new) / scale
        state = shown * _shown(cells, self.q) / scale
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
