"""The walk through a program by which a network is written: beside a run of it, one call of an operation after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from casc_core.engine.ops import Op
from casc_core.engine.program import Step, substitute
from casc_core.engine.run import Run


@dataclass(frozen=True)
class Call:
    """A call of an operation in a run: with which arguments, and what it gave."""

    run: Run
    op: Op
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any


def walking(values: dict[str, Any], write: Callable[..., Any]) -> Callable[..., None]:
    """What a `Recorder` watches a run with, so that all of its program is written.

    Args:
        values: by name, what has been written of each value so far; the inputs of the network at first.
        write: called as `write(call, *args, **kwargs)`, where in the arguments what has been written stands for each value;
            what it gives stands for the result.
    """

    def watch(run: Run, step: Step, op: Op, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        read, named = substitute((step.args, dict(step.kwargs)), values)
        values[step.result] = write(Call(run, op, args, kwargs, result), *read, **named)

    return watch
