"""A lowered network: a straight list of calls of operations, which can be run, saved and loaded without the model."""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import Op
from casc_core.engine.recording.observer import Observer
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal, longest_period
from casc_core.engine.structure import ONE, Returned, Structure
from casc_core.errors import CascError, InputError

READOUT = "the readout"


@dataclass(frozen=True)
class Ref:
    """The value that an earlier call, or an input, left under this name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call: operation number `op`, its arguments (with `Ref`s inside) and the name of its result.

    `line` is the user's line that it comes from, for messages; a saved network does not have it.
    """

    op: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: str
    line: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Readout:
    """An output that neurons compute.

    Attributes:
        ref: the value that is read out.
        scale: factor from its numbers to the user's.
        exponent: its numbers are on the grid `2**exponent`.
    """

    ref: Ref
    scale: float
    exponent: int


class _Planned(NamedTuple):
    """A step as a run takes it.

    Attributes:
        call: its arguments, with `Ref`s inside. is_plain: whether these are `Ref`s, or stand as they are.
        names: the values that it reads. let_go: those that nothing reads afterwards.
        is_read: whether a step reads its result. readers: how many steps and outputs do.
    """

    call: tuple[tuple[Any, ...], dict[str, Any]]
    is_plain: bool
    names: set[str]
    let_go: tuple[str, ...]
    is_read: bool
    readers: int


@dataclass(frozen=True)
class Program:
    """Calls in order, for one way to call the model.

    Attributes:
        inputs: names of the arguments it takes.
        steps: the calls.
        outputs: by number; a `Ref` is one that the inputs, parameters and buffers alone decide, and is handed through.
        structure: where they stand in what the model's forward returns.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Readout | Ref, ...]
    structure: Structure = ONE

    @cached_property
    def returned(self) -> Returned:
        """What it returns, and which of it neurons compute."""
        return Returned(self.structure, tuple(isinstance(output, Readout) for output in self.outputs))

    @cached_property
    def output_values(self) -> tuple[str, ...]:
        """The names of the values that are its outputs, by number."""
        return tuple(_ref(output).name for output in self.outputs)

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """By value, the numbers of the outputs that it is."""
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.output_values):
            numbers.setdefault(name, []).append(number)
        return numbers

    @cached_property
    def _plan(self) -> list[_Planned]:
        """What a run needs to know of each step."""
        last_use = last_uses(self)
        calls = [(step.args, dict(step.kwargs)) for step in self.steps]
        read = [refs(call) for call in calls]
        readers = Counter(itertools.chain(*read, self.output_values))
        return [
            _Planned(
                call,
                all(isinstance(arg, Ref) or not refs(arg) for arg in (*call[0], *call[1].values())),
                names,
                tuple(name for name in names if last_use[name] == index),
                step.result in last_use,
                readers[step.result],
            )
            for index, (step, call, names) in enumerate(zip(self.steps, calls, read, strict=True))
        ]

    def renumbered(self, number: Mapping[int, int]) -> Program:
        """The same program with operation `old` called `number[old]`."""
        return replace(self, steps=tuple(replace(step, op=number[step.op]) for step in self.steps))

    def renamed(self) -> Program:
        """The same program with its results named in the order of its steps."""
        names = {step.result: Ref(f"%{index}") for index, step in enumerate(self.steps)}
        names |= {name: Ref(name) for name in self.inputs}
        steps = []
        for step in self.steps:
            args, kwargs = substitute((step.args, dict(step.kwargs)), names)
            steps.append(replace(step, args=args, kwargs=kwargs, result=names[step.result].name))
        outputs = tuple(
            replace(output, ref=names[output.ref.name]) if isinstance(output, Readout) else names[output.name]
            for output in self.outputs
        )
        return replace(self, steps=tuple(steps), outputs=outputs)

    def check(self, ops: Sequence[Op]) -> None:
        """Raise `ValueError` unless every call is one that can be made.

        Every name is defined once, and before it is used; every operation is one of `ops`, and takes as many arguments.
        """
        known = set(self.inputs)
        for step in self.steps:
            missing = refs((step.args, dict(step.kwargs))) - known
            if missing or not 0 <= step.op < len(ops):
                raise ValueError(f"step {step.result!r} uses {sorted(missing) or step.op!r}, which is not there")
            if step.result in known:
                raise ValueError(f"step {step.result!r} gives a name that is taken")
            try:
                inspect.signature(ops[step.op].forward).bind(None, *step.args, **step.kwargs)
            except TypeError as error:
                raise ValueError(f"step {step.result!r} does not call a {ops[step.op].kind} as one: {error}") from error
            known.add(step.result)
        missing = set(self.output_values) - known
        if missing:
            raise ValueError(f"no step computes the output {min(missing)!r}")
        if len(self.returned.names) != len(self.outputs):
            raise ValueError(f"{len(self.outputs)} outputs, of which its structure has {len(self.returned.names)}")
        if not self.returned.readouts:
            raise ValueError("no output is computed by neurons")

    def run(
        self, ops: Sequence[Op], run: Run, inputs: Mapping[str, Any], read: Callable[[Readout, Any], Any]
    ) -> list[Any]:
        """The outputs; each intermediate is dropped after its last use.

        Args:
            read: what it makes of the value of a readout, once that is there.
        """
        values = dict(inputs)
        outputs: list[Any] = [None] * len(self.outputs)
        numbers = self._numbers
        observer = None if run.recorder is None else Observer(run, run.recorder, inputs)

        def returned(name: str) -> None:
            for number in numbers.get(name, ()):
                output = self.outputs[number]
                outputs[number] = read(output, values[name]) if isinstance(output, Readout) else values[name]
                if observer is not None:
                    observer.returned(name)

        def drop(names: tuple[str, ...]) -> None:
            for name in names:
                del values[name]
            if observer is not None:
                observer.forget(names)

        for name in inputs:
            returned(name)
        for step, planned in zip(self.steps, self._plan, strict=True):
            op, call = ops[step.op], planned.call
            run.reads_result_once = planned.readers == 1
            given = _plain if planned.is_plain else substitute
            args = tuple([given(each, values) for each in call[0]])
            kwargs = {name: given(each, values) for name, each in call[1].items()}
            period = max([1, *[longest_period(values[name]) for name in planned.names]])
            values[step.result] = _called(op, run, args, kwargs, period)
            if run.recorder is not None and run.recorder.watch is not None:
                run.recorder.watch(run, step, op, args, kwargs, values[step.result])
            if observer is not None:
                observer.called(step.result, op, values[step.result], substitute(call, observer.values), planned.names)
            del args, kwargs  # what was read for the last time is let go before the readout
            drop(planned.let_go)
            returned(step.result)
            if not planned.is_read:
                drop((step.result,))
        if observer is not None:
            observer.ended(READOUT)
        return outputs


def _ref(output: Readout | Ref) -> Ref:
    return output.ref if isinstance(output, Readout) else output


def last_uses(program: Program) -> dict[str, int]:
    """By value, the number of the last step that reads it."""
    return {name: index for index, step in enumerate(program.steps) for name in refs((step.args, dict(step.kwargs)))}


# What torch and Python raise of arguments that do not fit; what else there is, is no matter of the input.
_UNFIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _called(op: Op, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any], period: int) -> Any:
    """The result of an operation, of signals of this period.

    Raises:
        InputError: it cannot be applied to what it is given.
    """
    try:
        if period == 1 or not op.keeps_time:
            return op(run, *args, **kwargs)
        return map_leaves(op(run.binned(period), *args, **kwargs), lambda leaf: _of_period(leaf, period))
    except _UNFIT as error:
        if isinstance(error, (CascError, torch.OutOfMemoryError)):
            raise
        name = op.settings.get("name") or op.settings.get("function") or op.kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: it cannot be applied to what this input gives ({reason:.300}); {_remedy((args, kwargs))}"
        ) from error


def _remedy(given: Any) -> str:
    """What to do where an operation cannot be applied to what it is given."""
    places = sorted({str(leaf.device) for leaf in leaves(given) if isinstance(leaf, (Tensor, Signal))})
    if len(places) < 2:
        return "the network takes inputs of the kind and shape that its model takes"
    return (
        f"it is given tensors on {' and '.join(places)}. One that a forward makes without device= is on the CPU: make it "
        "with device=x.device; and move all inputs to where the network is"
    )


def _of_period(value: Any, period: int) -> Any:
    return replace(value, period=period) if isinstance(value, Signal) else value


def _plain(value: Any, values: Mapping[str, Any]) -> Any:
    """As `substitute`, of what is a `Ref` or holds none."""
    return values[value.name] if isinstance(value, Ref) else value


def substitute(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with every `Ref` replaced by what it refers to."""
    if isinstance(value, Ref):
        return values[value.name]
    return map_leaves(value, lambda leaf: values[leaf.name] if isinstance(leaf, Ref) else leaf)


def refs(value: Any) -> set[str]:
    """Names that `value` refers to."""
    found: set[str] = set()

    def visit(leaf: Any) -> None:
        if isinstance(leaf, Ref):
            found.add(leaf.name)

    map_leaves(value, visit)
    return found
