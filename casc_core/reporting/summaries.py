"""Dataclasses of results as a line: the shapes of their tensors, not the numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

_NAMES, _ITEMS = 3, 4


class Summarised:
    """A dataclass, made with `repr=False`, that is printed with the types and shapes of its tensors.

    >>> import torch
    >>> @dataclasses.dataclass(repr=False)
    ... class Found(Summarised):
    ...     name: str
    ...     spikes: Tensor
    ...     by_layer: dict[str, Tensor]
    >>> Found("relu", torch.zeros(8, 128), {"0": torch.ones(2), "1": torch.ones(3)})
    Found(name='relu', spikes=float32[8, 128], by_layer={'0': float32[2], '1': float32[3]})
    """

    def __repr__(self) -> str:
        fields: Any = self
        shown = (f"{each.name}={summary(getattr(self, each.name))}" for each in dataclasses.fields(fields) if each.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


def summary(value: Any) -> str:
    """A value in a few words.

    >>> import torch
    >>> summary(torch.tensor(2.5)), summary([1] * 9), summary({name: 1 for name in "abcde"}), summary(nn.ReLU())
    ('2.5', '9 x int', "{'a': 1, 'b': 1, 'c': 1, ... of 5}", 'ReLU(...)')
    """
    if isinstance(value, Tensor):
        return (
            str(value.item()) if value.dim() == 0 else f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        )
    if isinstance(value, nn.Module) or dataclasses.is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, Mapping):
        shown = [f"{name!r}: {summary(each)}" for name, each in itertools.islice(value.items(), _NAMES)]
        return "{" + ", ".join([*shown, *([f"... of {len(value)}"] if len(value) > _NAMES else [])]) + "}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) > _ITEMS:
            return f"{len(value)} x {type(value[0]).__name__}"
        brackets = "()" if isinstance(value, tuple) else "[]"
        return brackets[0] + ", ".join(map(summary, value)) + brackets[1]
    return repr(value)
