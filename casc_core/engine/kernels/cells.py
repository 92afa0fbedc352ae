"""One position of a GRU or an LSTM in training: activations and states, rounded to levels or not, and their gradient."""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, require, run, structure
from casc_core.numerics import FLOAT32_UNITS

_Task = structure("CellTask", (c_int64, "hidden q most"), (c_void_p, "drive product before gates state beside"))
_GradientTask = structure(
    "CellGradientTask",
    (c_int64, "hidden q most known above_row"),
    (c_void_p, "gates before beside above above_cells later carry into_gates into_product"),
)
_GATES = {"gru": 3, "lstm": 4}


@dataclass(frozen=True)
class CellKind:
    """What a cell computes.

    Attributes:
        name: "gru" or "lstm".
        q: levels of its activations and states; None: nothing is rounded.
        most: of an LSTM with levels, the largest cell in levels.
    """

    name: str
    q: int | None
    most: int = 0

    def __post_init__(self) -> None:
        require(self.name in _GATES, f"a cell {self.name!r}")
        require((self.q is None or self.q >= 1) and self.most >= 0, f"{self.q} levels, up to {self.most}")

    @property
    def fits(self) -> bool:
        """Whether float32 holds the sum of two products of levels."""
        return self.q is None or 2 * self.q * max(self.q, self.most) <= FLOAT32_UNITS

    def check(self, rows: int, hidden: int, wide: tuple[Tensor, ...], narrow: tuple[Tensor | None, ...]) -> None:
        """Refuse what is not float32, `[rows, gates * hidden]` and `[rows, hidden]`."""
        shape = rows, _GATES[self.name] * hidden
        for each in wide:
            checked(each, "gates", torch.float32, shape)
        for one in narrow:
            if one is not None:
                checked(one, "states", torch.float32, (rows, hidden))


def cell(
    kind: CellKind, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
) -> None:
    """A position, written to the last three; all float32, of shape `[rows, (gates *) hidden]`.

    Args:
        drive: what the input drives, in torch's order of gates.
        product: of the recurrent weights and the hidden state before.
        before: the hidden state, or an LSTM's cell, before.
        gates: the activations, before they are rounded.
        state: the hidden state afterwards.
        beside: an LSTM's cell afterwards, or the part of the product that a GRU's reset gate multiplies.
    """
    rows, hidden = before.shape
    kind.check(rows, hidden, (drive, product, gates), (before, state, beside))
    places = [each.data_ptr() for each in (drive, product, before, gates, state, beside)]
    run(kind.name, _Task(hidden, kind.q or 0, kind.most, *places), rows, gates.numel() + state.numel())


def cell_gradient(
    kind: CellKind,
    gates: Tensor,
    before: Tensor,
    beside: Tensor,
    above: Tensor,
    above_cells: Tensor | None,
    later: Tensor,
    carry: Tensor,
    into_gates: Tensor,
    into_product: Tensor,
) -> None:
    """The gradient of `cell`, written to `into_gates` and, of a GRU, to `into_product`; an LSTM's product has the same.

    Args:
        gates, before, beside: as they are after `cell`.
        above: what arrives at the hidden states, rows that may lie apart; above_cells: at an LSTM's cells.
        later: `[known, hidden]`: what arrives at the first hidden states besides, by the product of the next position.
        carry: what arrives there elementwise, at hidden states or at an LSTM's cells; afterwards what goes on to those
            before, of all rows.
    """
    rows, hidden = before.shape
    known = later.shape[0]
    kind.check(rows, hidden, (gates, into_gates, into_product), (before, beside, above_cells, carry))
    checked(above, "what arrives", torch.float32, (rows, hidden), packed=False)
    require(above.stride(1) == 1 or hidden == 1, "what arrives, row by row")
    checked(later, "what is known", torch.float32, (known, hidden))
    require(known <= rows, "rows that are known")
    places = [
        address(each) for each in (gates, before, beside, above, above_cells, later, carry, into_gates, into_product)
    ]
    task = _GradientTask(hidden, kind.q or 0, kind.most, known, above.stride(0), *places)
    run(f"{kind.name}_gradient", task, rows, into_gates.numel() + into_product.numel())
