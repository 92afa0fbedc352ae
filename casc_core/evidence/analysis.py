"""Where a spiking network is off its reference, how fast that vanishes, what it costs: over a data set, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import each, parted
from casc_core.engine.agreement import Agreement, LayerAgreement, PositionAgreement
from casc_core.engine.recorder import Recorder
from casc_core.errors import ConfigError, InputError
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.columns import aligned
from casc_core.reporting.predictions import any_of_sample, labels_of, reading
from casc_core.simulation import LayerSpikes, Simulation, equal_from, fitted
from casc_core.spiking_model import SpikingModel


@dataclass(frozen=True)
class PositionAnalysis:
    """A recurrent layer by token position, `[length]` each.

    Attributes:
        mismatch: share of the position's neurons that end at least one spike off their level, over texts that reach it.
        silent_at: mean over those texts of the last step at which the position spiked.
    """

    mismatch: Tensor
    silent_at: Tensor


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer over all samples. `[T]` each, float64.

    A neuron of level `l` (of q) should have emitted `l * a / q` spikes after `a` wake steps. Where that is no whole number,
    both whole numbers beside it are right.

    Attributes:
        neurons: for each sample, on average.
        more, fewer: share of neurons with at least one spike too many, too few (the paper's Figure 4, a to c).
        relative_error: `sum |N / a - l / q| / sum l / q`, N being spike counts (the paper's Figure 5).
        positive, negative: share of neurons that emit +1, -1 (with bursts: spikes for each neuron; the paper's Figure 6).
        accumulates, multiply_accumulates: for each sample and step, on average.
        ann_multiply_accumulates: the ANN's for a sample, on average.
        silent_at: `[samples]` int64, the last step at which the layer spiked.
        positions: by token position, of a recurrent layer; else None.
    """

    neurons: float
    more: Tensor
    fewer: Tensor
    relative_error: Tensor
    positive: Tensor
    negative: Tensor
    accumulates: Tensor
    multiply_accumulates: Tensor
    ann_multiply_accumulates: float
    silent_at: Tensor
    positions: PositionAnalysis | None


@dataclass(frozen=True)
class Analysis:
    """A spiking network over a data set, step by step, against its reference. Made by `casc_core.analyse`.

    Attributes:
        layers: by name, in order.
        samples: how many.
        T: steps simulated.
        mse: `[T]`, mean squared error of the readout against the reference's logits (the paper's Figure 4 d).
        accuracy: `[T]`, percent of classes that are right (Figure 4 e): one for each sample, or for each of its places
            (`casc_core.reporting.predictions`); None without labels, or where these are numbers.
        error: `[T]`, mean squared error of the readout against labels that are numbers; else None.
        mismatches: `[T]` int64, samples of which a predicted class (or number) is not the reference's.
        silent_at: `[samples]` int64, the last step at which anything spiked.
        exact_at: `[samples]` int64, the first step from which on the logits are the reference's, bit for bit; 0: never.
        logits: `[samples, classes]`, the last readout.
        accumulates, multiply_accumulates: `[T]`, for each sample and step on average, all layers and the readout.
        ann_multiply_accumulates: the ANN's for a sample, on average.
    """

    layers: dict[str, LayerAnalysis]
    samples: int
    T: int
    mse: Tensor
    accuracy: Tensor | None
    error: Tensor | None
    mismatches: Tensor
    silent_at: Tensor
    exact_at: Tensor
    logits: Tensor
    accumulates: Tensor
    multiply_accumulates: Tensor
    ann_multiply_accumulates: float

    @property
    def spikes(self) -> Tensor:
        """`[T]`: spikes of either sign, for each sample and step on average."""
        return sum(
            ((layer.positive + layer.negative) * layer.neurons for layer in self.layers.values()), torch.zeros(self.T)
        )

    @property
    def exact(self) -> bool:
        """Whether at the end every count of every neuron and every logit is the reference's."""
        counts = all(not float(layer.relative_error[-1]) for layer in self.layers.values())
        return counts and bool((self.exact_at > 0).all())

    def __str__(self) -> str:
        rows = [["layer", "off their level at the end (%)", "relative error (%)", "silent at (median, max)"]]
        for name, layer in self.layers.items():
            off = 100 * float(layer.more[-1] + layer.fewer[-1])
            silent = f"{int(layer.silent_at.median())}, {int(layer.silent_at.max())}"
            rows.append([name, f"{off:.3g}", f"{100 * float(layer.relative_error[-1]):.3g}", silent])
        right = "" if self.accuracy is None else f", accuracy {float(self.accuracy[-1]):.2f}%"
        right = right if self.error is None else f", mean squared error {float(self.error[-1]):.4g}"
        spent, ann = float(self.energy()[-1]) / 1e3, self.ann_energy() / 1e3
        said = (
            f"{self.samples:,} samples, {self.T} steps: {int(self.mismatches[-1]):,} predictions differ from the "
            f"reference's{right}, {spent:,.4g} nJ a sample (the ANN: {ann:,.4g} nJ)"
        )
        return f"{aligned(rows)}\n{said}"

    def energy(self, table: EnergyTable | None = None) -> Tensor:
        """`[T]`: pJ for each sample up to each step, on average."""
        spent = (table or EnergyTable()).picojoules(self.multiply_accumulates, self.accumulates)
        return spent.cumsum(0)

    def ann_energy(self, table: EnergyTable | None = None) -> float:
        """pJ of the ANN for a sample, on average."""
        return (table or EnergyTable()).picojoules(self.ann_multiply_accumulates, 0.0)


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
    total = _Total()
    takes = len(snn.settings.arguments)
    for batch in each(batches, "analyse"):
        inputs, given = parted(batch, takes)
        labels, start = labels_of(given), 0
        for part in snn.parts(inputs, {}, T):
            simulation, agreement, reference = _one(snn, against, own_levels, part, T)
            if simulation.logits.shape[1:] != reference.shape:
                raise ConfigError(
                    f"outputs {list(simulation.logits.shape[1:])} cannot be compared with those of the network that it is "
                    f"analysed against, {list(reference.shape)}"
                )
            end = start + len(reference)
            total.add(simulation, agreement, reference, None if labels is None else labels[start:end])
            start = end
        if labels is not None and len(labels) != start:
            raise InputError(f"labels of shape {list(labels.shape)} for {start} samples")
    return total.analysis()


def _one(
    snn: SpikingModel, against: SpikingModel, own_levels: bool, values: dict[str, Any], T: int | None
) -> tuple[Simulation, Agreement, Tensor]:
    """One part of a batch: its simulation, compared layer by layer, and the reference's logits."""
    reference, levels = against.reference_counts((), values)
    if own_levels:
        _, levels = snn.reference_counts((), values)
    recorder = Recorder(agreement_with=Agreement(levels, snn.settings.levels, *snn.wake_steps(T)))
    simulation = snn.simulate_recorded((), values, T, recorder)
    assert recorder.agreement_with is not None
    return simulation, recorder.agreement_with, reference


@dataclass
class _Layer:
    """Sums over the samples so far."""

    spikes: list[LayerSpikes] = field(default_factory=list)
    agreement: list[LayerAgreement] = field(default_factory=list)
    positions: list[PositionAgreement] = field(default_factory=list)


@dataclass
class _Total:
    """What the parts have given so far; put together, with the steps of the longest, by `analysis`."""

    layers: dict[str, _Layer] = field(default_factory=dict)
    awake: list[int] = field(default_factory=list)
    squared: list[Tensor] = field(default_factory=list)
    mismatches: list[Tensor] = field(default_factory=list)
    scores: list[Tensor | None] = field(default_factory=list)
    numbers: set[bool] = field(default_factory=set)
    silent: list[Tensor] = field(default_factory=list)
    exact: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    readout: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)

    def add(self, simulation: Simulation, agreement: Agreement, reference: Tensor, labels: Tensor | None) -> None:
        """Add a part."""
        readouts, reference = simulation.logits.cpu(), reference.cpu()
        for name, spikes in simulation.spikes.items():
            layer = self.layers.setdefault(name, _Layer())
            layer.spikes.append(spikes)
            layer.agreement.append(agreement.layers[name])
            if name in agreement.positions:
                layer.positions.append(agreement.positions[name])
        if len(agreement.awake) > len(self.awake):
            self.awake = list(agreement.awake)
        off = (readouts.double() - reference.double()).square()
        self.squared.append(off.flatten(1).sum(1) / off[0, 0].numel())
        how = reading(reference.shape, labels)
        classes = how.classes_by_step(readouts)
        differs = (classes != how.classes(reference)).flatten(0, 1)
        self.mismatches.append(any_of_sample(differs).unflatten(0, readouts.shape[:2]).sum(1))
        self.numbers.add(how.numbers)
        # Of all places of a sample together, so that samples weigh alike.
        self.scores.append(
            None if labels is None else how.score(classes, how.checked(labels.cpu(), reference.shape)) * len(reference)
        )
        self.exact.append(equal_from(readouts, reference))
        self.silent.append(simulation.silent_at.cpu())
        self.logits.append(readouts[-1])
        self.readout.append(
            (
                simulation.readout_operations,
                simulation.readout_multiplications,
                simulation.readout_ann_multiplications,
            )
        )

    def analysis(self) -> Analysis:
        """All of it, means over the samples."""
        length = max(len(squared) for squared in self.squared)
        samples, rows = sum(map(len, self.silent)), sum(map(len, self.logits))
        layers = {name: self._layer(layer, length, samples) for name, layer in self.layers.items()}
        readouts = list(zip(*self.readout, strict=True))
        acs = _total(readouts[0], length) / samples
        macs = _total(readouts[1], length) / samples
        score = self._score(length, rows)
        return Analysis(
            layers=layers,
            samples=samples,
            T=length,
            mse=sum((_held(each, length) for each in self.squared), torch.zeros(length).double()) / rows,
            accuracy=None if score is None or True in self.numbers else 100.0 * score,
            error=score if True in self.numbers else None,
            mismatches=torch.stack([_held(each, length) for each in self.mismatches]).sum(0),
            silent_at=torch.cat(self.silent),
            exact_at=torch.cat(self.exact),
            logits=torch.cat(self.logits),
            accumulates=sum((layer.accumulates for layer in layers.values()), acs),
            multiply_accumulates=sum((layer.multiply_accumulates for layer in layers.values()), macs),
            ann_multiply_accumulates=sum(readouts[2]) / samples
            + sum(layer.ann_multiply_accumulates for layer in layers.values()),
        )

    def _score(self, length: int, rows: int) -> Tensor | None:
        """`[T]`: how well labels are met, on average."""
        known = [score for score in self.scores if score is not None]
        if not known:
            return None
        if len(known) < len(self.scores):
            raise InputError("some batches have labels and some have none")
        if len(self.numbers) > 1:
            raise InputError("the labels of some batches are classes and of some numbers")
        return torch.stack([_held(score, length) for score in known]).sum(0) / rows

    def _layer(self, layer: _Layer, length: int, samples: int) -> LayerAnalysis:
        neurons = sum(spikes.neurons for spikes in layer.spikes)
        awake = torch.tensor([*self.awake, *self.awake[-1:] * length][:length], dtype=torch.float64)
        levels = sum(each.levels for each in layer.agreement)

        def share(parts: Iterator[Tensor]) -> Tensor:
            return sum((_held(part, length) for part in parts), torch.zeros(length).double()) / max(1, neurons)

        error = share(each.error for each in layer.agreement) * neurons
        return LayerAnalysis(
            neurons=neurons / samples,
            more=share(each.more for each in layer.agreement),
            fewer=share(each.fewer for each in layer.agreement),
            relative_error=error / (awake * levels).clamp(min=1.0),
            positive=_total((each.positive for each in layer.spikes), length) / max(1, neurons),
            negative=_total((each.negative for each in layer.spikes), length) / max(1, neurons),
            accumulates=_total((each.operations for each in layer.spikes), length) / samples,
            multiply_accumulates=_total((each.multiplications for each in layer.spikes), length) / samples,
            ann_multiply_accumulates=sum(each.ann_multiplications for each in layer.spikes) / samples,
            silent_at=torch.cat([each.silent_at for each in layer.spikes]),
            positions=_by_position(layer.positions) if layer.positions else None,
        )


def _held(series: Tensor, length: int) -> Tensor:
    """`series` `[steps, ...]` float64 or whole, its last entry repeated up to `length`."""
    return torch.cat([series[:length], series[-1:].expand(max(0, length - len(series)), *series.shape[1:])])


def _total(parts: Iterable[Tensor], length: int) -> Tensor:
    """The sum of trains of counts, nothing after each one's end."""
    return sum((fitted(part.double(), length) for part in parts), torch.zeros(length).double())


def _by_position(parts: Sequence[PositionAgreement]) -> PositionAnalysis:
    length = max(len(part.texts) for part in parts)

    def total(each: Iterator[Tensor]) -> Tensor:
        return _total(each, length)

    neurons, texts = total(part.neurons for part in parts), total(part.texts for part in parts)
    return PositionAnalysis(
        total(part.differing for part in parts) / neurons.clamp(min=1.0),
        total(part.last_spike for part in parts) / texts.clamp(min=1.0),
    )
