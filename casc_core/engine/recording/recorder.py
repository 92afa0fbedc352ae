"""The record of a run, layer by layer: spikes, operations, and how far counts are from the reference's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from casc_core.engine.batching.places import Axis, Samples
from casc_core.engine.recording.agreement import Agreement
from casc_core.engine.recording.spike_counts import LayerTrain, Rows, SignedCounts, by_step, last_spike, signed_counts
from casc_core.engine.recording.work import Work
from casc_core.engine.signal import memory_order
from casc_core.errors import ConfigError


@dataclass
class Recorder:
    """What a run keeps beside its output, by layer.

    `counts`: every neuron's spike count, if `keep_counts`. `positive`, `negative`: how many spikes of each sign at each
    step; `work`: the operations in front of the layer, and of the readout; `neurons`; `last_spike`: `[samples]`, the last
    step (from 1) at which the layer spiked in each sample; these if `keep_activity`. `trains`, if `keep_trains`;
    `potentials`, membrane potentials after each step, if `keep_potentials`.

    Attributes:
        watch: called with the run, each step of the program, its operation, the arguments and the result; None: nothing is.
        samples, whose: how many samples there are, and where they are in each layer, by the step that gives it.
    """

    keep_counts: bool = False
    keep_activity: bool = False
    keep_trains: bool = False
    keep_potentials: bool = False
    agreement_with: Agreement | None = None
    watch: Callable[..., None] | None = None
    samples: int = 1
    whose: Mapping[str, Samples] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)
    positive: dict[str, Tensor] = field(default_factory=dict)
    negative: dict[str, Tensor] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    last_spike: dict[str, Tensor] = field(default_factory=dict)
    trains: dict[str, Tensor] = field(default_factory=dict)
    potentials: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Collection[str]) -> Recorder:
        """A recorder that keeps "spikes", "potentials" or both.

        Raises:
            ConfigError: there is nothing of such a name.
        """
        if isinstance(record, str) or not set(record) <= {"spikes", "potentials"}:
            raise ConfigError(f'record names "spikes", "potentials" or both, as in record=("spikes",); got {record!r}')
        return cls(keep_trains="spikes" in record, keep_potentials="potentials" in record)

    def layer(self, emitted: LayerTrain, step: str, peak: int, rows: SignedCounts | None = None) -> Rows | None:
        """Record a layer's spikes.

        Args:
            step: of the program, which gave them.
            peak: the most spikes of a neuron in one step.
            rows: `signed_counts` of the train, if they are known.

        Returns:
            How many spikes each row of the train has, where they were counted; else None.
        """
        name, train = emitted.layer, emitted.train
        self.neurons[name] = emitted.neurons
        if (
            rows is None
            and emitted.position_axis is not None
            and (self.keep_activity or self.agreement_with is not None)
        ):
            rows = signed_counts(train, peak)
        if self.agreement_with is not None:
            self.agreement_with.layer(name, train)
            if emitted.position_axis is not None and rows is not None:
                self.agreement_with.by_position(emitted, rows.in_rows)
        counted = None if rows is None else Rows(rows.in_rows, -1)
        if self.keep_activity:
            counted = self._activity(name, train, self.whose.get(step), peak, rows)
        if self.keep_counts:
            self.counts[name] = train.sum(0, dtype=_count_type(train, peak))
        if self.keep_trains:
            self.trains[name] = train
        if self.keep_potentials:
            self.potentials[name] = _required(emitted)
        return counted

    def _activity(self, name: str, train: Tensor, where: Samples, peak: int, rows: SignedCounts | None) -> Rows | None:
        """Record how many spikes there are, and when the last was; how many each row has, in the train's order."""
        order, all_dims = memory_order(train) if rows is None else None, train.dim()
        if order is not None and order[0] == 0:  # rows of neighbours in memory are counted fastest
            train = train.permute(order)
            where = replace(where, dim=order.index(where.dim + 1) - 1) if isinstance(where, Axis) else where
        # Where samples lie one behind another, each is counted; else each row, unless it is of several.
        dims = train.dim() - 2 if train.dim() > 2 and (not isinstance(where, Axis) or where.dim == 0) else 1
        counts = signed_counts(train, peak, dims) if rows is None else rows
        self.positive[name], self.negative[name] = by_step(counts.positive), by_step(counts.negative)
        in_rows = isinstance(where, Axis) and where.dim == train.dim() - 2
        each, both = counts.positive + counts.negative, counts.in_rows
        self.last_spike[name] = last_spike(train if in_rows else each, where, self.samples).cpu()
        if all_dims == 1:
            return None
        if order is None or order[0] != 0:
            return Rows(both, -1)
        return Rows(both.permute(sorted(range(all_dims - 1), key=lambda dim: order[dim])), order[-1] - all_dims)


def _required(emitted: LayerTrain) -> Tensor:
    """The potentials of a layer.

    Raises:
        ConfigError: it is an operation that does not give them.
    """
    if emitted.potential is None:
        raise ConfigError(
            f"{emitted.layer!r} does not give its membrane potentials: what `Run.fire` leaves in `Run.potentials` belongs "
            "into the signal that the operation returns (Signal.potential)"
        )
    return emitted.potential


def _count_type(train: Tensor, peak: int) -> torch.dtype:
    """int16 if that holds the spikes of a whole train: a level is one entry, and no larger."""
    most = len(train) * (torch.iinfo(train.dtype).max if peak > 1 else 1)
    return torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32
