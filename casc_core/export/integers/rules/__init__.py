"""What each operation is in integers, one form for each class.

Every module of this package is imported here, and its forms are registered.
"""

import importlib
import pkgutil
from typing import Any

from casc_core.engine.leaves import leaves
from casc_core.engine.signal import Signal, longest_period
from casc_core.engine.spiking_run import SpikingRun
from casc_core.export.integers.call import OperationCall
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Graph
from casc_core.export.walk import Call

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def written(graph: Graph, call: Call, *args: Any, **kwargs: Any) -> Any:
    """What a call of an operation gives, its nodes being added to a graph."""
    run, op = call.run, call.op
    assert isinstance(run, SpikingRun)
    period = longest_period((call.args, call.kwargs)) if op.keeps_time else 1
    made = OperationCall(graph, run.binned(period) if period > 1 else run, op, call.result, call.args)
    trains = [leaf for leaf in leaves((call.args, call.kwargs)) if isinstance(leaf, Signal) and leaf.steps]
    if op.keeps_time and any(each.period != period for each in trains):
        raise made.refuse("some of what it reads comes in bins of several steps, and some step by step")
    return integer_form(op, made, *args, **kwargs)
