"""What is compared: a trained network, converted, and the data that it is compared on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from casc_core.numerics import Numerics
from casc_core.reporting.predictions import Measure
from casc_core.spiking_model import SpikingModel

Batches = Callable[[], Iterable[tuple[Any, ...]]]
"""Gives batches anew at each call: inputs, and labels if there are any."""


@dataclass(frozen=True)
class NetworkAndData:
    """A trained network, converted, and the data on which methods are compared.

    Attributes:
        snn: the conversion; `snn.ann` is what was converted.
        trained: the network as trained, where that is not `snn.ann` but has been calibrated to become it.
        batches: gives the test set anew at each call: tuples of inputs, and labels if there are any.
        calibration: likewise some training data, without labels; None: there is none.
        title, source: what the network, and the data, are.
        configuration: anything that tells how the network came about.
        calibration_said: what the calibration says of itself, if there was one.
        measures: what the outputs are (`casc_core.analyse`); None: labels decide.
    """

    snn: SpikingModel
    trained: nn.Module | None
    batches: Batches
    calibration: Batches | None
    title: str
    source: str
    configuration: Mapping[str, Any]
    calibration_said: str | None = None
    measures: Measure | Mapping[str, Measure] | None = None


@dataclass(frozen=True)
class Request:
    """What the command line says of the network and the data.

    Attributes:
        what: a recipe's output folder, or `module:function`.
        data: the folder of the recipe's data, if it is not where it was.
        adapter, q: of a network of the user's own.
        numerics: of the conversion; None: those of the recipe, or the weights as trained.
        limit: this many samples only.
        device: as torch names it, or "auto".
    """

    what: str
    data: str | None = None
    adapter: str | None = None
    q: int | None = None
    numerics: Numerics | None = None
    limit: int | None = None
    device: str = "auto"


def limited(batches: Batches, limit: int | None) -> Batches:
    """The first samples of some batches, taken once, so that each method sees the same; None: all of them."""
    if limit is None:
        return batches
    kept: list[tuple[Any, ...]] = []

    def of() -> Iterable[tuple[Any, ...]]:
        left = limit if not kept else 0
        for batch in batches() if left else ():
            samples = len(batch[0])
            kept.append(tuple(_first(part, left, samples) for part in batch))
            left -= samples
            if left <= 0:
                break
        return kept

    return of


def _first(part: Any, count: int, samples: int) -> Any:
    """The first samples of a part of a batch of so many; labels may be in a dict or a tuple, by output."""
    if isinstance(part, Mapping):
        return {name: _first(each, count, samples) for name, each in part.items()}
    if isinstance(part, tuple):
        return tuple(_first(each, count, samples) for each in part)
    return part[:count] if part is not None and len(part) == samples else part
