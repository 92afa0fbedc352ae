"""A readout after each step against the reference and the labels: what is predicted, and how well that meets both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from casc_core.reporting.predictions import Measure, any_of_sample, reading
from casc_core.reporting.series import first_equal_step


@dataclass(frozen=True)
class ReadoutOverTime:
    """A batch's readout after each of its steps, on the CPU.

    Attributes:
        logits: `[N, ...]`, the last readout.
        squared_error: `[T]` float64, of the readout against the reference, mean over a row's outputs, summed over rows.
        differing: `[T, N]`, whether a predicted class (or number) is not the reference's.
        scores: `[T]` float64, summed over samples: the share of classes that are right, or the error against labels that
            are numbers; None without labels.
        numbers: the outputs are numbers, and predict nothing.
        exact_at: `[N]` int64, the first step from which on the logits are the reference's, bit for bit; 0: never.
    """

    logits: Tensor
    squared_error: Tensor
    differing: Tensor
    scores: Tensor | None
    numbers: bool
    exact_at: Tensor

    @property
    def mismatches(self) -> Tensor:
        """`[T]` int64, samples of which a predicted class (or number) is not the reference's."""
        return self.differing.sum(1)


def readout_over_time(
    readouts: Tensor, reference: Tensor, labels: Any = None, measure: Measure | None = None
) -> ReadoutOverTime:
    """Readouts `[T, N, ...]` against the reference's logits `[N, ...]` and labels.

    Args:
        measure: what the outputs are; None: labels and shape decide.

    Raises:
        InputError: labels that are no classes of the network, or of another shape than its outputs ask for.

    >>> import torch
    >>> readouts = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]]])
    >>> found = readout_over_time(readouts, torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    >>> found.mismatches.tolist(), found.scores.tolist(), found.squared_error.tolist(), found.exact_at.tolist()
    ([1, 0], [0.0, 1.0], [2.0, 0.0], [2])
    """
    readouts, reference = readouts.cpu(), reference.cpu()
    off = (readouts.double() - reference.double()).square()
    how = reading(reference.shape, labels, measure)
    classes = how.classes_by_step(readouts)
    differs = any_of_sample((classes != how.classes(reference)).flatten(0, 1)).unflatten(0, readouts.shape[:2])
    scores = None
    if labels is not None:
        on_cpu = labels.cpu() if isinstance(labels, Tensor) else labels
        scores = how.scores_by_step(classes, how.checked(on_cpu, reference.shape)).sum(1)
    return ReadoutOverTime(
        logits=readouts[-1],
        squared_error=off.flatten(1).sum(1) / off[0, 0].numel(),
        differing=differs,
        scores=scores,
        numbers=how.numbers,
        exact_at=first_equal_step(readouts, reference),
    )
