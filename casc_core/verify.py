"""The proof, on data: does the spiking network equal its reference, neuron by neuron and bit by bit?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.columns import aligned
from casc_core.errors import ConfigError, InputError
from casc_core.neuron import CIF
from casc_core.numerics import Exact
from casc_core.recorder import Recorder
from casc_core.schedule import Continuous
from casc_core.simulation import LayerSpikes
from casc_core.spiking_model import SpikingModel

# Under a schedule without sleep, as many steps per level are simulated where T is not given.
CONTINUOUS_STEPS_PER_LEVEL = 4


@dataclass(frozen=True)
class LayerEquivalence:
    """One layer's spike counts against the reference's levels.

    Attributes:
        name: the layer.
        neurons: how many were compared, over all samples.
        mismatches: how many counts differ.
        largest: the largest difference, in levels.
        first: index of the first differing neuron, `(sample, ...)` in the layout of the model, or None.
        silent_at: `[batch]`, the last step at which the layer spiked in each sample.
    """

    name: str
    neurons: int
    mismatches: int
    largest: float
    first: tuple[int, ...] | None
    silent_at: Tensor

    @property
    def exact(self) -> bool:
        """Whether every count is equal."""
        return self.mismatches == 0


@dataclass(frozen=True)
class EquivalenceReport:
    """What `verify` found; prints as a table.

    Attributes:
        layers: by name, in the order of the network.
        logits_equal: whether the logits are the same bits.
        max_logit_difference: the largest difference of two logits.
        prediction_mismatches: samples whose predicted class differs from the reference's.
        silent_at: `[batch]`, steps to silence of each sample.
        T: steps simulated.
        promised: whether exactness is promised for this neuron, schedule and arithmetic.
        note: why it is not, if it is not.
        ann_predictions_moved: samples whose class differs between the reference and the ANN as trained, which is what
            snapping its weights moved; None if the ANN is not at hand.
        ann_max_logit_difference: likewise for logits.
    """

    layers: dict[str, LayerEquivalence]
    logits_equal: bool
    max_logit_difference: float
    prediction_mismatches: int
    silent_at: Tensor
    T: int
    promised: bool
    note: str
    ann_predictions_moved: int | None
    ann_max_logit_difference: float | None

    @property
    def exact(self) -> bool:
        """Every count of every neuron and every logit equal."""
        return self.logits_equal and all(layer.exact for layer in self.layers.values())

    @property
    def first_divergence(self) -> LayerEquivalence | None:
        """The first layer whose counts differ."""
        return next((layer for layer in self.layers.values() if not layer.exact), None)

    def __str__(self) -> str:
        header = ("layer", "neurons", "differing", "largest", "silent at (median, max)")
        rows = [header]
        for layer in self.layers.values():
            silent = f"{int(layer.silent_at.median())}, {int(layer.silent_at.max())}"
            rows.append((layer.name, f"{layer.neurons:,}", f"{layer.mismatches:,}", f"{layer.largest:g}", silent))
        lines = [aligned(rows)]
        samples = len(self.silent_at)
        verdict = f"{'EXACT' if self.exact else 'NOT EXACT'} against the quantised ANN"
        logits = "equal bit for bit" if self.logits_equal else f"differ by up to {self.max_logit_difference:.3g}"
        lines.append(f"{verdict}: {samples} samples, {self.T} steps, logits {logits}")
        if not self.exact:
            lines.append(f"predictions that differ: {self.prediction_mismatches} of {samples}")
        first = self.first_divergence
        if first is not None:
            lines.append(f"first divergence: layer {first.name!r}, neuron {first.first}")
        if self.note:
            lines.append(self.note)
        if self.ann_predictions_moved is not None:
            lines.append(
                f"against the ANN as trained: {self.ann_predictions_moved} of {samples} predictions moved by snapping, "
                f"logits by up to {self.ann_max_logit_difference:.3g}"
            )
        return "\n".join(lines)


def verify(snn: SpikingModel, *inputs: Any, T: int | None = None, **named: Any) -> EquivalenceReport:
    """Compare a simulation in spikes with `snn.reference`: every count of every neuron, and the logits bit for bit.

    Args:
        snn: the converted network.
        inputs, named: what the model takes.
        T: steps to simulate; None: until silent (under `Continuous`, 4 steps for each level).

    Raises:
        ConfigError, InputError: as `snn.simulate`.
    """
    if not isinstance(snn, SpikingModel):
        raise ConfigError(f"verify takes the converted network first, then its inputs; got {type(snn).__name__}")
    snn.require_unchanged()
    settings = snn.settings
    endless = isinstance(settings.schedule, Continuous)
    steps = settings.levels * CONTINUOUS_STEPS_PER_LEVEL if T is None and endless else T
    recorder = Recorder(keep_counts=True)
    simulation = snn.simulate_recorded(inputs, named, steps, recorder)
    counts = recorder.counts
    expected_logits, expected = snn.reference_counts(inputs, named)
    logits = simulation.logits[-1]
    awake = sum(settings.schedule.awake(simulation.T))
    layers = {
        name: _compared(name, counts[name], expected[name], awake, settings.levels, simulation.spikes[name])
        for name in counts
    }
    note = _why_not_promised(snn, T)
    moved, largest = _against_ann(snn, expected_logits, inputs, named)
    return EquivalenceReport(
        layers,
        torch.equal(logits, expected_logits),
        float((logits - expected_logits).abs().max()),
        _differing_classes(logits, expected_logits),
        simulation.silent_at,
        simulation.T,
        not note,
        note,
        moved,
        largest,
    )


def joined(reports: Sequence[EquivalenceReport]) -> EquivalenceReport:
    """The report on a data set from those on its batches, in order; the first difference is the first batch's that has one.

    Raises:
        InputError: there is none.
    """
    if not reports:
        raise InputError("there is no batch to verify")
    layers = {}
    for name in reports[0].layers:
        own = [report.layers[name] for report in reports]
        layers[name] = LayerEquivalence(
            name,
            sum(layer.neurons for layer in own),
            sum(layer.mismatches for layer in own),
            max(layer.largest for layer in own),
            next((layer.first for layer in own if layer.first is not None), None),
            torch.cat([layer.silent_at for layer in own]),
        )
    moved = [report.ann_predictions_moved for report in reports]
    furthest = [report.ann_max_logit_difference for report in reports]
    return EquivalenceReport(
        layers,
        all(report.logits_equal for report in reports),
        max(report.max_logit_difference for report in reports),
        sum(report.prediction_mismatches for report in reports),
        torch.cat([report.silent_at for report in reports]),
        max(report.T for report in reports),
        all(report.promised for report in reports),
        reports[0].note,
        None if None in moved else sum(count for count in moved if count is not None),
        None if None in furthest else max(value for value in furthest if value is not None),
    )


def _compared(
    name: str, counts: Tensor, expected: Tensor, awake: int, levels: int, spikes: LayerSpikes
) -> LayerEquivalence:
    """Counts over `awake` steps against levels out of `levels`: as rates where the two are not the same."""
    difference = (counts.int() * levels - expected.int() * awake).abs()
    differing = difference.nonzero()
    first = tuple(int(index) for index in differing[0]) if len(differing) else None
    largest = float(difference.max()) / awake if difference.numel() else 0.0
    return LayerEquivalence(name, spikes.neurons, len(differing), largest, first, spikes.silent_at)


def _why_not_promised(snn: SpikingModel, steps: int | None) -> str:
    settings = snn.settings
    reasons = []
    if not isinstance(settings.neuron, CIF):
        reasons.append(f"{settings.neuron} cannot take a spike back")
    if isinstance(settings.schedule, Continuous):
        reasons.append("under Continuous() the network never falls silent")
    if not isinstance(settings.numerics, Exact):
        reasons.append(f"{settings.numerics} rounds its sums")
    if steps is not None and not reasons:
        reasons.append(f"T={steps} may end before the network is silent")
    return f"exactness is not promised: {'; '.join(reasons)}" if reasons else ""


def _against_ann(
    snn: SpikingModel, reference: Tensor, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[int | None, float | None]:
    if snn.ann is None or snn.settings.levels != snn.settings.q:
        return None, None
    with torch.no_grad():
        logits = snn.ann(*inputs, **named)
    return _differing_classes(reference, logits), float((reference - logits).abs().max())


def _differing_classes(a: Tensor, b: Tensor) -> int:
    if a.dim() < 2 or a.shape[-1] == 1:  # one output: the class is its sign
        return int(((a > 0) != (b > 0)).sum())
    classes = 1 if a.dim() == 4 else -1  # an image of logits is [batch, classes, height, width]
    return int((a.argmax(classes) != b.argmax(classes)).sum())
