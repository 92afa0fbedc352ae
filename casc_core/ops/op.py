"""What every operation of a lowered network is."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

from casc_core.samples import Abstract, Follower


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

    def follow(self, follower: Follower, *args: Any, **kwargs: Any) -> Any:
        """What is known of its result before a run: shape, type, room, and where the samples are (`casc_core.samples`).

        Called as `forward`, with what is known of the values. An operation that does not say counts as one that mixes
        the samples: a batch is never split, and a spike behind it counts for every sample.

        Raises:
            UnprovableError: nothing is known.
        """
        raise follower.unprovable("does not say where the samples are")

    @property
    def seen(self) -> int:
        """What its runs have shown about how long trains are, if it goes by that."""
        return 0

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        """Bytes that it takes beside what it reads and gives, which `signals` are, its result last.

        Unless an operation says otherwise: its largest train once more, in the widest type.
        """
        return 8 * max(entries(each) for each in signals)

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


def entries(x: Abstract) -> int:
    """How many there are in a train, or in what has none."""
    return x.like.numel() * max(1, x.train.steps if x.train is not None else 1)
