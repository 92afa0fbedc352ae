"""What is known of a model's tensors before it runs: the static values that rules take and return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from casc_core.program import Ref


@dataclass(frozen=True)
class Form:
    """What is known of a signal before it runs.

    Attributes:
        scale: factor from the signal's numbers to the values of the user's tensor.
        exponent: its train is on the grid `2**exponent`; None: it has no train.
        drive_exponent: its drive is on the grid `2**drive_exponent`; None: it has no drive.
        drive_reach: expected magnitude of the drive, from which the bits of weights are chosen (never exactness).
    """

    scale: float = 1.0
    exponent: int | None = None
    drive_exponent: int | None = None
    drive_reach: float = 0.0


@dataclass(frozen=True)
class SignalValue:
    """Static value: a spiking tensor, or one of real-valued input that is on its way to neurons."""

    ref: Ref
    form: Form


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
class Mapped:
    """What a convolution makes of a signal; a normalisation of its outputs makes it another one.

    Attributes:
        again: emits it with other weights and another bias.
    """

    weight: Tensor
    bias: Tensor | None
    again: Callable[[Tensor, Tensor], SignalValue]


@dataclass(frozen=True)
class Channels:
    """What batch normalisation makes of a signal x, channel by channel: `factor * (x - centre) + offset`."""

    signal: SignalValue
    factor: Tensor
    centre: Tensor
    offset: Tensor
