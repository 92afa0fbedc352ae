"""What a training trains, on what and how: all in which one kind of data differs from another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from casc_lab.distributed import Share

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Part(Generic[BatchT]):
    """A process's part of a batch: the samples themselves, and how many of them count.

    None count where a batch has fewer samples than there are processes: some must then go through the network all the
    same, for the processes to stay in step.
    """

    batch: BatchT
    samples: int


@dataclass(frozen=True)
class Epoch(Generic[BatchT]):
    """The batches of an epoch: how many there are, and a process's parts of those still to come."""

    steps: int
    parts: Iterable[Part[BatchT]]


class Validation(NamedTuple):
    """Accuracy in percent, and mean loss."""

    accuracy: float
    loss: float


class Task(Protocol[BatchT]):
    """What is trained, on what and how."""

    @property
    def epochs(self) -> int:
        """How many."""
        ...

    @property
    def seed(self) -> int:
        """Of every random number drawn while training."""
        ...

    @property
    def owner(self) -> str:
        """Fingerprint of options, sizes and data: a checkpoint of another training is refused by it."""
        ...

    @property
    def remedy(self) -> str:
        """What to do against a loss that is no longer a number."""
        ...

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new optimiser of the model's parameters."""
        ...

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        """With the gradients of step `step` of `steps` at hand: set the learning rate, clip."""
        ...

    def epoch(self, number: int, start: int, share: Share) -> Epoch[BatchT]:
        """Epoch `number`, from its batch `start` on: the same batches each time, whatever the number of processes."""
        ...

    def loss(self, network: Callable[..., Any], batch: BatchT) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and how many of its samples the network gets right: two numbers on the device."""
        ...

    def validate(self, model: nn.Module) -> Validation | None:
        """Accuracy and loss on what is set aside; None if nothing is. Called in every process."""
        ...
