"""The fourth pass: calls become a `Program`; equal operations are shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from casc_core.conversion.grids import Form
from casc_core.conversion.passes.snap import Calls, OpCall
from casc_core.engine.ops import Op
from casc_core.engine.program import Program, Readout, Ref, Step, refs
from casc_core.storage.checksum import sha256


class OpPool:
    """The operations of a network; one that is already there is shared."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self.ops: list[Op] = list(ops)
        self._known = {self._digest(op): index for index, op in enumerate(self.ops)}

    def add(self, op: Op) -> int:
        """Index of `op`, or of an equal one."""
        key = self._digest(op)
        if key not in self._known:
            self._known[key] = len(self.ops)
            self.ops.append(op)
        return self._known[key]

    @staticmethod
    def _digest(op: Op) -> str:
        return sha256(_bytes_of(op))


def _bytes_of(op: Op) -> Iterator[bytes]:
    """What tells an operation from others: its kind, its settings and its tensors."""
    yield repr((op.kind, sorted(op.settings.items()))).encode()
    for name, tensor in sorted(op.tensors().items()):
        yield f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().numpy().tobytes()


def emit(calls: Calls, pool: OpPool) -> Program:
    """The program of the calls that something reads; their operations are added to `pool`."""
    steps = tuple(Step(pool.add(call.op), call.args, call.kwargs, call.result.name, call.line) for call in _read(calls))
    outputs = tuple(each.ref if each.form is None else _readout(each.ref, each.form) for each in calls.outputs)
    return Program(calls.inputs, steps, outputs, calls.structure).renamed()


def _readout(ref: Ref, form: Form) -> Readout:
    exponent = min(each for each in (form.exponent, form.drive_exponent) if each is not None)
    return Readout(ref, form.factor, exponent)


def _read(calls: Calls) -> list[OpCall]:
    """The calls whose results another one reads or are outputs, and those that check."""
    needed = {*(output.ref.name for output in calls.outputs), *(check.name for check in calls.checks)}
    kept: list[OpCall] = []
    for call in reversed(calls.calls):
        if call.result.name in needed:
            kept.append(call)
            needed |= refs((call.args, call.kwargs))
    return kept[::-1]
