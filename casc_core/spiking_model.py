"""The converted network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.conversion.adapter import Adapter
from casc_core.conversion.tracing.trace import held_arguments, required_arguments
from casc_core.engine.arguments import checked_input
from casc_core.engine.batching.batch_parts import DEFAULT_LIMIT, Inputs, Parts, Splitter
from casc_core.engine.capture import captured, uncaptured
from casc_core.engine.frozen import checksum
from casc_core.engine.kernels import instructions
from casc_core.engine.ops import Op
from casc_core.engine.ops.op import CONVERT_AGAIN
from casc_core.engine.precision import undisturbed
from casc_core.engine.program import READOUT, Program
from casc_core.engine.recorder import Recorder, Work
from casc_core.engine.run import LEAST_ROOM, LevelRun, Run, SpikingRun, checked_total
from casc_core.engine.signal import Signal
from casc_core.errors import CascError, ConfigError, ConversionError, InputError
from casc_core.neuron import Neuron
from casc_core.numerics import Numerics
from casc_core.reporting.series import last_repeated, zero_padded
from casc_core.schedule import Schedule, check_steps
from casc_core.simulation import Simulation, join_simulations, layer_spikes, operations_by_step


@dataclass(frozen=True)
class Settings:
    """How a network was converted.

    Attributes:
        adapter: name of the adapter.
        q: levels it was trained with.
        neuron, schedule, numerics: what simulates it.
        arguments: names of the arguments of the model's forward, in order.
    """

    adapter: str
    q: int
    neuron: Neuron
    schedule: Schedule
    numerics: Numerics
    arguments: tuple[str, ...]

    @property
    def levels(self) -> int:
        """Levels of `reference`: all wake steps together, or q where the network never sleeps."""
        return self.schedule.levels or self.q


def resolved_schedule(schedule: Schedule, q: int) -> Schedule:
    """`schedule` for a network trained with `q` levels; warns where it computes with another number of them.

    Raises:
        ConfigError: it is no schedule, or has more levels than neurons can count.
    """
    if not isinstance(schedule, Schedule):
        raise ConfigError(f"schedule must be WakeSleep(...) or Continuous(), an instance; got {schedule!r}")
    resolved = schedule.resolved(q)
    checked_total(resolved.levels or q)
    if resolved.levels not in (None, q):
        warnings.warn(
            f"{resolved} computes with {resolved.levels} levels, but the model was trained with q={q}: the reference is "
            "the network with that many levels, not the one that was trained",
            stacklevel=3,
        )
    return resolved


@dataclass
class Origin:
    """What a network was converted from; no part of it.

    Attributes:
        ann: the network that was converted, its activations CQReLU.
        adapter: that of the conversion.
        unrounded: what `casc_core.convert.unrounded` keeps: its lowering without grids, and the state of `ann` it is of.
        checksum: of the tensors of `ann` when it was converted.
    """

    ann: nn.Module
    adapter: Adapter
    unrounded: tuple[object, SpikingModel] | None = None
    checksum: int = field(init=False)

    def __post_init__(self) -> None:
        self.checksum = self._checksum()

    @property
    def is_changed(self) -> bool:
        """Whether `ann` is another network than it was."""
        return self._checksum() != self.checksum

    def _checksum(self) -> int:
        return checksum((*self.ann.parameters(), *self.ann.buffers()))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"unrounded": None}


class SpikingModel(nn.Module):
    """A spiking network that gives the answer of the network it was converted from. Made by `casc_core.convert`.

    `snn(*inputs)` takes what the model took and returns its logits, simulated in spikes until silent; they equal
    `snn.reference(*inputs)` bit for bit under CIF and WakeSleep.

    Attributes:
        settings: how it was converted.
        layers: names of its spiking layers, in order.
        ann: the network it was converted from, if at hand (a loaded one has none unless given).
        origin: that, and how it was converted.
        memory_limit: bytes that a run may take beside its inputs and results, 2 GiB unless set: of a larger batch, as
            many samples as that allows are run at a time.
    """

    origin: Origin | None

    def __init__(
        self, ops: list[Op], programs: Mapping[frozenset[str], Program], layers: tuple[str, ...], settings: Settings
    ) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        for op in ops:
            op.seal()
        self.programs = dict(programs)
        self.layers, self.settings = layers, settings
        self.origin = None
        self._memory_limit = DEFAULT_LIMIT
        self._splitters: dict[frozenset[str], Splitter] = {}
        # Whether ways of calling it can be added: not where populations have been changed since.
        self._lowers = True
        self.eval()
        self._hold()

    @property
    def ann(self) -> nn.Module | None:
        """The network it was converted from, if at hand."""
        return None if self.origin is None else self.origin.ann

    @property
    def memory_limit(self) -> int:
        """Bytes that a run may take beside its inputs and results; a larger batch is run in parts."""
        return self._memory_limit

    @memory_limit.setter
    def memory_limit(self, limit: int) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"memory_limit, in bytes, must be an integer of at least 1; got {limit!r}")
        self._memory_limit = limit

    @uncaptured
    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Logits `[batch, classes]`, in spikes until silent.

        Raises:
            InputError: an empty batch, a token out of range, a length of zero.
            ConfigError: the schedule never sleeps; use `simulate(..., T=...)`; or something would record the run
                (`torch.jit`, `torch.fx`, `torch.export`) or transform it (`torch.func`). Under `torch.compile` it runs as
                it does without.
        """
        return self._logits_of(lambda: self._spiking_run(None, None), inputs, named)

    @uncaptured
    def reference(self, *inputs: Any, **named: Any) -> Tensor:
        """Logits `[batch, classes]` of the quantised ANN on the same snapped weights, computed at once in levels."""
        return self._logits_of(lambda: LevelRun(self.settings.numerics, self.settings.levels), inputs, named)

    @uncaptured
    def simulate(self, *inputs: Any, T: int | None = None, **named: Any) -> Simulation:
        """Simulate in spikes for `T` steps; None: until nothing spikes any more.

        Returns:
            A `Simulation`: readout after each step, steps to silence, spikes of each layer.

        Raises:
            ConfigError: `T < 1` or above 131,072, or None under a schedule that never sleeps.
            InputError: as for a call.
        """
        self.check_steps(T)
        program, values = self._bound(inputs, named)
        parts = self._splitter(program).parts(values, self._spiking_run(T, None), self.memory_limit)
        return join_simulations([self._simulated(program, part, T, Recorder()) for part in parts], parts.join)

    def check_steps(self, T: int | None) -> None:
        """Complain about a number of steps that cannot be simulated.

        Raises:
            ConfigError: `T < 1` or above 131,072, or None under a schedule that never sleeps.
        """
        self._spiking_run(T, None)

    def wake_steps(self, T: int | None) -> tuple[list[int], int | None]:
        """How many wake steps there have been by each step, since populations last began anew; and after which they do.

        The steps are `T`, or with None those until the last wake step.
        """
        run = self._spiking_run(T, None)
        awake, anew, so_far = run.wake_weights(T), run.restarts_after, 0
        counts = []
        for step, wake in enumerate(awake):
            so_far = (0 if step == anew else so_far) + wake
            counts.append(so_far)
        return counts, anew

    def simulate_recorded(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], steps: int | None, recorder: Recorder
    ) -> Simulation:
        """`simulate` of the whole batch at once; what `recorder` is set to keep is in it afterwards."""
        program, values = self._bound(inputs, named)
        return self._simulated(program, values, steps, recorder)

    def _simulated(self, program: Program, values: Inputs, steps: int | None, recorder: Recorder) -> Simulation:
        recorder.keep_activity = True
        run = self._spiking_run(steps, recorder)
        output = self._evaluate(run, program, values)
        silent = torch.zeros(recorder.samples, dtype=torch.int64)
        for last in recorder.last_spike.values():
            silent = torch.maximum(silent, last)
        length = steps or max(len(run.awake), int(silent.max()))
        readouts, awake = self._readouts(output, run, length, program), run.wake_weights(length)
        at_readout = operations_by_step(recorder.work.get(READOUT, Work()), awake, length)
        return Simulation(readouts, silent, layer_spikes(recorder, awake, length), *at_readout)

    def parts(self, inputs: tuple[Any, ...], named: Mapping[str, Any], T: int | None) -> Parts:
        """The inputs, by name, in parts whose simulations for `T` steps stay under the memory limit each.

        The outputs of the parts, one behind another, are those of the batch.
        """
        program, values = self._bound(inputs, named)
        return self._splitter(program).parts(values, self._spiking_run(T, None), self.memory_limit, in_rows=True)

    def reference_counts(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The reference's logits, and every neuron's level by layer, of the whole batch at once."""
        recorder = Recorder(keep_counts=True)
        run = LevelRun(self.settings.numerics, self.settings.levels, recorder)
        program, values = self._bound(inputs, named)
        output = self._evaluate(run, program, values)
        return self._readout(output, run.total, program), recorder.counts

    def operations(self) -> list[Op]:
        """The operations that its programs call, by number."""
        return [op for op in self.ops if isinstance(op, Op)]

    def require_unchanged(self) -> None:
        """Complain if anything has been edited since it was converted; each run looks too, less thoroughly.

        Raises:
            ConfigError: a weight or a setting of an operation is not what it was.
        """
        self._require_held()
        for op in self.operations():
            op.require_unchanged(thorough=True)

    def _hold(self) -> None:
        """Keep what the network is made of, to notice when something else stands in its place."""
        self._made_of = self._parts()

    def _parts(self) -> list[Any]:
        return [self.settings, *self.ops, *(part for item in self.programs.items() for part in item)]

    def _require_held(self) -> None:
        held, parts = self._made_of, self._parts()
        if len(held) != len(parts) or any(one is not other for one, other in zip(held, parts, strict=True)):
            raise ConfigError(
                "an operation, a program or the settings of a spiking network have been replaced; " + CONVERT_AGAIN
            )

    def under(self, neuron: Neuron | None = None, schedule: Schedule | None = None) -> SpikingModel:
        """The same network, weights shared, simulated with another neuron or schedule (None: its own).

        >>> import casc_core
        >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
        >>> baseline = casc_core.convert(model, adapter="rnn").under(casc_core.IF(), casc_core.Continuous())
        >>> baseline.simulate(torch.randn(3, 4), T=8).logits.shape
        torch.Size([8, 3, 2])
        """
        if neuron is not None and not isinstance(neuron, Neuron):
            raise ConfigError(f"neuron must be CIF(), IF() or another Neuron, an instance; got {neuron!r}")
        neuron = self.settings.neuron if neuron is None else neuron
        schedule = self.settings.schedule if schedule is None else schedule
        settings = replace(self.settings, neuron=neuron, schedule=resolved_schedule(schedule, self.settings.q))
        other = SpikingModel(self.operations(), self.programs, self.layers, settings)
        other.origin = self.origin
        other.memory_limit = self.memory_limit
        return other

    def with_own_layers(self) -> SpikingModel:
        """The same network, whose populations can be changed without changing this one; other weights are shared."""
        other = self.under()
        other._lowers = False
        other.ops = nn.ModuleList([copy.deepcopy(op) if op.is_layer else op for op in self.operations()])
        other._hold()
        return other

    def evaluated(self, run: Run, inputs: tuple[Any, ...]) -> Signal:
        """The output of a run of one's own over the whole batch."""
        program, values = self._bound(inputs, {})
        return self._evaluate(run, program, values)

    def save(self, folder: str | Path) -> None:
        """Write the network to `folder` (safetensors and JSON), whole or not at all.

        Raises:
            StorageError: the folder cannot be written, or holds something that is not a saved network.
        """
        from casc_core.conversion.load import save

        self.require_unchanged()
        save(self, folder)

    def __prepare_scriptable__(self) -> SpikingModel:
        raise captured("torch.jit.script")

    def _spiking_run(self, steps: int | None, recorder: Recorder | None) -> SpikingRun:
        check_steps(steps)
        settings = self.settings
        return SpikingRun(settings.numerics, settings.neuron, settings.schedule, steps, recorder)

    def _logits_of(self, new_run: Callable[[], Run], inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
        def one(values: Inputs) -> Tensor:
            run = new_run()
            return self._readout(self._evaluate(run, program, values), run.total, program)

        program, values = self._bound(inputs, named)
        parts = self._splitter(program).parts(values, new_run(), self.memory_limit)
        return parts.join([one(part) for part in parts])

    def _splitter(self, program: Program) -> Splitter:
        return self._splitters.setdefault(frozenset(program.inputs), Splitter(program, self.operations()))

    def _evaluate(self, run: Run, program: Program, values: Inputs) -> Signal:
        return undisturbed(lambda: self._evaluated(run, program, values))

    def _evaluated(self, run: Run, program: Program, values: Inputs) -> Signal:
        # As much as a mask by pairs of long texts takes, or an enlarged image; far from what would exhaust a machine.
        run.room = max(LEAST_ROOM, self.memory_limit // 128) + 1024 * sum(value.numel() for value in values.values())
        if run.recorder is not None:
            whole = self._splitter(program).followed(values, run)
            run.recorder.samples, run.recorder.whose = whole.recorded, whole.layers
        operations = self.operations()
        self._require_held()
        for op in operations:
            op.require_unchanged()
        try:
            output = program.run(operations, run, values)
        except (CascError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in values.items())
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"inputs of shape {shapes} do not go through the network: {why}") from error
        if not isinstance(output, Signal):
            raise InputError(f"the network's output is a {type(output).__name__}, and not computed by its neurons")
        if not output.shape:
            raise InputError("the network returns a single number for the whole batch; return one row for each sample")
        reach = run.total * (output.bound + output.drive_reach)
        run.numerics.dtype(reach, program.exponent, "the readout")
        return output

    def _bound(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Program, Inputs]:
        """The program for this way of calling the model, and its inputs by name."""
        arguments = self.settings.arguments
        if len(inputs) > len(arguments):
            raise InputError(f"the network takes {', '.join(arguments)}; got {len(inputs)} inputs")
        values = dict(zip(arguments, inputs, strict=False))
        for name, value in named.items():
            if name not in arguments or name in values:
                raise InputError(f"unexpected or repeated input {name!r}; the network takes {', '.join(arguments)}")
            values[name] = value
        held = {} if self.ann is None else held_arguments(self.ann)
        for name in [name for name in values if name in held]:
            if not _is_same(values.pop(name), held[name]):
                raise InputError(
                    f"argument {name!r} was held at its default, {held[name]!r}, when the network was converted; got "
                    "another value. Leave it out, or convert a model with that default"
                )
        values = {name: value for name, value in values.items() if value is not None}
        device = next((tensor.device for op in self.operations() for tensor in op.tensors().values()), None)
        for name, value in values.items():
            if not isinstance(value, Tensor) and not any(name in each.inputs for each in self.programs.values()):
                raise InputError(
                    f"argument {name!r} was held at its default when the network was converted: leave it out"
                )
            checked_input(name, value, device)
        if any(value.numel() == 0 for value in values.values()):
            raise InputError(f"the batch is empty: inputs of shape {[list(value.shape) for value in values.values()]}")
        program = self.program_for(frozenset(values), tuple(values))
        return program, Inputs(values, named.dims if isinstance(named, Inputs) else None)

    def program_for(self, given: frozenset[str], shown: tuple[str, ...] = ()) -> Program:
        """The program for a call that gives these arguments; where the ANN is at hand, it is lowered when first asked for.

        Raises:
            InputError: there is none. The message shows `shown`.
        """
        if given not in self.programs:
            why = ""
            if self.ann is not None and self._lowers and given >= required_arguments(self.ann):
                from casc_core.conversion.convert import lower_way

                try:
                    lower_way(self, given)
                    return self.programs[given]
                except ConversionError as error:
                    why = f". Called like this it cannot be converted: {error}"
            ways = " or ".join(str(tuple(program.inputs)) for program in self.programs.values())
            raise InputError(f"the network takes {ways}; got {shown or tuple(sorted(given))}{why}")
        return self.programs[given]

    def extend(self, ops: list[Op], program: Program, layers: list[str]) -> None:
        """Add the program for another way of calling the model, which also calls these further operations."""
        tensors = [tensor for op in self.operations() for tensor in op.tensors().values()]
        for op in ops:
            op.to(tensors[0].device if tensors else "cpu").seal()
        self.ops.extend(ops)
        self.layers += tuple(name for name in layers if name not in self.layers)
        self.programs[frozenset(program.inputs)] = program
        self._hold()

    def _readout(self, output: Signal, wake_steps: int, program: Program) -> Tensor:
        total = output.train.sum(0, dtype=torch.float64)
        return self._logits(total, output, wake_steps, program)

    def _readouts(self, output: Signal, run: SpikingRun, steps: int, program: Program) -> Tensor:
        # Once everything is silent and asleep, the readout stays as it is.
        changing = min(steps, max(output.steps, len(run.awake), 1))
        totals = zero_padded(output.train, changing).cumsum(0, dtype=torch.float64)
        awake = torch.tensor(run.wake_weights(changing), dtype=torch.float64, device=totals.device).cumsum(0)
        anew = run.restarts_after
        if anew is not None and anew < changing:
            totals[anew:] -= totals[anew - 1].clone()
            awake[anew:] -= awake[anew - 1].clone()
        logits = self._logits(totals, output, awake.reshape(-1, *[1] * len(output.shape)), program)
        return last_repeated(logits, steps)

    def _logits(self, total: Tensor, output: Signal, wake_steps: int | Tensor, program: Program) -> Tensor:
        """`scale * (sum of currents) / divisor / wake steps`; the one rounding of a run happens here, last."""
        drive = output.drive
        if drive is not None:
            total = total + drive * wake_steps
        if output.divisor is not None:
            total = total / output.divisor
        logits = total * program.scale / wake_steps
        return logits if self.settings.numerics.is_float64 else logits.float()

    def extra_repr(self) -> str:
        settings = self.settings
        return (
            f"{settings.neuron}, {settings.schedule}, {settings.numerics}, q={settings.q}, layers={list(self.layers)}, "
            f"kernels={instructions() or 'none'}"
        )


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and not isinstance(value, Tensor) and bool(value == default)
    )
