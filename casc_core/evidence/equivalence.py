"""What `verify` finds: the report on a spiking network beside its reference, and beside the network that was converted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.evidence.differences import Differences, combine_differences
from casc_core.evidence.lowering_report import LoweringReport, combine_lowering_reports
from casc_core.numerics import AsTrained, Numerics
from casc_core.reporting.series import median_and_largest
from casc_core.reporting.tables import text_table

PartT = TypeVar("PartT")


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
        lowering: the reference beside the network that was converted, in float64 (with a coarse grid: the lowering without
            it): whatever differs there, and is no tie, is a fault; None if that network is not at hand.
        grid: what a coarse grid moved, from the lowering without it to the reference; of the network as trained, what the
            ties did, from its evaluation in float64.
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
    grid: Differences | None
    float32: Differences | None
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
        """The report on a part of a batch, as one that comes behind this many samples."""
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
        header = ("layer", "neurons", "differing", "largest", "last spike (median, max)")
        rows = [header]
        for layer in self.layers.values():
            median, last = median_and_largest(layer.silent_at)
            rows.append(
                (layer.name, f"{layer.neurons:,}", f"{layer.mismatches:,}", f"{layer.largest:g}", f"{median}, {last}")
            )
        lines = [text_table(rows)]
        samples = len(self.silent_at)
        verdict = f"{'EXACT' if self.spikes_exact else 'NOT EXACT'} against the quantised ANN"
        if self.spikes_exact and not self.exact:
            verdict = "NOT EXACT: the quantised ANN that it equals is not your network"
        logits = "equal bit for bit" if self.logits_equal else f"differ by up to {self.max_logit_difference:.3g}"
        lines.append(f"{verdict}: {samples} samples, {self.T} steps, logits {logits}")
        if not self.spikes_exact:
            lines.append(f"predictions of {self.prediction_mismatches} of {samples} samples differ")
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
        lines.append(str(self.lowering))
        if not isinstance(self.numerics, AsTrained):
            lines.append(self.grid.sentence(f"the grid of {self.numerics}", samples))
        elif self.lowering.ties or not self.lowering.exact:
            what = "ties between two levels" if self.lowering.exact else "the fault"
            lines.append(self.grid.sentence(what, samples))
        lines.append(self.float32.sentence("float32 itself", samples))
        return "\n".join(lines)


def combine_reports(reports: Sequence[EquivalenceReport]) -> EquivalenceReport:
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
        _combined([report.lowering for report in reports], combine_lowering_reports),
        _combined([report.grid for report in reports], combine_differences),
        _combined([report.float32 for report in reports], combine_differences),
        reports[0].numerics,
    )


def _combined(parts: Sequence[PartT | None], combine: Callable[[Sequence[PartT]], PartT]) -> PartT | None:
    there = [part for part in parts if part is not None]
    return combine(there) if len(there) == len(parts) else None
