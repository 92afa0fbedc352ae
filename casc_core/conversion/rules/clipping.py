"""Rules of clips: refused where they are left, since a preparation makes neurons of those that are activations."""

from __future__ import annotations

from typing import Any

from casc_core.conversion.clipping import CLIPS, ends_of
from casc_core.conversion.graph import InputNode
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rule_table import Rule
from casc_core.conversion.rules.arithmetic import single
from casc_core.conversion.rules.refusals import UNPREPARED
from casc_core.conversion.rules.table import RULES


def _refusing(target: Any) -> Rule:
    def rule(reader: Reader, *args: Any, **kwargs: Any) -> None:
        def number(value: Any) -> Any:
            constant = reader.constant(value)
            known = None if constant is None else single(constant)
            return float(known) if known is not None else "a tensor" if isinstance(value, InputNode) else value

        ends = ends_of(target, [*args[:1], *map(number, args[1:])], {key: number(kwargs[key]) for key in kwargs})
        assert ends is not None
        raise reader.refuse(UNPREPARED if ends.is_activation else ends.refusal)

    return rule


for _target in CLIPS:
    RULES.function(_target)(_refusing(_target))
