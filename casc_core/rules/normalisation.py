"""Rules of batch normalisation, whose statistics are fixed after training, and of factors by channel."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.lowering import Lowering
from casc_core.numerics import binade
from casc_core.ops import Shift
from casc_core.rules.affine import DRIVE_BITS, scaled
from casc_core.rules.table import RULES
from casc_core.values import Channels, Mapped, SignalValue


@RULES.module(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def batch_norm(low: Lowering, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm, input: Any) -> SignalValue:
    """Its statistics are fixed after training, so it is one factor and one shift for each channel."""
    if module.running_mean is None or module.running_var is None:
        raise low.refuse("it has no running statistics, so it depends on the batch; use track_running_stats=True")
    weight, bias = (module.weight, module.bias) if module.affine else (None, None)
    return _by_statistics(low, low.signal(input), module.running_mean, module.running_var, weight, bias, module.eps)


@RULES.function(F.batch_norm)
def _batch_norm_call(
    low: Lowering, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> SignalValue:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise low.refuse(
            "it normalises by statistics that are taken in the forward; normalise by running statistics in evaluation, and "
            "compute weights that are standardised so once, after training"
        )
    mean, variance, factor, offset = (low.constant(value) for value in (running_mean, running_var, weight, bias))
    unknown = [value for value, known in ((weight, factor), (bias, offset)) if value is not None and known is None]
    if mean is None or variance is None or unknown:
        raise low.refuse("its statistics are computed in the forward; only buffers as they stand can be folded")
    return _by_statistics(low, low.signal(input), mean, variance, factor, offset, eps)


def _by_statistics(
    low: Lowering,
    x: SignalValue,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> SignalValue:
    spread = variance.detach().double() + eps
    if not bool((spread > 0).all()):
        raise low.refuse(f"a running variance, {float(variance.min()):g}, plus eps, {eps:g}, is not positive")
    factor, centre = spread.rsqrt(), mean.detach().double()
    offset = torch.zeros_like(factor) if bias is None else bias.detach().double()
    factor = factor if weight is None else factor * weight.detach().double()
    return normalised(low, x, factor, centre, offset)


def normalised(low: Lowering, x: SignalValue, factor: Tensor, centre: Tensor, offset: Tensor) -> SignalValue:
    """`factor * (x - centre) + offset`, channel by channel.

    A convolution before takes it into its weights; so does a linear map or a convolution that follows.
    """
    origin = x.origin
    if isinstance(origin, Mapped):
        if len(origin.weight) != len(factor):
            raise low.refuse(
                f"it is for {len(factor)} channels, and what it reads has {len(origin.weight)}; make them equal"
            )
        return origin.again(origin.weight * factor.reshape(-1, 1, 1, 1), (origin.bias - centre) * factor + offset)
    if isinstance(origin, Channels) and len(origin.factor) == len(factor):
        return by_channel(low, origin.normalised(factor, centre, offset))
    return by_channel(low, Channels(x, factor, centre, offset))


def by_channel(low: Lowering, channels: Channels, bits: int | None = None) -> SignalValue:
    """The signal that is so normalised, its factors snapped to so many bits (None: those of a weight).

    What follows may take it into its weights; then nothing reads the scaled signal, and it is dropped.
    """
    x, factor = channels.signal, channels.factor
    result = scaled(low, x, factor * x.form.factor, channels.offset - factor * channels.centre, Fraction(1), bits)
    return replace(result, origin=channels)


def shifted(low: Lowering, channels: Channels) -> SignalValue:
    """A normalised signal without its factor: the train as it is, the drive normalised."""
    x, offset = channels.signal, channels.offset - channels.factor * channels.centre
    if x.form.drive_exponent is None and not bool(offset.any()):
        return x
    # In the units of the train, as the drive is.
    return _shifted(low, x, channels.factor, offset / x.form.factor)


def offset(low: Lowering, x: SignalValue, amount: float) -> SignalValue:
    """`x` plus a constant, which flows while awake."""
    if amount == 0.0:
        return x
    if isinstance(x.origin, Mapped):
        return x.origin.again(x.origin.weight, x.origin.bias + amount)
    if isinstance(x.origin, Channels):
        return by_channel(low, replace(x.origin, offset=x.origin.offset + amount))
    one = torch.ones((), dtype=torch.float64)
    return _shifted(low, x, one, one * (amount / x.form.factor))


def _shifted(low: Lowering, x: SignalValue, factor: Tensor, offset: Tensor) -> SignalValue:
    numerics = low.numerics
    fine_exponent = numerics.weight_exponent(factor, bits=24)
    reach = x.form.drive_reach * float(factor.abs().max()) + float(offset.abs().max())
    exponent = binade(max(reach, 1e-30)) - DRIVE_BITS
    op = Shift(
        factor=numerics.snap(factor, fine_exponent), offset=numerics.snap(offset, exponent), drive_exponent=exponent
    )
    unrounded = x.form.is_exact and x.form.drive_exponent is None and torch.equal(op.offset, offset)
    form = replace(x.form, drive_exponent=exponent, drive_reach=reach, is_exact=unrounded)
    return SignalValue(low.emit(op, x), form)
