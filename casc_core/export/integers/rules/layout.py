"""What only stands elsewhere, or in other steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from casc_core.engine.ops import Bin, MaskedFill, Op, Pick, RequireFeatures, Unbin
from casc_core.export.integers.call import OperationCall
from casc_core.export.integers.form import integer_form, moved
from casc_core.export.integers.graph import Value


@integer_form.register(RequireFeatures)
@integer_form.register(Unbin)
def _as_it_is(op: Op, call: OperationCall, value: Value) -> Value:
    return replace(value, signal=call.result)


@integer_form.register
def _bin(op: Bin, call: OperationCall, value: Value) -> Value:
    if value.node is None or call.result.period == 1:
        return replace(value, signal=call.result)
    node, _ = call.node("bin", [value.node], value.exponent, period=call.result.period)
    return replace(value, node=node, signal=call.result)


@integer_form.register
def _pick(op: Pick, call: OperationCall, values: Sequence[Value]) -> Value:
    part: Value = values[op.settings["index"]]
    return part


integer_form.register(MaskedFill, moved)
