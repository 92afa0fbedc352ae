"""The gated recurrent unit: that of `torch.nn.GRU`, or with activations rounded to levels, which converts exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_seq.dense import dense, linear, weight_gradient
from casc_seq.gated import GatedLayers, before_nearest, begin, hidden_product, nearest, state_levels, to_levels
from casc_seq.layers import Course, Visit
from casc_seq.rows import previous_rows

_Order = list[tuple[int, int, int]]


class _Pass(NamedTuple):
    """What a pass over all rows leaves.

    Attributes:
        smooth: `[rows, 3 * hidden]`: reset and update gate and candidate before they are rounded, in units.
        recurrent: `[rows, hidden]`: `W_hn h + b_hn`, which the reset gate multiplies.
        previous, levels: `[rows, hidden]`: the hidden state before and after, in levels.
    """

    smooth: Tensor
    recurrent: Tensor
    previous: Tensor
    levels: Tensor


def _forward(drive: Tensor, start: Tensor, weight: Tensor, bias: Tensor | None, order: _Order, q: int | None) -> _Pass:
    hidden, scale = start.shape[1], q or 1
    smooth = drive.clone()
    levels, previous = drive.new_empty(len(drive), hidden), drive.new_empty(len(drive), hidden)
    recurrent = torch.empty_like(levels)
    last = 0
    for row, size, known in order:
        before = begin(levels, start, row, size, known, last, previous)
        product = hidden_product(before, weight, bias, scale)
        gates, kept = smooth[row : row + size], recurrent[row : row + size]
        kept.copy_(product[:, 2 * hidden :])
        reset_update, candidate = gates[:, : 2 * hidden], gates[:, 2 * hidden :]
        opened = to_levels(reset_update.add_(product[:, : 2 * hidden]).sigmoid_(), q)
        candidate.addcmul_(opened[:, :hidden], kept, value=1 / scale).tanh_()
        new = to_levels(candidate, q)
        # Whole numbers until they are divided: times 1/q, what lies halfway between two levels would lie beside it.
        mixed = torch.mul(opened[:, hidden:], before - new, out=levels[row : row + size])
        nearest(mixed.div_(scale).add_(new), q)
        last = row
    return _Pass(smooth, recurrent, previous, levels)


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence, in levels.

    The gradient goes straight through every rounding: it is that of the smooth activations where they are, and of the
    products of what was rounded. What does not depend on later positions is computed for all of them at once.
    """

    @staticmethod
    def forward(
        ctx: Any, drive: Tensor, start: Tensor, weight: Tensor, bias: Tensor | None, order: _Order, q: int | None
    ) -> Tensor:
        done = _forward(drive, start, weight, bias, order, q)
        ctx.order, ctx.q, ctx.biased = order, q, bias is not None
        ctx.save_for_backward(done.smooth, done.recurrent, done.previous, weight)
        return done.levels

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        smooth, recurrent, previous, weight = ctx.saved_tensors
        order, q, hidden = ctx.order, ctx.q, previous.shape[1]
        scale = q or 1
        reset, update, candidate = smooth.chunk(3, 1)
        opened, new = to_levels(smooth[:, : 2 * hidden], q) / scale, to_levels(candidate, q)
        grad = grads[0].clone()
        # Of each product `W_h h + b_h`, for each unit of what arrives at the new state.
        slopes = smooth.new_empty(len(smooth), 3, hidden)
        into_candidate = (1 - opened[:, hidden:]) * (1 - candidate * candidate) * scale
        torch.mul(into_candidate, recurrent * reset * (1 - reset), out=slopes[:, 0])
        torch.mul(previous - new, update * (1 - update), out=slopes[:, 1])
        torch.mul(into_candidate, opened[:, :hidden], out=slopes[:, 2])
        grad_products, kept = torch.empty_like(slopes), opened[:, hidden:]
        grad_start = torch.zeros_like(previous[: max(size for _, size, _ in order)])
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            rows = slice(row, row + size)
            arriving = grad[rows]
            torch.mul(arriving.unsqueeze(1), slopes[rows], out=grad_products[rows])
            into_previous = dense(grad_products[rows].flatten(1), weight.t()).div_(scale).addcmul_(arriving, kept[rows])
            if known:
                earlier = order[visit - 1][0]
                grad[earlier : earlier + known] += into_previous[:known]
            grad_start[known:size] = into_previous[known:]
        flat = grad_products.flatten(1)
        grad_drive = torch.cat([flat[:, : 2 * hidden], grad * into_candidate], dim=1)
        grad_weight = weight_gradient(flat, previous).div_(scale)
        return grad_drive, grad_start, grad_weight, flat.sum(0) if ctx.biased else None, None, None


_recurrence: Callable[[Tensor, Tensor, Tensor, Tensor | None, _Order, int | None], Tensor] = _Recurrence.apply


class GRU(GatedLayers):
    r"""A gated recurrent unit; constructor, parameters and shapes of `torch.nn.GRU`, and its arithmetic if `q` is None.

    With `q` levels, sigmoid and tanh are rounded to the nearest level, and so is the new state (Cho et al. 2014,
    "Learning phrase representations using RNN encoder-decoder"; in levels, units of 1/q):

    - `R = round(q sigmoid(W_ir x + b_ir + W_hr h + b_hr))`, `Z` likewise with the weights of the update gate;
    - `N = round(q tanh(W_in x + b_in + R/q (W_hn h + b_hn)))`;
    - `H' = round(((q - Z) N + Z H) / q)`, halves to the even level, and `h = H/q`.

    The gradient passes straight through the rounding: it is that of the smooth activations. A `state_dict` of a
    `torch.nn.GRU` of the same sizes loads unchanged.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.GRU`.
        q: levels of every gate and, of either sign, of the state; None: nothing is rounded.

    Shape of the call `gru(input, hx=None, lengths=None)`:
        as of `casc_seq.RNN`. With levels, an initial state is rounded to the nearest within `[-1, 1]`.

    Raises:
        ConfigError: sizes or `q` out of range.
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`.

    >>> gru = GRU(5, 3, batch_first=True, bidirectional=True, q=4)
    >>> gru.load_state_dict(torch.nn.GRU(5, 3, batch_first=True, bidirectional=True).state_dict())
    <All keys matched successfully>
    >>> output, h_n = gru(torch.randn(2, 7, 5), lengths=torch.tensor([7, 4]))
    >>> output.shape, h_n.shape
    (torch.Size([2, 7, 6]), torch.Size([2, 2, 3]))
    >>> bool((output * 4 == (output * 4).round()).all())
    True
    """

    KEEPS_TYPE = True

    GATES = 3
    POPULATIONS = (".reset", ".update", ".candidate", ".hidden")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        q: int | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, q
        )

    def _read(self, visit: Visit) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What the input drives, the initial state in levels, recurrent weights and biases."""
        bias_ih, bias_hh = self.biases(visit.suffix)
        drive = linear(visit.x, self.own("weight_ih", visit.suffix), bias_ih)
        start = state_levels(visit.start_rows(0, drive, self.hidden_size), self.q, 1)
        return drive, start, self.own("weight_hh", visit.suffix), bias_hh

    def recur(self, visit: Visit) -> tuple[Tensor]:
        read = self._read(visit)
        if torch.is_grad_enabled():
            return self.states([_recurrence(*read, visit.order, self.q)])
        return self.states([_forward(*read, visit.order, self.q).levels])

    def course(self, visit: Visit, levels: Sequence[Tensor] | None = None) -> Course:
        drive, start, weight, bias = self._read(visit)
        scale = self.scale
        if levels is None:
            done = _forward(drive, start, weight, bias, visit.order, self.q)
            previous, smooth = done.previous, list(done.smooth.chunk(3, 1))
            levels = [*(to_levels(each, self.q) for each in smooth), done.levels]
        else:
            previous = previous_rows(levels[-1], start, visit.order)
            reset, update, candidate = drive.chunk(3, 1)
            products = hidden_product(previous, weight, bias, scale).chunk(3, 1)
            smooth = [
                (reset + products[0]).sigmoid(),
                (update + products[1]).sigmoid(),
                (candidate + levels[0] / scale * products[2]).tanh(),
            ]
        _, kept, new, _ = levels
        state = ((scale - kept) * new + kept * previous) / scale
        return Course(list(levels), [*(each * scale + 0.5 for each in smooth), before_nearest(state, scale)])

    def states(self, levels: Sequence[Tensor]) -> tuple[Tensor]:
        return (levels[-1] if self.q is None else levels[-1] / self.q,)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        q = self.scale
        return ((0, q), (0, q), (-q, q), (-q, q)) * len(self.cells())
