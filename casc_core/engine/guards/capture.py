"""Refusing to be recorded or transformed: a run of a spiking network that torch captured could not be replayed.

How many steps a run takes, and which of its products it computes, depends on its input; a recording of one run would give
wrong answers for the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx

from casc_core.errors import ConfigError

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def uncaptured(method: MethodT) -> MethodT:
    """Decorator of a method that takes a model's inputs: a call that would be recorded, transformed or differentiated is
    refused, and inside what `torch.compile` compiles it runs as it does without.

    Raises:
        ConfigError: of the method, where it is refused.
    """

    @wraps(method)
    def run(self: Any, *inputs: Any, **named: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(run)(self, *inputs, **named)
        whole = [inputs, named]  # torch.fx hands over a stand-in for all of them
        values = whole if any(map(_stand_in, whole)) else [*inputs, *named.values()]
        by = next(filter(None, [_recorder(), *map(_stand_in, values)]), None)
        if by is not None:
            raise captured(by)
        return method(self, *inputs, **named)

    return cast(MethodT, run)


def captured(by: str) -> ConfigError:
    """The error for a run that `by` would record or transform."""
    return ConfigError(
        f"{by} cannot take a spiking network: what it runs depends on its input. Call the network itself; to keep it, use "
        "snn.save(folder); for gradients, use the prepared network (snn.ann)"
    )


def _recorder() -> str | None:
    """What is recording this thread, if anything is."""
    if torch._C._get_tracing_state() is not None:  # as torch.jit.is_tracing()
        return "torch.jit.trace"
    if torch.compiler.is_compiling():
        return "torch.export"
    proxies: Any = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return "torch.fx.experimental.proxy_tensor.make_fx" if proxies and proxies.get_proxy_mode() else None


def _stand_in(value: Any) -> str | None:
    """What made `value`, if it is no tensor with numbers of its own."""
    if isinstance(value, fx.Proxy):
        return "torch.fx"
    if not isinstance(value, Tensor):
        return None
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return "torch.func (vmap, grad, jvp)"
    if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"what makes a {type(value).__name__}"
    return None
