"""Batches as users hand them over: a tensor, or a tuple of a network's inputs and perhaps more, such as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from casc_core.engine.structure import Returned
from casc_core.errors import CascError, InputError
from casc_core.reporting.predictions import Measure, labels_of


def inputs_and_labels(batch: Any, takes: int, readouts: int = 1) -> tuple[tuple[Any, ...], Any]:
    """The inputs of a network that takes this many, and what follows in the batch: its labels, or None.

    Of a network with several readouts, as many further parts are labels of one each.

    >>> inputs_and_labels(("tokens", "lengths", "labels"), 2), inputs_and_labels("images", 1)
    ((('tokens', 'lengths'), 'labels'), (('images',), None))
    """
    parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    further = parts[takes:]
    if readouts > 1 and len(further) == readouts:
        return parts[:takes], further
    return parts[:takes], further[0] if further else None


def labels_by_output(given: Any, returned: Returned, measures: Mapping[str, Measure | None]) -> dict[str, Any]:
    """The labels of each readout, None of those that have none.

    Args:
        given: of a single output, its labels; else by output, in the structure of the outputs, or in their order, None in
            the place of those that have none.
        returned: what the network returns.
        measures: of each readout; what a function reads may be anything of a length.

    Raises:
        InputError: they are no labels for these outputs.
    """
    names = returned.readouts
    if returned.is_single:
        found = {names[0]: given}
    elif given is None:
        found = {}
    elif isinstance(given, Mapping) and set(given) <= set(names):
        found = dict(given)
    elif isinstance(given, (tuple, list)) and len(given) == len(names):
        found = dict(zip(names, given, strict=True))
    else:
        try:
            found = returned.readouts_in(given)
        except ValueError as error:
            raise InputError(
                f"the network has the outputs {', '.join(map(repr, names))}: give labels by these names, in a dict, or in "
                f"their structure; got {error}"
            ) from error
    return {name: _labels(found.get(name), measures.get(name)) for name in names}


def _labels(given: Any, measure: Measure | None) -> Any:
    return given if callable(measure) and hasattr(given, "__len__") else labels_of(given)


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
