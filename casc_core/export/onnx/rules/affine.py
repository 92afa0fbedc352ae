"""How linear maps are written: products of matrices in float64, of which every partial sum is exact.

A convolution is one of the patches that it reads: of float64 there is no other in onnxruntime, and no transform (Winograd,
Fourier) comes in between, which would round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from casc_core.engine.ops import AffineMap, Convolution, Convolution3d, Linear, Scale, Shift
from casc_core.engine.products.exact_sums import largest_row, weight_limbs
from casc_core.export.grids import finest_exponent
from casc_core.export.onnx.graph import Cut, Graph, SymbolicTensor, fixed_size
from casc_core.export.onnx.rules.table import writes
from casc_core.export.onnx.signals import Product, SymbolicSignal, Writer, unsupported
from casc_core.numerics import FLOAT64_UNITS, binade, largest, on_grid


def affine(writer: Writer, op: AffineMap, signal: SymbolicSignal, product: Product, spatial: int) -> SymbolicSignal:
    """What a map makes of a signal.

    Args:
        product: of a tensor of the signal's shape and weights. spatial: dimensions behind those of the outputs.
    """
    settings, weight = op.settings, op.weight
    total, bound = None, 0.0
    if weight is not None and signal.total is not None:
        bound = signal.bound * op.reach
        total = _of_total(writer, op, signal, product)
        if settings["rounds"]:
            total, bound = writer.rounded(total, settings["exponent"], settings["held"], bound)
    drive, reach, grid = None, 0.0, 0
    if signal.drive is not None:
        assert op.fine is not None
        drive = _of_drive(writer, op, op.fine, signal, product)
        reach = signal.reach * largest_row(op.fine)
        grid = signal.grid + finest_exponent(op.fine) if writer.is_as_trained else settings["drive_exponent"]
    if op.bias is not None:
        bias = writer.constant(signal, op.bias.reshape([-1] + [1] * spatial))
        reach += largest(op.bias) * writer.largest_whole(signal.divisor)
        grid = min(grid, finest_exponent(op.bias)) if drive is not None else finest_exponent(op.bias)
        drive = writer.plus(drive, bias)
    if drive is None and total is None:
        raise unsupported(settings["name"], "it reads nothing")
    on_grid = not _is_wide(writer, op, signal)
    return SymbolicSignal(
        total,
        drive,
        signal.divisor,
        bound,
        reach,
        grid,
        is_rounded=settings["rounds"] or not on_grid,
        is_on_grid=on_grid,
    )


def _is_wide(writer: Writer, op: AffineMap, signal: SymbolicSignal) -> bool:
    """Whether float64 is too narrow for its sums, as it is at a readout whose weights are not rounded."""
    if not writer.is_as_trained or op.settings["rounds"]:
        return False
    return not math.ldexp(writer.levels * signal.bound * op.reach, -op.settings["exponent"]) < FLOAT64_UNITS


def _of_total(writer: Writer, op: AffineMap, signal: SymbolicSignal, product: Product) -> SymbolicTensor:
    """The product with what comes of spikes."""
    settings, weight, name = op.settings, op.weight, op.settings["name"]
    assert weight is not None
    assert signal.total is not None
    total, reach = writer.full(signal.total, signal), writer.levels * signal.bound
    arriving, exponent = settings["train_exponent"], settings["exponent"]
    if not settings["rounds"] and not _is_wide(writer, op, signal):
        writer.check(reach * op.reach, exponent, name)
        return product(total, weight)
    writer.check(reach, arriving, name)
    return writer.exact_sum(total, reach, arriving, weight_limbs(weight), product)


def _of_drive(writer: Writer, op: AffineMap, fine: Tensor, signal: SymbolicSignal, product: Product) -> SymbolicTensor:
    """The product with what flows awake, rounded once."""
    settings = op.settings
    assert signal.drive is not None
    drive = writer.full(signal.drive, signal)
    if writer.is_as_trained:
        return writer.exact_sum(drive, signal.reach, signal.grid, weight_limbs(fine), product)
    summed = on_grids(
        writer,
        drive,
        signal.reach,
        fine,
        settings["input_exponent"],
        settings["fine_exponent"],
        settings["name"],
        product,
    )
    return writer.drive(summed, settings["drive_exponent"])


def on_grids(
    writer: Writer, x: SymbolicTensor, reach: float, weight: Tensor, exponent: int, weight_exponent: int, name: str,
    product: Product,
) -> SymbolicTensor:  # fmt: skip
    """A product of numbers on grids: where one might round, the weights are split into two limbs."""
    grid = exponent + weight_exponent
    excess = binade(reach * largest_row(weight)) - grid - 52
    if excess <= 0:
        return product(x, weight)
    high = on_grid(weight, weight_exponent + excess)
    low = weight.double() - high
    writer.check(reach * largest_row(high), grid + excess, name)
    writer.check(reach * largest_row(low), grid, name)
    return writer.graph.add(product(x, high), product(x, low))


def linear_product(writer: Writer) -> Product:
    """Of the last dimension."""
    return lambda x, weight: writer.graph.matmul(x, writer.weights(weight.T.contiguous()))


@writes(Linear)
def _linear(writer: Writer, op: Linear, signal: SymbolicSignal) -> SymbolicSignal:
    if fixed_size(signal.framed, -1, op.settings["name"]) != op.kernel[1]:
        raise unsupported(op.settings["name"], f"its input has {signal.like[0].shape[-1]} features")
    signal = writer.with_uniform_divisor(signal, [-1])
    return affine(writer, op, signal, linear_product(writer), 0)


@dataclass(frozen=True)
class _Sliding:
    """How a convolution moves over the dimensions behind the channels.

    Attributes:
        kernel, stride, dilation, spread: by dimension. padding: before and after. groups: of channels.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]
    spread: Sequence[int]
    groups: int

    def patches(self, graph: Graph, x: SymbolicTensor) -> SymbolicTensor:
        """`[B, C, taps, *outputs]`: what each output position reads."""
        ahead = 2
        for dim, by in enumerate(self.spread, ahead):
            if by > 1:
                x = _spread(graph, x, dim, by)
        x = graph.pad(x, self.padding, 0.0)
        taps = []
        for offsets in itertools.product(*map(range, self.kernel)):
            cuts = [
                Cut(dim, offset * dilation, (kernel - 1 - offset) * dilation, stride)
                for dim, (offset, kernel, stride, dilation) in enumerate(
                    zip(offsets, self.kernel, self.stride, self.dilation, strict=True), ahead
                )
            ]
            taps.append(graph.unsqueeze(graph.slice(x, cuts), ahead))
        return taps[0] if len(taps) == 1 else graph.concat(taps, ahead)

    def product(self, writer: Writer, x: SymbolicTensor, weight: Tensor) -> SymbolicTensor:
        """The sums of products, `[B, O, *outputs]`."""
        graph, outputs = writer.graph, len(weight)
        read = self.patches(graph, x)
        each, rows = outputs // self.groups, math.prod(weight.shape[1:])
        sizes = [like.shape[3:] for like in read.like]
        flat = [
            [like.shape[0], self.groups, rows, math.prod(size)] for like, size in zip(read.like, sizes, strict=True)
        ]
        patches = graph.reshape(read, (flat[0], flat[1]))
        summed = graph.matmul(writer.weights(weight.reshape(self.groups, each, rows)), patches)
        back = [[like.shape[0], outputs, *size] for like, size in zip(read.like, sizes, strict=True)]
        return graph.reshape(summed, (back[0], back[1]))


def _spread(graph: Graph, x: SymbolicTensor, dim: int, by: int) -> SymbolicTensor:
    """`x` with zeros between its entries along a dimension."""
    apart = graph.unsqueeze(x, dim + 1)
    apart = graph.pad(apart, [(0, by - 1), *[(0, 0)] * (apart.dim - dim - 2)], 0.0)
    shapes = [[*like.shape[:dim], like.shape[dim] * by, *like.shape[dim + 1 :]] for like in x.like]
    return graph.slice(graph.reshape(apart, (shapes[0], shapes[1])), [Cut(dim, 0, by - 1)])


@writes(Convolution, Convolution3d)
def _convolution(writer: Writer, op: Convolution | Convolution3d, signal: SymbolicSignal) -> SymbolicSignal:
    settings = op.settings
    dims = settings.get("dims", 3)
    around = settings["padding"]
    sliding = _Sliding(
        op.kernel[-dims:], settings["stride"][-dims:],
        [(around[2 * at], around[2 * at + 1]) for at in range(len(around) // 2)][-dims:],
        settings["dilation"][-dims:], settings.get("spread", [1, 1, 1])[-dims:], settings["groups"],
    )  # fmt: skip
    if signal.dim != dims + 2 or fixed_size(signal.framed, 1, settings["name"]) != op.channels:
        raise unsupported(
            settings["name"], f"it reads [batch, {op.channels}, ...]; its input is {list(signal.like[0].shape)}"
        )
    signal = writer.with_uniform_divisor(signal, range(1, signal.dim))

    def product(x: SymbolicTensor, weight: Tensor) -> SymbolicTensor:
        plane = weight.squeeze(2) if dims == 1 else weight
        return sliding.product(writer, x, plane)

    return affine(writer, op, signal, product, dims)


def _aligned(signal: SymbolicSignal, axis: int | None, value: Tensor) -> Tensor:
    """A number, or one for each channel, shaped to meet a signal."""
    return value if axis is None or not value.dim() else value.reshape([-1] + [1] * (signal.dim - 2))


@writes(Scale)
def _scale(writer: Writer, op: Scale, signal: SymbolicSignal) -> SymbolicSignal:
    graph, settings = writer.graph, op.settings
    axis, grids, levels = settings["axis"], settings["grids"], writer.levels
    factor, fine = (_aligned(signal, axis, each.double()) for each in (op.factor, op.fine))
    total, bound = signal.total, signal.bound * op.largest
    if total is not None:
        total = graph.mul(total, graph.constant(factor))
        if grids is not None:
            arriving, exponent = grids
            writer.check(levels * signal.bound, arriving, "a factor")
            total = graph.snap(total, exponent)
            bound += math.ldexp(1.0, exponent)
    drive, reach, grid = signal.drive, signal.reach * largest(fine), signal.grid
    if drive is not None:
        drive = writer.drive(graph.mul(drive, graph.constant(fine)), settings["drive_exponent"])
        grid = grid + finest_exponent(fine) if writer.is_as_trained else settings["drive_exponent"]
    if op.shift is not None:
        shift = writer.constant(signal, _aligned(signal, axis, op.shift))
        grid = finest_exponent(op.shift) if drive is None else min(grid, finest_exponent(op.shift))
        reach += largest(op.shift) * writer.largest_whole(signal.divisor)
        drive = writer.plus(drive, shift)
    return _of_shape(writer, replace(signal, total=total, drive=drive, bound=bound, reach=reach, grid=grid), signal)


@writes(Shift)
def _shift(writer: Writer, op: Shift, signal: SymbolicSignal) -> SymbolicSignal:
    graph, axis = writer.graph, op.settings["axis"]
    factor, offset = (_aligned(signal, axis, each.double()) for each in (op.factor, op.offset))
    shifted, drive = writer.constant(signal, offset), signal.drive
    grid, reach = finest_exponent(offset), largest(offset) * writer.largest_whole(signal.divisor)
    if drive is not None:
        moved = writer.drive(graph.mul(drive, graph.constant(factor)), op.settings["drive_exponent"])
        own = signal.grid + finest_exponent(factor) if writer.is_as_trained else op.settings["drive_exponent"]
        shifted, grid, reach = graph.add(shifted, moved), min(grid, own), reach + signal.reach * largest(factor)
    return _of_shape(writer, replace(signal, drive=shifted, reach=reach, grid=grid), signal)


def _of_shape(writer: Writer, signal: SymbolicSignal, before: SymbolicSignal) -> SymbolicSignal:
    """A signal whose drive has its shape where nothing else has."""
    if signal.total is not None or signal.drive is None:
        return signal
    return replace(signal, drive=writer.expanded(signal.drive, writer.graph.add(signal.drive, before.framed)))
