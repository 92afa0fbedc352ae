"""An abstract run of a program: before it runs, for the shapes of its inputs and without their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from casc_core.engine.batching.places import Axis, Mixed, Samples
from casc_core.engine.batching.samples import Abstract, Follower, Unknown, UnprovableError, meta
from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import Op, device_of
from casc_core.engine.program import Program, Step, last_uses, refs, substitute
from casc_core.engine.run import Run
from casc_core.errors import CascError

Shapes = Mapping[str, tuple[torch.Size, torch.dtype]]
Dims = Mapping[str, "int | None"]


@dataclass(frozen=True)
class Followed:
    """What an abstract run found.

    Attributes:
        samples: how many.
        dims: the dimension of each input that counts them; None: an input that all samples share.
        outputs: what is known of the program's outputs, by number.
        layers: where the samples are in each population, by the step that gives it.
        recurs: a population mixes what was not, as a recurrent layer does that goes along its positions.
        bytes: what the run takes at most.
        doubts: why it is not known what else it does, if it is not.
        values, notes: by step, what is known of its result, and what each sample undergoes.
    """

    samples: int
    dims: Dims
    outputs: tuple[Any, ...]
    layers: Mapping[str, Samples]
    recurs: bool
    bytes: int
    doubts: tuple[str, ...]
    values: Mapping[str, Any]
    notes: Mapping[str, list[Any]]

    @property
    def why_not(self) -> str | None:
        """Why samples may influence one another, or have no rows of their own in an output; None: they are apart."""
        return next((why for why in (*self.doubts, *map(_why_not, self.outputs)) if why is not None), None)

    def is_read_out(self, output: int) -> bool:
        """Whether neurons compute the output of this number."""
        return _is_signal(self.outputs[output])

    @property
    def _signals(self) -> list[Abstract]:
        return [each for each in self.outputs if _is_signal(each)]

    @property
    def recorded(self) -> int:
        """How many samples a record of the run is of: one, if the inputs are vectors whose entries all meet in the single
        row of each output, as those of a sample do that is given without a batch."""
        signals = self._signals
        if not signals or not all(isinstance(each.samples, Mixed) and each.like.dim() == 1 for each in signals):
            return self.samples
        vectors = all(self.values[name].like.dim() == 1 for name, dim in self.dims.items() if dim is not None)
        return 1 if vectors else self.samples

    @property
    def is_mixed(self) -> bool:
        """Whether samples meet anywhere that counts: in a population or in an output."""
        there = [*self.layers.values(), *(each.samples for each in self._signals)]
        return any(isinstance(samples, Mixed) for samples in there)

    def axis(self, output: int) -> Axis | None:
        """Where the samples are in the output of this number; None: all share it."""
        found = self.outputs[output]
        return found.samples if isinstance(found, Abstract) and isinstance(found.samples, Axis) else None

    @property
    def in_rows(self) -> bool:
        """Whether the rows of each output, along its first dimension, are those of one sample after those of another."""
        there = [each for each in self.outputs if isinstance(each, Abstract) and isinstance(each.samples, Axis)]
        return all(
            isinstance(each.samples, Axis)
            and each.samples.dim == 0
            and each.shape[0] == each.samples.inner * self.samples
            for each in there
        )

    @property
    def begins_rows(self) -> bool:
        """Whether the first dimension of each output counts the samples."""
        return all(axis.dim == 0 for axis in map(self.axis, range(len(self.outputs))) if axis is not None)

    def treats_as(self, other: Followed) -> bool:
        """Whether each sample undergoes the same here and there, whatever the size of the batch."""
        if self.why_not is not None or other.why_not is not None or self.dims != other.dims:
            return False
        if self.notes.keys() != other.notes.keys() or self.values.keys() != other.values.keys():
            return False
        here, there = (
            {name: _of_one(value, each.samples) for name, value in each.values.items()} for each in (self, other)
        )
        known = zip(self.outputs, other.outputs, strict=True)
        alike = all(isinstance(one, Abstract) or _same(one, same) for one, same in known)
        return alike and _same(here, there) and _same(dict(self.notes), dict(other.notes))


def follow(
    program: Program, ops: Sequence[Op], shapes: Shapes, dims: Dims, run: Run, before: Followed | None = None
) -> Followed:
    """The abstract run of a program on inputs of these shapes, for such a run as `run`.

    Args:
        dims: the dimension of each input that counts the samples; None: all of them share it.
        before: the run of a larger batch that this one is to be compared with.
    """
    room = run.room + 1024 * sum(shape.numel() for shape, _ in shapes.values())
    batch = next(shapes[name][0][dim] for name, dim in dims.items() if dim is not None)
    values: dict[str, Any] = {
        name: Abstract(meta(*shapes[name]), None if dims[name] is None else Axis(dims[name] or 0)) for name in shapes
    }
    device = device_of(ops) or torch.device("cpu")
    follower = Follower(batch, device, run, room, None if before is None else dict(before.values))
    uses = last_uses(program)
    there: dict[str, Any] = {}
    doubts: list[str] = []
    layers: dict[str, Samples] = {}
    recurs, most, kept = False, 0, 0
    returned = set(program.output_values)
    later: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        op = ops[step.op]
        follower.step, follower.at = step.result, _described(step, op)
        args, kwargs = substitute((step.args, dict(step.kwargs)), values)
        result = values[step.result] = there[step.result] = _followed(follower, op, args, kwargs, doubts)
        if op.is_layer:
            layers[step.result] = result.samples if isinstance(result, Abstract) else Mixed(result.why)
            apart = isinstance(args[0], Abstract) and isinstance(args[0].samples, Axis)
            recurs = recurs or (apart and isinstance(layers[step.result], Mixed))
        signals = [each for each in leaves((args, kwargs, result)) if isinstance(each, Abstract)]
        held = _held(there)
        most = max(most, kept + held + (op.working(follower, signals) if signals else 0))
        # What an operation leaves to its reader is computed before that one's own result is there.
        waiting = max((later.get(name, 0) for name in refs((step.args, dict(step.kwargs)))), default=0)
        most = max(most, kept + held - (result.nbytes if isinstance(result, Abstract) else 0) + waiting)
        later[step.result] = op.later(follower, signals) if signals else 0
        for name in [name for name in there if uses.get(name) == index]:
            del there[name]
        if step.result in returned and _is_signal(result):
            most = max(most, kept + _held(there) + 3 * _over_time(result, follower.awake))
            kept += _over_time(result, follower.awake)
        if step.result not in uses:
            del there[step.result]
    outputs = tuple(values[name] for name in program.output_values)
    unread = {name: None if isinstance(value, Tensor) else value for name, value in values.items()}
    return Followed(batch, dict(dims), outputs, layers, recurs, most, tuple(doubts), unread, follower.notes)


def _is_signal(output: Any) -> TypeGuard[Abstract]:
    return isinstance(output, Abstract) and output.train is not None


def _held(values: Mapping[str, Any]) -> int:
    """Bytes of what is there."""
    return sum(each.nbytes for each in leaves(list(values.values())) if isinstance(each, Abstract))


def _over_time(output: Abstract, awake: int) -> int:
    """Bytes of a readout, step after step."""
    assert output.train is not None
    return 8 * output.like.numel() * max(output.train.steps, awake)


def _why_not(output: Any) -> str | None:
    """Why the samples have no rows of their own in this output; None: they have, or none needs any."""
    if isinstance(output, Unknown):
        return output.why
    if not isinstance(output, Abstract):
        return None
    if output.samples is None:
        return None if output.train is None else "the output is the same for all samples"
    return output.samples.why if isinstance(output.samples, Mixed) else None


def _followed(follower: Follower, op: Op, args: Any, kwargs: Any, doubts: list[str]) -> Any:
    """What is known of one operation's result. An error here is left to the run itself, which meets it again."""
    args, sizes = _without_ends(op, args)
    given = leaves((args, kwargs))
    unknown = next((each for each in given if isinstance(each, Unknown)), None)
    sizes = next((each.at_most for each in given if isinstance(each, Abstract) and each.at_most), sizes)
    try:
        if unknown is not None:
            raise UnprovableError(unknown.why)
        result = op.follow(follower, *args, **kwargs)
        return result if sizes is None else map_leaves(_listed(result), lambda each: _at_most(each, sizes))
    except UnprovableError as error:
        why = str(error)
    except (CascError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        why = f"{follower.at} cannot be followed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if op.settings.get("function") == "expect":  # nothing reads its result
        doubts.append(why)
    return Unknown(why)


def _without_ends(op: Op, args: Any) -> tuple[Any, str | None]:
    """Arguments without the ends of slices that are read from values, such as `x[:, : lengths.max()]`, and why they are
    not known: what is taken is no larger than all of it."""
    is_taken = op.settings.get("function") == "operator.getitem" and len(args) == 2
    if not is_taken or not isinstance(args[0], Abstract):
        return args, None
    why: list[str] = []

    def end(each: Any) -> Any:
        if not isinstance(each, (Abstract, Unknown)):
            return each
        told = each if isinstance(each, Unknown) else each.samples
        why.append(told.why if isinstance(told, (Unknown, Mixed)) else "a size is read from a tensor's values")
        return None

    places = args[1] if isinstance(args[1], tuple) else (args[1],)
    known = tuple(map_leaves(place, end) if isinstance(place, slice) else place for place in places)
    return ((args[0], known), why[0]) if why else (args, None)


def _listed(value: Any) -> Any:
    """Sizes as a tuple, which may hold anything."""
    return tuple(value) if isinstance(value, torch.Size) else value


def _at_most(value: Any, why: str) -> Any:
    """What is known of a value, given that sizes are only the largest there may be."""
    return replace(value, samples=Mixed(why), at_most=why) if isinstance(value, Abstract) else Unknown(why)


def _described(step: Step, op: Op) -> str:
    name = op.settings.get("function") or op.settings.get("name")
    called = name if op.settings.get("function") else type(op).__name__ + (f" {name!r}" if name else "")
    return f"{called} ({step.line or f'step {step.result}'})"


def _of_one(value: Any, samples: int) -> Any:
    """An abstract value without the size of the batch; a known one, which is compared where it is used, not at all."""
    if isinstance(value, (tuple, list)):
        return [_of_one(each, samples) for each in value]
    if not isinstance(value, Abstract):
        return None
    shape, axis = list(value.shape), value.samples
    if isinstance(axis, Axis):
        shape[axis.dim] //= axis.inner * samples
    return [shape, "mixed" if isinstance(axis, Mixed) else axis, value.like.dtype]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
