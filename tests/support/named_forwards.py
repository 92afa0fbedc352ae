"""Forwards that a test knows by name, each with its inputs and what its network holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

Forward = TypeVar("Forward", bound=Callable[..., Any])


class Forwards(dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], dict[str, Any]]]):
    """By name: the forward, its inputs, and the layers and tensors of the network that it becomes."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs

    def add(self, inputs: Tensor | tuple[Tensor, ...] | None = None, **held: Any) -> Callable[[Forward], Forward]:
        """Decorator: the forward joins under its own name, with the usual inputs unless others are given."""

        def register(forward: Forward) -> Forward:
            assert forward.__name__ not in self
            given = self.inputs if inputs is None else inputs
            self[forward.__name__] = forward, given if isinstance(given, tuple) else (given,), held
            return forward

        return register
