"""Why a forward cannot be traced: the cause in a sentence of its own, and the remedy for that cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch.fx.proxy import TraceError

from casc_core.errors import ConversionError


def wrapper(name: str, tensors: Sequence[str], call: str) -> str:
    """The lines that make a model of class `name` one of named tensors.

    Args:
        name: the model's class.
        tensors: their names.
        call: what the model is called with.

    >>> print(wrapper("Classifier", ["tokens"], "tokens"))
      class Wrapped(torch.nn.Module):
          def __init__(self, model): super().__init__(); self.model = model
          def forward(self, tokens): return self.model(tokens)
      and hand over Wrapped(model), model being your Classifier
    """
    return (
        "  class Wrapped(torch.nn.Module):\n"
        "      def __init__(self, model): super().__init__(); self.model = model\n"
        f"      def forward(self, {', '.join(tensors)}): return self.model({call})\n"
        f"  and hand over Wrapped(model), model being your {name}"
    )


class Cause(NamedTuple):
    """A cause and what to do about it."""

    what: str
    remedy: str


_CONTROL = Cause(
    "its control flow depends on the values of an input",
    "Give a flag a default, at which it is then kept; of tensors, use masks in place of `if`",
)
_PROPERTY = Cause(
    "its control flow depends on the type, device or gradient of a tensor, which is known only when the network runs",
    "Leave the condition out: x.float() and x.to(...) change nothing where x is of that type, or there, already. What is "
    "done to one type alone, such as a division by 255, belongs in front of the model",
)
_ITERATED = Cause(
    "it iterates over a tensor, or a shape, of a length that is known only when the network runs",
    "Take it apart into a known number (a, b = x.shape[:2]; x[:, 0], x[:, 1]), or work on the whole tensor",
)
_LENGTH = Cause(
    "it takes the len() of a tensor, or of a shape", "Write x.shape[0] in place of len(x), and x.dim() of len(x.shape)"
)
_NUMBER = Cause(
    "it wants a plain number (for range(), int(), float(), an index, a format) that is known only when the network runs",
    "Leave x.shape[0] as it is where torch takes it, hold fixed sizes as attributes of the module, and replace loops over "
    "a tensor's values by operations on the whole tensor",
)
_KEY = Cause(
    "it looks up a size, which is known only when the network runs, in a dict or a cache",
    "Compute anew what is kept by size (of a function under functools.lru_cache, call f.__wrapped__), or hold it as an "
    "attribute for the one size",
)
_ASSIGNED = Cause(
    "it assigns to a part of a tensor",
    "Write torch.cat([a, x[:, 1:]], 1), say, in place of x[:, :1] = a, or x.masked_fill(mask, number)",
)
_ARRAY = Cause(
    "it makes a tensor, or a NumPy array, of what is known only when the network runs",
    "Use torch's operations on the tensor itself: torch.sqrt(x), x.new_zeros(...)",
)
_FACTORY = Cause(
    "it makes a tensor whose size or value is known only when the network runs",
    "Make it of a tensor that has it: x.new_zeros(...), torch.zeros_like(...)",
)
_COMPILED = Cause(
    "it calls a function compiled by torch.jit.script or torch.compile, which takes real tensors alone",
    "Call the Python function that was compiled",
)
_SUBMODULE = Cause(
    "it calls a module that the model does not hold as its own",
    "Hold modules as attributes, in an nn.ModuleList or an nn.ModuleDict, not in a plain list or dict",
)
_STATE = Cause(
    "it changes its own parameters or buffers, so that its answer may differ at the next call",
    "Change them outside the forward, or only while training (`if self.training:`)",
)
_RAISED = Cause(
    "it raises an error itself, since while it is traced its inputs are stand-ins (torch.fx.Proxy), not tensors",
    "Leave out checks of types and values; a check of sizes alone is understood",
)
_STAND_IN = Cause(
    "it hands an input to what takes real tensors alone; while it is traced its inputs are stand-ins (torch.fx.Proxy)",
    "Use torch's operations, or move that call in front of the model and give its result as an input",
)
_OBJECT = Cause(
    "it returns, or hands to an operation, an object that is neither a tensor nor a plain value",
    "Return tensors, in tuples, lists, dicts, named tuples or dataclasses, and hand tensors, numbers and tuples of them to "
    "operations",
)
_OWN = Cause(
    "it fails by itself", "Call the model on a batch of its data, where it should fail in the same way, and mend that"
)

_PROPERTIES = (
    r"\b(dtype|device|layout|requires_grad|is_leaf|is_cuda|is_cpu|is_mps|is_sparse|is_quantized|is_floating_point|"
    r"is_complex|is_contiguous|is_pinned|is_inference|element_size|type)\b"
)
_BY_TEXT = (
    ("not installed as a submodule", _SUBMODULE),
    ("cannot assign .* as (buffer|parameter)", _STATE),
    ("used as inputs to control flow", _CONTROL),
    ("cannot be iterated", _ITERATED),
    ("Proxy as a key", _KEY),
    ("does not support item assignment", _ASSIGNED),
    ("Expected a value of type|dynamo-optimized", _COMPILED),
    ("argument of type", _OBJECT),
    (r"interpreted as an integer|indices must be|\w+\(\) argument must be|must be real number|Proxy\.__format__", _NUMBER),
    (r"ndarray|__\w*array\w*__", _ARRAY),
    (r"^(zeros|ones|full|empty|eye|arange|linspace|tensor|as_tensor)\(\)", _FACTORY),
)  # fmt: skip


def explained(error: Exception, name: str, frames: Sequence[tuple[str, str]]) -> ConversionError:
    """The error for a forward of class `name` that could not be traced.

    Args:
        error: what tracing ended with.
        name: the model's class.
        frames: where it came from, outermost first: `file:line` and the code there.
    """
    place, code = frames[-1] if frames else ("unknown line", "")
    what, remedy = _cause(error, code)
    said = str(error).strip()
    first = said.splitlines()[0].split(". ")[0] if said else ""
    return ConversionError(
        f"the forward of {name} cannot be traced: {what} ({type(error).__name__}: {first})\n  at {place}: {code}\n"
        f"  {remedy}"
    )


def _cause(error: Exception, code: str) -> Cause:
    said = str(error)
    if re.match(r"(raise|assert)\b|.*[:;]\s*raise\b", code):
        return _RAISED
    if "'len' is not supported" in said:
        return _LENGTH if re.search(r"\blen\(", code) else _ARRAY
    if isinstance(error, KeyError) and "Proxy" in said:
        return _NUMBER
    if "used as inputs to control flow" in said and re.search(_PROPERTIES, code):
        return _PROPERTY
    for pattern, cause in _BY_TEXT:
        if re.search(pattern, said):
            return cause
    return _STAND_IN if isinstance(error, TraceError) or "Proxy" in said else _OWN
