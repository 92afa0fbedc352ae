"""The CQReLU recurrent network: a drop-in for `torch.nn.RNN` that can be converted exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import ConfigError
from casc_seq.layers.recurrent import Course, RecurrentLayers, Visit, only_first_derivatives
from casc_seq.layers.rows import TimeOrder, previous_rows, state_before, together, visited


def _levels(drive: Tensor, start: Tensor, weight: Tensor, order: TimeOrder, q: int) -> tuple[Tensor, Tensor, Tensor]:
    """The levels of every visit, the currents they come from, and the levels before."""
    z = drive.clone()
    levels, weight_t = torch.empty_like(z), weight.t()
    currents, after = visited(z, order), visited(levels, order)
    for visit, (current, level) in enumerate(zip(currents, after, strict=True)):
        torch.addmm(current, state_before(after, start, order, visit), weight_t, out=current)
        torch.floor(current, out=level).clamp_(0, q)
    return levels, z, previous_rows(levels, start, order)


def _smooth(
    drive: Tensor,
    start: Tensor,
    weight: Tensor,
    order: TimeOrder,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """The states of every visit, of an activation without levels; torch takes the gradient."""
    states: list[Tensor] = []
    for visit, current in enumerate(visited(drive, order)):
        before = state_before(states, start, order, visit)
        states.append(activation(torch.addmm(current, before, weight.t())))
    return together(states, order)


def _levels_alone(drive: Tensor, start: Tensor, weight: Tensor, order: TimeOrder, q: int, from_zero: bool) -> Tensor:
    """The levels of every visit, written over the drive; `from_zero`: the levels before the first are zero."""
    weight_t, after = weight.t(), visited(drive, order)
    for visit, levels in enumerate(after):
        if visit or not from_zero:
            levels.addmm_(state_before(after, start, order, visit), weight_t)
        levels.floor_().clamp_(0, q)
    return drive


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence, in levels.

    With `z_i = q/theta * current_i + W_h n_{i-1}` the new state is `n_i = clip(floor(z_i), 0, q)`, and
    `h_i = theta/q * n_i`: the scale cancels in the recurrent product, so a visit is one product, one floor and one
    clip. Backward visits the positions once in the opposite order, then takes one product for the gradient of `W_h`.
    """

    @staticmethod
    def forward(ctx: Any, drive: Tensor, start: Tensor, weight: Tensor, order: TimeOrder, q: int) -> Tensor:
        levels, z, previous = _levels(drive, start, weight, order, q)
        ctx.order = order
        ctx.save_for_backward((z >= 0) & (z <= q), previous, weight)
        return levels

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        only_first_derivatives()
        inside, previous, weight = ctx.saved_tensors
        order = ctx.order
        grad = grads[0] * inside
        grad_start = torch.zeros_like(previous[: max(size for _, size, _ in order)])
        inside = inside.to(grad.dtype)
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            into_previous = grad[row : row + size] @ weight
            if known:
                earlier = order[visit - 1][0]
                rows = slice(earlier, earlier + known)
                grad[rows].addcmul_(into_previous[:known], inside[rows])
            grad_start[known:size] = into_previous[known:]
        return grad, grad_start, grad.t() @ previous, None, None


_recurrence: Callable[[Tensor, Tensor, Tensor, TimeOrder, int], Tensor] = _Recurrence.apply


class RNN(RecurrentLayers):
    r"""A recurrent network with the CQReLU activation; same constructor, parameters and shapes as `torch.nn.RNN`, and its
    arithmetic if `q` is None.

    Layer by layer and position by position, `h_i = CQReLU(W_x e_i + b + W_h h_{i-1})` with
    `CQReLU(x) = theta/q * clip(floor(q x / theta), 0, q)` (the paper's Section 5.4 and Eq. 6). The gradient passes
    straight through the floor. A `state_dict` of a `torch.nn.RNN` of the same sizes loads unchanged.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.RNN`.
        nonlinearity: accepted so that calls of `torch.nn.RNN` work unchanged; with levels the activation is CQReLU whatever
            it says. Without, it is that: "tanh" (so also where it is left out, as torch's) or "relu".
        q: levels of the activation; None: nothing is rounded, nor clipped.
        threshold: largest value of a hidden unit.
        half_step: round to the nearest level instead of down: `floor(q x / theta + 1/2)`.

    Shape of the call `rnn(input, hx=None, lengths=None)`:
        input `[L, B, input_size]`, or `[B, L, input_size]` if `batch_first`, or `[L, input_size]` for one sequence;
        hx `[num_layers * directions, B, hidden_size]`, zeros if None;
        lengths `[B]`: how many positions of each sequence are real, in place of a packed sequence. What follows is not
        read; there the output is 0, `h_n` is the state at the last real position, and the reverse direction starts
        from it. Output and `h_n` have the shapes of `torch.nn.RNN`'s. Under `torch.autocast` they keep the type of the
        weights, as do all sums that are rounded to levels.

    Raises:
        ConfigError: sizes, `q` or `threshold` out of range.
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`; with levels, a gradient that
            is to have one itself (`create_graph=True`).

    >>> rnn = RNN(5, 3, q=4, batch_first=True, bidirectional=True)
    >>> output, h_n = rnn(torch.randn(2, 7, 5), lengths=torch.tensor([7, 4]))
    >>> output.shape, h_n.shape
    (torch.Size([2, 7, 6]), torch.Size([2, 2, 3]))
    >>> bool((output * 4 == (output * 4).round()).all()), output[1, 4:].abs().sum().item()
    (True, 0.0)
    """

    KEEPS_TYPE = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "cq_relu",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        q: int | None = 2,
        threshold: float = 1.0,
        half_step: bool = False,
    ) -> None:
        if nonlinearity not in ("cq_relu", "tanh", "relu"):
            raise ConfigError(f"nonlinearity must be 'cq_relu' (or 'tanh' or 'relu', read as it); got {nonlinearity!r}")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            q,
            threshold,
        )
        self.half_step, self.nonlinearity = half_step, nonlinearity
        self.threshold: float = float(threshold)

    def cell_parameters(self, suffix: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """`(W_x, W_h, b)` of the cell with this suffix; b is the sum of its two biases, or None."""
        weight_ih, weight_hh = self.own("weight_ih", suffix), self.own("weight_hh", suffix)
        if not self.bias:
            return weight_ih, weight_hh, None
        return weight_ih, weight_hh, self.own("bias_ih", suffix) + self.own("bias_hh", suffix)

    @property
    def _scale(self) -> float:
        """Levels for each unit of a state."""
        return 1.0 if self.q is None else self.q / self.threshold

    @property
    def _function(self) -> Callable[[Tensor], Tensor]:
        """The activation where there are no levels."""
        return torch.relu if self.nonlinearity == "relu" else torch.tanh

    def _read(self, visit: Visit) -> tuple[Tensor, Tensor, Tensor]:
        """In levels: what the input drives, and the initial state; and the recurrent weights."""
        weight_ih, weight_hh, bias = self.cell_parameters(visit.suffix)
        drive = F.linear(visit.x, weight_ih, bias).mul_(self._scale)
        drive = drive.add_(0.5) if self.half_step and self.q is not None else drive
        start = visit.start_rows(0, drive, self.hidden_size)
        return drive, start if visit.start[0] is None else start * self._scale, weight_hh

    def recur(self, visit: Visit) -> tuple[Tensor]:
        read = self._read(visit)
        if self.q is None:
            return (_smooth(*read, visit.order, self._function),)
        if torch.is_grad_enabled():
            return self.states([_recurrence(*read, visit.order, self.q)])
        return (_levels_alone(*read, visit.order, self.q, from_zero=visit.start[0] is None).div_(self._scale),)

    def course(self, visit: Visit, levels: Sequence[Tensor] | None = None) -> Course:
        drive, start, weight = self._read(visit)
        if levels is None:
            assert self.q is not None
            own, z, _ = _levels(drive, start, weight, visit.order, self.q)
            return Course([own], [z])
        (given,) = levels
        return Course([given], [drive + previous_rows(given, start, visit.order) @ weight.t()])

    def states(self, levels: Sequence[Tensor]) -> tuple[Tensor]:
        return (levels[0] / self._scale,)

    def _options(self) -> list[str]:
        if self.q is None:
            return [*super()._options(), f"nonlinearity={self._function.__name__!r}"]
        return [*super()._options(), f"threshold={self.threshold:g}", *(["half_step=True"] if self.half_step else [])]
