"""Inputs, and what is computed of them alone, in an export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from casc_core.engine.leaves import leaves
from casc_core.engine.ops import Attribute, Constant, Embed, Encode, Op, Round, Silence
from casc_core.engine.ops import Call as Function
from casc_core.export.integers.call import OperationCall, depends
from casc_core.export.integers.form import integer_form
from casc_core.export.integers.graph import Plain, Value


@integer_form.register(Function)
@integer_form.register(Attribute)
@integer_form.register(Constant)
def _plain(op: Op, call: OperationCall, *args: Any, **kwargs: Any) -> Any:
    made = any(isinstance(leaf, Tensor) for leaf in leaves(call.result))  # and no mere size
    return Plain(call.result, made and depends((args, kwargs)))


@integer_form.register
def _encode(op: Encode, call: OperationCall, value: Any) -> Value:
    drive = call.result.drive
    exponent = op.settings["exponent"]
    origin = {"input": call.graph.kept_real("input", drive)} if depends(value) else None
    return Value(None, 0, call.result, depends(value), exponent, origin)


@integer_form.register(Embed)
@integer_form.register(Silence)
def _without_train(op: Op, call: OperationCall, value: Any) -> Value:
    grid = call.graph.weights.of(op, "table", lambda: op.table)[1] if isinstance(op, Embed) else None
    return Value(None, 0, call.result, depends(value), grid)


@integer_form.register
def _round(op: Round, call: OperationCall, value: Value) -> Value:
    return replace(value, signal=call.result, drive_exponent=op.settings["exponent"], origin=None)
