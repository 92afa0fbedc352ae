"""What every operation of a lowered network is."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn


class Op(nn.Module):
    """One operation: called as `op(run, *values)`.

    Subclasses take their settings and tensors as keyword arguments of `__init__` and hand both to `super().__init__`;
    `kinds` finds a class by the name it is saved under.
    """

    kinds: ClassVar[dict[str, type[Op]]] = {}
    is_layer: ClassVar[bool] = False
    """Whether it is a population of neurons."""
    takes_fills: ClassVar[bool] = False
    """Whether it may read a signal of which some entries stand for minus infinity: a maximum, or what moves entries."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Op.kinds[cls.__name__] = cls

    def __init__(self, settings: dict[str, Any] | None = None, tensors: dict[str, Tensor | None] | None = None) -> None:
        super().__init__()
        self.settings = settings or {}
        known: set[int] = set()
        for name, tensor in (tensors or {}).items():
            # One tensor under two names would be saved, and listed, once.
            self.register_buffer(name, tensor.clone() if tensor is not None and id(tensor) in known else tensor)
            known.add(id(tensor))

    @staticmethod
    def tensor_names(kind: str) -> list[str]:
        """Names of the tensors that operations of this kind take."""
        parameters = inspect.signature(Op.kinds[kind].__init__).parameters.values()
        return [parameter.name for parameter in parameters if "Tensor" in str(parameter.annotation)]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}
