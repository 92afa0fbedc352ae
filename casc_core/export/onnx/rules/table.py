"""The table of rules, by operation; the modules beside it fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from casc_core.engine.ops import Op

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)
RULES: dict[type[Op], Rule] = {}
"""Each is called as `rule(writer, op, *args, **kwargs)`: as the operation's `forward` is, with symbolic values."""


def writes(*kinds: type[Op]) -> Callable[[RuleT], RuleT]:
    """Decorator of the rule of operations of these classes."""

    def register(rule: RuleT) -> RuleT:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register
