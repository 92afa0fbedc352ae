"""CQReLU: the clipped, quantised ReLU that a CIF neuron reproduces spike for spike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError


def check_levels(q: int) -> int:
    """Return `q` if it can be a number of levels (an integer of at least 1), else raise `ConfigError`."""
    if isinstance(q, bool) or not isinstance(q, int) or q < 1:
        raise ConfigError(f"q, the number of levels, must be an integer of at least 1; got {q!r}")
    return q


def check_threshold(threshold: float) -> float:
    """Return `threshold` as a float if it is positive and finite, else raise `ConfigError`."""
    value = float(threshold)
    if not 0.0 < value < float("inf"):
        raise ConfigError(f"threshold must be positive and finite; got {threshold!r}")
    return value


def cq_relu(x: Any, q: int, threshold: float = 1.0) -> Any:
    """Clip `x` to `[0, threshold]` and round it down to one of `q + 1` evenly spaced levels.

    `threshold / q * clip(floor(q * x / threshold), 0, q)`, the paper's Eq. 6. Works on any array of the Python array
    API standard (NumPy, torch, ...); shape and dtype are kept. No gradient: that is `CQReLU`'s.

    Raises:
        ConfigError: `q < 1` or a threshold that is not positive and finite.

    >>> import numpy as np
    >>> cq_relu(np.asarray([-0.3, 0.2, 0.6, 0.99, 7.0]), q=4)
    array([0.  , 0.  , 0.5 , 0.75, 1.  ])
    """
    q, threshold = check_levels(q), check_threshold(threshold)
    xp = array_api_compat.array_namespace(x)
    levels = xp.clip(xp.floor(x * q / threshold), 0.0, float(q))
    return levels * threshold / q


class _StraightThrough(torch.autograd.Function):
    """CQReLU whose gradient passes straight through the floor: 1 inside `[0, threshold]`, 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: int, threshold: float) -> Tensor:
        ctx.save_for_backward((x >= 0) & (x <= threshold))
        result: Tensor = cq_relu(x, q, threshold)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None


_straight_through: Callable[[Tensor, int, float], Tensor] = _StraightThrough.apply


class Quantised(nn.Module):
    """A module whose activations are CQReLU with these levels and this threshold; conversion finds them by this type.

    Raises:
        ConfigError: `q < 1` or a threshold that is not positive and finite.
    """

    def __init__(self, q: int, threshold: float = 1.0) -> None:
        super().__init__()
        self.q = check_levels(q)
        self.threshold = check_threshold(threshold)


class CQReLU(Quantised):
    """Trainable CQReLU: `cq_relu` forward; backward, 1 inside `[0, threshold]` and 0 outside.

    Args:
        q: number of levels above zero. The output is one of `0, threshold/q, ..., threshold`.
        threshold: largest output, in the units of the input.

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

    def forward(self, x: Tensor) -> Tensor:
        return _straight_through(x, self.q, self.threshold)

    def extra_repr(self) -> str:
        return f"q={self.q}, threshold={self.threshold:g}"
