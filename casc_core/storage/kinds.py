"""Classes that a file may name: what is loaded is made of these, and of nothing else."""

from __future__ import annotations

from typing import TypeVar

from casc_core.errors import ConfigError

T = TypeVar("T")
_OURS = __name__.partition(".")[0]


class Kinds(dict[str, type[T]]):
    """Classes by the name that they are saved under.

    >>> kinds: Kinds[object] = Kinds("shape")
    >>> Square = type("Square", (), {"__module__": "shapes"})
    >>> kinds.add(Square), kinds.add(Square, "square")
    ('shapes.Square', 'square')
    >>> kinds.add(type("Round", (), {"__module__": "shapes"}), "square")
    Traceback (most recent call last):
    ...
    casc_core.errors.ConfigError: shapes.Round: the name 'square' belongs to the shape shapes.Square; save it under another
    """

    def __init__(self, what: str, *kinds: type[T]) -> None:
        """`what` they are, in messages."""
        super().__init__()
        self.what = what
        for kind in kinds:
            self.add(kind)

    def add(self, kind: type[T], saved_as: str | None = None) -> str:
        """The name that a class is saved under: one of this package its own, any other that and its module's.

        Args:
            saved_as: another name.

        Raises:
            ConfigError: the name belongs to another class.
        """
        qualified = f"{kind.__module__}.{kind.__qualname__}"
        name = saved_as or (kind.__name__ if kind.__module__.partition(".")[0] == _OURS else qualified)
        taken = self.get(name)
        # One and the same class may be defined anew: a module that is reloaded, a cell of a notebook that is run again.
        if taken is not None and (taken.__module__, taken.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ConfigError(
                f"{qualified}: the name {name!r} belongs to the {self.what} {taken.__module__}.{taken.__qualname__}; save "
                "it under another"
            )
        self[name] = kind
        return name

    def name_of(self, value: T) -> str:
        """The name that the class of `value` is saved under.

        Raises:
            ValueError: it is none of these, or a new definition has taken its place.
        """
        found = next((name for name, kind in self.items() if kind is type(value)), None)
        if found is None:
            raise ValueError(f"{type(value).__name__} is no {self.what} that can be found again")
        return found

    def find(self, name: str) -> type[T]:
        """The class that is saved under this name.

        Raises:
            ValueError: there is none.
        """
        if name not in self:
            raise ValueError(f"there is no {self.what} {name!r:.80}; is the package that defines it installed?")
        return self[name]
