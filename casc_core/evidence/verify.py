"""The proof, on data: does the spiking network equal its reference, neuron by neuron and bit by bit?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.recording.recorder import Recorder
from casc_core.errors import ConfigError
from casc_core.evidence.against_ann import against_ann
from casc_core.evidence.differences import largest_difference
from casc_core.evidence.equivalence import EquivalenceReport, LayerEquivalence, OutputEquivalence, combine_reports
from casc_core.evidence.lowering_check import reference_of
from casc_core.neuron import CIF
from casc_core.reporting.predictions import Measure, by_sample, differing, measures_of, with_batch
from casc_core.schedule import Continuous
from casc_core.simulation import LayerSpikes
from casc_core.spiking_model import SpikingModel

# Under a schedule without sleep, as many steps per level are simulated where T is not given.
CONTINUOUS_STEPS_PER_LEVEL = 4


def verify(
    snn: SpikingModel,
    *inputs: Any,
    T: int | None = None,
    measures: Measure | Mapping[str, Measure] | None = None,
    **named: Any,
) -> EquivalenceReport:
    """Compare a simulation in spikes with `snn.reference`, and the reference with the network that was converted.

    Every count of every neuron, and the logits, must be the reference's bit for bit. That the reference is the network is
    shown in float64, by the network's own forward, layer by layer: every level is the network's, or a tie, which lies on an
    edge between two levels within float64's own rounding error. Whatever else differs is a fault, and not exact; so is a
    trace that does not do what the forward does. What a coarse grid (`Exact`) moved, and what float32 itself moves, are
    told apart from that. It takes a few more passes of the network, and more where something differs. A batch whose run
    would exceed `snn.memory_limit` is verified in parts.

    Args:
        snn: the converted network.
        inputs, named: what the model takes.
        T: steps to simulate; None: until silent (under `Continuous`, 4 steps for each level).
        measures: what the outputs are, "classes" or "numbers", or by output: of numbers no predictions are counted.

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
        report = _verified(snn, part, steps, note, measures)
        reports.append(report.after(before) if before else report)
        before += len(report.silent_at)
    return reports[0] if len(reports) == 1 else combine_reports(reports)


def _verified(
    snn: SpikingModel,
    values: dict[str, Any],
    steps: int | None,
    note: str,
    given: Measure | Mapping[str, Measure] | None,
) -> EquivalenceReport:
    """The report on one part of a batch."""
    settings, recorder = snn.settings, Recorder(keep_counts=True)
    simulation = snn.simulate_recorded((), values, steps, recorder)
    counts = recorder.counts
    reference = reference_of(snn, (), values)
    samples = len(simulation.silent_at)
    returned = snn.program_for(frozenset(values)).returned
    measures = measures_of(given, returned.readouts)
    found = {
        name: _compared(over_time[-1], reference.logits[name], samples, measures[name])
        for name, over_time in returned.readouts_in(simulation.outputs).items()
    }
    awake = sum(settings.schedule.awake(simulation.T))
    layers = {
        name: compare_layer(name, counts[name], reference.levels[name], awake, settings.levels, simulation.spikes[name])
        for name in counts
    }
    return EquivalenceReport(
        layers,
        all(each.equal for each in found.values()),
        max(each.max_difference for each in found.values()),
        _predictions([each.differing for each in found.values() if each.differing is not None], samples),
        simulation.silent_at,
        simulation.T,
        not note,
        note,
        against_ann(snn, reference, values, samples, measures),
        {name: each.counted(name) for name, each in found.items()},
    )


@dataclass(frozen=True)
class _Compared:
    """One output against the reference's: `differing` are the rows of which another class is predicted."""

    equal: bool
    max_difference: float
    differing: Tensor | None

    def counted(self, name: str) -> OutputEquivalence:
        count = None if self.differing is None else int(self.differing.sum())
        return OutputEquivalence(name, self.equal, self.max_difference, count)


def _compared(logits: Tensor, expected: Tensor, samples: int, measure: Measure | None) -> _Compared:
    logits, expected = (with_batch(each, samples) for each in (logits, expected))
    rows = differing(logits, expected) if measure in (None, "classes") else None
    return _Compared(torch.equal(logits, expected), largest_difference(logits, expected), rows)


def _predictions(differing: Sequence[Tensor], samples: int) -> int:
    """Rows of one output, samples of several, of which any predicted class differs."""
    if len(differing) < 2:
        return int(differing[0].sum()) if differing else 0
    return int(torch.stack([by_sample(rows, samples).any(1) for rows in differing]).any(0).sum())


def compare_layer(
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
    if not settings.numerics.is_exact:
        reasons.append(f"{settings.numerics} rounds its sums")
    if steps is not None and not reasons:
        reasons.append(f"T={steps} may end before the network is silent")
    return f"exactness is not promised: {'; '.join(reasons)}" if reasons else ""
