"""A small problem to train on: points of three clouds in the plane, told apart by a network with batch norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_lab.distributed import Share
from casc_lab.training.task import Epoch, Part, Validation

POINTS = 50


def network(seed: int = 0, dropout: float = 0.0, batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    norm = [nn.BatchNorm1d(8)] if batch_norm else []
    return nn.Sequential(nn.Linear(2, 8), *norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def weights(model: nn.Module) -> list[list[float]]:
    return [value.double().flatten().tolist() for value in model.state_dict().values()]


class Blobs:
    """Batches of 7 and a last one of 1, fewer than two processes need."""

    remedy = "lower lr"
    seed = 5

    def __init__(
        self, epochs: int = 3, stop_at: int | None = None, optimiser: str = "sgd", validates: bool = True
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(POINTS) % 3
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        self.points = centres[self.labels] + torch.randn(POINTS, 2, generator=generator)
        self.epochs, self.stop_at, self.kind, self.validates = epochs, stop_at, optimiser, validates
        self.owner = f"blobs {epochs} {optimiser}"
        self.steps_done = 0

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.kind == "sgd":
            return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        if self.steps_done == self.stop_at:
            raise InterruptedError
        self.steps_done += 1
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[tuple[Tensor, Tensor]]:
        batches = torch.randperm(POINTS, generator=torch.Generator().manual_seed(number)).split(7)

        def parts() -> Iterator[Part[tuple[Tensor, Tensor]]]:
            for batch in batches[start:]:
                index, samples = share.of_batch(batch)
                yield Part((self.points[index], self.labels[index]), samples)

        return Epoch(len(batches), parts())

    def loss(self, network: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits = network(batch[0])
        return F.cross_entropy(logits.float(), batch[1]), (logits.argmax(1) == batch[1]).sum()

    def validate(self, model: nn.Module) -> Validation | None:
        if not self.validates:
            return None
        model.eval()
        with torch.no_grad():
            right = (model(self.points).argmax(1) == self.labels).double().mean()
        return Validation(100 * float(right), 0.0)
