"""The table of rules, by name of the function; the modules beside it fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from casc_core.engine.functions import Function
from casc_core.export.onnx.graph import at

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)
RULES: dict[str, Rule] = {}
"""By name of the function: called as `rule(graph, function, *args, **kwargs)`."""


def functions(owners: str, names: str) -> Callable[[RuleT], RuleT]:
    """Decorator of the rule of these functions."""

    def register(rule: RuleT) -> RuleT:
        RULES.update({f"{owner}.{name}": rule for owner in owners.split() for name in names.split()})
        return rule

    return register


def result_of(function: Function, *args: Any, **kwargs: Any) -> Any:
    """What the function makes of tensors without numbers, at the first size."""
    return function(*at(list(args), 0), **at(kwargs, 0))
