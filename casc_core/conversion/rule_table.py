"""The table of rules: what each operation of a model is read as, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from casc_core.errors import ConfigError

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)


@dataclass
class RuleTable:
    """What each operation is read as.

    Attributes:
        modules: by module type (a subclass takes its parent's rule); called as `rule(reader, module, *args, **kwargs)`.
        functions: by function, or by name for a method of a tensor; called as `rule(reader, *args, **kwargs)`.
        refused: by module type, function or method name: why it cannot be exact and what to do instead.
        traced: the module types of which a subclass with a forward of its own is traced through.
        elementwise: module types, functions and methods of one tensor that go entry by entry: of levels they are tables,
            of anything else what the rest of the table says.
        anywhere: what is refused for a reason that holds of what follows from the inputs alone as well.

    >>> rules = RuleTable()
    >>> @rules.module(nn.Identity)
    ... def identity(reader, module, x):
    ...     return x
    >>> rules.refuse("it does nothing; remove it", nn.Identity)
    Traceback (most recent call last):
    ...
    casc_core.errors.ConfigError: Identity has a rule in this table already, identity; merge another table to override it
    """

    modules: dict[type[nn.Module], Rule] = field(default_factory=dict)
    functions: dict[Any, Rule] = field(default_factory=dict)
    refused: dict[Any, str] = field(default_factory=dict)
    traced: set[type[nn.Module]] = field(default_factory=set)
    elementwise: set[Any] = field(default_factory=set)
    anywhere: set[Any] = field(default_factory=set)

    def module(self, *kinds: type[nn.Module], trace_overrides: bool = False) -> Callable[[RuleT], RuleT]:
        """Decorator: the rule of these module types.

        Args:
            trace_overrides: a subclass that overrides the forward is traced through, as any other module of the user's;
                otherwise it is refused, since a rule speaks for the forward it was written for. It is for modules that
                can also be written as a function of their parameters.

        Raises:
            ConfigError: one of them has a rule in this table, or is refused.
        """

        def register(rule: RuleT) -> RuleT:
            self._register(self.modules, kinds, rule)
            self.traced.update(kinds if trace_overrides else ())
            return rule

        return register

    def function(self, *targets: Any) -> Callable[[RuleT], RuleT]:
        """Decorator: the rule of these functions, and of the methods of these names.

        Raises:
            ConfigError: one of them has a rule in this table, or is refused.
        """

        def register(rule: RuleT) -> RuleT:
            self._register(self.functions, targets, rule)
            return rule

        return register

    def refuse(self, why: str, *targets: Any, trace_overrides: bool = False, anywhere: bool = False) -> None:
        """Refuse these modules, functions and methods: `why`, and what to do instead.

        Args:
            trace_overrides: as of `module`.
            anywhere: `why` holds of what follows from the inputs alone as well, not of spiking tensors only.

        Raises:
            ConfigError: one of them has a rule in this table, or is refused.
        """
        self._register(self.refused, targets, why)
        self.traced.update(targets if trace_overrides else ())
        self.anywhere.update(targets if anywhere else ())

    def _register(self, table: dict[Any, Any], keys: tuple[Any, ...], value: Any) -> None:
        for key in keys:
            # The same thing may stand there under two names: F.pixel_shuffle and torch.pixel_shuffle are one.
            there = next((known[key] for known in (self.modules, self.functions, self.refused) if key in known), value)
            if there is not value:
                name, taken = (getattr(each, "__name__", each) for each in (key, there))
                raise ConfigError(
                    f"{name} has a rule in this table already, {taken}; merge another table to override it"
                )
            table[key] = value

    def merged(self, other: RuleTable) -> RuleTable:
        """Both tables; where both say something of a module, function or method, `other` wins."""
        theirs = {*other.modules, *other.functions, *other.refused}

        def both(own: Mapping[Any, Any], added: Mapping[Any, Any]) -> dict[Any, Any]:
            return {key: value for key, value in own.items() if key not in theirs} | dict(added)

        return RuleTable(
            both(self.modules, other.modules),
            both(self.functions, other.functions),
            both(self.refused, other.refused),
            (self.traced - theirs) | other.traced,
            (self.elementwise - theirs) | other.elementwise,
            (self.anywhere - theirs) | other.anywhere,
        )

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether `module` is one operation to the tracer: it has a rule or is refused, and is not to be traced through."""
        kind = next((kind for kind in type(module).__mro__ if kind in self.modules or kind in self.refused), None)
        return kind is not None and not (kind in self.traced and _has_own_forward(module, kind))

    def find_module(self, module: nn.Module) -> Rule | None:
        """The rule of `module`'s type or nearest parent type."""
        return next((self.modules[kind] for kind in type(module).__mro__ if kind in self.modules), None)

    def refusal(self, target: Any) -> str | None:
        """Why `target` (a module, function or method name) is refused, if it is."""
        if not isinstance(target, nn.Module):
            return self.refused.get(target)
        for kind in type(target).__mro__:
            own = (kind in self.refused or kind in self.modules) and _has_own_forward(target, kind)
            if kind in self.refused:
                return None if own and kind in self.traced else self.refused[kind]
            if kind in self.modules:
                own = own and kind not in self.traced
                return f"it overrides the forward of {kind.__name__}; hold one instead of inheriting" if own else None
        return None


def _has_own_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether `module` computes otherwise than the type whose rule it would take: what torch's forwards call counts too."""
    names = [name for name in ("forward", "_conv_forward", "_output_padding") if hasattr(kind, name)]
    return any(getattr(type(module), name) is not getattr(kind, name) for name in names)
