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

_LANES = 8
_OUTPUTS = "out0 out1 out2 out3 out4 out5"
_Task = structure(
    "GatedTask",
    (Neurons, "neurons"),
    (c_int64, "lstm q cells batch length hidden width"),
    (c_void_p, "weights bias sigmoid tanh state cell seen lengths"),
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
        hidden, gates: units, and blocks of so many rows of weights.
        weights: `[hidden, gates, width]`, by input, each gate padded to whole vectors.
        bias: `[hidden]`, beside what a GRU's reset gate multiplies, or None.
        sigmoid, tanh, state, cell: `[q + 2]`, `[2 q + 2]` (a GRU's tanh times q), `[2 q + 2]`, and `[2 cells + 2]` or None:
            thresholds between infinite ones.
        seen: `[2 cells + 1]`, what an LSTM's output gate multiplies, or None.
    """

    q: int
    cells: int
    hidden: int
    gates: int
    weights: Tensor
    bias: Tensor | None
    sigmoid: Tensor
    tanh: Tensor
    state: Tensor
    cell: Tensor | None
    seen: Tensor | None

    @classmethod
    def gru(cls, weight: Tensor, bias: Tensor | None, sigmoid: Tensor, tanh: Tensor, state: Tensor) -> GatedWeights:
        """Of weights `[3 * hidden, hidden]` and thresholds as an operation has them."""
        bias = None if bias is None else bias.double().contiguous()
        q, hidden = len(sigmoid), weight.shape[1]
        return cls(
            q, 0, hidden, 3, _by_input(weight, 3), bias, _between(sigmoid), _between(q * tanh.double()), _between(state),
            None, None,
        )  # fmt: skip

    @classmethod
    def lstm(
        cls, weight: Tensor, sigmoid: Tensor, tanh: Tensor, state: Tensor, cell: Tensor, seen: Tensor
    ) -> GatedWeights:
        """Of weights `[4 * hidden, hidden]`, thresholds and a table as an operation has them."""
        return cls(
            len(sigmoid), len(cell) // 2, weight.shape[1], 4, _by_input(weight, 4), None, _between(sigmoid),
            _between(tanh), _between(state), _between(cell), seen.double().contiguous(),
        )  # fmt: skip


def _by_input(weight: Tensor, gates: int) -> Tensor:
    hidden = weight.shape[1]
    padded = torch.nn.functional.pad(weight.double().t().reshape(hidden, gates, hidden), (0, -hidden % _LANES))
    return padded.contiguous()


def _between(thresholds: Tensor) -> Tensor:
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    return torch.cat([ends[:1], thresholds.double(), ends[1:]])


def gated(
    weights: GatedWeights,
    inputs: Sequences,
    start: Sequence[Tensor | None],
    wanted: Sequence[bool],
    neuron: KernelNeuron,
    guess: int,
) -> list[Tensor]:
    """The spikes of each population, `[steps, batch, length, hidden]` int8; no steps of those that are not wanted.

    Of a neuron that is run in levels, the level in the place of the spikes, int16.

    Args:
        weights: of the layer, for which float64 provably holds every sum.
        inputs: drive, index and train in float64, of `rows` features; its initial currents and potentials are not read.
        start: the levels that hidden states, and an LSTM's cells, begin with: `[batch, hidden]` int16, or None.
        wanted: whether a population's spikes are asked for.
        neuron: what it is and when it is awake. guess: of the steps that will be needed.
    """
    is_lstm, hidden, gates = weights.cell is not None, weights.hidden, weights.gates
    rows, populations = gates * hidden, 6 if is_lstm else 4
    train, drive, index = inputs.train, inputs.drive, inputs.index
    batch, length = train.shape[1:3]
    require(len(wanted) == populations, f"{len(wanted)} of {populations} populations")
    require(train.shape[3] == rows and train.stride(-1) == 1, f"a train {list(train.shape)} for {rows} rows")
    require(train.dtype == torch.float64 and train.device.type == "cpu", f"a train of {train.dtype}")
    width = hidden + -hidden % _LANES
    checked(weights.weights, "the weights", torch.float64, (hidden, gates, width))
    for table, levels in ((weights.sigmoid, weights.q), (weights.tanh, 2 * weights.q), (weights.state, 2 * weights.q)):
        checked(table, "thresholds", torch.float64, (levels + 2,))
    if weights.cell is not None and weights.seen is not None:
        checked(weights.cell, "thresholds", torch.float64, (2 * weights.cells + 2,))
        checked(weights.seen, "the cells' table", torch.float64, (2 * weights.cells + 1,))
    if weights.bias is not None:
        checked(weights.bias, "the bias", torch.float64, (hidden,))
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
        shapes = [(capacity if each else 0, batch, length, hidden) for each in wanted]
        outputs[:] = [empty(shape, torch.int16 if neuron.in_levels else torch.int8).zero_() for shape in shapes]
        like = next(each for each, asked in zip(outputs, wanted, strict=True) if asked)
        places = [address(each) if asked else None for each, asked in zip(outputs, wanted, strict=True)]
        first, second = (*start, None)[:2]
        task = _Task(
            neuron.structure(0.0), is_lstm, weights.q, weights.cells, batch, length, hidden, width,
            *(address(t) for t in (weights.weights, weights.bias, weights.sigmoid, weights.tanh)),
            *(address(t) for t in (weights.state, weights.cell, weights.seen)), address(inputs.lengths), inputs.reverse,
            address(drive), address(index), *strides,
            train.data_ptr(), len(train), *train.stride()[:3], address(first), address(second),
            capacity, *like.stride()[:3], *places, *[None] * (6 - populations),
        )  # fmt: skip
        return like, run("gated", task, batch, like.numel())

    _, needed = with_capacity(neuron.room(len(train), guess), attempt)
    return [each[:needed] for each in outputs]
