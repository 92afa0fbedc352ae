"""Rules of batch normalisation, whose statistics are fixed after training, and of factors by channel."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.lowering import Lowering
from casc_core.conversion.rules.affine import common_denominator, rescaled, scaled
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.symbols import Channels, Mapped, SignalValue, entries_along
from casc_core.engine.ops import Shift
from casc_core.numerics import coarsest, drive_grid

_RANKS = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


@RULES.module(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm(
    low: Lowering, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm, input: Any
) -> SignalValue:
    """Its statistics are fixed after training, so it is one factor and one shift for each channel."""
    if module.running_mean is None or module.running_var is None:
        raise low.refuse("it has no running statistics, so it depends on the batch; use track_running_stats=True")
    weight, bias = (module.weight, module.bias) if module.affine else (None, None)
    x, rank = low.signal(input), _RANKS.get(type(module))
    return _by_statistics(low, x, module.running_mean, module.running_var, weight, bias, module.eps, rank)


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
    rank: int | None = None,
) -> SignalValue:
    spread = variance.detach().double() + eps
    if not bool((spread > 0).all()):
        raise low.refuse(f"a running variance, {float(variance.min()):g}, plus eps, {eps:g}, is not positive")
    factor, centre = spread.rsqrt(), mean.detach().double()
    offset = torch.zeros_like(factor) if bias is None else bias.detach().double()
    factor = factor if weight is None else factor * weight.detach().double()
    return normalised(low, x, factor, centre, offset, rank=rank)


def normalised(
    low: Lowering, x: SignalValue, factor: Tensor, centre: Tensor, offset: Tensor, axis: int | None = 1,
    rank: int | None = None,
) -> SignalValue:  # fmt: skip
    """`factor * (x - centre) + offset`, float64, placed as those of `Channels`.

    A linear map or convolution before takes it into its weights; so does one that follows.
    """
    origin = x.origin
    if isinstance(origin, Mapped):
        entries = entries_along((factor, centre, offset), axis, origin.axis, origin.rank)
        # A single output meets several factors: it becomes several channels, unless normalisation counts them.
        if entries is not None and (axis is not None or len(origin.weight) > 1 or len(entries[0]) == 1):
            by, less, plus = entries
            if len(by) not in (1, len(origin.weight)):
                raise low.refuse(
                    f"it is for {len(by)} channels, and what it reads has {len(origin.weight)}; make them equal"
                )
            return origin.affine(by, plus - less * by)
    if isinstance(origin, Channels) and origin.axis == axis and _fit(origin.factor, factor, axis):
        return by_channel(low, replace(origin.normalised(factor, centre, offset), rank=origin.rank or rank))
    return by_channel(low, Channels(x, factor, centre, offset, axis, rank))


def _fit(one: Tensor, other: Tensor, axis: int | None) -> bool:
    """Whether two normalisations in a row are one; what does not fit is told where the network runs."""
    if axis is not None:
        return len(one) == len(other)
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one.shape), reversed(other.shape), strict=False))


def by_channel(low: Lowering, channels: Channels, bits: int | None = None) -> SignalValue:
    """The signal that is so normalised, its factors snapped to so many bits (None: those of a weight).

    What follows may take it into its weights; then nothing reads the scaled signal, and it is dropped.
    """
    x, shift = channels.signal, channels.offset - channels.factor * channels.centre
    # What has not been rounded is not rounded here either, if so many bits hold the factors: a ninth stays in the scale.
    parts = common_denominator([x.form.scale]) if x.form.is_exact else 1
    factor = channels.factor * float(x.form.scale * parts)
    if parts > 1 and not torch.equal(low.numerics.snap(factor, low.numerics.weight_exponent(factor, bits)), factor):
        parts, factor = 1, channels.factor * x.form.factor
    result = scaled(low, x, factor, shift * parts, Fraction(1, parts), bits, channels.axis)
    return replace(result, origin=channels)


def shifted(low: Lowering, channels: Channels) -> SignalValue:
    """A normalised signal without its factor: the train as it is, the drive normalised."""
    x, offset = channels.signal, channels.offset - channels.factor * channels.centre
    if x.form.drive_exponent is None and not bool(offset.any()):
        return x
    # In the units of the train, as the drive is.
    return _shifted(low, x, channels.factor, offset / x.form.factor, channels.axis)


def offset(low: Lowering, x: SignalValue, amount: Tensor) -> SignalValue:
    """`x` plus constants, float64, which flow while awake; they broadcast with `x` as torch does."""
    one = torch.ones((), dtype=torch.float64)
    if amount.dim() <= 1 and amount.numel() == 1:
        amount = amount.reshape(())
        if not bool(amount):
            return x
        if isinstance(x.origin, Mapped):
            return x.origin.affine(one, amount)
        if isinstance(x.origin, Channels):
            return by_channel(low, replace(x.origin, offset=x.origin.offset + amount))
    origin = x.origin
    if isinstance(origin, Mapped) and entries_along((amount,), None, origin.axis, origin.rank) is not None:
        return normalised(low, x, one, torch.zeros_like(one), amount, None)
    if isinstance(origin, Channels) and origin.axis is None and _fit(origin.factor, amount, None):
        return by_channel(low, replace(origin, offset=origin.offset + amount))
    if x.form.is_exact and not _is_binary(1 / x.form.scale):
        x = rescaled(low, x, Fraction(1, common_denominator([x.form.scale])))
    return _shifted(low, x, one, amount * float(1 / x.form.scale), None)


def _is_binary(fraction: Fraction) -> bool:
    return fraction.denominator & (fraction.denominator - 1) == 0


def _shifted(low: Lowering, x: SignalValue, factor: Tensor, offset: Tensor, axis: int | None) -> SignalValue:
    numerics = low.numerics
    fine_exponent = numerics.weight_exponent(factor, bits=24)
    reach = x.form.drive_reach * float(factor.abs().max()) + float(offset.abs().max())
    exponent = drive_grid(reach)
    flowing = numerics.snap(offset, exponent)
    if x.form.drive_exponent is None:
        exponent = coarsest(flowing, exponent)
    op = Shift(factor=numerics.snap(factor, fine_exponent), offset=flowing, drive_exponent=exponent, axis=axis)
    unrounded = x.form.is_exact and x.form.drive_exponent is None and torch.equal(flowing, offset)
    form = replace(x.form, drive_exponent=exponent, drive_reach=reach, is_exact=unrounded)
    return SignalValue(low.emit(op, x), form)
