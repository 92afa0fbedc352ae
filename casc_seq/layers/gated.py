"""What GRU and LSTM have in common: layers of cells whose activations and states are rounded to the nearest level."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from casc_seq.layers.cell import Cell, to_levels
from casc_seq.layers.dense import dense
from casc_seq.layers.gated_training import Maps, forward, recurrence
from casc_seq.layers.recurrent import Course, RecurrentLayers, Visit
from casc_seq.layers.rows import previous_rows


def before_nearest(x: Tensor, q: int) -> Tensor:
    """What `floor` takes to the level that is nearest to `x`, a multiple of 1/q; of two as near, to the even one.

    >>> before_nearest(torch.tensor([0.5, 1.5, 1.75]), 4).floor()
    tensor([0., 2., 2.])
    """
    above = x + 0.5
    return torch.where(above.floor() > x.round(), above - 0.5 / q, above)


def rounded_state(state: Tensor, q: int | None, largest: int) -> Tensor:
    """An initial state rounded to the nearest level, no larger than `largest`; its gradient goes straight through that."""
    if q is None:
        return state
    clipped = state.clamp(-largest, largest)
    # Added is nothing but the gradient: the levels stay what they are.
    return to_levels(clipped.detach(), q).div_(q) + (clipped - clipped.detach())


class GatedLayers(RecurrentLayers):
    """Recurrent layers whose gates multiply two activations: sigmoid and tanh, with q rounded to levels.

    A call, `layers(input, hx=None, lengths=None)`, is as that of `casc_seq.RNN`.
    """

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

    @property
    @abstractmethod
    def cell(self) -> Cell:
        """The equations of one position."""

    def as_trained(self) -> nn.Module:
        smooth = copy.deepcopy(self)
        smooth.q = None
        return smooth

    def biases(self, suffix: str) -> tuple[Tensor | None, Tensor | None]:
        """`(b_ih, b_hh)` of the cell with this suffix."""
        return (self.own("bias_ih", suffix), self.own("bias_hh", suffix)) if self.bias else (None, None)

    def _start(self, visit: Visit) -> list[Tensor]:
        """The initial hidden state, and cells, which are levels."""
        ends = [largest for _, largest in self.cell.ranges[self.GATES :]]  # the hidden states' come last
        return [
            rounded_state(visit.start_rows(index, visit.x, self.hidden_size), self.q, largest).contiguous()
            for index, largest in enumerate(reversed(ends))
        ]

    def _maps(self, visit: Visit) -> Maps:
        bias_ih, bias_hh = self.biases(visit.suffix)
        return Maps(self.own("weight_ih", visit.suffix), bias_ih, self.own("weight_hh", visit.suffix), bias_hh)

    def recur(self, visit: Visit) -> tuple[Tensor, ...]:
        start, maps = self._start(visit), self._maps(visit)
        if torch.is_grad_enabled():
            return recurrence(self.cell, visit.order, visit.x, *maps, *start)
        done = forward(self.cell, visit.order, visit.x, maps, start)
        return (done.state, done.beside)[: len(start)]

    def course(self, visit: Visit, levels: Sequence[Tensor] | None = None) -> Course:
        cell, start, maps = self.cell, self._start(visit), self._maps(visit)
        if levels is None:
            done = forward(cell, visit.order, visit.x, maps, start)
            gates = done.gates
            opened = [to_levels(each, cell.q) for each in gates.chunk(self.GATES, 1)]
            levels = [*opened, *(cell.whole(each) for each in (done.beside, done.state)[-len(start) :])]
        else:
            # The product of whole numbers is divided: a multiple of 1/q would have been rounded already.
            hidden = previous_rows(levels[-1], cell.whole(start[0]), visit.order)
            product = dense(hidden, maps.weight_hh).div_(cell.scale)
            product = product if maps.bias_hh is None else product.add_(maps.bias_hh)
            drive = dense(visit.x, maps.weight_ih, maps.bias_ih)
            gates = cell.activate(drive, product, drive, levels)
        before = previous_rows(levels[-len(start)], cell.whole(start[-1]), visit.order)
        smooth = [each * cell.scale + 0.5 for each in gates.chunk(self.GATES, 1)]
        states = [before_nearest(each, cell.scale) for each in cell.unrounded(levels, before)]
        return Course(list(levels), [*smooth, *states])

    def states(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(each / self.cell.scale for each in reversed(levels[self.GATES :]))

    def ranges(self) -> tuple[tuple[int, int], ...]:
        scale = self.cell.scale
        return tuple((scale * low, scale * high) for low, high in self.cell.ranges) * len(self.cells())
