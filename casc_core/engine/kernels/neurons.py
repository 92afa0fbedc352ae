"""The neuron's loop over time, and its levels, compiled."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from ctypes import c_double, c_int32, c_int64, c_uint8, c_void_p
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from casc_core.engine.kernels.loader import (
    MIXED,
    TYPES,
    address,
    checked,
    empty,
    enabled,
    ready,
    require,
    run,
    structure,
    with_capacity,
)
from casc_core.engine.kernels.triton import available, scan_triton
from casc_core.neuron import CIF, IF, LevelThresholds, Neuron

# What the kernels know of neurons.
Neurons = structure(
    "Neurons",
    (c_double, "threshold"),
    (c_int64, "cif levels total"),
    (c_void_p, "awake caps"),
    (c_int64, "wake_steps most_steps"),
)
# What int32 leaves out of the sums of finer numbers.
Exactly = structure("Exactly", (c_int64, "margin once flow"), (c_double, "threshold unit"))
NOTHING = Exactly(0, 0, 0, 0.0, 0.0)
_Task = structure(
    "ScanTask",
    (Neurons, "neurons"),
    (c_void_p, "currents drive thresholds potential by_level"),
    (c_int64, "lowest count arriving capacity"),
    (c_void_p, "out"),
)


@dataclass(frozen=True)
class Margin:
    """How far sums in int32 may be from the true ones, in int32's units.

    Attributes:
        most: at the end of a run.
        flow: half units that drive and threshold may bring, together, each time the drive flows.
    """

    most: int
    flow: int

    def structure(self, threshold: float, unit: float) -> ctypes.Structure:
        """For a kernel: the threshold in the finer units, of which one of int32's has so many."""
        require(self.most > 0 and self.flow >= 0 and threshold > 0, f"{self}, a threshold of {threshold}")
        return Exactly(self.most, 1, self.flow, threshold, unit)


@dataclass(frozen=True)
class KernelNeuron:
    """IF or CIF neurons under a schedule, or their levels, as the kernels read them.

    Attributes:
        awake: for each step up to the last wake step, whether the drive flows; a count is capped by those that have begun.
        total: the largest count afterwards.
        most: steps after which the run is cut.
        is_cif: whether a neuron takes a spike back where its potential is below zero (CIF); else it never does (IF).
        in_levels: all steps at once, as one step in which the drive flows `total` times.
    """

    awake: tuple[bool, ...]
    total: int
    most: int
    is_cif: bool
    in_levels: bool

    def __post_init__(self) -> None:
        require(0 <= self.total < 2**31 and self.most >= 0, f"{self.total} spikes in {self.most} steps")

    @classmethod
    def spiking(cls, neuron: Neuron, awake: Sequence[bool], most: int | None) -> KernelNeuron | None:
        """This neuron, awake at these steps, cut after `most`; None: it is neither IF nor CIF."""
        if type(neuron) not in (IF, CIF):
            return None
        return cls(tuple(awake), sum(awake), 2**62 if most is None else most, isinstance(neuron, CIF), False)

    @classmethod
    def levels(cls, total: int) -> KernelNeuron:
        """The neuron's level from 0 to `total`."""
        return cls((True,), total, 1, True, True)

    @cached_property
    def _memory(self) -> tuple[ctypes.Array[c_uint8], ctypes.Array[c_int32]]:
        """Flags of the wake steps, and the caps."""
        steps = len(self.awake)
        return (c_uint8 * steps)(*self.awake), (c_int32 * steps)(*itertools.accumulate(self.awake))

    def structure(self, threshold: float) -> ctypes.Structure:
        """For a kernel, with this threshold."""
        flags, caps = (ctypes.addressof(each) for each in self._memory)
        return Neurons(threshold, self.is_cif, self.in_levels, self.total, flags, caps, len(self.awake), self.most)

    def room(self, arriving: int, guess: int) -> int:
        """Steps to make room for, where currents arrive for this many and about `guess` will be needed."""
        return min(max(arriving, len(self.awake), guess), self.most)

    def longest(self, arriving: int, levels: int | None = None) -> int:
        """Steps by which every neuron has settled, where currents arrive for this many: once nothing comes, each spikes at
        most as often as it has levels (None: as wake steps)."""
        return min(max(arriving, len(self.awake)) + (self.total if levels is None else levels), self.most)


def scans(neuron: KernelNeuron, *tensors: Tensor | None) -> bool:
    """Whether `scan` can be used on these tensors: on the CPU if kernels can, on a GPU where there is Triton."""
    if all(t is None or t.is_cuda for t in tensors):
        return enabled() and available()
    return ready(*tensors)


def scan(
    currents: Tensor,
    drive: Tensor | None,
    threshold: Tensor | float | LevelThresholds,
    dtype: torch.dtype,
    neuron: KernelNeuron,
    guess: int,
    potential: Tensor | None = None,
) -> Tensor:
    """Spikes `[steps, *shape]` int8, cut where they end.

    Args:
        currents: `[arriving, *shape]`. drive: `[*shape]` or None.
        threshold: a number, or broadcasts against `shape`; or one for each level.
        dtype: float32 or float64, in which potentials are exact.
        neuron: what it is and when it is awake.
        guess: of the steps that will be needed.
        potential: before the first step, broadcasts against `shape`; or None.
    """
    shape, kind = currents.shape[1:], TYPES[dtype]
    if currents.dtype == torch.float32 and dtype == torch.float64 and not currents.is_cuda:
        kind = MIXED  # widened as they are read
    else:
        currents = currents.to(dtype)
    drive = None if drive is None else drive.to(dtype)
    if currents.is_cuda:
        if potential is not None:  # received at the first step, which is the same
            first = potential.to(dtype).expand(shape) + (currents[0] if len(currents) else 0)
            currents = torch.cat([first.unsqueeze(0), currents[1:]])
        return _scan_on_gpu(currents, drive, threshold, neuron, guess)
    neurons = math.prod(shape)
    require(guess >= 0, f"about {guess} steps")
    currents = checked(currents.contiguous(), "the currents", torch.float32 if kind == MIXED else dtype, currents.shape)
    by_level, lowest, each = _by_level(threshold, dtype)
    drive, thresholds, number = _shaped(shape, drive, each, dtype)
    potential = None if potential is None else potential.to(dtype).expand(shape).contiguous()

    def attempt(capacity: int) -> tuple[Tensor, int]:
        out = empty((capacity, *shape), torch.int8)
        task = _Task(
            neuron.structure(number), *(address(t) for t in (currents, drive, thresholds, potential, by_level)), lowest,
            neurons, len(currents), capacity, out.data_ptr(),
        )  # fmt: skip
        return out, run("scan", task, neurons, out.numel(), kind)

    out, needed = with_capacity(neuron.room(len(currents), guess), _longest(neuron, len(currents), by_level), attempt)
    return out[:needed]


def _by_level(
    threshold: Tensor | float | LevelThresholds, dtype: torch.dtype
) -> tuple[Tensor | None, int, Tensor | float]:
    """Thresholds by level between infinite ones, the lowest level, and their scale; else None, 0 and the threshold."""
    if not isinstance(threshold, LevelThresholds):
        return None, 0, threshold
    values = threshold.values.to(dtype)
    below, above = (values.new_full((1,), end) for end in (-math.inf, math.inf))
    return torch.cat([below, values, above]), threshold.lowest, threshold.scale


def _scan_on_gpu(
    currents: Tensor,
    drive: Tensor | None,
    threshold: Tensor | float | LevelThresholds,
    neuron: KernelNeuron,
    guess: int,
) -> Tensor:
    awake = list(neuron.awake)
    by_level, lowest, each = _by_level(threshold, currents.dtype)

    def attempt(capacity: int) -> tuple[Tensor, int]:
        out, uncut = scan_triton(currents, drive, each, awake, neuron.total, neuron.is_cif, capacity, by_level, lowest)
        return out, min(uncut, neuron.most)

    out, needed = with_capacity(neuron.room(len(currents), guess), _longest(neuron, len(currents), by_level), attempt)
    return out[:needed]


def _longest(neuron: KernelNeuron, arriving: int, by_level: Tensor | None) -> int:
    """Steps by which all have settled; `by_level` has two thresholds more than levels."""
    return neuron.longest(arriving, None if by_level is None else len(by_level) - 2)


def levels(current: Tensor | None, drive: Tensor | None, threshold: Tensor | float, total: int) -> Tensor:
    """`clip(floor((current + total * drive) / threshold), 0, total)`, int8; one of the first two may be None.

    >>> levels(torch.tensor([0.9, 2.0, -1.0]), None, 0.5, total=3)
    tensor([1, 3, 0], dtype=torch.int8)
    """
    like = current if current is not None else drive
    assert like is not None
    require(like.dtype in TYPES and 0 <= total <= 127, f"{total} levels of {like.dtype}")
    if drive is not None:
        drive = drive.to(like.dtype)
    currents = None if current is None else current.contiguous()
    drive, thresholds, number = _shaped(like.shape, drive, threshold, like.dtype)
    out = empty(like.shape, torch.int8)
    neurons = Neurons(threshold=number, levels=True, total=total)
    task = _Task(neurons, *(address(t) for t in (currents, drive, thresholds)), count=out.numel(), out=out.data_ptr())
    run("levels", task, out.numel(), out.numel(), TYPES[like.dtype])
    return out


def _shaped(
    shape: torch.Size, drive: Tensor | None, threshold: Tensor | float, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, float]:
    """The drive and the thresholds one for each neuron, or a single threshold."""
    drive = None if drive is None else drive.expand(shape).contiguous()
    if isinstance(threshold, Tensor):
        return drive, threshold.to(dtype).expand(shape).contiguous(), 0.0
    return drive, None, float(threshold)
