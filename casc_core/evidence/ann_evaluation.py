"""The ANN that was converted, evaluated by its own modules and forward, and the levels of its populations meanwhile."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.activation import Observable, Quantised
from casc_core.engine.float64 import already_in_float64, in_float64, widened
from casc_core.engine.program import Program
from casc_core.engine.structure import Returned
from casc_core.errors import CascError, ExactnessError

Observer = Callable[[str, tuple[str, ...], Quantised[Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class LogitsAndLevels:
    """A network's answer, by output, and the levels of its populations, by layer, int16."""

    logits: dict[str, Tensor]
    levels: dict[str, Tensor]


def readouts_of(returned: Returned, value: Any) -> dict[str, Tensor]:
    """By output, what neurons compute of what the network that was converted returns.

    Args:
        returned: what its conversion returns.

    Raises:
        ExactnessError: it returns something else.
    """
    try:
        readouts = returned.readouts_in(value)
    except ValueError as error:
        raise ExactnessError(
            f"the network that was converted returns something else than its conversion: {error}"
        ) from error
    for name, each in readouts.items():
        if not isinstance(each, Tensor):
            raise ExactnessError(
                f"the network that was converted returns a {type(each).__name__} as {name!r}, its conversion a tensor"
            )
    return readouts


def evaluate_ann(ann: nn.Module, q: int, program: Program, named: Mapping[str, Any], float64: bool) -> LogitsAndLevels:
    """The network with this many levels, in its own types or in float64.

    Args:
        program: that of its conversion for these inputs.

    Raises:
        ExactnessError: it cannot be evaluated so.
    """
    levels: dict[str, Tensor] = {}

    def see(
        called: str, layers: tuple[str, ...], module: Quantised[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(module, Observable) and layers:
            _, before = module.observed([None] * len(layers), *args, **kwargs)
            for name, z, ends in zip(layers, before, module.ranges(), strict=True):
                levels[name] = z.floor().clamp_(*ends).to(torch.int16)
        return type(module).forward(module, *args, **kwargs)

    return LogitsAndLevels(run_observed(ann, q, program, named, see, float64), levels)


@torch.no_grad()
def plainly_evaluated(model: nn.Module, program: Program, named: Mapping[str, Any]) -> LogitsAndLevels:
    """A network that may have no levels yet, in evaluation and in its own types."""
    network, given = in_own_types(model, named)
    with evaluating(network):
        returned = network(**given)
    return LogitsAndLevels(readouts_of(program.returned, returned), {})


@contextmanager
def evaluating(model: nn.Module, how: Callable[[], str] = str) -> Iterator[None]:
    """Whatever a user's forward raises becomes an `ExactnessError`.

    Args:
        how: in which way it is evaluated, and where it is.
    """
    try:
        yield
    except CascError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        raise ExactnessError(
            f"the network that was converted, a {type(model).__name__}, cannot be evaluated{how()}, so its conversion "
            f"could not be compared with it on these inputs: {type(error).__name__}: {words[0]}"
        ) from error


def in_own_types(model: nn.Module, named: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of a network, in evaluation, and copies of its inputs: in its types, for it takes any, and on their device."""
    device = next((value.device for value in named.values() if isinstance(value, Tensor)), None)
    own = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    given = {name: _as_type(_cloned(value), own) for name, value in named.items()}
    return copy.deepcopy(model).eval().to(device), given


@torch.no_grad()
def run_observed(
    ann: nn.Module,
    q: int,
    program: Program,
    named: Mapping[str, Any],
    see: Observer,
    float64: bool,
    within: AbstractContextManager[Any] | None = None,
) -> dict[str, Tensor]:
    """The logits, by output, of a copy of the network in which each module of populations is called through `see`.

    Args:
        q: its number of levels.
        program: that of its conversion for these inputs.
        see: called with the name of the module's call, the layers that its populations are in a lowering, the module, and
            what it is given; gives its output. No layers: the module does not say what its populations are.
        float64: evaluate it in float64.
        within: what its forward runs in.

    Raises:
        ExactnessError: it cannot be evaluated so.
    """
    device = next((value.device for value in named.values() if isinstance(value, Tensor)), None)
    network, calls = copy.deepcopy(ann).eval().to(device), Counter[str]()
    # A forward may change what it is given in place, and others read it too.
    named = {name: _cloned(value) for name, value in named.items()}
    running = ""

    def call(name: str, module: Quantised[Any], /, *args: Any, **kwargs: Any) -> Any:
        nonlocal running
        running = f", at or behind module {name!r}"
        calls[name] += 1
        again = f"#{calls[name]}" if calls[name] > 1 else ""
        layers = tuple(f"{name}{suffix}{again}" for suffix in module.populations())
        plain = float64 and vars(type(module)).get("KEEPS_TYPE", False)
        with already_in_float64() if plain else nullcontext():
            return see(f"{name}{again}", layers, module, args, kwargs)

    for name, module in network.named_modules():
        if isinstance(module, Quantised):
            module.q = q
            vars(module)["forward"] = partial(call, name, module)
    with evaluating(ann, lambda: f"{' in float64' if float64 else ''}{running}"):
        if float64:
            _, named = widened((), named)
            network = network.double()  # outside, where tensors that are looked at are widened in passing
        else:  # the conversion takes any floating-point type
            own = next((each.dtype for each in network.parameters() if each.is_floating_point()), torch.float32)
            named = {name: _as_type(value, own) for name, value in named.items()}
        with in_float64() if float64 else nullcontext(), nullcontext() if within is None else within:
            returned = network(**named)
    return readouts_of(program.returned, returned)


def _as_type(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
