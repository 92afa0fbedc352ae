"""The gated recurrent unit: that of `torch.nn.GRU`, or with activations rounded to levels, which converts exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_seq.layers.cell import Arriving, Cell, nearest, sigmoid_slope, tanh_slope, to_levels
from casc_seq.layers.gated import GatedLayers


@dataclass(frozen=True)
class _Cell(Cell):
    """Gates: reset, update and candidate. Beside the state, what the reset gate multiplies is kept: `W_hn h + b_hn`."""

    GATES = 3
    KERNEL = "gru"
    HAS_CELLS = False

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 1), (-1, 1), (-1, 1))

    def activate(self, drive: Tensor, product: Tensor, gates: Tensor, levels: Sequence[Tensor] | None = None) -> Tensor:
        hidden = product.shape[1] // 3
        opened, candidate = gates[:, : 2 * hidden], gates[:, 2 * hidden :]
        torch.add(drive[:, : 2 * hidden], product[:, : 2 * hidden], out=opened).sigmoid_()
        reset = to_levels(opened[:, :hidden], self.q) if levels is None else levels[0]
        recurrent = product[:, 2 * hidden :]
        torch.addcmul(drive[:, 2 * hidden :], reset, recurrent, value=1 / self.scale, out=candidate).tanh_()
        return gates

    def unrounded(self, levels: Sequence[Tensor], before: Tensor) -> list[Tensor]:
        _, update, candidate, *_ = levels
        # Whole numbers until they are divided: times 1/q, what lies halfway between two levels would lie beside it.
        return [(update * (before - candidate)).div_(self.scale).add_(candidate)]

    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        beside.copy_(product.chunk(3, 1)[2])
        levels = to_levels(self.activate(drive, product, gates), self.q).chunk(3, 1)
        (mixed,) = self.unrounded(levels, self.whole(before))
        torch.div(nearest(mixed, self.q), self.scale, out=state)

    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
    ) -> None:
        reset, update, candidate = gates.chunk(3, 1)
        opened, kept, new = (to_levels(gates, self.q) / self.scale).chunk(3, 1)
        state = arriving.with_carry(arriving.whole)
        into_reset, into_update, into_candidate = into_gates.chunk(3, 1)
        torch.mul(state, (1 - kept) * tanh_slope(candidate), out=into_candidate)
        torch.mul(into_candidate, beside * sigmoid_slope(reset), out=into_reset)
        torch.mul(state, (before - new) * sigmoid_slope(update), out=into_update)
        into_product.copy_(into_gates).chunk(3, 1)[2].mul_(opened)
        torch.mul(state, kept, out=arriving.carry)


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
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`; a gradient that is to have one
            itself (`create_graph=True`).

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

    @property
    def cell(self) -> Cell:
        return _Cell(self.q)
