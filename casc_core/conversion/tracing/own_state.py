"""What a forward changes in its own model: a trace would do it once, and a converted network never."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from casc_core.engine.guards.seals import checksum

_PLAIN = (bool, int, float, complex, str, Tensor)


@contextmanager
def as_before(model: nn.Module) -> Iterator[Callable[[Collection[str]], str | None]]:
    """Undo what a forward leaves in its modules. Gives what tells the first thing that it has changed, given what it reads.

    What it leaves in an attribute that it does not read (`self.features = x`, a dict as a cache) is no change: no later
    call can differ by it.
    """
    modules = [(f"{name}." if name else "", module) for name, module in model.named_modules()]
    holders = [holder for _, module in modules for holder in (vars(module), *vars(module).values())]
    kept = [(holder, holder.copy()) for holder in holders if isinstance(holder, (dict, list))]
    plain = [(module, path, _plain(module)) for path, module in modules]
    buffers = [(name, buffer, buffer.detach().clone(), checksum([buffer])) for name, buffer in model.named_buffers()]

    def changed(read: Collection[str]) -> str | None:
        for module, path, before in plain:
            now = _plain(module)
            for name, value in before.items():
                is_kept = isinstance(value, Tensor) and name in vars(module) and f"{path}{name}" not in read
                if not is_kept and not _same(value, now.get(name)):
                    return f"{path}{name}"
        return next((name for name, buffer, _, before in buffers if checksum([buffer]) != before), None)

    try:
        yield changed
    finally:
        for holder, before in kept:
            holder.clear()
            holder.update(before) if isinstance(holder, dict) else holder.extend(before)
        for _, buffer, copy, known in buffers:
            if checksum([buffer]) != known:
                buffer.data.copy_(copy)


def _plain(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    named = {**own, **own["_parameters"], **own["_buffers"]}
    return {name: value for name, value in named.items() if isinstance(value, _PLAIN)}


def _same(before: Any, now: Any) -> bool:
    return before is now or (type(before) is type(now) and not isinstance(before, Tensor) and bool(before == now))
