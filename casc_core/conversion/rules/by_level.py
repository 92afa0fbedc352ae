"""Functions that go entry by entry: of the levels of one population they are tables, whatever they compute."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.clipping import CLIPS
from casc_core.conversion.rules.table import RULES


def _named(names: str, *owners: Any) -> set[Any]:
    """The functions of these names, and the methods of tensors."""
    functions = {getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)}
    return {*functions, *(name for name in names.split() if hasattr(torch.Tensor, name))}


RULES.elementwise.update(
    _named(
        "abs abs_ absolute sqrt rsqrt reciprocal exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan sinh cosh "
        "asinh acosh atanh erf erfc sinc floor ceil round trunc fix frac sign sgn fmod remainder nan_to_num hardshrink",
        torch,
    ),
    _named("eq ne lt le gt ge logical_not", torch, operator),
    _named(
        "gelu mish elu selu celu softplus logsigmoid softshrink hardshrink tanhshrink threshold", F,
    ),
    CLIPS,
    {
        operator.floordiv, operator.mod, torch.floor_divide, "floor_divide", "int", "long", "bool",
        nn.GELU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.LogSigmoid, nn.Softshrink, nn.Hardshrink,
        nn.Tanhshrink,
    },
)  # fmt: skip
