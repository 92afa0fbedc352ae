"""Inputs that are tables of tensors by name (`batch["tokens"]`): what a forward takes out of them, and what to do then."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx

from casc_core.conversion.tracing.causes import wrapper


def key_of(node: fx.Node) -> str | None:
    """The name by which a node takes something out of a table; None: it does not."""
    key = node.args[1] if node.target is operator.getitem else None
    return key if isinstance(key, str) else None


def wrapper_of_tables(name: str, arguments: Sequence[str], node: fx.Node) -> str:
    """The lines that make a model of class `name` one of named tensors.

    Args:
        name: the model's class.
        arguments: those of its forward.
        node: takes something out of one of them.

    >>> graph = fx.symbolic_trace(lambda batch, scale: batch["tokens"] * batch["mask"] * scale).graph
    >>> print(wrapper_of_tables("Reader", ["batch", "scale"], list(graph.nodes)[2]))
      class Wrapped(torch.nn.Module):
          def __init__(self, model): super().__init__(); self.model = model
          def forward(self, tokens, mask, scale): return self.model({'tokens': tokens, 'mask': mask}, scale)
      and hand over Wrapped(model), model being your Reader
    """
    tensors: dict[str, list[str]] = {}
    for each in node.graph.nodes:
        read = each.args[0] if key_of(each) is not None else each
        if isinstance(read, fx.Node) and read.op == "placeholder" and read.target in arguments:
            keys = tensors.setdefault(str(read.target), [])
            keys += [key for key in [key_of(each)] if key is not None and key not in keys]
    names = {
        key: key if key.isidentifier() else f"tensor_{at}" for keys in tensors.values() for at, key in enumerate(keys)
    }
    given = {
        argument: f"{{{', '.join(f'{key!r}: {names[key]}' for key in keys)}}}" if keys else argument
        for argument, keys in tensors.items()
    }
    wanted = [each for argument, keys in tensors.items() for each in ([names[key] for key in keys] or [argument])]
    in_order = list(given) == list(arguments[: len(given)])
    call = ", ".join(value if in_order else f"{argument}={value}" for argument, value in given.items())
    return wrapper(name, wanted, call)
