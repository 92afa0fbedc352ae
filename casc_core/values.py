"""What is known of a model's tensors before it runs: the static values that rules take and return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from casc_core.program import Ref


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
    """Static value: a tuple of signals of one form, as `chunk` and `unbind` return."""

    ref: Ref
    form: Form


@dataclass(frozen=True)
class Unreadable:
    """Static value: a result that spikes cannot carry; whatever reads it is refused, and `why`."""

    why: str


@dataclass(frozen=True)
class InputValue:
    """Static value: anything computed from the inputs alone."""

    ref: Ref


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
    """What a convolution makes of a signal; a normalisation of its outputs makes it another one.

    Attributes:
        weight, bias: of the map whose result, in the user's values, this tensor is.
        again: emits it with other weights and another bias.
    """

    weight: Tensor
    bias: Tensor
    again: Callable[[Tensor, Tensor], SignalValue]

    def times(self, factor: float) -> Mapped:
        """That of this tensor multiplied by a number."""
        return replace(self, weight=self.weight * factor, bias=self.bias * factor)


@dataclass(frozen=True)
class Channels:
    """What batch normalisation makes of a signal x, channel by channel: `factor * (x - centre) + offset`.

    `factor`, `centre` and `offset` are float64, `[channels]`, in the user's values.
    """

    signal: SignalValue
    factor: Tensor
    centre: Tensor
    offset: Tensor

    def times(self, factor: float) -> Channels:
        """That of this tensor multiplied by a number."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor)

    def normalised(self, factor: Tensor, centre: Tensor, offset: Tensor) -> Channels:
        """That of `factor * (this tensor - centre) + offset`: two normalisations in a row are one."""
        return replace(self, factor=self.factor * factor, offset=(self.offset - centre) * factor + offset)
