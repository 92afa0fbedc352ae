"""A whole gated recurrence, GRU or LSTM, in one call: position after position, all steps of each, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, empty, require, run, structure, with_capacity
from casc_core.engine.kernels.neurons import KernelNeuron, Neurons
from casc_core.engine.kernels.recurrence import Sequences

_OUTPUTS = "out0 out1 out2 out3 out4 out5"
_Task = structure(
    "GatedTask",
    (Neurons, "neurons"),
    (c_int64, "lstm q cells batch length hidden"),
    (c_void_p, "weights bias sigmoid tanh table lengths"),
    (c_int64, "reverse"),
    (c_void_p, "drive index"),
    (c_int64, "drive_sample drive_position drive_row"),
    (c_void_p, "train"),
    (c_int64, "arriving train_step train_sample train_position"),
    (c_void_p, "start start_cells"),
    (c_int64, "capacity out_step out_sample out_position"),
    (c_void_p, _OUTPUTS),
)


@dataclass(frozen=True)
class GatedWeights:
    """What a gated layer computes with, in float64, as the kernel reads it.

    Attributes:
        q, cells: levels of a gate; the highest of an LSTM's cell (0: a GRU).
        weights: `[hidden, rows]`, by input.
        bias: `[hidden]`, beside what a GRU's reset gate multiplies, or None.
        sigmoid, tanh: `[q + 2]` and `[2 q + 2]`, thresholds between infinite ones; a GRU's tanh times q.
        table: `[2 cells + 1]` int32, or None.
    """

    q: int
    cells: int
    weights: Tensor
    bias: Tensor | None
    sigmoid: Tensor
    tanh: Tensor
    table: Tensor | None

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None, sigmoid: Tensor, tanh: Tensor, table: Tensor | None
    ) -> GatedWeights:
        """Of weights `[rows, hidden]`, thresholds and a table as an operation has them."""
        q, cells = len(sigmoid), 0 if table is None else len(table) // 2
        return cls(
            q, cells, weight.double().t().contiguous(), None if bias is None else bias.double().contiguous(),
            _between(sigmoid.double()), _between(tanh.double() * (q if table is None else 1)),
            None if table is None else table.int(),
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        """Whether int32 holds the products of two totals."""
        return 4 * self.q * (self.q + self.cells) < 2**31 - 1


def _between(thresholds: Tensor) -> Tensor:
    ends = thresholds.new_tensor([-math.inf, math.inf])
    return torch.cat([ends[:1], thresholds, ends[1:]])


def gated(
    weights: GatedWeights,
    inputs: Sequences,
    start: Sequence[Tensor | None],
    wanted: Sequence[bool],
    neuron: KernelNeuron,
    guess: int,
) -> list[Tensor]:
    """The spikes of each population, `[steps, batch, length, hidden]` int8; no steps of those that are not wanted.

    Args:
        weights: of the layer, for which float64 provably holds every sum.
        inputs: drive, index and train in float64, of `rows` features; its initial currents and potentials are not read.
        start: the levels that hidden states, and an LSTM's cells, begin with: `[batch, hidden]` int16, or None.
        wanted: whether a population's spikes are asked for.
        neuron: what it is and when it is awake. guess: of the steps that will be needed.
    """
    is_lstm = weights.table is not None
    hidden, rows = weights.weights.shape
    train, drive, index = inputs.train, inputs.drive, inputs.index
    batch, length = train.shape[1:3]
    gates, populations = (4, 6) if is_lstm else (3, 4)
    require(rows == gates * hidden and len(wanted) == populations and weights.fits, f"{rows} rows of {hidden} units")
    require(not neuron.in_levels and train.shape[3] == rows and train.stride(-1) == 1, f"a train {list(train.shape)}")
    require(train.dtype == torch.float64 and train.device.type == "cpu", f"a train of {train.dtype}")
    checked(weights.sigmoid, "thresholds", torch.float64, (weights.q + 2,))
    checked(weights.tanh, "thresholds", torch.float64, (2 * weights.q + 2,))
    strides: tuple[int, ...] = (0, 0, 0)
    if drive is not None:
        require(drive.dtype == torch.float64 and drive.stride(-1) == 1 and drive.shape[-1] == rows, "a drive")
        if index is None:
            require(drive.shape[:2] == train.shape[1:3], f"a drive {list(drive.shape)}")
        else:
            checked(index, "the index", torch.int64, (batch, length), packed=False)
            low, high = torch.aminmax(index)
            require(int(low) >= 0 and int(high) < len(drive), f"rows {int(low)}..{int(high)} of {len(drive)}")
        strides = (*drive.stride()[:2], 0) if index is None else (*index.stride(), drive.stride(0))
    for each in start:
        if each is not None:
            checked(each, "the initial levels", torch.int16, (batch, hidden))
    if inputs.lengths is not None:
        checked(inputs.lengths, "the lengths", torch.int64, (batch,))
        require(int(inputs.lengths.min()) >= 1 and int(inputs.lengths.max()) <= length, f"lengths beyond 1..{length}")
    outputs: list[Tensor] = []

    def attempt(capacity: int) -> tuple[Tensor, int]:
        outputs[:] = [empty((capacity if each else 0, batch, length, hidden), torch.int8).zero_() for each in wanted]
        like = next(each for each, asked in zip(outputs, wanted, strict=True) if asked)
        places = [address(each) if asked else None for each, asked in zip(outputs, wanted, strict=True)]
        first, second = (*start, None)[:2]
        task = _Task(
            neuron.structure(0.0), is_lstm, weights.q, weights.cells, batch, length, hidden,
            *(address(t) for t in (weights.weights, weights.bias, weights.sigmoid, weights.tanh, weights.table)),
            address(inputs.lengths), inputs.reverse, address(drive), address(index), *strides,
            train.data_ptr(), len(train), *train.stride()[:3], address(first), address(second),
            capacity, *like.stride()[:3], *places, *[None] * (6 - populations),
        )  # fmt: skip
        return like, run("gated", task, batch, like.numel())

    _, needed = with_capacity(neuron.room(len(train), guess), attempt)
    return [each[:needed] for each in outputs]
