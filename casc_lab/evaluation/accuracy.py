"""A network over a test set, whose batches are shared among processes: its logits, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.reporting.predictions import reading
from casc_core.reporting.summaries import Summarised
from casc_lab.distributed import Share, gather, share


@dataclass(frozen=True, repr=False)
class Batch(Summarised):
    """Some samples of a test set.

    Attributes:
        inputs: what the network takes.
        labels: `[B]` the class of each, int64, on the CPU; or whatever the metric reads.
        index: `[B]` its position in the data set, int64, on the CPU.
    """

    inputs: tuple[Tensor, ...]
    labels: Any
    index: Tensor


Batches = Callable[[Share], Iterable[Batch]]
"""A test set: called with a process's share, it gives that share of its batches (`Share.of`), anew at each call."""


def logits_of(network: Callable[..., Tensor], batches: Batches) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and labels `[samples]` of a network over a test set, in the order of the data set.

    Raises:
        InputError: there are no samples, or the shares of the processes are not each sample once.
    """
    logits, labels, index = [], [], []
    with torch.no_grad():
        for batch in batches(share()):
            logits.append(network(*batch.inputs).detach().cpu())
            labels.append(batch.labels)
            index.append(batch.index)
    order = dataset_order(gather(index))
    return gather(logits)[order], gather(labels)[order]


def dataset_order(index: Tensor) -> Tensor:
    """What brings samples at positions `index` of the data set into its order."""
    if index.numel() == 0:
        raise InputError("there is nothing to evaluate: the test set is empty")
    order = torch.argsort(index)
    if not torch.equal(index[order], torch.arange(len(index))):
        raise InputError(f"the batches must hold each of the samples once; got {len(index)} with others or doubles")
    return order


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of samples (or of their places) whose predicted class is the label.

    Raises:
        InputError: labels that are no classes of the network, or of another shape than its outputs ask for.

    >>> accuracy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    50.0
    """
    how = reading(logits.shape, labels)
    if how.numbers:
        raise InputError("an evaluation counts classes, and these labels are numbers; use casc_core.analyse")
    return 100.0 * float(how.scored(how.classes(logits), labels, logits.shape).mean())
