"""What operations of a traced forward make of parameters and buffers alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor, fx, nn

from casc_core.conversion.tracing.containers import plain
from casc_core.conversion.tracing.randomness import RANDOM, NothingRandom
from casc_core.engine.float64 import in_float64
from casc_core.errors import ConversionError


class Parameters:
    """Computes each operation once, as the model computes it.

    Args:
        is_float64: in float64. refuse: makes the error that an operation is refused, and why.
    """

    def __init__(self, model: nn.Module, is_float64: bool, refuse: Callable[[str], ConversionError]) -> None:
        self._model, self._is_float64, self._refuse = model, is_float64, refuse
        self._known: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Any:
        """What an operation gives that follows from no input.

        Raises:
            ConversionError: it is random.
        """
        if node not in self._known:
            self._known[node] = self._computed(node)
        return self._known[node]

    def _computed(self, node: fx.Node) -> Any:
        if node.op == "placeholder":  # of an argument that is not given
            return None
        if node.op == "get_attr":
            value: Any = self._model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value.detach() if isinstance(value, Tensor) else value
        args, kwargs = copy.deepcopy(  # it may be an operation in place
            tuple(plain(fx.node.map_arg(value, self.of)) for value in (node.args, node.kwargs))
        )
        wide = in_float64() if self._is_float64 else nullcontext()
        with wide, NothingRandom(lambda _: self._refuse(RANDOM)):
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            module = node.op == "call_module"
            function: Any = self._model.get_submodule(str(node.target)) if module else node.target
            return function(*args, **kwargs)
