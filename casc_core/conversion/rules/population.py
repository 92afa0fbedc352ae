"""The rule of activations, which become populations of neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from casc_core.activation import CQReLU, check_threshold, check_thresholds
from casc_core.conversion.graph import Normalisation, Population, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.table import RULES


@RULES.module(CQReLU)
def _activation(reader: Reader, module: CQReLU, input: Any) -> SignalNode:
    threshold, name, x = module.effective_threshold, reader.layer_name(reader.name), reader.signal(input)
    if not isinstance(threshold, Tensor):
        return neurons(reader, x, check_threshold(threshold), name, module.half_step)
    if threshold.dim() == 0:
        return neurons(reader, x, check_threshold(threshold.item()), name, module.half_step)
    return neurons(reader, x, check_thresholds(threshold.detach()).double(), name, module.half_step)


def neurons(reader: Reader, x: SignalNode, threshold: float | Tensor, name: str, rounds: bool = False) -> SignalNode:
    """A population of neurons that reads `x`; its spikes are worth `threshold` each.

    Args:
        threshold: a number; or float64 `[channels]`, one for each channel.
        name: of the layer, as `Reader.layer_name` gave it.
        rounds: to the nearest level instead of down.
    """
    spikes = reader.add(Population(name, x, threshold, rounds))
    if not isinstance(threshold, Tensor):
        return spikes
    nothing = torch.zeros_like(threshold)
    return reader.add(Normalisation(spikes, threshold, nothing, nothing))
