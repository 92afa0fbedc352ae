"""An oracle for small networks: their layers in exact rationals from the weights as they are, nothing rounded.

Tensors are NumPy arrays of `Fraction`, without a batch. Activations go on from the levels that were found, which it checks.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

import casc_core


def rational(x: Tensor) -> np.ndarray:
    """The same numbers as fractions."""
    values = [Fraction(value) for value in x.detach().double().flatten().tolist()]
    return np.array([*values, None], dtype=object)[:-1].reshape(tuple(x.shape))


class Oracle:
    """Evaluates layers in rationals.

    Args:
        levels: that were found, by layer, of one sample.
        count: how many levels an activation has.
        tie: a level may differ if its sum is no farther than this from an edge, in levels.
    """

    def __init__(self, levels: dict[str, Tensor], count: int, tie: Fraction) -> None:
        self.levels, self.count, self.tie = levels, count, tie
        self.differing = 0

    def __call__(self, name: str, layer: nn.Module, x: np.ndarray) -> np.ndarray:
        if isinstance(layer, casc_core.CQReLU):
            return self.activation(name, layer, x)
        if isinstance(layer, nn.Conv2d):
            return convolution(layer, x)
        if isinstance(layer, nn.Linear):
            weight = rational(layer.weight)
            return weight @ x if layer.bias is None else weight @ x + rational(layer.bias)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            return normalised(layer, x)
        if isinstance(layer, nn.AvgPool2d):
            return windows(x, layer.kernel_size, layer.stride).sum((-2, -1)) / layer.kernel_size**2
        if isinstance(layer, nn.MaxPool2d):
            return windows(x, layer.kernel_size, layer.stride).max((-2, -1))
        if isinstance(layer, nn.Upsample):
            return x.repeat(layer.scale_factor, 1).repeat(layer.scale_factor, 2)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            assert layer.output_size == 1
            return x.sum((1, 2), keepdims=True) / Fraction(x.shape[1] * x.shape[2])
        assert isinstance(layer, nn.Flatten)
        return x.reshape(-1)

    def activation(self, name: str, layer: casc_core.CQReLU, x: np.ndarray) -> np.ndarray:
        found = self.levels[name].reshape(x.shape).numpy()
        threshold = layer.effective_threshold
        if isinstance(threshold, Tensor):
            edges = rational(threshold).reshape(-1, *[1] * (x.ndim - 1)) if threshold.dim() else rational(threshold)[()]
        else:
            edges = Fraction(threshold)
        z = x * self.count / edges + (Fraction(1, 2) if layer.half_step else 0)
        for level, value in zip(found.flat, z.flat, strict=True):
            exact = min(max(math.floor(value), 0), self.count)
            if exact != level:
                self.differing += 1
                assert abs(exact - level) == 1, (name, float(value), level)
                assert abs(value - max(exact, level)) < self.tie, (name, float(value), level)
        return np.vectorize(Fraction, otypes=[object])(found) * edges / self.count


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """`[channels, height, width, size, size]`."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]


def convolution(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    weight, (around, _) = rational(layer.weight), layer.padding
    padded = np.full((len(x), x.shape[1] + 2 * around, x.shape[2] + 2 * around), Fraction(0), dtype=object)
    padded[:, around : around + x.shape[1], around : around + x.shape[2]] = x
    size, stride = layer.kernel_size[0], layer.stride[0]
    seen = windows(padded, size, stride)
    each, inputs = len(weight) // layer.groups, weight.shape[1]
    planes = []
    for output, kernel in enumerate(weight):
        first = output // each * inputs
        plane = np.einsum("cyxij,cij->yx", seen[first : first + inputs], kernel)
        planes.append(plane if layer.bias is None else plane + rational(layer.bias)[output])
    return np.stack(planes)


def normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: np.ndarray) -> np.ndarray:
    """Batch normalisation, evaluated; its root, which is no fraction, in float64."""
    shape = (-1, *[1] * (x.ndim - 1))
    variance, mean = layer.running_var.double(), rational(layer.running_mean).reshape(shape)
    factor = rational(layer.weight.double() / torch.sqrt(variance + layer.eps)).reshape(shape)
    return (x - mean) * factor + rational(layer.bias).reshape(shape)
