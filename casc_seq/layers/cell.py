"""What a GRU and an LSTM compute at one position, forward and backward: by torch, or compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from casc_core.operations import kernels
from casc_seq.layers.dense import is_plain


def to_levels(x: Tensor, q: int | None) -> Tensor:
    """`floor(q x + 1/2)`, the nearest level of each entry; without levels, `x` as it is.

    >>> import torch
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


class Arriving(NamedTuple):
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
    def activate(self, drive: Tensor, product: Tensor, gates: Tensor, levels: Sequence[Tensor] | None = None) -> Tensor:
        """`gates`, filled with the activations before they are rounded, of what the input drives and `W_h h + b_h`.

        Where `levels` of the gates are given, those multiply; else their own.
        """

    @abstractmethod
    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        """A position, written to the last three.

        Args:
            drive: what the input drives. product: `W_h h + b_h`.
            before: the cells before, or without them the hidden state.
            gates: the activations, before they are rounded.
            beside: the cells, or without them what else the gradient needs.
        """

    @abstractmethod
    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
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

    def empty(self, rows: int, width: int, like: Tensor) -> Tensor:
        """Room for rows of the type of others."""
        return like.new_empty(rows, width)

    def computing(self, like: Tensor) -> Cell | CompiledCell:
        """What computes `forward` and `backward` on such arrays: the compiled kernels where they can, else torch."""
        largest = self.ranges[self.GATES][1] * self.scale if self.HAS_CELLS else 0
        kind = kernels.CellKind(self.KERNEL, self.q, largest)
        return CompiledCell(kind) if is_plain(like) and kernels.ready(like) and kind.fits else self


@dataclass(frozen=True)
class CompiledCell:
    """A cell as the compiled kernels compute it."""

    kind: kernels.CellKind

    def forward(
        self, drive: Tensor, product: Tensor, before: Tensor, gates: Tensor, state: Tensor, beside: Tensor
    ) -> None:
        kernels.cell(self.kind, drive, product, before, gates, state, beside)

    def empty(self, rows: int, width: int, like: Tensor) -> Tensor:
        return kernels.empty((rows, width), like.dtype)

    def backward(
        self,
        gates: Tensor,
        before: Tensor,
        beside: Tensor,
        arriving: Arriving,
        into_gates: Tensor,
        into_product: Tensor,
    ) -> None:
        at = arriving
        kernels.cell_gradient(
            self.kind, gates, before, beside, at.above, at.above_cells, at.later, at.carry, into_gates, into_product
        )
