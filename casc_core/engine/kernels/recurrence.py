"""A whole recurrence in one call: position after position, all steps of each, in int32."""

from __future__ import annotations

from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import (
    OUT_OF_RANGE,
    TYPES,
    address,
    checked,
    empty,
    require,
    run,
    structure,
    with_capacity,
)
from casc_core.engine.kernels.neurons import NOTHING, Exactly, KernelNeuron, Margin, Neurons
from casc_core.engine.kernels.rows import NOTHING_LEFT_OUT, LeftOutTask, PackedWeights, Weights

# The threshold of padding.
_NEVER = 2**30
_Task = structure(
    "RecurrenceTask",
    (Neurons, "neurons"),
    (Weights, "weights"),
    (c_void_p, "thresholds exact_thresholds spikes"),
    (c_int64, "spiking"),
    (c_void_p, "peaks peak_product"),
    (c_int64, "shift batch length"),
    (c_void_p, "lengths"),
    (c_int64, "reverse"),
    (c_void_p, "drive index"),
    (c_int64, "drive_type drive_sample drive_position drive_row"),
    (c_double, "scale drive_limit"),
    (c_void_p, "train"),
    (c_int64, "train_type arriving train_step train_sample train_position"),
    (c_void_p, "start"),
    (c_int64, "starting"),
    (c_void_p, "initial potential"),
    (Exactly, "exactly"),
    (LeftOutTask, "left_out"),
    (c_void_p, "exact_initial exact_potential exact_drive"),
    (c_int64, "exact_drive_type"),
    (c_double, "exact_scale"),
    (c_int64, "capacity"),
    (c_void_p, "out"),
    (c_int64, "out_step out_sample out_position"),
    (c_void_p, "sums"),
    (c_int64, "sums_step sums_sample"),
    (c_void_p, "positive negative"),
)


@dataclass(frozen=True)
class Sequences:
    """A recurrent population's input. Shapes are `[batch, length, hidden]`, whatever the strides.

    Attributes:
        drive: dense values, or with `index` `[batch, length]` a table of rows; float32 or float64; or None.
        train: input currents `[steps, batch, length, hidden]`, float32 or float64.
        initial: `[batch, hidden]` int32, in units, received at each sequence's first position beside the drive; or None.
        start: `[steps, batch, hidden]` float64, received at each sequence's first position beside the train; or None.
        spikes: `[steps, batch, inputs]` int8, -1 to 1: what spikes before the first position, and sends through the
            weights, which need not be square where there is one position alone; or None.
        lengths: `[batch]` int64, or None for all.
        reverse: from the last real position to the first.
        potential: `[hidden]` int32, in units, of every position's neurons before the first step; or None.
    """

    drive: Tensor | None
    index: Tensor | None
    train: Tensor
    initial: Tensor | None
    lengths: Tensor | None
    reverse: bool
    potential: Tensor | None = None
    start: Tensor | None = None
    spikes: Tensor | None = None

    @property
    def arriving(self) -> int:
        """For how many steps currents arrive."""
        return max(len(self.train), *(0 if each is None else len(each) for each in (self.start, self.spikes)))


@dataclass(frozen=True)
class ExactCurrents:
    """The numbers of a recurrence as they are, where those in int32 units are rounded: in float64 units of a finer grid.

    Attributes:
        exponent: of that grid.
        threshold: in its units: one, or `[hidden]` float64.
        margin: of sums in int32.
        initial, potential: as those in int32 units.
        drive: as that of the sequences, which may be rounded to float32; or None, where there is none.
    """

    exponent: int
    threshold: float | Tensor
    margin: Margin
    initial: Tensor | None
    potential: Tensor | None
    drive: Tensor | None


@dataclass(frozen=True)
class RecurrentSpikes:
    """Spikes `[steps, batch, length, hidden]` int8, or their sums over the length, int32, if those are asked for; and how
    many of each sign `[steps, batch, length]` if asked for."""

    train: Tensor
    tallied: tuple[Tensor, Tensor] | None


def recurrence(
    packed: PackedWeights,
    inputs: Sequences,
    exponent: int,
    threshold: int | Tensor,
    drive_limit: float,
    neuron: KernelNeuron,
    *,
    positions_first: bool,
    tally: bool,
    guess: int,
    exact: ExactCurrents | None = None,
    summed: bool = False,
) -> RecurrentSpikes | None:
    """Position after position, `current + W s_before` at every step, then the neurons.

    Args:
        packed: the recurrent weights.
        exponent: of the unit of currents and thresholds, at most the weights' own.
        threshold: in units: one, or `[hidden]` int32.
        drive_limit: largest magnitude of the drive, in units, for which no sum leaves int32.
        neuron: what it is and when it is awake.
        positions_first: the memory layout of the result: `[steps, length, batch, hidden]`.
        tally: count spikes.
        guess: of the steps that will be needed.
        exact: the same numbers where those in these units are rounded.
        summed: give only the sums of spikes over all positions.

    Returns:
        None if the drive exceeds its limit.
    """
    drive, index, train = inputs.drive, inputs.index, inputs.train
    _check(packed, inputs, packed.exponent - exponent)
    batch, length, hidden = train.shape[1:]
    lowest = threshold
    if isinstance(lowest, Tensor):
        lowest = int(checked(lowest, "the thresholds", torch.int32, (hidden,)).min())
    require(0 < lowest < 2**31, f"a threshold of {lowest}")
    drive = drive if drive is None or drive.stride(-1) == 1 else drive.contiguous()
    train = train if train.stride(-1) == 1 else train.contiguous()
    strides: tuple[int, ...] = (0, 0, 0)
    if drive is not None:
        strides = (*drive.stride()[:2], 0) if index is None else (*index.stride(), drive.stride(0))
    counts: tuple[Tensor, Tensor] | None = None
    thresholds = torch.full(packed.values.shape[1:], _NEVER, dtype=torch.int32, device="cpu")
    thresholds[:hidden] = threshold
    exact_thresholds = None
    exactly: tuple[object, ...] = (NOTHING, NOTHING_LEFT_OUT, None, None, None, 0, 0.0)
    if exact is not None:
        assert packed.left_out is not None
        _check_exact(packed, drive, inputs, exact)
        unit = 2.0 ** (exponent - exact.exponent)
        exact_thresholds = torch.empty(hidden, dtype=torch.float64, device="cpu")
        exact_thresholds[:] = exact.threshold
        addresses = (address(exact.initial), address(exact.potential), address(exact.drive))
        kind = 0 if exact.drive is None else TYPES[exact.drive.dtype]
        exactly = (
            exact.margin.structure(float(exact_thresholds.max()), unit), packed.left_out.structure(exponent), *addresses,
            kind, 2.0**-exact.exponent,
        )  # fmt: skip

    def attempt(capacity: int) -> tuple[Tensor, int]:
        nonlocal counts
        order = (length, batch) if positions_first else (batch, length)
        if summed:
            out = torch.zeros(capacity, batch, hidden, dtype=torch.int32, device="cpu")
            places: tuple[int | None, ...] = (None, 0, 0, 0, out.data_ptr(), *out.stride()[:2])
        else:
            out = empty((capacity, *order, hidden), torch.int8)
            out = out.transpose(1, 2) if positions_first else out
            places = (out.data_ptr(), *out.stride()[:3], None, 0, 0)
        if tally:
            positive, negative = torch.empty((2, capacity, batch, length), dtype=torch.int32, device="cpu")
            counts = positive, negative
        task = _Task(
            neuron.structure(int(thresholds[:hidden].max())), packed.structure(), thresholds.data_ptr(),
            address(exact_thresholds), address(inputs.spikes), 0 if inputs.spikes is None else len(inputs.spikes),
            packed.peaks.data_ptr(), packed.peak_product.data_ptr(),
            packed.exponent - exponent, batch, length, address(inputs.lengths), inputs.reverse,
            address(drive), address(index), 0 if drive is None else TYPES[drive.dtype], *strides, 2.0**-exponent,
            drive_limit, train.data_ptr(), TYPES[train.dtype], len(train), *train.stride()[:3],
            address(inputs.start), 0 if inputs.start is None else len(inputs.start),
            address(inputs.initial), address(inputs.potential), *exactly, capacity, *places,
            *(address(t) for t in counts or (None, None)),
        )  # fmt: skip
        return out, run("recurrence", task, batch, capacity * batch * length * hidden)

    longest = neuron.longest(inputs.arriving, length * neuron.total)  # one position after the other
    out, needed = with_capacity(neuron.room(inputs.arriving, guess), longest, attempt)
    if needed == OUT_OF_RANGE:
        return None
    return RecurrentSpikes(out[:needed], None if counts is None else (counts[0][:needed], counts[1][:needed]))


def _check_exact(packed: PackedWeights, drive: Tensor | None, inputs: Sequences, exact: ExactCurrents) -> None:
    """That the exact numbers lie as the rounded ones do."""
    if isinstance(exact.threshold, Tensor):
        checked(exact.threshold, "the exact thresholds", torch.float64, (packed.outputs,))
    kept = packed.left_out is not None and packed.left_out.finest == exact.exponent
    require(kept, "weights without those that they were rounded from")
    require((drive is None) == (exact.drive is None), "a drive without what it was rounded from")
    if drive is not None and exact.drive is not None:
        same = exact.drive.shape == drive.shape and exact.drive.stride() == drive.stride()
        require(same and exact.drive.dtype in TYPES and exact.drive.device.type == "cpu", "an exact drive")
    for rounded, own in ((inputs.initial, exact.initial), (inputs.potential, exact.potential)):
        require((rounded is None) == (own is None), "a current without what it was rounded from")
        if rounded is not None and own is not None:
            checked(own, "an exact current", torch.float64, tuple(rounded.shape))


def _check(packed: PackedWeights, inputs: Sequences, shift: int) -> None:
    """That all sizes fit each other, and every index and length what it counts."""
    drive, index, train, lengths = inputs.drive, inputs.index, inputs.train, inputs.lengths
    require(train.dim() == 4 and 0 not in train.shape[1:], f"a train {list(train.shape)}")
    batch, length, hidden = train.shape[1:]
    square = packed.inputs == hidden or (length == 1 and inputs.spikes is not None)
    require(square and packed.outputs == hidden, f"weights {packed.outputs}x{packed.inputs}, {hidden} units")
    require(0 <= shift <= 30, f"a shift of {shift}")
    if inputs.spikes is not None:
        checked(inputs.spikes, "what spikes before", torch.int8, (len(inputs.spikes), batch, packed.inputs))
    for values in (train, *(() if drive is None else (drive,))):
        require(values.dtype in TYPES and values.device.type == "cpu", f"{values.dtype} on {values.device}")
    if index is not None:
        assert drive is not None
        checked(index, "the index", torch.int64, (batch, length), packed=False)
        require(drive.dim() == 2 and drive.shape[1] == hidden, f"a table {list(drive.shape)} of {hidden} units")
        low, high = torch.aminmax(index)
        require(int(low) >= 0 and int(high) < len(drive), f"rows {int(low)}..{int(high)} of a table of {len(drive)}")
    elif drive is not None:
        require(drive.shape == train.shape[1:], f"a drive {list(drive.shape)} of a population {list(train.shape[1:])}")
    if inputs.initial is not None:
        checked(inputs.initial, "the initial currents", torch.int32, (batch, hidden))
    if inputs.start is not None:
        checked(inputs.start, "the currents that it begins with", torch.float64, (len(inputs.start), batch, hidden))
    if inputs.potential is not None:
        checked(inputs.potential, "the potentials", torch.int32, (hidden,))
    if lengths is not None:
        checked(lengths, "the lengths", torch.int64, (batch,))
        require(int(lengths.min()) >= 1 and int(lengths.max()) <= length, f"lengths beyond 1..{length}")
