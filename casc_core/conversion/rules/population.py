"""The rules of activations, which become populations of neurons."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from casc_core.activation import CQReLU, Rounded, check_threshold, check_thresholds
from casc_core.composed_activations import LeakyCQReLU, RoundedGLU, Swish
from casc_core.conversion.graph import Addition, Factor, LevelPopulation, Normalisation, Population, Product, SignalNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.arithmetic import multiplied, multiply
from casc_core.conversion.rules.layout import halves
from casc_core.conversion.rules.table import RULES


@RULES.module(CQReLU)
def _cq_relu(reader: Reader, module: CQReLU, input: Any) -> SignalNode:
    return _clipped(reader, module, reader.signal(input), reader.name)


def _clipped(reader: Reader, module: CQReLU, x: SignalNode, name: str) -> SignalNode:
    threshold, name = module.effective_threshold, reader.layer_name(name)
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
    return reader.add(Normalisation(spikes, threshold, nothing, nothing, rank=reader.rank))


@RULES.module(Rounded)
def _rounded(reader: Reader, module: Rounded, input: Any) -> SignalNode:
    return _by_level(reader, module, reader.signal(input), reader.name)


def _by_level(reader: Reader, module: Rounded, x: SignalNode, name: str) -> SignalNode:
    spike = Fraction(check_threshold(module.threshold))
    return reader.add(LevelPopulation(reader.layer_name(name), x, module.thresholds(), module.lowest, spike))


@RULES.module(LeakyCQReLU)
def _leaky(reader: Reader, module: LeakyCQReLU, input: Any) -> SignalNode:
    x = reader.signal(input)
    positive = _clipped(reader, module.positive, x, f"{reader.name}.positive")
    mirrored = reader.add(Factor(x, Fraction(-1)))
    negative = _clipped(reader, module.negative, mirrored, f"{reader.name}.negative")
    slope = torch.as_tensor(module.slope).detach().double()
    if slope.numel() == 1:
        return reader.add(Addition(positive, multiplied(reader, negative, -slope.reshape(()))))
    nothing = torch.zeros_like(slope)
    return reader.add(
        Addition(positive, reader.add(Normalisation(negative, -slope, nothing, nothing, rank=reader.rank)))
    )


@RULES.module(Swish)
def _swish(reader: Reader, module: Swish, input: Any) -> SignalNode:
    x = reader.signal(input)
    value, gate = (
        _by_level(reader, each, x, f"{reader.name}.{name}")
        for name, each in (("value", module.value), ("gate", module.gate))
    )
    return reader.add(Product(value, gate, reader.name, reader.levels))


@RULES.module(RoundedGLU)
def _glu(reader: Reader, module: RoundedGLU, input: Any) -> SignalNode:
    value, gate = halves(reader, reader.signal(input), module.dim)
    return multiply(reader, value, _by_level(reader, module.gate, gate, f"{reader.name}.gate"))
