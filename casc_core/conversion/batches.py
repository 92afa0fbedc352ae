"""Batches as users hand them over: a tensor, or a tuple of a network's inputs and perhaps more, such as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from casc_core.errors import CascError, InputError


def inputs_and_labels(batch: Any, takes: int) -> tuple[tuple[Any, ...], Any]:
    """The inputs of a network that takes this many, and what follows in the batch: its labels, or None.

    >>> inputs_and_labels(("tokens", "lengths", "labels"), 2), inputs_and_labels("images", 1)
    ((('tokens', 'lengths'), 'labels'), (('images',), None))
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return parts[:takes], parts[takes] if len(parts) > takes else None


def checked_batches(batches: Iterable[Any], what: str) -> Iterator[Any]:
    """The batches, one by one.

    Args:
        what: they are for, in the error.

    Raises:
        InputError: they are a tensor, or nothing that can be gone through, or there are none.
    """
    if isinstance(batches, Tensor):
        raise InputError("batches must be a list of batches; got a tensor: put it into a list")
    try:
        iterator = iter(batches)
    except TypeError as error:
        raise InputError(f"batches must be a list of batches; got {type(batches).__name__}") from error
    found = False
    for batch in iterator:
        found = True
        yield batch
    if not found:
        raise InputError(f"there is no batch to {what}")


def output_of(network: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """`network(*inputs)`, for a network of the user's own.

    Raises:
        InputError: it does not take them.
    """
    try:
        return network(*inputs)
    except CascError:
        raise
    except Exception as error:  # whatever the user's forward raises
        kinds = [
            f"{each.dtype} {list(each.shape)}" if isinstance(each, Tensor) else type(each).__name__ for each in inputs
        ]
        raise InputError(
            f"the network does not take a batch of {', '.join(kinds) or 'nothing'}: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
