"""Figures of the networks without time steps: the ANN as trained, calibrated if it had to be, and on the weights' grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import checked_batches, inputs_and_labels, labels_by_output, output_of
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann, reference_against_ann
from casc_core.evidence.ann_evaluation import readouts_of
from casc_core.evidence.differences import largest_difference
from casc_core.reporting.predictions import (
    Measure,
    Reading,
    any_of_sample,
    by_sample,
    error_name,
    measures_of,
    reading,
    with_batch,
)
from casc_lab.compare.network_and_data import NetworkAndData


@dataclass
class _Output:
    """One output of one of the networks, over the batches so far: how well it meets the labels, and how far it is from that
    of the network before.

    Attributes:
        measure: what it is; None: labels and shape decide.
        score: summed over rows. rows: how many. differing: those of which another class (or number) is predicted.
        labelled: whether all batches have labels. how: it is read.
    """

    measure: Measure | None
    score: float = 0.0
    rows: int = 0
    differing: int = 0
    largest: float = 0.0
    labelled: bool = True
    how: Reading = field(default_factory=lambda: Reading(None))

    def add(self, logits: Tensor, before: Tensor | None, labels: Any) -> Tensor | None:
        """Count a batch; `before` is what the network before gives for it. Gives the rows that differ from that."""
        how = self.how = reading(logits.shape, labels, self.measure)
        answers = how.classes(logits)
        self.rows, self.labelled = self.rows + len(logits), self.labelled and labels is not None
        if labels is not None:
            on_cpu = labels.cpu() if isinstance(labels, Tensor) else labels
            self.score += float(how.scored(answers, on_cpu, logits.shape).sum())
        if before is None:
            return None
        differs = any_of_sample(answers != how.classes(before))
        self.differing += int(differs.sum())
        self.largest = max(self.largest, largest_difference(logits, before))
        return differs

    @property
    def numbers(self) -> bool:
        """Whether it is numbers, and predicts nothing."""
        return self.how.numbers

    @property
    def accuracy(self) -> float | None:
        """Percent; None without labels, or where these are numbers."""
        return self.how.figure(self.score, self.rows) if self.labelled and not self.numbers else None

    @property
    def error(self) -> float | None:
        """The mean error against labels that are numbers; else None."""
        return self.how.figure(self.score, self.rows) if self.labelled and self.numbers else None

    @property
    def moved(self) -> int | None:
        """How many predictions moved, if it makes some."""
        return None if self.numbers else self.differing


@dataclass
class _Network:
    """One of the networks, over the batches so far.

    Attributes:
        outputs: by name. differing: samples of which the prediction of any output is another than the network's before.
    """

    outputs: dict[str, _Output]
    differing: int = 0

    def add(
        self,
        outputs: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None,
        labels: Mapping[str, Any],
        samples: int,
    ) -> None:
        """Count a batch of so many samples."""
        differing = []
        for name, logits in outputs.items():
            rows = self.outputs[name].add(logits, None if before is None else before[name], labels[name])
            if rows is not None and not self.outputs[name].numbers:
                differing.append(by_sample(rows, samples).any(1))
        if differing:
            self.differing += int(torch.stack(differing).any(0).sum())

    @property
    def whole(self) -> _Output:
        """All outputs as one: that of which there is only one, else how many samples have moved, and by how much."""
        if len(self.outputs) == 1:
            return next(iter(self.outputs.values()))
        how = Reading(None, numbers=all(output.numbers for output in self.outputs.values()))
        largest = max(output.largest for output in self.outputs.values())
        return _Output(None, differing=self.differing, largest=largest, labelled=False, how=how)


@torch.no_grad()
def ann_figures(compared: NetworkAndData, T: int) -> dict[str, Any]:
    """How well each network meets the labels, what lies between each and the next, and whether the lowering is at fault.

    Where labels are numbers, nothing is predicted: how many predictions moved is None. Of a network with several outputs
    the figures of each are under "outputs", by name.
    """
    snn = compared.snn
    first = next(iter(snn.programs.values())).returned
    takes, measures = len(snn.settings.arguments), measures_of(compared.measures, first.readouts)
    anns = [network for network in (compared.trained, snn.ann) if network is not None]
    networks = [_Network({name: _Output(measure) for name, measure in measures.items()}) for _ in (*anns, snn)]
    samples = 0
    beside_ann: list[AgainstANN] = []
    for batch in checked_batches(compared.batches(), "compare on"):
        inputs, given = inputs_and_labels(batch, takes, len(first.readouts))
        labels = labels_by_output(given, first, measures)
        steps = None if snn.settings.schedule.last_wake else T
        read = {name: _read_as(measure, labels[name]) for name, measure in measures.items()}
        reference, beside = reference_against_ann(snn, inputs, steps, read)
        if beside is not None:
            beside_ann.append(beside.after(samples))
        outputs = [*(readouts_of(first, output_of(ann, inputs)) for ann in anns), reference]
        count = snn.parts(inputs, {}, steps).samples
        before: dict[str, Tensor] | None = None
        for network, output in zip(networks, outputs, strict=True):
            logits = {name: with_batch(each.cpu(), count) for name, each in output.items()}
            network.add(logits, before, labels, count)
            before = logits
        samples += count
    figures = _figures([network.whole for network in networks], compared, snn.ann is not None)
    several = {} if first.is_single else {name: [network.outputs[name] for network in networks] for name in measures}
    return {
        **figures,
        "outputs": {name: _figures(outputs, compared, snn.ann is not None) for name, outputs in several.items()},
        "against_ann": _told(beside_ann),
    }


def _read_as(measure: Measure | None, labels: Any) -> Measure | None:
    """What an output is, given its labels."""
    is_numbers = isinstance(labels, Tensor) and labels.is_floating_point()
    return "numbers" if measure is None and is_numbers else measure


def _figures(networks: Sequence[_Output], compared: NetworkAndData, has_ann: bool) -> dict[str, Any]:
    """The figures of one output of all networks, or of all outputs as one."""
    ann = max(0, len(networks) - 2)  # the one before the last, if the network that was converted is at hand
    calibrated = None
    if compared.trained is not None and has_ann:
        calibrated = {
            "trained_accuracy": networks[0].accuracy,
            "trained_error": networks[0].error,
            "predictions_moved": networks[1].moved,
            "max_logit_difference": networks[1].largest,
        }
    return {
        "ann_accuracy": networks[ann].accuracy,
        "reference_accuracy": networks[-1].accuracy,
        "ann_error": networks[ann].error,
        "reference_error": networks[-1].error,
        "error_name": error_name(networks[-1].measure),
        "predicts": not networks[-1].numbers,
        "ann_predictions_moved": networks[-1].moved,
        "ann_max_logit_difference": networks[-1].largest,
        "calibrated": calibrated,
    }


def _told(parts: Sequence[AgainstANN]) -> dict[str, Any] | None:
    """What was found beside the network that was converted, if that is at hand."""
    if not parts:
        return None
    whole = combine_against_ann(parts)
    return {"exact": whole.exact, "said": str(whole).splitlines()}
