"""Activations that spiking neurons reproduce, level for level: CQReLU, the clipped, quantised ReLU, and others, rounded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Generic, TypeVar

import array_api_compat
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.schedule import LARGEST_STEPS


def check_levels(q: int) -> int:
    """Return `q` if it can be a number of levels (an integer of at least 1), else raise `ConfigError`."""
    if isinstance(q, bool) or not isinstance(q, int) or q < 1:
        raise ConfigError(f"q, the number of levels, must be an integer of at least 1; got {q!r}")
    if q > LARGEST_STEPS:
        raise ConfigError(f"q, the number of levels, must be at most {LARGEST_STEPS:,}; got {q!r}")
    return q


def check_threshold(threshold: float) -> float:
    """Return `threshold` as a float if it is positive and finite, else raise `ConfigError`."""
    try:
        value = math.nan if isinstance(threshold, (str, bytes, bool)) else float(threshold)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ConfigError(f"threshold must be positive and finite; got {threshold!r}")
    return value


def check_thresholds(thresholds: Tensor) -> Tensor:
    """Return `thresholds`, one for all or `[channels]`, if all are positive and finite, else raise `ConfigError`."""
    if thresholds.dim() > 1 or not bool(((thresholds > 0) & thresholds.isfinite()).all()):
        shown = thresholds.detach().flatten()[:4].tolist()
        raise ConfigError(f"thresholds must be positive and finite, one for each channel; got {shown!r} ...")
    return thresholds


def cq_relu(x: Any, q: int, threshold: Any = 1.0) -> Any:
    """Clip `x` to `[0, threshold]` and round it down to one of `q + 1` evenly spaced levels.

    `threshold / q * clip(floor(q * x / threshold), 0, q)`, the paper's Eq. 6. Works on any array of the Python array
    API standard (NumPy, torch, ...); shape and dtype are kept. No gradient: that is `CQReLU`'s.

    Args:
        x: any shape.
        q: levels above zero.
        threshold: a number, or an array of positive numbers that broadcasts against `x`.

    Raises:
        ConfigError: `q < 1` or a threshold that is not positive and finite.

    >>> import numpy as np
    >>> cq_relu(np.asarray([-0.3, 0.2, 0.6, 0.99, 7.0]), q=4)
    array([0.  , 0.  , 0.5 , 0.75, 1.  ])
    """
    q = check_levels(q)
    if not array_api_compat.is_array_api_obj(threshold):
        threshold = check_threshold(threshold)
    xp = array_api_compat.array_namespace(x)
    levels = xp.clip(xp.floor(x * q / threshold), 0.0, float(q))
    return levels * threshold / q


class _StraightThrough(torch.autograd.Function):
    """CQReLU whose gradient passes straight through the floor: 1 inside `[0, threshold]`, 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: int, threshold: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.threshold = threshold
        # As `cq_relu`, in place.
        return (x * q).div_(threshold).floor_().clamp_(0.0, float(q)).mul_(threshold).div_(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _inside(grads[0], x, ctx.threshold), None, None


class _LearnedThreshold(torch.autograd.Function):
    """The same, with a gradient for the threshold: straight through the floor, `level / q - x / threshold` inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: int, threshold: Tensor) -> Tensor:
        # `x` in levels; held close to them, or an infinite one would be 0 * inf in the backward pass.
        z = (x * q).div_(threshold).clamp_(-1.0, q + 1.0)
        ctx.save_for_backward(z)
        ctx.q, ctx.shape = q, threshold.shape
        return z.floor().clamp_(0.0, float(q)).mul_(threshold).div_(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, Tensor]:
        (z,), q = ctx.saved_tensors, ctx.q
        straight = _inside(grads[0], z, float(q))
        own = z.floor().clamp_(0.0, float(q)).mul_(grads[0]).addcmul_(straight, z, value=-1.0)
        # Scaled so that the threshold moves about as fast as a weight, whatever the size of its layer.
        scale = (z.numel() / ctx.shape.numel() * q) ** -0.5
        return straight, None, own.sum_to_size(ctx.shape) * (scale / q)


def _inside(gradient: Tensor, x: Tensor, largest: float) -> Tensor:
    """`gradient` where `x` is in `[0, largest]`, and 0 elsewhere, in one pass over memory."""
    # It takes the open interval, so its ends are moved out by the least there is.
    ends = torch.tensor([0.0, largest], dtype=x.dtype, device="cpu")
    low, high = torch.nextafter(ends, ends.new_tensor([-1.0, 2 * largest])).tolist()
    result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
    return result


_straight_through: Callable[[Tensor, int, float], Tensor] = _StraightThrough.apply
_learned_threshold: Callable[[Tensor, int, Tensor], Tensor] = _LearnedThreshold.apply
# A threshold that training has driven to zero or below is held here: a power of two, the same number in every type.
SMALLEST_THRESHOLD = 2.0**-14


Levels = TypeVar("Levels", bound=int | None)


class Quantised(nn.Module, Generic[Levels]):
    """A module whose activations have these levels and this threshold; conversion finds them by this type.

    Unless it says otherwise they are CQReLU; with `half_step` they are rounded to the nearest level instead of down. A
    `Quantised[int]` has levels. A `Quantised[int | None]` may be without (`q` None): then it is a module of torch's
    arithmetic, nothing is rounded, and it is yet to be prepared.

    Raises:
        ConfigError: `q < 1` or a threshold that is not positive and finite.
    """

    KEEPS_TYPE: ClassVar[bool] = False
    """Whether all that its forward makes is of the type of its input and parameters, whatever torch makes by default. A
    class says so of itself alone: one that inherits from it may have a forward of its own."""
    q: Levels

    def __init__(self, q: Levels, threshold: float = 1.0) -> None:
        super().__init__()
        if q is not None:
            check_levels(q)
        self.q = q
        self.threshold: float | Tensor = check_threshold(threshold)
        self.half_step = False

    @property
    def effective_threshold(self) -> float | Tensor:
        """The threshold that it computes with, in training, evaluation and conversion alike.

        A number is taken as it is; of a tensor, which training may have moved, entries below 2**-14 count as 2**-14.

        >>> CQReLU(q=2, threshold=torch.tensor([0.5, 1e-9])).effective_threshold
        tensor([5.0000e-01, 6.1035e-05])
        """
        threshold = self.threshold
        return threshold.clamp_min(SMALLEST_THRESHOLD) if isinstance(threshold, Tensor) else threshold

    def populations(self) -> tuple[str, ...]:
        """The layers that it becomes: what follows the module's name in theirs. None: it does not say."""
        return ()

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The lowest and the highest level of each of its populations."""
        assert self.q is not None
        return ((0, self.q),) * len(self.populations())

    def as_trained(self) -> nn.Module | None:
        """What computes without levels what this does with them; None: there is no such thing, it has to be trained."""
        return None


class Observable(Quantised[Levels], ABC):
    """A quantised module whose populations can be seen: `casc_core.verify` holds its lowering against it neuron by neuron.

    It says which `populations` it becomes. Any subclass of `Quantised` that has an `observed` counts as one.
    """

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        counts: bool = (
            NotImplemented if cls is not Observable else issubclass(kind, Quantised) and hasattr(kind, "observed")
        )
        return counts

    @abstractmethod
    def observed(self, levels: Sequence[Tensor | None], *inputs: Any, **named: Any) -> tuple[Any, list[Tensor]]:
        """Its output, and for each population the activations before rounding down, in levels: `q x / theta (+ 1/2)`.

        The output is what `forward` gives where the levels are its own, which `verify` checks. So write down here what each
        population sees, rather than call what `forward` calls.

        Args:
            levels: for each population, the levels that it is to give in the place of its own, or None; those of another
                shape are left out.
            inputs, named: what `forward` takes.
        """


class CQReLU(Observable[int]):
    """Trainable CQReLU: `cq_relu` forward; backward, 1 inside `[0, threshold]` and 0 outside.

    Args:
        q: number of levels above zero. The output is one of `0, threshold/q, ..., threshold`.
        threshold: largest output, in the units of the input; or `[channels]`, one for each channel (dimension 1).
        trainable: the threshold is a parameter, its gradient straight through the floor, scaled by
            `1 / sqrt(q * entries)` (Esser et al. 2020, "Learned Step Size Quantization").
        half_step: round to the nearest level instead of down: `floor(q * x / threshold + 1/2)` (Bu et al. 2022, "Optimal
            ANN-SNN conversion"), half a level of current in every neuron.

    Shape: any; the output has the input's shape and dtype.

    Raises:
        ConfigError: `q < 1` or a threshold that is not positive and finite.

    >>> x = torch.tensor([-1.0, 0.3, 0.8, 2.0], requires_grad=True)
    >>> y = CQReLU(q=2)(x)
    >>> y
    tensor([0.0000, 0.0000, 0.5000, 1.0000], grad_fn=<_StraightThroughBackward>)
    >>> y.sum().backward()
    >>> x.grad
    tensor([0., 1., 1., 0.])
    """

    def __init__(
        self, q: int, threshold: float | Tensor = 1.0, *, trainable: bool = False, half_step: bool = False
    ) -> None:
        super().__init__(check_levels(q))
        self.half_step = half_step
        self.set_threshold(threshold, trainable)

    def set_threshold(self, threshold: float | Tensor, trainable: bool = False) -> None:
        """Take another threshold, a number or `[channels]`, fixed or trainable."""
        if isinstance(threshold, Tensor):
            values = check_thresholds(threshold.detach()).clone().float()
        else:
            values = torch.tensor(check_threshold(threshold))
        for place in (self._parameters, self._buffers, self.__dict__):
            place.pop("threshold", None)
        if trainable:
            self.threshold = nn.Parameter(values)
        elif isinstance(threshold, Tensor):
            self.register_buffer("threshold", values)
        else:
            self.threshold = check_threshold(threshold)

    def forward(self, input: Tensor) -> Tensor:
        x, threshold = self._read(input)
        if isinstance(threshold, Tensor):
            return _learned_threshold(x, self.q, threshold)
        return _straight_through(x, self.q, threshold)

    def populations(self) -> tuple[str, ...]:
        return ("",)

    def observed(self, levels: Sequence[Tensor | None], *inputs: Any, **named: Any) -> tuple[Any, list[Tensor]]:
        x, threshold = self._read(*inputs, **named)
        z = x * self.q / threshold
        (given,) = levels
        if given is None or given.shape != z.shape:
            given = z.floor().clamp_(0.0, float(self.q))
        return given.to(z.dtype) * threshold / self.q, [z]

    def as_trained(self) -> nn.Module:
        return nn.ReLU()

    def _read(self, input: Tensor) -> tuple[Tensor, float | Tensor]:
        """The input with the half step, and the threshold as it stands beside it."""
        threshold = self.effective_threshold
        if isinstance(threshold, Tensor):
            threshold = threshold.to(input.dtype)
            if threshold.dim():
                threshold = threshold.reshape(-1, *[1] * (input.dim() - 2))
        return (input + threshold / (2 * self.q) if self.half_step else input), threshold

    def extra_repr(self) -> str:
        more = ", half_step=True" if self.half_step else ""
        if not isinstance(self.threshold, Tensor):
            return f"q={self.q}, threshold={self.threshold:g}{more}"
        more = ", trainable" * self.threshold.requires_grad + more
        if self.threshold.dim():
            return f"q={self.q}, {self.threshold.numel()} thresholds{more}"
        return f"q={self.q}, threshold={self.threshold.item():g}{more}"


@dataclass(frozen=True)
class Squashing:
    """A function that never falls and has ends: 1 above and 0 below, or -1 if it `is_odd`.

    Attributes:
        function: of a tensor.
        inverse: where it takes a value between its ends.
    """

    function: Callable[[Tensor], Tensor]
    inverse: Callable[[Fraction], Fraction]
    is_odd: bool


SQUASHING = {
    "sigmoid": Squashing(torch.sigmoid, lambda y: 2 * Fraction(math.atanh(2 * y - 1)), False),
    "tanh": Squashing(torch.tanh, lambda y: Fraction(math.atanh(y)), True),
    "hardsigmoid": Squashing(F.hardsigmoid, lambda y: 6 * y - 3, False),
    "hardtanh": Squashing(F.hardtanh, lambda y: y, True),
    "softsign": Squashing(F.softsign, lambda y: y / (1 - abs(y)), True),
}
"""The functions that `Rounded` takes, by name."""


class _Nearest(torch.autograd.Function):
    """`threshold` times the nearest multiple of `1 / q` to `y`, whose gradient passes straight through the rounding."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, q: int, threshold: float, ends: tuple[int, int] | None) -> Tensor:
        ctx.threshold = threshold
        levels = (y * q).add_(0.5).floor_()
        return (levels if ends is None else levels.clamp_(*ends)).mul_(threshold).div_(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        return grads[0] * ctx.threshold, None, None, None


_nearest: Callable[[Tensor, int, float, tuple[int, int] | None], Tensor] = _Nearest.apply


class Squashed(nn.Module):
    """`threshold * f(x / threshold)`, f a squashing function by its name: what `Rounded` rounds.

    >>> Squashed("hardtanh", 2.0)(torch.tensor([-3.0, 0.5]))
    tensor([-2.0000,  0.5000])
    """

    def __init__(self, function: str, threshold: float = 1.0) -> None:
        super().__init__()
        self.function, self.threshold = function, threshold

    def forward(self, input: Tensor) -> Tensor:
        return self.threshold * SQUASHING[self.function].function(input / self.threshold)


class Rounded(Observable[int]):
    """A sigmoid, tanh or another squashing function, rounded to the nearest of its levels.

    `threshold / q * floor(q * f(x / threshold) + 1/2)`. Its gradient is that of f: it trains as f does. In spikes it is a
    population with a threshold for each level, where the rounded function steps (`LevelThresholds`), which counts from
    `-q` to `q` if f is odd (tanh, hardtanh, softsign), else from 0 to `q` (sigmoid, hardsigmoid).

    Args:
        q: number of levels above zero.
        function: "sigmoid", "tanh", "hardsigmoid", "hardtanh" or "softsign".
        threshold: what f and its argument are scaled by: its largest value. `hardtanh` with a threshold clips to
            `[-threshold, threshold]`.
        ends: what `hardtanh` clips to, where its ends are of other sizes: at most 0 and at least 0. The threshold is then
            the larger of both, which is `q` levels from 0.

    Shape: any; the output has the input's shape and dtype.

    Raises:
        ConfigError: `q < 1`, no such function, ends that are none, or a threshold that is not positive and finite.

    >>> Rounded(4, "hardtanh", ends=(-1.0, 2.0))(torch.tensor([-3.0, -0.7, 0.7, 3.0]))
    tensor([-1.0000, -0.5000,  0.5000,  2.0000])
    >>> x = torch.tensor([-9.0, -0.6, 0.0, 0.6, 9.0], requires_grad=True)
    >>> y = Rounded(4, "tanh")(x)
    >>> y
    tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000],
           grad_fn=<_NearestBackward>)
    >>> y[2].backward()
    >>> x.grad
    tensor([0., 0., 1., 0., 0.])
    """

    threshold: float
    ends: tuple[float, float] | None = None

    def __init__(self, q: int, function: str, threshold: float = 1.0, ends: tuple[float, float] | None = None) -> None:
        super().__init__(check_levels(q), threshold if ends is None else _larger(function, *ends))
        if function not in SQUASHING:
            raise ConfigError(f"Rounded takes {', '.join(map(repr, SQUASHING))}; got {function!r}")
        self.function, self.ends = function, ends

    @property
    def lowest(self) -> int:
        """The lowest level."""
        if self.ends is not None:
            return self._level(self.ends[0])
        return -self.q if SQUASHING[self.function].is_odd else 0

    @property
    def highest(self) -> int:
        """The highest level."""
        return self.q if self.ends is None else self._level(self.ends[1])

    def _level(self, end: float) -> int:
        """The nearest one."""
        return math.floor(self.q * Fraction(end) / Fraction(self.threshold) + Fraction(1, 2))

    def thresholds(self) -> list[Fraction]:
        """Of the levels above the lowest: the least that the input, times q, must be.

        >>> [str(threshold) for threshold in Rounded(2, "hardsigmoid").thresholds()]
        ['-3', '3']
        """
        inverse, q = SQUASHING[self.function].inverse, self.q
        halves = (Fraction(2 * level - 1, 2 * q) for level in range(self.lowest + 1, self.highest + 1))
        return [q * Fraction(self.threshold) * inverse(half) for half in halves]

    def forward(self, input: Tensor) -> Tensor:
        ends = None if self.ends is None else (self.lowest, self.highest)
        return _nearest(self._squashed(input), self.q, self.threshold, ends)

    def populations(self) -> tuple[str, ...]:
        return ("",)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((self.lowest, self.highest),)

    def observed(self, levels: Sequence[Tensor | None], *inputs: Any, **named: Any) -> tuple[Any, list[Tensor]]:
        z = self._squashed(*inputs, **named) * self.q + 0.5
        (given,) = levels
        if given is None or given.shape != z.shape:
            given = z.floor().clamp_(self.lowest, self.highest)
        return given.to(z.dtype) * self.threshold / self.q, [z]

    def as_trained(self) -> nn.Module:
        return Squashed(self.function, self.threshold) if self.ends is None else nn.Hardtanh(*self.ends)

    def _squashed(self, input: Tensor) -> Tensor:
        if self.ends is not None:
            return F.hardtanh(input, *self.ends) / self.threshold
        return SQUASHING[self.function].function(input if self.threshold == 1.0 else input / self.threshold)

    def extra_repr(self) -> str:
        if self.ends is not None:
            return f"q={self.q}, {self.function!r}, ends=({self.ends[0]:g}, {self.ends[1]:g})"
        more = "" if self.threshold == 1.0 else f", threshold={self.threshold:g}"
        return f"q={self.q}, {self.function!r}{more}"


def _larger(function: str, low: float, high: float) -> float:
    """The larger end of a hard tanh.

    Raises:
        ConfigError: these are none, or it is another function.
    """
    if function != "hardtanh":
        raise ConfigError(f"'hardtanh' alone has ends that can be chosen; got ends={(low, high)!r} of {function!r}")
    if not -math.inf < low <= 0.0 <= high < math.inf or low == high:
        raise ConfigError(f"ends must be finite, 0 between them, and not both 0; got {(low, high)!r}")
    return max(-low, high)
