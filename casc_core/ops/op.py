"""What every operation of a lowered network is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from casc_core.errors import ConfigError
from casc_core.ops.declared import Kind, Numbers, check_settings, check_tensors, is_on_grid

_OURS = __name__.partition(".")[0]


class Op(nn.Module):
    """One operation: called as `op(run, *values)`.

    A subclass takes its settings and tensors as keyword arguments of `__init__`, under the names under which it declares
    them, and hands both to `super().__init__`, which checks them. It is registered under the name that networks are saved
    with: an operation of this package under its class's name, any other under that and its module's, or under
    `saved_as`. `class Base(Op, abstract=True)` is registered under none.

    Attributes:
        SETTINGS: kind and range of each setting.
        TENSORS: type and shape of each tensor.
        kinds: the operations there are, by the name they are saved under: what a loaded network can be made of.

    Raises:
        ConfigError: a setting or a tensor is not as declared.
    """

    SETTINGS: ClassVar[Mapping[str, Kind]] = {}
    TENSORS: ClassVar[Mapping[str, Numbers]] = {}
    kinds: ClassVar[dict[str, type[Op]]] = {}
    kind: ClassVar[str] = ""
    is_layer: ClassVar[bool] = False
    """Whether it is a population of neurons."""
    takes_fills: ClassVar[bool] = False
    """Whether it may read a signal of which some entries stand for minus infinity: a maximum, or what moves entries."""

    def __init_subclass__(cls, saved_as: str | None = None, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ours = cls.__module__.partition(".")[0] == _OURS
        cls.kind = saved_as or (cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}")
        if abstract:
            return
        taken = Op.kinds.get(cls.kind)
        # One and the same class may be defined anew: a module that is reloaded, a cell of a notebook that is run again.
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{cls.__module__}.{cls.__qualname__}: the name {cls.kind!r} belongs to the operation "
                f"{taken.__module__}.{taken.__qualname__}; save it under another"
            )
        Op.kinds[cls.kind] = cls

    def __init__(self, settings: dict[str, Any] | None = None, tensors: dict[str, Tensor | None] | None = None) -> None:
        super().__init__()
        self.settings = settings or {}
        check_settings(self.kind, self.SETTINGS, self.settings)
        check_tensors(self.kind, self.TENSORS, tensors or {})
        known: set[int] = set()
        for name, tensor in (tensors or {}).items():
            # One tensor under two names would be saved, and listed, once.
            self.register_buffer(name, tensor.clone() if tensor is not None and id(tensor) in known else tensor)
            known.add(id(tensor))
        self.check()

    def check(self) -> None:
        """Complain about settings and tensors that do not fit each other; each is as declared.

        Raises:
            ConfigError: they do not.
        """

    def require(self, fits: bool, what: str) -> None:
        """Raise `ConfigError`, saying what must be, unless it fits."""
        if not fits:
            raise ConfigError(f"{self.kind}: {what}; its settings are {self.settings}")

    def grid(self, name: str) -> int | None:
        """Exponent of the grid that a tensor of this name is on; None: none in particular."""
        setting = self.TENSORS[name].grid
        return None if setting is None else int(self.settings[setting])

    def check_grids(self) -> None:
        """Complain about numbers that are not on the grids that the settings name: then no sum is proven exact.

        Raises:
            ConfigError: a tensor, or the threshold, is not.
        """
        for name, tensor in self.tensors().items():
            exponent = self.grid(name)
            self.require(exponent is None or is_on_grid(tensor, exponent), f"{name!r} is not on the grid 2**{exponent}")
        if "threshold" in self.settings:
            exponent = self.settings["exponent"]
            fits = is_on_grid(self.settings["threshold"], exponent)
            self.require(fits, f"'threshold' is not on the grid 2**{exponent}")

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}
