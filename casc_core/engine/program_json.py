"""Programs as JSON: their arguments are of a closed set of kinds, and so is what is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from casc_core.engine.functions import DTYPES
from casc_core.engine.ops.declared import EXPONENT
from casc_core.engine.program import Program, Readout, Ref, Step
from casc_core.engine.structure import ONE
from casc_core.engine.structure import from_json as structure_from_json
from casc_core.engine.structure import to_json as structure_to_json
from casc_core.storage.strict import of, record, strings

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
_INFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def argument_to_json(value: Any) -> Any:
    """An argument as JSON.

    Raises:
        TypeError: it is of a kind that no saved network has.

    >>> argument_to_json((Ref("x"), slice(0, 2)))
    {'tuple': [{'ref': 'x'}, {'slice': [0, 2, None]}]}
    """
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, tuple):
        return {"tuple": [argument_to_json(item) for item in value]}
    if isinstance(value, list):
        return [argument_to_json(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: argument_to_json(item) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [argument_to_json(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.memory_format):
        return {"memory format": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"an argument of type {type(value).__name__} cannot be saved: {value!r}")


def argument_from_json(value: Any) -> Any:
    """The argument that `argument_to_json` wrote.

    Raises:
        ValueError: it wrote no such thing.

    >>> argument_from_json({"tuple": [{"ref": "x"}, {"dtype": "int64"}]})
    (Ref(name='x'), torch.int64)
    >>> argument_from_json({"dtype": "sys"})
    Traceback (most recent call last):
    ...
    ValueError: no type of numbers is called 'sys'
    """
    if isinstance(value, list):
        return [argument_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"an argument must be a value, or one value by its kind; got {value!r:.80}")
    ((kind, content),) = value.items()
    if kind not in _READERS:
        raise ValueError(f"there is no kind of argument {kind!r:.80}; there are {', '.join(_READERS)}")
    return _READERS[kind](content)


def _slice(parts: Any) -> slice:
    if len(of(list, parts, "a slice")) != 3:
        raise ValueError(f"a slice has three parts; got {len(parts)}")
    return slice(*(argument_from_json(part) for part in parts))


def _dtype(name: Any) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"no type of numbers is called {name!r:.80}")
    return DTYPES[name]


def _device(name: Any) -> torch.device:
    kind, colon, index = of(str, name, "a device").partition(":")
    if kind not in _DEVICES or (colon and not (index.isascii() and index.isdigit() and len(index) < 4)):
        raise ValueError(f"no device is called {name!r:.80}")
    return torch.device(name)


def _memory_format(name: Any) -> torch.memory_format:
    found = {str(each).removeprefix("torch."): each for each in _MEMORY_FORMATS}
    if not isinstance(name, str) or name not in found:
        raise ValueError(f"no memory format is called {name!r:.80}")
    return found[name]


def _ellipsis(content: Any) -> Any:
    if content is not True:
        raise ValueError(f"an ellipsis is written as true; got {content!r:.80}")
    return Ellipsis


def _infinite(name: Any) -> float:
    if not isinstance(name, str) or name not in _INFINITE:
        raise ValueError(f"no number is called {name!r:.80}")
    return _INFINITE[name]


_READERS: dict[str, Callable[[Any], Any]] = {
    "ref": lambda name: Ref(of(str, name, "a reference")),
    "tuple": lambda items: tuple(argument_from_json(item) for item in of(list, items, "a tuple")),
    "dict": lambda items: {key: argument_from_json(item) for key, item in of(dict, items, "a dict").items()},
    "slice": _slice,
    "dtype": _dtype,
    "device": _device,
    "memory format": _memory_format,
    "ellipsis": _ellipsis,
    "float": _infinite,
}


def program_to_json(program: Program) -> dict[str, Any]:
    """A program as JSON."""
    return {
        "inputs": list(program.inputs),
        "steps": [
            {
                "op": step.op,
                "args": argument_to_json(step.args),
                "kwargs": argument_to_json(dict(step.kwargs)),
                "result": step.result,
            }
            for step in program.steps
        ],
        **_returned_to_json(program),
    }


def _returned_to_json(program: Program) -> dict[str, Any]:
    """A single readout as its fields; anything else by number, and in its structure."""
    outputs = [_output_to_json(output) for output in program.outputs]
    return (
        outputs[0]
        if program.returned.is_single
        else {"outputs": outputs, "structure": structure_to_json(program.structure)}
    )


def _output_to_json(output: Readout | Ref) -> dict[str, Any]:
    if isinstance(output, Ref):
        return {"output": output.name}
    return {"output": output.ref.name, "scale": output.scale, "exponent": output.exponent}


def program_from_json(value: Any) -> Program:
    """The program that `program_to_json` wrote; whether its steps fit each other is not looked at.

    Raises:
        ValueError: it wrote no such thing.
    """
    single = "structure" not in of(dict, value, "a program")
    fields = record(value, ("inputs", "steps", *(_READOUT if single else ("outputs", "structure"))), "a program")
    written = [{name: fields[name] for name in _READOUT}] if single else of(list, fields["outputs"], "outputs")
    return Program(
        tuple(strings(fields["inputs"], "a program's inputs")),
        tuple(_step(step) for step in of(list, fields["steps"], "a program's steps")),
        tuple(map(_output, written)),
        ONE if single else structure_from_json(fields["structure"]),
    )


_READOUT = ("output", "scale", "exponent")


def _output(value: Any) -> Readout | Ref:
    fields = record(value, ("output",) if len(of(dict, value, "an output")) == 1 else _READOUT, "an output")
    ref = Ref(of(str, fields["output"], "a program's output"))
    if len(fields) == 1:
        return ref
    scale, wrong = fields["scale"], EXPONENT.wrong(fields["exponent"])
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"an output's scale must be a finite number; got {scale!r:.80}")
    if wrong:
        raise ValueError(f"an output's exponent must be {wrong}; got {fields['exponent']!r:.80}")
    return Readout(ref, float(scale), fields["exponent"])


def _step(value: Any) -> Step:
    fields: Mapping[str, Any] = record(value, ("op", "args", "kwargs", "result"), "a step")
    args, kwargs = (argument_from_json(fields[name]) for name in ("args", "kwargs"))
    return Step(
        of(int, fields["op"], "a step's operation"),
        of(tuple, args, "a step's args"),
        of(dict, kwargs, "a step's kwargs"),
        of(str, fields["result"], "a step's result"),
    )
