"""Runs of one network on the same batches, again and again, while layers deep inside it change.

What a module gave for a batch is taken again as long as no module before it has changed: only layers from the first
changed one on are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.engine.leaves import leaves

ROOM = 2**29
"""Bytes of outputs that are kept for a network; what is beyond that is computed again."""


class _State:
    """What a module computes with, but for its children: its tensors as they are, and its numbers."""

    def __init__(self, module: nn.Module) -> None:
        # The tensors are kept, so that none of another time has the same identity.
        self.tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        self.versions = [each._version for each in self.tensors]
        self.numbers = {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float))}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _State)
            and list(map(id, self.tensors)) == list(map(id, other.tensors))
            and (self.versions, self.numbers) == (other.versions, other.numbers)
        )


@dataclass
class _Call:
    """A call of a module in the last run on a batch.

    Attributes:
        state: of the module. output: what it gave; None: it is computed again. versions: of its tensors.
    """

    module: nn.Module
    state: _State
    output: Any = None
    versions: tuple[int, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether the output is at hand, and nothing has been written into it since."""
        return self.output is not None and self.versions == _versions(self.output)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(each.nbytes for each in leaves(self.output) if isinstance(each, Tensor))


class _Memory:
    """The last run on each batch, call by call, and where the present run stands.

    Attributes:
        batches: by the identity of a batch's inputs, the states of what is no leaf, and the calls in order.
        calls: those of the batch that is run; None: it is not one of them.
        number: of the next call. is_same: whether all is as it was in the run before.
        taken: bytes that are kept.
    """

    def __init__(self, containers: list[nn.Module], batches: Sequence[tuple[Any, ...]]) -> None:
        self.containers = containers
        self.batches: dict[tuple[int, ...], tuple[list[_State], list[_Call]]] = {
            _key(batch): ([], []) for batch in batches
        }
        self.calls: list[_Call] | None = None
        self.number, self.is_same, self.taken = 0, True, 0

    def begin(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A run of the network on these inputs begins."""
        before, self.calls = self.batches.get(_key(inputs), ([], None))
        states = [_State(module) for module in self.containers]
        self.number, self.is_same = 0, before == states
        before[:] = states

    def called(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a module gives, computed or as it was."""
        if self.calls is None or torch.is_grad_enabled():
            return forward(*args, **kwargs)
        call, number = _Call(module, _State(module)), self.number
        self.number += 1
        last = self.calls[number] if number < len(self.calls) else None
        self.is_same = self.is_same and last is not None and (last.module, last.state) == (module, call.state)
        if self.is_same and last is not None and last.is_kept:
            return last.output
        before = _versions((args, kwargs))
        output = forward(*args, **kwargs)
        # What follows a change is of another time.
        end = number + 1 if self.is_same else len(self.calls)
        self.taken -= sum(each.size for each in self.calls[number:end])
        self.calls[number:end] = [call]
        # One that writes into what it is given must do so in each run.
        if before == _versions((args, kwargs)) and all(_is_counted(each) for each in leaves(output)):
            call.output, call.versions = output, _versions(output)
        if self.taken + call.size > ROOM:
            call.output = None
        self.taken += call.size
        return output


@contextmanager
def remembering(network: nn.Module, batches: Sequence[tuple[Any, ...]]) -> Iterator[None]:
    """Within this, runs of a network on these batches, without gradients, compute what may have changed alone.

    The network is one in evaluation mode that gives the same for the same inputs; modules may be changed in any way that
    their tensors' versions and their numbers tell.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    >>> batch, seen = torch.ones(1, 2), []
    >>> with torch.no_grad(), remembering(network, [(batch,)]):
    ...     first = network(batch)
    ...     _ = network[2].bias.add_(1.0)
    ...     second = network(batch)
    >>> bool((second - first).isclose(torch.ones(1)).all())
    True
    """
    modules = list(network.modules())
    containers = [module for module in modules if any(True for _ in module.children())]
    memory = _Memory(containers, batches)

    def wrapped(module: nn.Module) -> Callable[..., Any]:
        forward = module.forward
        return lambda *args, **kwargs: memory.called(module, forward, args, kwargs)

    own = {module: module.__dict__.get("forward") for module in modules if module not in containers}
    handle = network.register_forward_pre_hook(memory.begin)
    try:
        for module in own:
            module.forward = wrapped(module)
        yield
    finally:
        handle.remove()
        for module, forward in own.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.forward = forward


def _key(inputs: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(map(id, inputs))


def _is_counted(value: Any) -> bool:
    """Whether it is a tensor that knows how often it has been written to."""
    return isinstance(value, Tensor) and not value.is_inference()


def _versions(value: Any) -> tuple[int, ...]:
    """How often each tensor of a value has been written to."""
    return tuple(each._version for each in leaves(value) if _is_counted(each))
