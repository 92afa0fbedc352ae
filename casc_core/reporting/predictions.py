"""What the outputs of a network say: one meaning of "predicted" for every report, table and comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import InputError


@dataclass(frozen=True)
class Reading:
    """How outputs `[N, ...]` are read: `N` samples, each with one class, with classes at many places, or with numbers.

    Made by `reading`. Below, "classes" of numbers (a regression) are the numbers themselves.

    Attributes:
        dim: the dimension that counts classes; None: each number is one output of its own.
        numbers: the outputs are numbers to be met, not scores of classes.
    """

    dim: int | None
    numbers: bool = False

    def classes(self, logits: Tensor) -> Tensor:
        """`[N, ...]`: the class of each sample, or of each of its places.

        The largest score; where there is one score alone, 1 if it is above zero, else 0.
        """
        if self.numbers:
            return logits
        return (logits > 0).long() if self.dim is None else logits.argmax(self.dim)

    def classes_by_step(self, readouts: Tensor) -> Tensor:
        """`[T, N, ...]`: the classes after each step, from readouts `[T, N, ...]`."""
        classes: Tensor = self.classes(readouts.flatten(0, 1)).unflatten(0, readouts.shape[:2])
        return classes

    def scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        """`[..., N]`, float64: how well answers `[..., N, ...]`, made by `classes`, meet labels that are `checked`.

        The share of a sample's classes that are right; of numbers, the mean squared error.
        """
        met = (answers.double() - labels.double()).square() if self.numbers else (answers == labels).double()
        places = labels.dim() - 1
        return met.flatten(-places).mean(-1) if places else met

    def checked(self, labels: Tensor, shape: Sequence[int]) -> Tensor:
        """Labels in the shape of the classes of outputs of this shape.

        Raises:
            InputError: they have another shape, or one is no class of the network.
        """
        wanted = [size for dim, size in enumerate(shape) if dim != self.dim]
        what = "number for each output" if self.numbers else "class for each sample or place"
        if self.dim is None and _without_ones(labels.shape) == _without_ones(wanted):
            labels = labels.reshape(wanted)  # `[N]` and `[N, 1]` are the same numbers
        if list(labels.shape) != wanted:
            raise InputError(
                f"labels of shape {list(labels.shape)} for {shape[0]} samples, whose outputs have shape {list(shape)}: "
                f"give one {what}, {wanted}"
            )
        if self.numbers or not labels.numel():
            return labels
        low, high = int(labels.min()), int(labels.max())
        classes = 2 if self.dim is None else shape[self.dim]
        if low < 0 or high >= classes:
            raise InputError(f"labels run from {low} to {high}, but the network has {classes} classes, from 0")
        return labels


def reading(shape: Sequence[int], labels: Tensor | None = None) -> Reading:
    """How outputs of this shape are read; labels decide where the shape leaves it open.

    - `[N, C]`: one class for each sample. `[N]` and `[N, 1]`: one score for each, its class 1 above zero and 0 elsewhere,
      as a network trained with `binary_cross_entropy_with_logits` means it.
    - `[N, C, H, W]`, `[N, C, D, H, W]`: a class for each pixel. With `C = 1`, 1 above zero.
    - `[N, L, C]`: a class for each position of a sequence; `[N, C, L]`, as losses of torch take it, if the labels are
      `[N, L]`.
    - Floating-point labels: the outputs are numbers, and have no classes.

    >>> reading([8, 10]), reading([8, 1]), reading([8, 5, 4, 4])
    (Reading(dim=1, numbers=False), Reading(dim=None, numbers=False), Reading(dim=1, numbers=False))
    >>> reading([8, 10], torch.rand(8, 10)).numbers
    True
    """
    if labels is not None and labels.dtype.is_floating_point:
        return Reading(None, numbers=True)
    if len(shape) < 2:
        return Reading(None)
    dim = 2 if len(shape) == 3 else 1
    if len(shape) == 3 and labels is not None and list(labels.shape) == [shape[0], shape[2]] != [shape[0], shape[1]]:
        dim = 1
    return Reading(None if shape[dim] == 1 else dim)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [*shape[:1], *(size for size in shape[1:] if size != 1)]


def labels_of(given: Any) -> Tensor | None:
    """Labels as a tensor, None if there are none.

    Raises:
        InputError: they are no numbers, or one number for a whole batch.
    """
    if given is None:
        return None
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be a tensor, or numbers; got {type(given).__name__}: {error}") from error
    if labels.layout != torch.strided or labels.is_meta or labels.is_quantized or labels.is_nested:
        raise InputError(f"labels must be a dense tensor that holds numbers; got {labels.layout} on {labels.device}")
    if labels.dim() == 0 or labels.is_complex():
        raise InputError(
            f"labels must be real numbers, at least one for each sample; got {labels.dtype} of shape {list(labels.shape)}"
        )
    return labels


def differing(a: Tensor, b: Tensor) -> Tensor:
    """`[N]`: whether any class of each sample differs between two outputs of one shape.

    >>> differing(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor([False,  True])
    """
    how = reading(a.shape)
    return any_of_sample(how.classes(a) != how.classes(b))


def with_batch(outputs: Tensor, samples: int) -> Tensor:
    """Outputs `[N, ...]`; those of one sample that was given without a batch, `[C]`, as `[1, C]`.

    >>> with_batch(torch.zeros(3), samples=1).shape, with_batch(torch.zeros(3), samples=3).shape
    (torch.Size([1, 3]), torch.Size([3]))
    """
    return outputs[None] if samples == 1 and outputs.dim() == 1 and len(outputs) > 1 else outputs


def any_of_sample(differs: Tensor) -> Tensor:
    """`[N]` from `[N, ...]`: whether anything of each sample does."""
    return differs if differs.dim() == 1 else differs.flatten(1).any(1)
