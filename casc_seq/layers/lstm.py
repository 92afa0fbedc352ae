"""Long short-term memory: that of `torch.nn.LSTM`, or with activations rounded to levels, which converts exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import ConfigError, InputError
from casc_seq.layers.cell import Arriving, Cell, nearest, sigmoid_slope, tanh_slope, to_levels
from casc_seq.layers.gated import GatedLayers

# Cells grow by at most 1 at each position, and what remembers for long grows for long.
CELL_RANGE = 32


@dataclass(frozen=True)
class _Cell(Cell):
    """Gates: input, forget, candidate and output."""

    GATES = 4
    KERNEL = "lstm"
    HAS_CELLS = True
    cell_range: int

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 1), (-1, 1), (0, 1), (-self.cell_range, self.cell_range), (-1, 1))

    def activate(self, drive: Tensor, product: Tensor, gates: Tensor, levels: Sequence[Tensor] | None = None) -> Tensor:
        hidden = product.shape[1] // 4
        torch.add(drive, product, out=gates)
        gates[:, : 2 * hidden].sigmoid_()
        gates[:, 2 * hidden : 3 * hidden].tanh_()
        gates[:, 3 * hidden :].sigmoid_()
        return gates

    def unrounded(self, levels: Sequence[Tensor], before: Tensor) -> list[Tensor]:
        shown, cells = levels[3:5]
        return [self._cells(levels, before), self._state(shown, cells / self.scale)]

    def _cells(self, levels: Sequence[Tensor], before: Tensor) -> Tensor:
        taken, kept, candidate, *_ = levels
        return (kept * before).addcmul_(taken, candidate).div_(self.scale)

    def _state(self, shown: Tensor, cells: Tensor) -> Tensor:
        return (shown * to_levels(cells.tanh(), self.q)).div_(self.scale)

    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        levels = to_levels(self.activate(drive, product, gates), self.q).chunk(4, 1)
        cells = nearest(self._cells(levels, self.whole(before)), self.q)
        if self.q is not None:
            cells.clamp_(-self.cell_range * self.q, self.cell_range * self.q)
        torch.div(cells, self.scale, out=beside)
        torch.div(nearest(self._state(levels[3], beside), self.q), self.scale, out=state)

    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
    ) -> None:
        levels, seen, state = to_levels(gates, self.q).chunk(4, 1), beside.tanh(), arriving.whole
        taken, kept, candidate, shown = (each / self.scale for each in levels)
        cell = arriving.with_carry(state * shown * tanh_slope(seen))
        if arriving.above_cells is not None:
            cell += arriving.above_cells
        if self.q is not None:
            size = nearest(self._cells(levels, self.whole(before)), self.q).abs_()
            cell.masked_fill_(size > self.cell_range * self.q, 0.0)
        into, smooth = into_gates.chunk(4, 1), gates.chunk(4, 1)
        torch.mul(cell * candidate, sigmoid_slope(smooth[0]), out=into[0])
        torch.mul(cell * before, sigmoid_slope(smooth[1]), out=into[1])
        torch.mul(cell * taken, tanh_slope(smooth[2]), out=into[2])
        torch.mul(state * to_levels(seen, self.q) / self.scale, sigmoid_slope(smooth[3]), out=into[3])
        torch.mul(cell, kept, out=arriving.carry)


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
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`; a gradient that is to have one
            itself (`create_graph=True`).

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
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, q=q
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

    @property
    def cell(self) -> Cell:
        return _Cell(self.q, self.cell_range)

    def _options(self) -> list[str]:
        return [*super()._options(), *([] if self.cell_range == CELL_RANGE else [f"cell_range={self.cell_range}"])]
