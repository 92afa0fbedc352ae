"""What the outputs of a network say: one meaning of "predicted" for every report, table and comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import ConfigError, InputError

ErrorOfSamples = Callable[[Tensor, Any], Tensor]
Measure = str | ErrorOfSamples
"""What an output is: "classes", of which a share is right; "numbers", which have a mean squared error; or numbers whose
error a function `(outputs, labels) -> [N]` gives for each sample."""
_KINDS = ("classes", "numbers")


@dataclass(frozen=True)
class Reading:
    """How outputs `[N, ...]` are read: `N` samples, each with one class, with classes at many places, or with numbers.

    Made by `reading`. Below, "classes" of numbers (a regression) are the numbers themselves.

    Attributes:
        dim: the dimension that counts classes; None: each number is one output of its own.
        numbers: the outputs are numbers to be met, not scores of classes.
        error: of numbers: of each sample `[N]`, given outputs and labels; None: the mean squared error.
    """

    dim: int | None
    numbers: bool = False
    error: ErrorOfSamples | None = None

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

    def scores(self, answers: Tensor, labels: Any) -> Tensor:
        """`[N]`, float64: how well answers `[N, ...]`, made by `classes`, meet labels that are `checked`.

        The share of a sample's classes that are right; of numbers, their error.

        Raises:
            InputError: the function that measures them does not give one number for each sample.
        """
        return self.scores_by_step(answers[None], labels)[0]

    def scores_by_step(self, answers: Tensor, labels: Any) -> Tensor:
        """`[T, N]`, float64: the scores after each step, of answers `[T, N, ...]`."""
        if self.error is not None:
            return torch.stack([_measured(self.error, each, labels) for each in answers])
        met: Tensor = (answers.double() - labels.double()).square() if self.numbers else (answers == labels).double()
        places = labels.dim() - 1
        return met.flatten(-places).mean(-1) if places else met

    def figure(self, total: float, samples: int) -> float:
        """What scores of so many samples, which add up to `total`, are in reports: percent; of numbers, their mean error.

        >>> Reading(1).figure(2.0, 3), Reading(None, numbers=True).figure(2.0, 3)
        (66.6667, 0.6666667)
        """
        return float(f"{total / samples:.7g}") if self.numbers else round(100.0 * total / samples, 4)

    def scored(self, answers: Tensor, labels: Any, shape: Sequence[int]) -> Tensor:
        """`[N]`, float64: how well answers of outputs of this shape meet labels.

        Raises:
            InputError: labels that are not for such outputs.
        """
        return self.scores(answers, self.checked(labels, shape))

    def checked(self, labels: Any, shape: Sequence[int]) -> Any:
        """Labels in the shape of the classes of outputs of this shape; for a function that measures, as they are.

        Raises:
            InputError: they have another shape, or one is no class of the network.
        """
        if self.error is not None:
            if len(labels) != shape[0]:
                raise InputError(f"labels of {len(labels)} samples for {shape[0]}")
            return labels
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
        if labels.is_floating_point():
            raise InputError(f"labels of classes are whole numbers; got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        classes = 2 if self.dim is None else shape[self.dim]
        if low < 0 or high >= classes:
            raise InputError(f"labels run from {low} to {high}, but the network has {classes} classes, from 0")
        return labels


def reading(shape: Sequence[int], labels: Any = None, measure: Measure | None = None) -> Reading:
    """How outputs of this shape are read; labels, or the measure, decide where the shape leaves it open.

    - `[N, C]`: one class for each sample. `[N]` and `[N, 1]`: one score for each, its class 1 above zero and 0 elsewhere,
      as a network trained with `binary_cross_entropy_with_logits` means it.
    - `[N, C, H, W]`, `[N, C, D, H, W]`: a class for each pixel. With `C = 1`, 1 above zero.
    - `[N, L, C]`: a class for each position of a sequence; `[N, C, L]`, as losses of torch take it, if the labels are
      `[N, L]`.
    - Floating-point labels, unless they are measured as classes: the outputs are numbers, and have no classes.

    >>> [reading(shape).dim for shape in ([8, 10], [8, 1], [8, 5, 4, 4])]
    [1, None, 1]
    >>> reading([8, 10], torch.rand(8, 10)).numbers
    True
    """
    if callable(measure):
        return Reading(None, numbers=True, error=measure)
    if measure == "numbers" or (measure is None and labels is not None and labels.dtype.is_floating_point):
        return Reading(None, numbers=True)
    if len(shape) < 2:
        return Reading(None)
    dim = 2 if len(shape) == 3 else 1
    if len(shape) == 3 and labels is not None and list(labels.shape) == [shape[0], shape[2]] != [shape[0], shape[1]]:
        dim = 1
    return Reading(None if shape[dim] == 1 else dim)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [*shape[:1], *(size for size in shape[1:] if size != 1)]


def measures_of(given: Measure | Mapping[str, Measure] | None, outputs: Sequence[str]) -> dict[str, Measure | None]:
    """The measure of each output, None where labels and shapes decide.

    Args:
        given: one for all outputs, or some by output.
        outputs: what they are called.

    Raises:
        ConfigError: there is no such output, or no such measure.

    >>> measures_of({"boxes": "numbers"}, ["boxes", "classes"])
    {'boxes': 'numbers', 'classes': None}
    """
    by_output = given if isinstance(given, Mapping) else dict.fromkeys(outputs, given)
    for name, measure in by_output.items():
        if name not in outputs:
            raise ConfigError(f"no output is called {name!r}; there are: {', '.join(map(repr, outputs))}")
        if measure is not None and measure not in _KINDS and not callable(measure):
            raise ConfigError(
                f"an output is measured as 'classes', as 'numbers', or by a function of outputs and labels; got {measure!r}"
            )
    return {name: by_output.get(name) for name in outputs}


def error_name(measure: Measure | None) -> str:
    """What the error of an output of numbers is called.

    >>> error_name("numbers"), error_name(max)
    ('mean squared error', 'max')
    """
    return getattr(measure, "__name__", type(measure).__name__) if callable(measure) else "mean squared error"


def _measured(error: ErrorOfSamples, outputs: Tensor, labels: Any) -> Tensor:
    """`[N]` float64: the errors that a function of the user's gives."""
    found = error(outputs, labels)
    if not isinstance(found, Tensor) or found.shape != outputs.shape[:1]:
        said = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"{error_name(error)} must give one error for each sample, a tensor of shape "
            f"{list(outputs.shape[:1])}; it gives {said}"
        )
    return found.detach().cpu().double()


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


def differing(a: Tensor, b: Tensor, measure: Measure | None = None) -> Tensor:
    """`[N]`: whether any class (or number) of each sample differs between two outputs of one shape.

    >>> differing(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor([False,  True])
    """
    how = reading(a.shape, measure=measure)
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


def by_sample(rows: Tensor, samples: int) -> Tensor:
    """`[samples, ...]` of `[N]`: the rows of each sample, which follow one another; all rows, where that cannot be.

    >>> by_sample(torch.tensor([False, False, True, False]), samples=2).any(1)
    tensor([False,  True])
    """
    return rows.reshape(samples, -1) if len(rows) % samples == 0 else rows.expand(samples, len(rows))
