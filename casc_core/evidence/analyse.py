"""A data set in spikes, every layer compared with the reference after each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import checked_batches, inputs_and_labels, labels_by_output
from casc_core.engine.recording.agreement import Agreement, LayerAgreement, PositionAgreement
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.structure import Returned
from casc_core.errors import ConfigError, InputError
from casc_core.evidence.analysis import Analysis, LayerAnalysis, OutputAnalysis, PositionAnalysis
from casc_core.evidence.lowering_check import reference_of
from casc_core.evidence.readout import ReadoutOverTime, readout_over_time
from casc_core.reporting.predictions import Measure, by_sample, error_name, measures_of, with_batch
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
    measures: Measure | Mapping[str, Measure] | None = None,
) -> Analysis:
    """Run a data set in spikes and compare every layer with the reference after each step.

    Batches are run one by one, in parts that stay under `snn.memory_limit` with what is recorded: beside a run's own
    memory that is every neuron's level, two bytes each.

    Args:
        snn: the converted network, under any neuron and schedule.
        batches: a list, or a `DataLoader`, of what the model takes: tensors, or tuples of its inputs; the first thing that
            a tuple holds beyond them is the labels: whole numbers are classes, one for each sample (or place);
            floating-point ones are what the outputs should be, in their shape. Of a network with several outputs, labels
            are a dict by output, in the structure that the model's forward returns, or one behind another; None for an
            output that has none.
        T: steps to simulate; None: until silent.
        against: the network whose reference it is compared with; None: itself. For a network of the same layers that a
            method has changed (`casc_core.methods`).
        own_levels: compare counts with its own reference all the same, and only logits with the other's: where thresholds
            differ.
        measures: what the outputs are: "classes", "numbers" (mean squared error), or a function of outputs `[N, ...]` and
            labels that gives each sample's error `[N]`; for all, or by output. None: labels decide.

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
    totals: _Totals | None = None
    takes, first = len(snn.settings.arguments), next(iter(snn.programs.values())).returned
    for batch in checked_batches(batches, "analyse"):
        inputs, given = inputs_and_labels(batch, takes, len(first.readouts))
        parts = snn.parts(inputs, {}, T)
        returned = snn.program_for(frozenset(parts.values)).returned
        totals = totals or _Totals(returned, measures_of(measures, returned.readouts))
        labels, start = labels_by_output(given, returned, totals.measures), 0
        for part in parts:
            simulation, agreement, reference = _compared(snn, against, own_levels, part, T)
            end = start + len(next(iter(reference.values())))
            own = {name: None if each is None else each[start:end] for name, each in labels.items()}
            totals.add(simulation, agreement, reference, own)
            start = end
        for each in labels.values():
            if each is not None and len(each) != start:
                shape = f"shape {list(each.shape)}" if isinstance(each, Tensor) else f"length {len(each)}"
                raise InputError(f"labels of {shape} for {start} samples")
    assert totals is not None
    return totals.analysis()


def _compared(
    snn: SpikingModel, against: SpikingModel, own_levels: bool, values: dict[str, Any], T: int | None
) -> tuple[Simulation, Agreement, dict[str, Tensor]]:
    """One part of a batch: its simulation, compared layer by layer, and the reference's logits by output."""
    expected = reference_of(against, (), values)
    levels = reference_of(snn, (), values).levels if own_levels else expected.levels
    recorder = Recorder(agreement_with=Agreement(levels, snn.settings.levels, *snn.wake_steps(T)))
    simulation = snn.simulate_recorded((), values, T, recorder)
    assert recorder.agreement_with is not None
    own = {name: list(each.shape[1:]) for name, each in snn.readouts_of(simulation.outputs, (), values).items()}
    others = {name: list(each.shape) for name, each in expected.logits.items()}
    if own != others:
        raise ConfigError(
            f"outputs {_shapes(own)} cannot be compared with those of the network that it is analysed against, "
            f"{_shapes(others)}"
        )
    samples = len(simulation.silent_at)
    return (
        simulation,
        recorder.agreement_with,
        {name: with_batch(each, samples) for name, each in expected.logits.items()},
    )


def _shapes(by_output: Mapping[str, list[int]]) -> str:
    if len(by_output) == 1:
        return str(next(iter(by_output.values())))
    return ", ".join(f"{name!r} {shape}" for name, shape in by_output.items())


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
    """What the parts of the data so far have given; `analysis` puts them together, with the steps of the longest.

    Attributes:
        returned: what the network returns. measures: of each readout.
    """

    returned: Returned
    measures: Mapping[str, Measure | None]
    layers: dict[str, _LayerParts] = field(default_factory=dict)
    awake: list[int] = field(default_factory=list)
    readouts: dict[str, list[ReadoutOverTime]] = field(default_factory=dict)
    silent_at: list[Tensor] = field(default_factory=list)
    accumulates: list[Tensor] = field(default_factory=list)
    multiply_accumulates: list[Tensor] = field(default_factory=list)
    ann_multiply_accumulates: float = 0.0

    def add(
        self,
        simulation: Simulation,
        agreement: Agreement,
        reference: Mapping[str, Tensor],
        labels: Mapping[str, Any],
    ) -> None:
        """Add a part."""
        for name, spikes in simulation.spikes.items():
            layer = self.layers.setdefault(name, _LayerParts())
            layer.spikes.append(spikes)
            layer.agreement.append(agreement.layers[name])
            if name in agreement.positions:
                layer.positions.append(agreement.positions[name])
        if len(agreement.awake) > len(self.awake):
            self.awake = list(agreement.awake)
        for name, over_time in self.returned.readouts_in(simulation.outputs).items():
            expected = reference[name]
            readouts = over_time.reshape(len(over_time), *expected.shape)
            found = readout_over_time(readouts, expected, labels[name], self.measures[name])
            self.readouts.setdefault(name, []).append(found)
        self.silent_at.append(simulation.silent_at.cpu())
        self.accumulates.append(simulation.readout_operations)
        self.multiply_accumulates.append(simulation.readout_multiplications)
        self.ann_multiply_accumulates += simulation.readout_ann_multiplications

    def analysis(self) -> Analysis:
        """All of it, means over the samples."""
        steps = max(len(each.differing) for each in next(iter(self.readouts.values())))
        samples = sum(map(len, self.silent_at))
        awake = last_repeated(torch.tensor(self.awake, dtype=torch.float64), steps)
        layers = {name: layer.analysis(awake, samples) for name, layer in self.layers.items()}
        accumulates = _padded_sum(self.accumulates, steps) / samples
        multiply_accumulates = _padded_sum(self.multiply_accumulates, steps) / samples
        outputs = {name: _of_output(readouts, steps, self.measures[name]) for name, readouts in self.readouts.items()}
        whole = [
            _together(parts, len(silent))
            for *parts, silent in zip(*self.readouts.values(), self.silent_at, strict=True)
        ]
        return Analysis(
            layers=layers,
            samples=samples,
            T=steps,
            outputs=outputs,
            returned=self.returned,
            mismatches=_held_sum((differing.sum(1) for differing, _ in whole), steps).long(),
            silent_at=torch.cat(self.silent_at),
            exact_at=torch.cat([exact_at for _, exact_at in whole]),
            accumulates=sum((layer.accumulates for layer in layers.values()), accumulates),
            multiply_accumulates=sum((layer.multiply_accumulates for layer in layers.values()), multiply_accumulates),
            ann_multiply_accumulates=self.ann_multiply_accumulates / samples
            + sum(layer.ann_multiply_accumulates for layer in layers.values()),
        )


def _of_output(parts: Sequence[ReadoutOverTime], steps: int, measure: Measure | None) -> OutputAnalysis:
    """One output over all parts of the data.

    Raises:
        InputError: some parts have labels and some have none, or labels of another kind.
    """
    rows, numbers = sum(len(part.logits) for part in parts), {part.numbers for part in parts}
    if len(numbers) > 1:
        raise InputError("the labels of some batches are classes and of some numbers")
    known = [part.scores for part in parts if part.scores is not None]
    if 0 < len(known) < len(parts):
        raise InputError("some batches have labels and some have none")
    score = _held_sum(known, steps) / rows if known else None
    is_numbers = numbers.pop()
    return OutputAnalysis(
        mse=_held_sum((part.squared_error for part in parts), steps) / rows,
        accuracy=None if score is None or is_numbers else 100.0 * score,
        error=score if is_numbers else None,
        error_name=error_name(measure),
        mismatches=_held_sum((part.mismatches for part in parts), steps).long(),
        exact_at=torch.cat([part.exact_at for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        numbers=is_numbers,
    )


def _together(outputs: Sequence[ReadoutOverTime], samples: int) -> tuple[Tensor, Tensor]:
    """Of all outputs of a part of the data: `[T, samples]`, where any differs; and from when on all are exact."""
    if len(outputs) == 1:
        return outputs[0].differing, outputs[0].exact_at
    differing = [torch.stack([by_sample(rows, samples).any(1) for rows in each.differing]) for each in outputs]
    never = [by_sample(each.exact_at == 0, samples).any(1) for each in outputs]
    latest = [by_sample(each.exact_at, samples).amax(1) for each in outputs]
    return torch.stack(differing).any(0), torch.where(torch.stack(never).any(0), 0, torch.stack(latest).amax(0))


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
