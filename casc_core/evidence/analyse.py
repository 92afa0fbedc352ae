"""A data set in spikes, every layer compared with the reference after each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.engine.recording.agreement import Agreement, LayerAgreement, PositionAgreement
from casc_core.engine.recording.recorder import Recorder
from casc_core.errors import ConfigError, InputError
from casc_core.evidence.analysis import Analysis, LayerAnalysis, PositionAnalysis
from casc_core.evidence.readout import ReadoutOverTime, readout_over_time
from casc_core.reporting.predictions import labels_of, with_batch
from casc_core.reporting.series import last_repeated, zero_padded
from casc_core.simulation import LayerSpikes, Simulation
from casc_core.spiking_model import SpikingModel


def analyse(
    snn: SpikingModel,
    batches: Iterable[Any],
    *,
    T: int | None = None,
    against: SpikingModel | None = None,
    own_levels: bool = False,
) -> Analysis:
    """Run a data set in spikes and compare every layer with the reference after each step.

    Batches are run one by one, in parts that stay under `snn.memory_limit` with what is recorded: beside a run's own
    memory that is every neuron's level, two bytes each.

    Args:
        snn: the converted network, under any neuron and schedule.
        batches: a list, or a `DataLoader`, of what the model takes: tensors, or tuples of its inputs; the first thing that
            a tuple holds beyond them is the labels: whole numbers are classes, one for each sample (or place);
            floating-point ones are what the outputs should be, in their shape.
        T: steps to simulate; None: until silent.
        against: the network whose reference it is compared with; None: itself. For a network of the same layers that a
            method has changed (`casc_core.methods`).
        own_levels: compare counts with its own reference all the same, and only logits with the other's: where thresholds
            differ.

    Raises:
        ConfigError: as `snn.simulate`; `against` is no network of the same layers. InputError: no batches, labels for some
            batches only, or of another shape than the outputs ask for, or that are no classes of the network.

    >>> from torch import nn
    >>> import casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> analysis = analyse(casc_core.convert(model), [torch.randn(16, 4)], T=4)
    >>> float(analysis.layers["1"].more[-1]), float(analysis.mse[-1]), analysis.exact
    (0.0, 0.0, True)
    """
    if not isinstance(snn, SpikingModel):
        raise ConfigError(f"analyse takes the converted network first; got {type(snn).__name__}")
    against = snn if against is None else against
    if not isinstance(against, SpikingModel) or against.layers != snn.layers:
        raise ConfigError(
            f"a network is analysed against one of its own layers, {', '.join(snn.layers)}; got {type(against).__name__}"
            f" with {', '.join(getattr(against, 'layers', ())) or 'none'}"
        )
    snn.check_steps(T)
    totals = _Totals()
    takes = len(snn.settings.arguments)
    for batch in checked_batches(batches, "analyse"):
        inputs, given = inputs_and_labels(batch, takes)
        labels, start = labels_of(given), 0
        for part in snn.parts(inputs, {}, T):
            simulation, agreement, reference = _compared(snn, against, own_levels, part, T)
            end = start + len(reference)
            totals.add(simulation, agreement, reference, None if labels is None else labels[start:end])
            start = end
        if labels is not None and len(labels) != start:
            raise InputError(f"labels of shape {list(labels.shape)} for {start} samples")
    return totals.analysis()


def _compared(
    snn: SpikingModel, against: SpikingModel, own_levels: bool, values: dict[str, Any], T: int | None
) -> tuple[Simulation, Agreement, Tensor]:
    """One part of a batch: its simulation, compared layer by layer, and the reference's logits."""
    reference, levels = against.reference_counts((), values)
    if own_levels:
        _, levels = snn.reference_counts((), values)
    recorder = Recorder(agreement_with=Agreement(levels, snn.settings.levels, *snn.wake_steps(T)))
    simulation = snn.simulate_recorded((), values, T, recorder)
    assert recorder.agreement_with is not None
    if simulation.logits.shape[1:] != reference.shape:
        raise ConfigError(
            f"outputs {list(simulation.logits.shape[1:])} cannot be compared with those of the network that it is "
            f"analysed against, {list(reference.shape)}"
        )
    return simulation, recorder.agreement_with, with_batch(reference, len(simulation.silent_at))


@dataclass
class _LayerParts:
    """What the parts of the data so far have given of one layer."""

    spikes: list[LayerSpikes] = field(default_factory=list)
    agreement: list[LayerAgreement] = field(default_factory=list)
    positions: list[PositionAgreement] = field(default_factory=list)

    def analysis(self, awake: Tensor, samples: int) -> LayerAnalysis:
        """All of it; `awake` `[T]`: how many wake steps there have been by each step."""
        steps, neurons = len(awake), sum(each.neurons for each in self.spikes)
        levels = sum(each.levels for each in self.agreement)
        some = max(1, neurons)
        error = _held_sum((each.error for each in self.agreement), steps)
        return LayerAnalysis(
            neurons=neurons / samples,
            more=_held_sum((each.more for each in self.agreement), steps) / some,
            fewer=_held_sum((each.fewer for each in self.agreement), steps) / some,
            relative_error=error / (awake * levels).clamp(min=1.0),
            positive=_padded_sum((each.positive for each in self.spikes), steps) / some,
            negative=_padded_sum((each.negative for each in self.spikes), steps) / some,
            accumulates=_padded_sum((each.operations for each in self.spikes), steps) / samples,
            multiply_accumulates=_padded_sum((each.multiplications for each in self.spikes), steps) / samples,
            ann_multiply_accumulates=sum(each.ann_multiplications for each in self.spikes) / samples,
            silent_at=torch.cat([each.silent_at for each in self.spikes]),
            positions=_by_position(self.positions) if self.positions else None,
        )


@dataclass
class _Totals:
    """What the parts of the data so far have given; `analysis` puts them together, with the steps of the longest."""

    layers: dict[str, _LayerParts] = field(default_factory=dict)
    awake: list[int] = field(default_factory=list)
    readouts: list[ReadoutOverTime] = field(default_factory=list)
    silent_at: list[Tensor] = field(default_factory=list)
    accumulates: list[Tensor] = field(default_factory=list)
    multiply_accumulates: list[Tensor] = field(default_factory=list)
    ann_multiply_accumulates: float = 0.0

    def add(self, simulation: Simulation, agreement: Agreement, reference: Tensor, labels: Tensor | None) -> None:
        """Add a part."""
        for name, spikes in simulation.spikes.items():
            layer = self.layers.setdefault(name, _LayerParts())
            layer.spikes.append(spikes)
            layer.agreement.append(agreement.layers[name])
            if name in agreement.positions:
                layer.positions.append(agreement.positions[name])
        if len(agreement.awake) > len(self.awake):
            self.awake = list(agreement.awake)
        readouts = simulation.logits.reshape(len(simulation.logits), *reference.shape)
        self.readouts.append(readout_over_time(readouts, reference, labels))
        self.silent_at.append(simulation.silent_at.cpu())
        self.accumulates.append(simulation.readout_operations)
        self.multiply_accumulates.append(simulation.readout_multiplications)
        self.ann_multiply_accumulates += simulation.readout_ann_multiplications

    def analysis(self) -> Analysis:
        """All of it, means over the samples."""
        steps = max(len(each.mismatches) for each in self.readouts)
        samples, rows = sum(map(len, self.silent_at)), sum(len(each.logits) for each in self.readouts)
        awake = last_repeated(torch.tensor(self.awake, dtype=torch.float64), steps)
        layers = {name: layer.analysis(awake, samples) for name, layer in self.layers.items()}
        accumulates = _padded_sum(self.accumulates, steps) / samples
        multiply_accumulates = _padded_sum(self.multiply_accumulates, steps) / samples
        score, numbers = self._score(steps, rows)
        return Analysis(
            layers=layers,
            samples=samples,
            T=steps,
            mse=_held_sum((each.squared_error for each in self.readouts), steps) / rows,
            accuracy=None if score is None or numbers else 100.0 * score,
            error=score if numbers else None,
            mismatches=_held_sum((each.mismatches for each in self.readouts), steps).long(),
            silent_at=torch.cat(self.silent_at),
            exact_at=torch.cat([each.exact_at for each in self.readouts]),
            logits=torch.cat([each.logits for each in self.readouts]),
            accumulates=sum((layer.accumulates for layer in layers.values()), accumulates),
            multiply_accumulates=sum((layer.multiply_accumulates for layer in layers.values()), multiply_accumulates),
            ann_multiply_accumulates=self.ann_multiply_accumulates / samples
            + sum(layer.ann_multiply_accumulates for layer in layers.values()),
        )

    def _score(self, steps: int, rows: int) -> tuple[Tensor | None, bool]:
        """`[T]`: how well labels are met, on average; and whether they are numbers."""
        known = [each.scores for each in self.readouts if each.scores is not None]
        if not known:
            return None, False
        if len(known) < len(self.readouts):
            raise InputError("some batches have labels and some have none")
        numbers = {each.numbers for each in self.readouts}
        if len(numbers) > 1:
            raise InputError("the labels of some batches are classes and of some numbers")
        return _held_sum(known, steps) / rows, numbers.pop()


def _held_sum(parts: Iterable[Tensor], steps: int) -> Tensor:
    """`[steps]` float64: the sum of series that keep their last value."""
    return sum((last_repeated(part.double(), steps) for part in parts), torch.zeros(steps).double())


def _padded_sum(parts: Iterable[Tensor], steps: int) -> Tensor:
    """`[steps]` float64: the sum of series that are zero after their end."""
    return sum((zero_padded(part.double(), steps) for part in parts), torch.zeros(steps).double())


def _by_position(parts: Sequence[PositionAgreement]) -> PositionAnalysis:
    length = max(len(part.texts) for part in parts)
    neurons = _padded_sum((part.neurons for part in parts), length)
    texts = _padded_sum((part.texts for part in parts), length)
    return PositionAnalysis(
        _padded_sum((part.differing for part in parts), length) / neurons.clamp(min=1.0),
        _padded_sum((part.last_spike for part in parts), length) / texts.clamp(min=1.0),
    )
