"""What a forward changes in its own model: a trace would do it once, and a converted network never."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from casc_core.engine.guards.seals import checksum

_PLAIN = (bool, int, float, complex, str, Tensor)


class Kept:
    """The state of a model's modules before its forward ran.

    What a forward leaves in an attribute that it does not read (`self.features = x`, a dict as a cache) is no change: no
    later call can differ by it.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [(f"{name}." if name else "", module) for name, module in model.named_modules()]
        holders = [(path, holder) for path, module in modules for holder in (vars(module), *vars(module).values())]
        self._holders = [(path, held, held.copy()) for path, held in holders if isinstance(held, (dict, list))]
        self._plain = [(module, path, _plain(module)) for path, module in modules]
        self._buffers = [
            (name, buffer, buffer.detach().clone(), checksum([buffer])) for name, buffer in model.named_buffers()
        ]

    def written(self, read: Collection[str]) -> str | None:
        """The first thing that has been changed, given the tensors that the forward reads."""
        for module, path, before in self._plain:
            now = _plain(module)
            for name, value in before.items():
                is_kept = isinstance(value, Tensor) and name in vars(module) and f"{path}{name}" not in read
                if not is_kept and not _same(value, now.get(name)):
                    return f"{path}{name}"
        return next((name for name, buffer, _, before in self._buffers if checksum([buffer]) != before), None)

    def left(self) -> str | None:
        """The first attribute, or list or dict that is one, in which the forward has left anything."""
        for path, held, before in self._holders:
            values, kept = (list(each.values() if isinstance(each, dict) else each) for each in (held, before))
            if len(values) == len(kept) and all(map(operator.is_, values, kept)):
                continue
            now, then = (each if isinstance(each, dict) else dict(enumerate(each)) for each in (held, before))
            name = next((key for key in now if key not in then or now[key] is not then[key]), None)
            if name is not None or len(now) != len(then):
                return f"{path}{name}"
        return None

    def restore(self) -> None:
        """Undo what has been changed."""
        for _, held, before in self._holders:
            held.clear()
            held.update(before) if isinstance(held, dict) else held.extend(before)
        for _, buffer, copy, known in self._buffers:
            if checksum([buffer]) != known:
                buffer.data.copy_(copy)


@contextmanager
def as_before(model: nn.Module) -> Iterator[Kept]:
    """Undo what a forward leaves in its modules."""
    kept = Kept(model)
    try:
        yield kept
    finally:
        kept.restore()


def _plain(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    named = {**own, **own["_parameters"], **own["_buffers"]}
    return {name: value for name, value in named.items() if isinstance(value, _PLAIN)}


def _same(before: Any, now: Any) -> bool:
    return before is now or (type(before) is type(now) and not isinstance(before, Tensor) and bool(before == now))
