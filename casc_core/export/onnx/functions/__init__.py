"""How the functions that a network calls on its inputs, and on the layout of signals, are written: a table by name.

What is known of a result, its shape and its type, is what the function itself makes of tensors without numbers. All modules
of this package are imported here, and their rules enter `RULES`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from casc_core.engine.functions import FUNCTIONS
from casc_core.engine.leaves import leaves
from casc_core.export.onnx.functions.layout import rearranged
from casc_core.export.onnx.functions.table import RULES
from casc_core.export.onnx.graph import Graph, SymbolicSize, SymbolicTensor
from casc_core.export.onnx.signals import unsupported

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def written(graph: Graph, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the function of this name gives.

    Raises:
        ConversionError: it cannot be written.
    """
    function = FUNCTIONS[name]
    there = [*leaves(args), *leaves(tuple(kwargs.values()))]
    if not any(isinstance(each, (SymbolicTensor, SymbolicSize)) for each in there):
        return function(*args, **kwargs)
    rule = RULES.get(name) or (rearranged if function.rearranges else None)
    if rule is None:
        raise unsupported(f"{name}()", "there is no rule for it")
    try:
        return rule(graph, function, *args, **kwargs)
    except TypeError as error:
        raise unsupported(f"{name}()", f"called like this: {error}") from error
