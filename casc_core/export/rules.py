"""How operations are written in a format: a table of rules by class, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from casc_core.engine.ops import Op
from casc_core.errors import ConversionError

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)


class Rules:
    """The rules of a format.

    Each is for operations of one class, and not for those of classes derived from it, which may compute something else.

    Attributes:
        format: as it is called in messages. missing: why an operation without a rule cannot be written.
        by_kind: the rules.
    """

    def __init__(self, format: str, missing: str = "there is no rule for it") -> None:
        self.format, self.missing = format, missing
        self.by_kind: dict[type[Op], Rule] = {}

    def writes(self, *kinds: type[Op]) -> Callable[[RuleT], RuleT]:
        """Decorator of the rule of operations of these classes."""

        def register(rule: RuleT) -> RuleT:
            self.by_kind.update(dict.fromkeys(kinds, rule))
            return rule

        return register

    def rule_of(self, op: Op) -> Rule:
        """The rule of an operation.

        Raises:
            ConversionError: there is none.
        """
        rule = self.by_kind.get(type(op))
        if rule is None:
            raise self.refused(op, self.missing)
        return rule

    def refused(self, what: Op | str, why: str) -> ConversionError:
        """The error that names what cannot be written, and why."""
        name = called(what) if isinstance(what, Op) else what
        return ConversionError(f"{name} cannot be written as {self.format}: {why}")


def called(op: Op) -> str:
    """What an operation is called in messages: its kind, and the module or the function that it comes from."""
    name = op.settings.get("name") or op.settings.get("function")
    return f"{op.kind} {name!r}" if name else op.kind
