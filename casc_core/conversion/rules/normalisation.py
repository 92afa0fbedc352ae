"""Rules of batch normalisation, whose statistics are fixed after training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.graph import Normalisation, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.table import RULES

_RANKS = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def batch_norm(reader: Reader, module: BatchNorm, input: Any) -> SignalNode:
    """The rule of batch normalisation, also for a module of yours that inherits from it.

    Its statistics are fixed after training, so it is one factor and one shift for each channel.
    """
    if module.running_mean is None or module.running_var is None:
        raise reader.refuse("it has no running statistics, so it depends on the batch; use track_running_stats=True")
    weight, bias = (module.weight, module.bias) if module.affine else (None, None)
    x, rank = reader.signal(input), _RANKS.get(type(module), reader.rank)
    return _by_statistics(reader, x, module.running_mean, module.running_var, weight, bias, module.eps, rank)


RULES.module(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, trace_overrides=True)(batch_norm)
RULES.module(nn.SyncBatchNorm)(batch_norm)


@RULES.function(F.batch_norm)
def _batch_norm_call(
    reader: Reader, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> SignalNode:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise reader.refuse(
            "it normalises by statistics that are taken in the forward; normalise by running statistics in evaluation, and "
            "compute weights that are standardised so once, after training"
        )
    mean, variance, factor, offset = (reader.constant(value) for value in (running_mean, running_var, weight, bias))
    unknown = [value for value, known in ((weight, factor), (bias, offset)) if value is not None and known is None]
    if mean is None or variance is None or unknown:
        raise reader.refuse("its statistics are computed in the forward; only buffers as they stand can be folded")
    return _by_statistics(reader, reader.signal(input), mean, variance, factor, offset, eps, reader.rank)


def _by_statistics(
    reader: Reader,
    x: SignalNode,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rank: int | None = None,
) -> SignalNode:
    spread = variance.detach().double() + eps
    if not bool((spread > 0).all()):
        raise reader.refuse(f"a running variance, {float(variance.min()):g}, plus eps, {eps:g}, is not positive")
    factor, centre = spread.rsqrt(), mean.detach().double()
    offset = torch.zeros_like(factor) if bias is None else bias.detach().double()
    factor = factor if weight is None else factor * weight.detach().double()
    return reader.add(Normalisation(x, factor, centre, offset, rank=rank))
