"""A whole gated recurrence, GRU or LSTM, in one call: position after position, all steps of each."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.kernels.loader import address, checked, empty, require, run, structure, with_capacity
from casc_core.engine.kernels.neurons import KernelNeuron, Neurons
from casc_core.engine.kernels.recurrence import Sequences
from casc_core.engine.kernels.rows import LeftOut, LeftOutTask, Rounding
from casc_core.numerics import FLOAT32_UNITS, binade, largest

# Gates are padded to whole vectors, what a gate reads to the widest, and all of their outputs to blocks of two halves.
_LANES, _WIDEST, _BLOCK, _HALF = 16, 32, 64, 16
# What float32 rounds of sums, of all that they are added up from: some ten roundings to 24 bits, and as much again.
_ROUNDING = 2.0**-19
# Rounded weights take so few bits that int16 holds the sum of ROWS_OF_INT16 of them, and int32 that with all levels.
_WEIGHT_BITS, _MOST_UNITS = 13, 2.0**30
_OUTPUTS = "out0 out1 out2 out3 out4 out5"
_Table = structure("GatedTable", (c_void_p, "exact rounded"))
_Task = structure(
    "GatedTask",
    (Neurons, "neurons"),
    (c_void_p, "weights"),
    (c_int64, "blocks"),
    (LeftOutTask, "left_out"),
    (c_double, "unit grain error rounding"),
    (c_int64, "lstm q cells batch length hidden width"),
    (c_void_p, "bias"),
    (_Table, "sigmoid tanh state cell"),
    (c_void_p, "seen lengths"),
    (c_int64, "reverse"),
    (c_void_p, "drive index"),
    (c_int64, "drive_sample drive_position drive_row"),
    (c_void_p, "train"),
    (c_int64, "arriving train_step train_sample train_position"),
    (c_void_p, "start start_cells"),
    (c_int64, "starting starting_cells"),
    (c_int64, "capacity out_step out_sample out_position"),
    (c_void_p, _OUTPUTS),
)


@dataclass(frozen=True)
class Thresholds:
    """One for each level, `[levels + 2]` between infinite ones: float64, and rounded to float32."""

    exact: Tensor
    rounded: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Thresholds:
        """Those of the levels above the lowest, in ascending order."""
        ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
        exact = torch.cat([ends[:1], values.double().cpu(), ends[1:]])
        return cls(exact, exact.float())

    def structure(self, levels: int) -> ctypes.Structure:
        """For a kernel, of a population of so many levels."""
        checked(self.exact, "thresholds", torch.float64, (levels + 2,))
        checked(self.rounded, "thresholds", torch.float32, (levels + 2,))
        return _Table(self.exact.data_ptr(), self.rounded.data_ptr())


@dataclass(frozen=True)
class RecurrentWeights:
    """The weights of a gated layer's hidden state.

    Attributes:
        hidden, gates: units, and blocks of so many rows. width: of a gate, padded to whole vectors.
        rounded: `[blocks, hidden + 1, outputs of a block]` int16, in units of `2**exponent`, as the kernel reads them.
        left_out: what that has left out, `[gates * width, reads]`.
    """

    hidden: int
    gates: int
    width: int
    rounded: Tensor
    exponent: int
    left_out: LeftOut

    @classmethod
    def of(cls, weight: Tensor, q: int, finest: int) -> RecurrentWeights | None:
        """Of weights `[gates * hidden, hidden]`, multiples of `2**finest`, that meet levels up to `q`; None: no room."""
        hidden, weight = weight.shape[1], weight.detach().double().cpu()
        exponent = max(finest, binade(largest(weight)) + 1 - _WEIGHT_BITS)
        while float((weight * 2.0**-exponent).abs().sum(1).max()) * q >= _MOST_UNITS:
            exponent += 1
        rounding = Rounding(exponent, finest, q)
        if not rounding.fits(weight):
            return None
        padded = F.pad(weight.reshape(-1, hidden, hidden), (0, 0, 0, -hidden % _LANES))
        gates, width, _ = padded.shape
        rounded = rounding.apply(padded.flatten(0, 1))

        def laid_out(values: Tensor, dtype: torch.dtype) -> Tensor:
            return F.pad(values, (0, -hidden % _WIDEST)).to(dtype).contiguous()

        left_out = rounding.left_out(rounded, q, laid_out)
        return cls(hidden, gates, width, _in_blocks(rounded.units), exponent, left_out)

    @property
    def error(self) -> float:
        """How far a rounded weight may be off."""
        return 2.0 ** (self.exponent - 1) if self.left_out.largest else 0.0

    @property
    def grain(self) -> float:
        """The unit of the weights as they are."""
        return 2.0**self.left_out.finest

    def check(self) -> None:
        """Refuse what a kernel would not read."""
        outputs, reads = self.gates * self.width, self.hidden + -self.hidden % _WIDEST
        checked(self.rounded, "the weights", torch.int16, (-(-outputs // _BLOCK), self.hidden + 1, _BLOCK))
        checked(self.left_out.low, "the weights' next bits", torch.int16, (outputs, reads))
        checked(self.left_out.exact, "the weights", torch.float64, (outputs, reads))


def _in_blocks(units: Tensor) -> Tensor:
    """Weights `[outputs, inputs]` by input, zeros behind the last, in blocks whose halves take turns output by output."""
    by_input = F.pad(units.t(), (0, -len(units) % _BLOCK, 0, 1))
    halves = by_input.reshape(len(by_input), -1, _BLOCK // (2 * _HALF), 2, _HALF)
    return halves.movedim(1, 0).transpose(-1, -2).flatten(2).to(torch.int16).contiguous()


@dataclass(frozen=True)
class GatedWeights:
    """What a gated layer computes with.

    Attributes:
        q, cells: levels of a gate; the highest of an LSTM's cell (0: a GRU).
        recurrent: the weights of the hidden state; None: there is no room for them.
        bias: `[hidden]` float64, beside what a GRU's reset gate multiplies, or None.
        sigmoid, tanh, state, cell: thresholds of `q`, `2 q` (a GRU's times q), `2 q`, and `2 cells` levels.
        seen: `[2 cells + 1]` float32, what an LSTM's output gate multiplies, or None.
    """

    q: int
    cells: int
    recurrent: RecurrentWeights | None
    bias: Tensor | None
    sigmoid: Thresholds
    tanh: Thresholds
    state: Thresholds
    cell: Thresholds | None
    seen: Tensor | None

    @classmethod
    def gru(
        cls, weight: Tensor, bias: Tensor | None, sigmoid: Tensor, tanh: Tensor, state: Tensor, finest: int
    ) -> GatedWeights:
        """Of weights `[3 * hidden, hidden]`, multiples of `2**finest`, and thresholds as an operation has them."""
        q, bias = len(sigmoid), None if bias is None else bias.double().contiguous()
        gates = Thresholds.of(sigmoid), Thresholds.of(q * tanh.double())
        return cls(q, 0, RecurrentWeights.of(weight, q, finest), bias, *gates, Thresholds.of(state), None, None)

    @classmethod
    def lstm(
        cls, weight: Tensor, sigmoid: Tensor, tanh: Tensor, state: Tensor, cell: Tensor, seen: Tensor, finest: int
    ) -> GatedWeights:
        """Of weights `[4 * hidden, hidden]`, multiples of `2**finest`, thresholds and a table as an operation has them."""
        q, cells = len(sigmoid), len(cell) // 2
        gates, states = (Thresholds.of(sigmoid), Thresholds.of(tanh)), (Thresholds.of(state), Thresholds.of(cell))
        recurrent = RecurrentWeights.of(weight, q, finest)
        return cls(q, cells, recurrent, None, *gates, *states, seen.float().contiguous())

    @property
    def fits(self) -> bool:
        """Whether float32 holds the sum of two products of levels, int16 a level, and there is room for the weights."""
        if self.recurrent is None:
            return False
        return 2 * self.q * max(self.q, self.cells) <= FLOAT32_UNITS and max(self.q, self.cells) < 2**15


def gated(
    weights: GatedWeights,
    inputs: Sequences,
    start: Sequence[Tensor | None],
    wanted: Sequence[bool],
    neuron: KernelNeuron,
    guess: int,
    reach: float,
) -> list[Tensor]:
    """The spikes of each population, `[steps, batch, length, hidden]` int8; no steps of those that are not wanted.

    Of a neuron that is run in levels, the level in the place of the spikes, int16.

    Args:
        weights: of the layer, which fit, for which float64 provably holds every sum.
        inputs: drive, index and train in float64, of `rows` features; its initial currents and potentials are not read.
        start: by how many levels the hidden states, and an LSTM's cells, that sequences begin with change at each step:
            `[steps, batch, hidden]` int16, or None.
        wanted: whether a population's spikes are asked for.
        neuron: what it is and when it is awake. guess: of the steps that will be needed.
        reach: bounds every sum that a gate receives, and its thresholds.
    """
    is_lstm, recurrent = weights.cell is not None, weights.recurrent
    require(weights.fits and recurrent is not None, f"{weights.q} levels")
    assert recurrent is not None
    hidden, rows, populations = recurrent.hidden, recurrent.gates * recurrent.hidden, 6 if is_lstm else 4
    train, drive, index = inputs.train, inputs.drive, inputs.index
    batch, length = train.shape[1:3]
    require(recurrent.gates == (4 if is_lstm else 3), f"{recurrent.gates} gates")
    recurrent.check()
    require(math.isfinite(reach) and reach >= 0, f"sums up to {reach}")
    require(len(wanted) == populations, f"{len(wanted)} of {populations} populations")
    require(train.shape[3] == rows and train.stride(-1) == 1, f"a train {list(train.shape)} for {rows} rows")
    require(train.dtype == torch.float64 and train.device.type == "cpu", f"a train of {train.dtype}")
    tables = [
        weights.sigmoid.structure(weights.q), weights.tanh.structure(2 * weights.q), weights.state.structure(2 * weights.q),
        _Table(None, None) if weights.cell is None else weights.cell.structure(2 * weights.cells),
    ]  # fmt: skip
    if weights.seen is not None:
        checked(weights.seen, "the cells' table", torch.float32, (2 * weights.cells + 1,))
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
            checked(each, "the initial levels", torch.int16, (len(each), batch, hidden))
    if inputs.lengths is not None:
        checked(inputs.lengths, "the lengths", torch.int64, (batch,))
        require(int(inputs.lengths.min()) >= 1 and int(inputs.lengths.max()) <= length, f"lengths beyond 1..{length}")
    begins = (*start, None)[:2]
    beginning = [0 if each is None else len(each) for each in begins]
    outputs: list[Tensor] = []

    def attempt(capacity: int) -> tuple[Tensor, int]:
        shapes = [(capacity if each else 0, batch, length, hidden) for each in wanted]
        outputs[:] = [empty(shape, torch.int16 if neuron.in_levels else torch.int8).zero_() for shape in shapes]
        like = next(each for each, asked in zip(outputs, wanted, strict=True) if asked)
        places = [address(each) if asked else None for each, asked in zip(outputs, wanted, strict=True)]
        task = _Task(
            neuron.structure(0.0), recurrent.rounded.data_ptr(), len(recurrent.rounded),
            recurrent.left_out.structure(recurrent.exponent),
            2.0**recurrent.exponent, recurrent.grain, recurrent.error, _ROUNDING * reach,
            is_lstm, weights.q, weights.cells, batch, length, hidden, recurrent.width,
            address(weights.bias), *tables, address(weights.seen), address(inputs.lengths),
            inputs.reverse, address(drive), address(index), *strides,
            train.data_ptr(), len(train), *train.stride()[:3], *map(address, begins), *beginning,
            capacity, *like.stride()[:3], *places, *[None] * (6 - populations),
        )  # fmt: skip
        return like, run("gated", task, batch, like.numel())

    # One position and population after the other, of twice as many levels at most, below zero too.
    arriving = max(len(train), *beginning)
    longest = neuron.longest(arriving, length * populations * 2 * max(weights.q, weights.cells))
    _, needed = with_capacity(neuron.room(arriving, guess), longest, attempt)
    return [each[:needed] for each in outputs]
