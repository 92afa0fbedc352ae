"""What is known of a model's tensors before it runs: the static values that rules take and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from casc_core.engine.program import Ref


@dataclass(frozen=True)
class Form:
    """What is known of a signal before it runs.

    Attributes:
        scale: factor from the signal's numbers to the values of the user's tensor, as the fraction that it is: a mean of
            nine entries has a ninth, which no floating-point number is.
        exponent: its train is on the grid `2**exponent`; None: it has no train.
        drive_exponent: its drive is on the grid `2**drive_exponent`; None: it has no drive.
        drive_reach: expected magnitude of the drive, from which the bits of weights are chosen (never exactness).
        is_exact: no number between the populations and this signal has been rounded to a grid, so that sums which meet a
            threshold exactly are the rule: it must not be rounded either.
        is_filled: some of its entries stand for minus infinity, on the way to a maximum.
        is_summed: a sum over a dimension of unknown size is counted in `drive_reach`.
        is_divided: it may carry a divisor.
    """

    scale: Fraction = Fraction(1)
    exponent: int | None = None
    drive_exponent: int | None = None
    drive_reach: float = 0.0
    is_exact: bool = False
    is_filled: bool = False
    is_summed: bool = False
    is_divided: bool = False

    @property
    def factor(self) -> float:
        """The scale as the nearest floating-point number."""
        return float(self.scale)


@dataclass(frozen=True)
class SignalValue:
    """Static value: a spiking tensor, or one of real-valued input that is on its way to neurons.

    Attributes:
        origin: the operation it comes from, where the next one can be put together with it. It is that of this very tensor:
            whatever else is made of the tensor has none, or one of its own.
    """

    ref: Ref
    form: Form
    origin: Table | Mapped | Channels | None = None

    def times(self, factor: Fraction) -> SignalValue:
        """The same tensor multiplied by a number: what its numbers are worth changes, and they do not."""
        origin = self.origin if isinstance(self.origin, Table | None) else self.origin.times(float(factor))
        return SignalValue(self.ref, replace(self.form, scale=self.form.scale * factor), origin)


@dataclass(frozen=True)
class PartsValue:
    """Static value: a tuple of signals of one form, as `chunk` and `unbind` return.

    Attributes:
        count: how many the trace took them to be, at this line of the forward; None: nothing depends on it.
    """

    ref: Ref
    form: Form
    count: int | None = None
    line: str = ""


@dataclass(frozen=True)
class Unreadable:
    """Static value: a result that spikes cannot carry; whatever reads it is refused, and `why`."""

    why: str


@dataclass(frozen=True)
class InputValue:
    """Static value: anything computed from the inputs alone.

    Attributes:
        entries: the numbers among which every entry of it is, where the inputs decide about its shape alone.
    """

    ref: Ref
    entries: Tensor | None = None


@dataclass(frozen=True)
class Table:
    """Rows of a table, looked up by token id: a linear map of them is again a table.

    Attributes:
        rows: the table, in the signal's numbers.
        embedding: the module that an error names.
    """

    rows: Tensor
    tokens: InputValue
    embedding: str


@dataclass(frozen=True)
class Mapped:
    """What a linear map or a convolution makes of a signal; a normalisation of its outputs makes it another one.

    Attributes:
        weight, bias: of the map whose result, in the user's values, this tensor is.
        again: emits it with other weights and another bias.
        axis: the dimension along which its outputs lie, counted from the end.
        rank: how many dimensions the tensor has; None: that is known only when the network runs.
    """

    weight: Tensor
    bias: Tensor
    again: Callable[[Tensor, Tensor], SignalValue]
    axis: int
    rank: int | None

    def times(self, factor: float) -> Mapped:
        """That of this tensor multiplied by a number."""
        return replace(self, weight=self.weight * factor, bias=self.bias * factor)

    def affine(self, factor: Tensor, offset: Tensor) -> SignalValue:
        """The map whose outputs are `factor` times these plus `offset`, one number for each output or one for all."""
        by_output = factor.expand(len(self.weight)).reshape(-1, *[1] * (self.weight.dim() - 1))
        return self.again(self.weight * by_output, self.bias * factor + offset)


@dataclass(frozen=True)
class Channels:
    """What batch normalisation, or a product with constants, makes of a signal x: `factor * (x - centre) + offset`.

    `factor`, `centre` and `offset` are float64, in the user's values. With `axis` 1 they are `[channels]` and lie along
    dimension 1, whatever follows it; with None they broadcast with x from its last dimension on, as torch does. `rank` is
    the number of dimensions that x has, if it is known.
    """

    signal: SignalValue
    factor: Tensor
    centre: Tensor
    offset: Tensor
    axis: int | None = 1
    rank: int | None = None

    def times(self, factor: float) -> Channels:
        """That of this tensor multiplied by a number."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor)

    def normalised(self, factor: Tensor, centre: Tensor, offset: Tensor) -> Channels:
        """That of `factor * (this tensor - centre) + offset`: two normalisations in a row are one."""
        return replace(self, factor=self.factor * factor, offset=(self.offset - centre) * factor + offset)

    def along(self, axis: int, rank: int | None) -> list[Tensor] | None:
        """Factor, centre and offset as those of `entries_along`."""
        if None not in (rank, self.rank) and rank != self.rank:
            return None
        return entries_along((self.factor, self.centre, self.offset), self.axis, axis, rank)


def entries_along(values: Sequence[Tensor], placed: int | None, axis: int, rank: int | None) -> list[Tensor] | None:
    """Numbers as `[entries]`, if they lie along one dimension of a tensor and leave its number of dimensions as it is.

    Args:
        values: the numbers, of shapes that broadcast with each other.
        placed: 1: they are `[channels]` of dimension 1; None: they broadcast with the tensor from its last dimension on.
        axis: the dimension that is asked about, counted from the end.
        rank: of the tensor; None: unknown.

    >>> entries_along([torch.ones(1, 3, 1, 1), torch.ones(3, 1, 1)], None, -3, 4)
    [tensor([1., 1., 1.]), tensor([1., 1., 1.])]
    >>> entries_along([torch.ones(3, 1, 1)], None, -1, 4), entries_along([torch.ones(1, 3)], None, -1, None)
    (None, None)
    """
    if placed is not None:
        return list(values) if rank is not None and rank + axis == placed else None
    most = -axis if rank is None else rank
    for value in values:
        entries = value.shape[axis] if value.dim() >= -axis else 1
        if value.dim() > most or value.numel() != entries:
            return None
    return [value.reshape(-1) for value in torch.broadcast_tensors(*(value.reshape(-1) for value in values))]
