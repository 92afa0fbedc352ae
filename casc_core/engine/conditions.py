"""Conditions on sizes (`if x.shape[-1] < 7:`): a trace takes one outcome, and the network checks it whenever it runs."""

from __future__ import annotations

import dis
import math
import operator
from types import FrameType
from typing import Any

from torch import fx

from casc_core.errors import InputError

_SIZES = ("shape", "size", "ndim", "dim", "ndimension", "numel")
ARITHMETIC = {
    getattr(operator, name)
    for name in "add sub mul truediv floordiv mod pow neg eq ne lt le gt ge and_ or_ not_ getitem".split()
} | {math.ceil, math.floor, math.sqrt, max, min}
"""What is computed of sizes."""


def expect(outcome: bool, condition: Any, line: str) -> Any:
    """Raise `InputError` unless `condition` is what the trace took it for; while tracing, record that it is to be checked.

    >>> expect(False, 8 < 7, "forward.py:3: if x.shape[-1] < 7:")
    """
    if isinstance(condition, fx.Proxy):
        return condition.tracer.create_proxy("call_function", expect, (outcome, condition, line), {})
    if bool(condition) is not outcome:
        raise InputError(
            f"the network was converted for inputs of other sizes: a condition on sizes that it took to be {outcome} is "
            f"{not outcome} for this input. Do to the input what the forward would do there before you give it, resize it, "
            f"or convert a model whose forward has no such condition\n  at {line}"
        )
    return None


def expect_parts(parts: Any, count: int, line: str) -> Any:
    """`parts`, if there are this many, else raise `InputError`; while tracing, record that they are to be counted.

    >>> expect_parts(("a", "b"), 2, "forward.py:3: a, b = x.chunk(2)")
    ('a', 'b')
    """
    if isinstance(parts, fx.Proxy):
        return parts.tracer.create_proxy("call_function", expect_parts, (parts, count, line), {})
    if len(parts) != count:
        raise InputError(
            f"the network was converted for inputs of other sizes: what it takes apart into {count} falls into "
            f"{len(parts)} for this input. Resize the input\n  at {line}"
        )
    return parts


def is_of_sizes(node: fx.Node) -> bool:
    """Whether the value of `node` follows from shapes and numbers alone."""
    named = node.target if node.op == "call_method" else node.args[1] if node.target is getattr else None
    if named in _SIZES:
        return True
    before = node.all_input_nodes
    return node.target in ARITHMETIC and bool(before) and all(is_of_sizes(each) for each in before)


def is_asserted(frame: FrameType) -> bool:
    """Whether the frame is asking for the truth of something that an `assert` wants to be true."""
    ahead = [each for each in dis.get_instructions(frame.f_code) if each.opname not in _BETWEEN]
    start = next((index for index, each in enumerate(ahead) if each.offset >= frame.f_lasti), len(ahead))
    if start < len(ahead) and ahead[start].opname == "COMPARE_OP":  # newer Pythons ask while they compare
        start += 1
    jump, following = [*ahead[start : start + 2], None, None][:2]
    if jump is None or "JUMP" not in jump.opname:
        return False
    if jump.opname.endswith("IF_FALSE"):
        following = next((each for each in ahead if each.offset == jump.argval), None)
    if following is None:
        return False
    return following.opname == "LOAD_ASSERTION_ERROR" or "AssertionError" in (following.argval, following.argrepr)


_BETWEEN = ("TO_BOOL", "NOT_TAKEN", "CACHE")  # newer Pythons write these around a jump
