"""What every training of a classifier has, whatever it classifies: its loss, its learning rate, its validation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.reporting.predictions import reading
from casc_lab.evaluation.accuracy import accuracy
from casc_lab.training.task import Validation


def loss_and_correct(logits: Tensor, labels: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of a batch, in float32 at least, and how many of its samples are right.

    Args:
        logits: `[B, classes]`, in whatever precision the network computes.
        labels: `[B]` int64, on the same device.
        label_smoothing: share of the target that is spread over all classes.

    >>> loss, correct = loss_and_correct(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]), 0.0)
    >>> round(float(loss), 3), int(correct)
    (4.5, 1)
    """
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    return loss, (reading(logits.shape).classes(logits) == labels).sum()


def validation(logits: Tensor, labels: Tensor) -> Validation:
    """Accuracy and mean loss of answers to samples that were set aside, `[N, classes]` and `[N]`.

    >>> validation(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])).accuracy
    100.0
    """
    return Validation(accuracy(logits, labels), F.cross_entropy(logits.double(), labels).item())


def set_learning_rate(optimiser: torch.optim.Optimizer, largest: float, share: float) -> None:
    """Give each group of parameters its `factor` (1 if it has none) of this share of the largest learning rate.

    >>> optimiser = torch.optim.SGD([{"params": [torch.ones(1)], "factor": 0.5}], lr=1.0)
    >>> set_learning_rate(optimiser, 0.5, 0.5)
    >>> optimiser.param_groups[0]["lr"]
    0.125
    """
    for group in optimiser.param_groups:
        group["lr"] = largest * group.get("factor", 1.0) * share


def learning_rate_share(step: int, steps: int, warm_up: float, shape: str) -> float:
    """The learning rate at `step` of `steps`, as a share of the largest: it rises linearly, then falls to 0.

    Args:
        warm_up: share of the steps in which it rises.
        shape: how it falls: "linear" or "cosine".

    >>> [round(learning_rate_share(step, 10, 0.2, "cosine"), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    warm = max(1, round(warm_up * steps))
    falling = (steps - step) / max(1, steps - warm)
    if shape == "cosine":
        falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, falling))
    return min((step + 1) / warm, falling)


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """The shape of every parameter and buffer, by name: of another network, no state of a training is taken.

    >>> shapes(nn.Linear(2, 3))
    {'weight': [3, 2], 'bias': [3]}
    """
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def remedy(lr: float, clip: float) -> str:
    """What to do against a loss that is no longer a number."""
    return f"lower lr (now {lr:g}) or clip (now {clip:g}), or check the initial weights"
