"""The proof, on data: does the spiking network equal its reference, neuron by neuron and bit by bit?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from casc_core.engine.recorder import Recorder
from casc_core.errors import ConfigError, InputError
from casc_core.evidence import faults
from casc_core.evidence import moved as moves
from casc_core.evidence.faults import LoweringReport, lowered_in_float64, lowering_report
from casc_core.evidence.moved import Moved, largest_difference, moved
from casc_core.evidence.origin import Evaluated, evaluated
from casc_core.neuron import CIF
from casc_core.numerics import Exact, Numerics
from casc_core.reporting.columns import aligned
from casc_core.reporting.predictions import differing
from casc_core.schedule import Continuous
from casc_core.simulation import LayerSpikes
from casc_core.spiking_model import SpikingModel

PartT = TypeVar("PartT")
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
        ann_predictions_moved: samples whose class differs between the reference and the ANN as trained, in its own types;
            None if the ANN is not at hand, or computes with another number of levels.
        ann_max_logit_difference: likewise for logits.
        lowering: the network that was converted, in float64, beside its lowering before it is put on any grid: whatever
            differs there is a fault of the lowering; None if that network is not at hand.
        grid: what the grid of the numbers (or, with `Float()`, their rounding) moved, from that lowering to the reference.
        float32: what the types of the network as trained move, from its evaluation in float64 to its own.
        numerics: the arithmetic of the conversion.
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
    lowering: LoweringReport | None
    grid: Moved | None
    float32: Moved | None
    numerics: Numerics

    @property
    def exact(self) -> bool:
        """Every count of every neuron and every logit equal to the reference's, and no fault in the lowering."""
        return self.spikes_exact and (self.lowering is None or self.lowering.exact)

    @property
    def spikes_exact(self) -> bool:
        """Every count of every neuron and every logit equal to the reference's."""
        return self.logits_equal and all(layer.exact for layer in self.layers.values())

    def after(self, samples: int) -> EquivalenceReport:
        """The report on a part of a batch, so many of whose samples come before it."""
        layers = {
            name: replace(layer, first=None if layer.first is None else (layer.first[0] + samples, *layer.first[1:]))
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers, lowering=None if self.lowering is None else self.lowering.after(samples))

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
        verdict = f"{'EXACT' if self.spikes_exact else 'NOT EXACT'} against the quantised ANN"
        if self.spikes_exact and not self.exact:
            verdict = "NOT EXACT: the quantised ANN that it equals is not your network"
        logits = "equal bit for bit" if self.logits_equal else f"differ by up to {self.max_logit_difference:.3g}"
        lines.append(f"{verdict}: {samples} samples, {self.T} steps, logits {logits}")
        if not self.spikes_exact:
            lines.append(f"predictions that differ: {self.prediction_mismatches} of {samples}")
        first = self.first_divergence
        if first is not None:
            lines.append(f"first divergence: layer {first.name!r}, neuron {first.first}")
        idle = [name for name, layer in self.layers.items() if len(layer.silent_at) and not layer.silent_at.any()]
        if idle:
            lines.append(f"no neuron of {', '.join(idle)} spikes for these inputs: in them, nothing else was compared")
        if self.note:
            lines.append(self.note)
        if self.lowering is None or self.grid is None or self.float32 is None:
            lines.append(
                "lowering: not compared, since the network that was converted is not at hand (load(..., model=...))"
            )
            return "\n".join(lines)
        grid = (
            f"the grid of {self.numerics}" if isinstance(self.numerics, Exact) else f"the rounding of {self.numerics}"
        )
        lines += [str(self.lowering), self.grid.said(grid, samples), self.float32.said("float32 itself", samples)]
        return "\n".join(lines)


def verify(snn: SpikingModel, *inputs: Any, T: int | None = None, **named: Any) -> EquivalenceReport:
    """Compare a simulation in spikes with `snn.reference`, and the reference with the network that was converted.

    Every count of every neuron, and the logits, must be the reference's bit for bit. What lies between the reference and
    the network is told in three parts: a fault of the lowering, which is never exact (both in float64, layer by layer),
    what the grid of the numbers moved, and what float32 itself moves. That takes four more passes of the network. A batch
    whose simulation would exceed `snn.memory_limit` is verified in parts.

    Args:
        snn: the converted network.
        inputs, named: what the model takes.
        T: steps to simulate; None: until silent (under `Continuous`, 4 steps for each level).

    Raises:
        ConfigError, InputError: as `snn.simulate`. ExactnessError: the network that was converted cannot be evaluated
            beside its conversion.

    >>> from torch import nn
    >>> import casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> report = verify(casc_core.convert(model), torch.randn(16, 4))
    >>> report.exact, report.lowering.layers["1"].wrong, report.grid.predictions
    (True, 0, 0)
    """
    if not isinstance(snn, SpikingModel):
        raise ConfigError(f"verify takes the converted network first, then its inputs; got {type(snn).__name__}")
    snn.require_unchanged()
    endless = isinstance(snn.settings.schedule, Continuous)
    steps = snn.settings.levels * CONTINUOUS_STEPS_PER_LEVEL if T is None and endless else T
    snn.check_steps(steps)
    note, reports, before = _why_not_promised(snn, T), [], 0
    for part in snn.parts(inputs, named, steps):
        report = _verified(snn, part, steps, note)
        reports.append(report.after(before) if before else report)
        before += len(report.silent_at)
    return reports[0] if len(reports) == 1 else joined(reports)


def _verified(snn: SpikingModel, values: dict[str, Any], steps: int | None, note: str) -> EquivalenceReport:
    """The report on one part of a batch."""
    settings, recorder = snn.settings, Recorder(keep_counts=True)
    simulation = snn.simulate_recorded((), values, steps, recorder)
    counts = recorder.counts
    expected_logits, expected = snn.reference_counts((), values)
    logits = simulation.logits[-1]
    awake = sum(settings.schedule.awake(simulation.T))
    layers = {
        name: _compared(name, counts[name], expected[name], awake, settings.levels, simulation.spikes[name])
        for name in counts
    }
    return EquivalenceReport(
        layers,
        torch.equal(logits, expected_logits),
        largest_difference(logits, expected_logits),
        int(differing(logits, expected_logits).sum()),
        simulation.silent_at,
        simulation.T,
        not note,
        note,
        *_against_ann(snn, Evaluated(expected_logits, expected), values),
        settings.numerics,
    )


def _against_ann(
    snn: SpikingModel, reference: Evaluated, values: dict[str, Any]
) -> tuple[int | None, float | None, LoweringReport | None, Moved | None, Moved | None]:
    """The last fields of a report: the reference beside the ANN, and what lowering, grid and float32 have in that."""
    if snn.origin is None or snn.ann is None:
        return None, None, None, None, None
    if snn.origin.is_changed:
        raise ConfigError(
            "the network that was converted (snn.ann) has been trained or edited since, so there is nothing to compare "
            "with: convert it again, or give the network of that time to load(folder, model=...)"
        )
    levels = snn.settings.levels
    lowered = lowered_in_float64(snn, (), values)
    lowering = lowering_report(snn, lowered, (), values)
    ideal, own = (evaluated(snn.ann, levels, (), values, float64) for float64 in (True, False))
    trained = moved(own, reference) if levels == snn.settings.q else None
    return (
        None if trained is None else trained.predictions,
        None if trained is None else trained.max_logit_difference,
        lowering,
        moved(lowered, reference),
        moved(ideal, own),
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
    predictions = [report.ann_predictions_moved for report in reports]
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
        None if None in predictions else sum(count for count in predictions if count is not None),
        None if None in furthest else max(value for value in furthest if value is not None),
        _joined([report.lowering for report in reports], faults.joined),
        _joined([report.grid for report in reports], moves.joined),
        _joined([report.float32 for report in reports], moves.joined),
        reports[0].numerics,
    )


def _joined(parts: Sequence[PartT | None], join: Callable[[Sequence[PartT]], PartT]) -> PartT | None:
    there = [part for part in parts if part is not None]
    return join(there) if len(there) == len(parts) else None


def _compared(
    name: str, counts: Tensor, expected: Tensor, awake: int, levels: int, spikes: LayerSpikes
) -> LayerEquivalence:
    """Counts over `awake` steps against levels out of `levels`: as rates where the two are not the same."""
    # Neither a count of int16 nor a number of levels or wake steps exceeds 2**15, so int32 holds their products.
    whole = torch.int32 if counts.dtype == torch.int16 else torch.int64
    difference = (counts.to(whole) * levels - expected.to(whole) * awake).abs()
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
