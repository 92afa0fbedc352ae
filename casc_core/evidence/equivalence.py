"""What `verify` finds: the report on a spiking network beside its reference, and beside the network that was converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann
from casc_core.evidence.differences import Differences, by_output
from casc_core.evidence.lowering_report import LoweringReport
from casc_core.reporting.series import median_and_largest
from casc_core.reporting.summaries import Summarised
from casc_core.reporting.tables import text_table


@dataclass(frozen=True, repr=False)
class LayerEquivalence(Summarised):
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


@dataclass(frozen=True, repr=False)
class OutputEquivalence(Summarised):
    """One output against the reference's.

    Attributes:
        name: what it is called: where it stands in what the forward returns.
        equal: whether it is the same bits.
        max_difference: the largest difference of two of its numbers.
        prediction_mismatches: samples whose predicted class differs from the reference's; None: it predicts nothing.
    """

    name: str
    equal: bool
    max_difference: float
    prediction_mismatches: int | None


@dataclass(frozen=True, repr=False)
class EquivalenceReport(Summarised):
    """What `verify` found; prints as a table.

    Attributes:
        layers: by name, in the order of the network.
        logits_equal: whether the logits, of all outputs, are the same bits.
        max_logit_difference: the largest difference of two logits.
        prediction_mismatches: samples of which a predicted class differs from the reference's.
        silent_at: `[batch]`, steps to silence of each sample.
        T: steps simulated.
        promised: whether exactness is promised for this neuron, schedule and arithmetic.
        note: why it is not, if it is not.
        against_ann: the reference beside the network that was converted; None if that is not at hand.
        outputs: by name, the readouts.
    """

    layers: dict[str, LayerEquivalence]
    logits_equal: bool
    max_logit_difference: float
    prediction_mismatches: int
    silent_at: Tensor
    T: int
    promised: bool
    note: str
    against_ann: AgainstANN | None
    outputs: dict[str, OutputEquivalence] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Every count of every neuron and every logit equal to the reference's, and no fault in the lowering."""
        return self.spikes_exact and (self.against_ann is None or self.against_ann.exact)

    @property
    def spikes_exact(self) -> bool:
        """Every count of every neuron and every logit equal to the reference's."""
        return self.logits_equal and all(layer.exact for layer in self.layers.values())

    @property
    def lowering(self) -> LoweringReport | None:
        """The reference beside the network, in float64: whatever differs there, and is no tie, is a fault."""
        return None if self.against_ann is None else self.against_ann.lowering

    @property
    def grid(self) -> Differences | None:
        """What a coarse grid moved; of the network as trained, what the ties did."""
        return None if self.against_ann is None else self.against_ann.grid

    @property
    def float32(self) -> Differences | None:
        """What the network's own types move, from its evaluation in float64 to that in them."""
        return None if self.against_ann is None else self.against_ann.float32

    @property
    def ann_predictions_moved(self) -> int | None:
        """Samples whose class differs between the reference and the ANN as trained, in its own types.

        None if the ANN is not at hand, or computes with another number of levels.
        """
        return None if self._own is None else self._own.predictions

    @property
    def ann_max_logit_difference(self) -> float | None:
        """Likewise, the largest difference of two logits."""
        return None if self._own is None else self._own.max_logit_difference

    @property
    def _own(self) -> Differences | None:
        return None if self.against_ann is None else self.against_ann.own

    def after(self, samples: int) -> EquivalenceReport:
        """The report on a part of a batch, as one that comes behind this many samples."""
        layers = {
            name: replace(layer, first=None if layer.first is None else (layer.first[0] + samples, *layer.first[1:]))
            for name, layer in self.layers.items()
        }
        beside = None if self.against_ann is None else self.against_ann.after(samples)
        return replace(self, layers=layers, against_ann=beside)

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
        lines.append(f"{verdict}: {samples} samples, {self.T} steps, {self._of_logits()}")
        if not self.spikes_exact and any(each.prediction_mismatches is not None for each in self.outputs.values()):
            several = self.outputs if len(self.outputs) > 1 else {}
            of_outputs = by_output({name: output.prediction_mismatches or 0 for name, output in several.items()})
            lines.append(f"predictions of {self.prediction_mismatches} of {samples} samples differ{of_outputs}")
        first = self.first_divergence
        if first is not None:
            lines.append(f"first divergence: layer {first.name!r}, neuron {first.first}")
        idle = [name for name, layer in self.layers.items() if len(layer.silent_at) and not layer.silent_at.any()]
        if idle:
            lines.append(f"no neuron of {', '.join(idle)} spikes for these inputs: in them, nothing else was compared")
        if self.note:
            lines.append(self.note)
        if self.against_ann is None:
            lines.append(
                "lowering: not compared, since the network that was converted is not at hand (load(..., model=...))"
            )
        else:
            lines.append(str(self.against_ann))
        return "\n".join(lines)

    def _of_logits(self) -> str:
        equal = "equal bit for bit" if self.logits_equal else f"differ by up to {self.max_logit_difference:.3g}"
        if len(self.outputs) < 2:
            return f"logits {equal}"
        apart = [repr(name) for name, output in self.outputs.items() if not output.equal]
        return f"outputs {', '.join(apart)} {equal}" if apart else f"all {len(self.outputs)} outputs {equal}"


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
    outputs = {}
    for name in dict.fromkeys(name for report in reports for name in report.outputs):
        each = [report.outputs[name] for report in reports if name in report.outputs]
        counts = [output.prediction_mismatches for output in each if output.prediction_mismatches is not None]
        outputs[name] = OutputEquivalence(
            name,
            all(output.equal for output in each),
            max(output.max_difference for output in each),
            sum(counts) if counts else None,
        )
    beside = [report.against_ann for report in reports if report.against_ann is not None]
    return EquivalenceReport(
        layers,
        all(report.logits_equal for report in reports),
        max(report.max_logit_difference for report in reports),
        sum(report.prediction_mismatches for report in reports),
        torch.cat([report.silent_at for report in reports]),
        max(report.T for report in reports),
        all(report.promised for report in reports),
        reports[0].note,
        combine_against_ann(beside) if len(beside) == len(reports) else None,
        outputs,
    )
