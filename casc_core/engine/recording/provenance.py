"""Where the spikes that arrive with a signal come from: known only while something is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.recording.spike_counts import Rows, by_step, signed_counts
from casc_core.engine.recording.work import Work
from casc_core.engine.signal import Signal, memory_order
from casc_core.reporting.summaries import Summarised


class Connection(Enum):
    """How an operation takes spikes from its inputs to its result."""

    NONE = "each entry of the result is spikes of its own, as those of a running maximum are"
    KEEPS = "each entry brings the spikes of the entry in its place, of what is read first"
    MOVES = "each entry brings the spikes of the one entry that it was, or of none"
    SUMS = "each entry brings the spikes of all entries that it is the sum of"
    SYNAPSES = "each spike goes through synapses: the result is currents"


@dataclass(frozen=True, repr=False)
class Provenance(Summarised):
    """The spikes behind a signal.

    A spike counts for each synapse behind it, also where it has met others on its way: a sum of +1 and -1 is 0, and
    brings two spikes.

    Attributes:
        signal: the signal.
        peak: the most spikes of one neuron in one step.
        is_current: a linear map lies between it and the neurons or inputs that it comes from; no spikes arrive with it.
        summed: gives `[steps, *shape]`, how many spikes, of either sign, arrive with each entry; None: each entry is spikes
            of one neuron, or with `is_weighed` spikes of one neuron times a factor.
        rows: how many spikes there are in each row, if they have been counted.
        total: gives `[steps]`, how many spikes arrive in each step, where that is cheaper than to count; or None.
    """

    signal: Signal
    peak: int
    is_current: bool = False
    summed: Callable[[], Tensor] | None = None
    rows: Rows | None = None
    total: Callable[[], Tensor] | None = None
    is_weighed: bool = False

    @property
    def _train(self) -> Tensor:
        """The train of spikes, whatever they weigh."""
        lazy = self.signal.lazy_train
        spikes = lazy.unweighed() if self.is_weighed and not isinstance(lazy, Tensor) else None
        return self.signal.train if spikes is None else spikes

    @property
    def _are_single(self) -> bool:
        """Whether each entry of that train is one spike at most; a running maximum of sums moves by more."""
        is_known = self.summed is None and self.peak == 1 and (self.is_weighed or self.signal.bound <= 1)
        return is_known and self._train.dtype == torch.int8

    @property
    def shape(self) -> torch.Size:
        """Shape of the signal."""
        return self.signal.shape

    @property
    def is_driven(self) -> bool:
        """Whether real-valued inputs or biases arrive with it."""
        return self.signal.lazy_drive is not None

    def spikes(self) -> Tensor:
        """`[steps, *shape]`: how many spikes arrive with each entry."""
        return self._train.abs() if self.summed is None else self.summed()

    def spikes_over(self, dim: int) -> Tensor:
        """`[steps, ...]`: how many spikes arrive, summed over a dimension, counted from the end."""
        if self.rows is not None and dim == self.rows.dim:
            return self.rows.counts
        if not self._are_single or self._train.dim() == 1:
            return self.spikes().sum(dim)
        return signed_counts(self._train.movedim(dim, -1), self.peak).in_rows

    def spikes_by_step(self) -> Tensor:
        """`[steps]` float64: how many spikes arrive in each step."""
        if self.total is not None:
            return self.total()
        order = memory_order(self._train) if self._are_single and self.rows is None else None
        if order is None or order[0] != 0:
            return by_step(self.spikes_over(-1))
        counts = signed_counts(self._train.permute(order), self.peak, max(1, len(order) - 1))
        return by_step(counts.positive + counts.negative)

    def currents_over(self, dim: int) -> Tensor:
        """`[steps, ...]`: how many entries of the train are not zero, summed over a dimension, counted from the end."""
        return (self.signal.train != 0).sum(dim)

    def one_to_one(self) -> Work:
        """What it costs to reach neurons, or currents, without a linear map: one synapse for each spike and real value."""
        if self.is_current:
            return Work()
        spikes = self.spikes_by_step() if self.signal.steps else Work().accumulates
        return Work(accumulates=spikes, awake=float(self.shape.numel()) if self.is_driven else 0.0)

    def scaled(self, result: Signal, factor: Tensor) -> Provenance:
        """Of its product with a factor: spikes weigh another weight, and are as many; where it is zero, none arrives."""
        scaled = Provenance(result, self.peak, self.is_current)
        train = result.lazy_train  # a sum of filters is not taken for this
        is_masked = self.summed is None and isinstance(train, Tensor) and train.dtype == torch.int8
        if self.is_current or is_masked:  # a mask leaves spikes as they are
            return scaled
        if result.shape == self.shape and bool((factor != 0).all()):
            if self.summed is None and _is_weighed(result):
                return replace(self, signal=result, is_weighed=True)
            return replace(scaled, summed=self.spikes, total=self.spikes_by_step)

        def spikes() -> Tensor:
            counts, missing = self.spikes(), len(result.shape) - len(self.shape)
            counts = counts.reshape(len(counts), *[1] * missing, *self.shape)
            return counts.expand(-1, *result.shape) * (factor != 0)

        return replace(scaled, summed=spikes)

    def put_together(self, result: Signal, function: Callable[[Tensor], Tensor]) -> Provenance:
        """Of sums with weights: `function` takes counts `[steps, *shape]` int32 to those of the result."""
        summed = None if self.is_current else lambda: function(self.spikes().to(torch.int32))
        return Provenance(result, self.peak, self.is_current, summed)

    def of_all(self, read: Sequence[Provenance]) -> Provenance:
        """The same, where every spike that was read arrives once."""
        return self if self.is_current else replace(self, total=lambda: _together(read))

    def as_counts(self) -> Signal:
        """A signal whose train is how many spikes arrive with each entry."""
        spikes = self.spikes()
        return Signal(spikes, None, None, float(spikes.max()) if spikes.numel() else 0.0)


def _is_weighed(signal: Signal) -> bool:
    """Whether it is known which spikes were multiplied by factors to give its train."""
    return not isinstance(signal.lazy_train, Tensor) and signal.lazy_train.unweighed() is not None


def _together(read: Sequence[Provenance]) -> Tensor:
    return Work.total(Work(accumulates=each.spikes_by_step()) for each in read).accumulates


def carried(
    connection: Connection,
    operation: Callable[..., Any],
    result: Any,
    peak: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The provenance of each signal in `result`, which `operation` gave of what `args` and `kwargs` are that of.

    Counts of spikes are moved and summed by the operation itself.
    """
    read = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Provenance)]
    is_current = connection is Connection.SYNAPSES or any(each.is_current for each in read)
    as_read = connection in (Connection.KEEPS, Connection.MOVES) and all(each.summed is None for each in read)

    def counts() -> list[Any]:
        given, named = map_leaves(
            (args, kwargs), lambda leaf: leaf.as_counts() if isinstance(leaf, Provenance) else leaf
        )
        return leaves(operation(*given, **named))

    def of(signal: Any, index: int) -> Any:
        if not isinstance(signal, Signal):
            return signal
        is_weighed = not is_current and any(each.is_weighed for each in read)
        if connection is Connection.KEEPS and read and signal.shape == read[0].shape:
            summed = read[0].spikes if read[0].is_weighed and not _is_weighed(signal) else read[0].summed
            return replace(read[0], signal=signal, summed=summed)
        if as_read and is_weighed and _is_weighed(signal):
            return Provenance(signal, peak, is_weighed=True)
        if is_current or connection is Connection.NONE or (as_read and not is_weighed):
            return Provenance(signal, peak, is_current)
        return Provenance(signal, peak, summed=lambda: counts()[index].train)

    numbers = iter(range(len(leaves(result))))
    return map_leaves(result, lambda leaf: of(leaf, next(numbers)))
