"""Figures of the networks without time steps: the ANN as trained, calibrated if it had to be, and on the weights' grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.batches import checked_batches, inputs_and_labels, output_of
from casc_core.evidence.against_ann import AgainstANN, combine_against_ann, reference_against_ann
from casc_core.evidence.differences import largest_difference
from casc_core.reporting.predictions import any_of_sample, labels_of, reading, with_batch
from casc_lab.compare.network_and_data import NetworkAndData


@dataclass
class _Network:
    """One of the networks, over the batches so far: how well it meets the labels, and how far it is from the one before.

    Attributes:
        score: summed over samples. differing: samples whose predictions differ.
    """

    score: float = 0.0
    differing: int = 0
    largest: float = 0.0

    def add(self, logits: Tensor, before: Tensor | None, labels: Tensor | None) -> None:
        """Count a batch; `before` is what the network before gives for it."""
        how = reading(logits.shape, labels)
        answers = how.classes(logits)
        if labels is not None:
            self.score += float(how.scores(answers, how.checked(labels.cpu(), logits.shape)).sum())
        if before is not None:
            self.differing += int(any_of_sample(answers != how.classes(before)).sum())
            self.largest = max(self.largest, largest_difference(logits, before))


@torch.no_grad()
def ann_figures(compared: NetworkAndData, T: int) -> dict[str, Any]:
    """How well each network meets the labels, what lies between each and the next, and whether the lowering is at fault.

    Where labels are numbers, nothing is predicted: how many predictions moved is None.
    """
    snn = compared.snn
    takes = len(snn.settings.arguments)
    anns = [network for network in (compared.trained, snn.ann) if network is not None]
    networks = [_Network() for _ in (*anns, snn)]
    samples, labelled, numbers = 0, True, False
    beside_ann: list[AgainstANN] = []
    for batch in checked_batches(compared.batches(), "compare on"):
        inputs, given = inputs_and_labels(batch, takes)
        labels = labels_of(given)
        labelled = labelled and labels is not None
        numbers = labels is not None and labels.is_floating_point()
        steps = None if snn.settings.schedule.last_wake else T
        reference, beside = reference_against_ann(snn, inputs, steps)
        if beside is not None:
            beside_ann.append((beside.without_predictions() if numbers else beside).after(samples))
        outputs = [*(output_of(ann, inputs) for ann in anns), reference]
        count = snn.parts(inputs, {}, steps).samples
        before: Tensor | None = None
        for network, output in zip(networks, outputs, strict=True):
            logits = with_batch(output.cpu(), count)
            network.add(logits, before, labels)
            before = logits
        samples += count
    accuracies: list[float | None] = [None] * len(networks)
    errors: list[float | None] = [None] * len(networks)
    if labelled and numbers:
        errors = [float(f"{network.score / samples:.7g}") for network in networks]
    elif labelled:
        accuracies = [round(100.0 * network.score / samples, 4) for network in networks]
    moved = [None if numbers else network.differing for network in networks]
    ann = max(0, len(networks) - 2)  # the one before the last, if the network that was converted is at hand
    calibrated = None
    if compared.trained is not None and snn.ann is not None:
        calibrated = {
            "trained_accuracy": accuracies[0],
            "trained_error": errors[0],
            "predictions_moved": moved[1],
            "max_logit_difference": networks[1].largest,
        }
    return {
        "ann_accuracy": accuracies[ann],
        "reference_accuracy": accuracies[-1],
        "ann_error": errors[ann],
        "reference_error": errors[-1],
        "ann_predictions_moved": moved[-1],
        "ann_max_logit_difference": networks[-1].largest,
        "calibrated": calibrated,
        "against_ann": _told(beside_ann),
    }


def _told(parts: Sequence[AgainstANN]) -> dict[str, Any] | None:
    """What was found beside the network that was converted, if that is at hand."""
    if not parts:
        return None
    whole = combine_against_ann(parts)
    return {"exact": whole.exact, "said": str(whole).splitlines()}
