"""Random operations, which are refused: dropout that is active in evaluation, and whatever else draws random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from casc_core.errors import ConversionError

RANDOM = (
    "it is random, so no two runs would agree; draw the numbers outside and give them as an input, or use torch.zeros"
)

DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
    torch.dropout_: nn.Dropout,
    torch.feature_dropout: nn.Dropout2d,
    torch.feature_dropout_: nn.Dropout2d,
    torch.alpha_dropout: nn.AlphaDropout,
    torch.alpha_dropout_: nn.AlphaDropout,
    torch.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.feature_alpha_dropout_: nn.FeatureAlphaDropout,
}
"""The functions, and the module that follows train() and eval() in the place of each."""

_OFF_UNLESS_TOLD = (F.alpha_dropout, F.feature_alpha_dropout)


def rate(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The probability with which such a call drops entries; 0 where it is not training.

    >>> rate(F.dropout, ["x", 0.3], {}), rate(F.dropout, ["x"], {"training": False}), rate(F.alpha_dropout, ["x"], {})
    (0.3, 0.0, 0.0)
    """
    given = dict(zip(("input", "p", "training"), args, strict=False)) | dict(kwargs)
    training = given.get("train", given.get("training", function not in _OFF_UNLESS_TOLD))
    return given.get("p", 0.5) if training else 0.0


class NothingRandom(TorchFunctionMode):
    """A block in which a call of torch that draws random numbers raises `ConversionError`.

    Args:
        refusal: the error for a call that is random.

    >>> with NothingRandom(lambda what: ConversionError(f"{what} is random")):
    ...     torch.ones(2).bernoulli_(0.5)
    Traceback (most recent call last):
    casc_core.errors.ConversionError: bernoulli_() is random
    """

    def __init__(self, refusal: Callable[[str], ConversionError]) -> None:
        super().__init__()
        self._refusal = refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = _states()
        result = func(*args, **(kwargs or {}))
        if not all(map(torch.equal, before, _states())):
            raise self._refusal(f"{getattr(func, '__name__', func)}()")
        return result


def _states() -> list[torch.Tensor]:
    here = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if here else [])]


def other_generators() -> Any:
    """The states of Python's and NumPy's generators, to be compared."""
    name, key, *rest = np.random.get_state()
    return random.getstate(), name, np.asarray(key).tolist(), rest
