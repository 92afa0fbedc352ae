"""The converted network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from casc_core.engine.batching.batch_parts import DEFAULT_LIMIT, Inputs, Parts, Splitter
from casc_core.engine.guards.capture import captured, uncaptured
from casc_core.engine.guards.gpu_products import require_exact_products
from casc_core.engine.guards.inputs import bound_arguments
from casc_core.engine.guards.isolation import undisturbed
from casc_core.engine.guards.seals import Composition
from casc_core.engine.kernels import instructions
from casc_core.engine.level_run import LevelRun
from casc_core.engine.network import Network, resolved_schedule
from casc_core.engine.ops import Op, device_of
from casc_core.engine.ops.op import CONVERT_AGAIN
from casc_core.engine.program import Program, Readout
from casc_core.engine.readout import check_readout, final_readout, readout_over_time
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.run import LEAST_ROOM, Run
from casc_core.engine.saved import write
from casc_core.engine.spiking_run import SpikingRun
from casc_core.engine.structure import holding
from casc_core.errors import CascError, ConfigError, ConversionError, InputError
from casc_core.export.hub import push
from casc_core.export.integers.model import arguments_of, one_by_one, write_integers
from casc_core.export.nir.model import WrittenNir, write_nir
from casc_core.export.onnx.model import WrittenModel, write_onnx
from casc_core.neuron import Neuron
from casc_core.schedule import Schedule, check_steps
from casc_core.simulation import Simulation, in_structure, join_simulations, simulation_of


class Origin(Protocol):
    """What a network was converted from; no part of it."""

    @property
    def ann(self) -> nn.Module:
        """The network that was converted, its activations CQReLU."""

    @property
    def given(self) -> nn.Module | None:
        """The network as it was given, where the conversion prepared it."""

    @property
    def is_changed(self) -> bool:
        """Whether `ann` is another network than it was."""

    @property
    def held(self) -> Mapping[str, Any]:
        """The arguments of its forward that a conversion holds at their defaults."""

    @property
    def required(self) -> Collection[str]:
        """The arguments of its forward that must be given."""

    def lower(self, snn: SpikingModel, given: frozenset[str]) -> None:
        """Extend `snn` by the way of calling `ann` that gives these arguments.

        Raises:
            ConversionError: this way cannot be converted.
        """


class SpikingModel(nn.Module):
    """A spiking network that gives the answer of the network it was converted from. Made by `casc_core.convert`.

    `snn(*inputs)` takes what the model took and returns its logits, simulated in spikes until silent; they equal
    `snn.reference(*inputs)` bit for bit under CIF and WakeSleep. Where the model's forward returns a tuple, list, dict,
    named tuple or dataclass of outputs, so do these.

    `forward`, `reference`, `simulate`, `under`, `save` and the attributes below are public. The other methods are internal.

    Attributes:
        settings: how it was converted.
        layers: names of its spiking layers, in order.
        ann: the network it was converted from, if at hand (a loaded one has none unless given).
        origin: that, and how it was converted.
        memory_limit: bytes that a run may take beside its inputs and results, 2 GiB unless set: of a larger batch, as
            many samples as that allows are run at a time.
    """

    origin: Origin | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        ops, programs, self.layers, self.settings = network
        self._require_trained_levels(ops)
        self.ops = nn.ModuleList(ops)
        for op in ops:
            op.seal()
        self.programs = dict(programs)
        self.origin = None
        self._memory_limit = DEFAULT_LIMIT
        self._splitters: dict[frozenset[str], Splitter] = {}
        # Whether ways of calling it can be added: not where populations have been changed since.
        self._takes_further_ways = True
        self.eval()
        self._composition = Composition(self._components())

    @property
    def network(self) -> Network:
        """All that it is made of, as it is now."""
        return Network(self.operations(), self.programs, self.layers, self.settings)

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
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Logits `[batch, classes]`, in spikes until silent; or what else the model's forward returns.

        Raises:
            InputError: an empty batch, a token out of range, a length of zero.
            ConfigError: the schedule never sleeps; use `simulate(..., T=...)`; or something would record the run
                (`torch.jit`, `torch.fx`, `torch.export`) or transform it (`torch.func`). Under `torch.compile` it runs as
                it does without.
        """
        return self._returned(lambda: self._spiking_run(None, None, only_final=True), inputs, named)

    @uncaptured
    def reference(self, *inputs: Any, **named: Any) -> Tensor:
        """Logits `[batch, classes]` of the quantised ANN on the same snapped weights, computed at once in levels.

        Of a network with several outputs: what the model's forward returns.
        """
        logits: Tensor = self._returned(lambda: LevelRun(self.settings.numerics, self.settings.levels), inputs, named)
        return logits

    @uncaptured
    def simulate(self, *inputs: Any, T: int | None = None, record: Collection[str] = (), **named: Any) -> Simulation:
        """Simulate in spikes for `T` steps; None: until nothing spikes any more.

        Args:
            record: what to keep of each neuron, "spikes", "potentials" or both: `train` and `potentials` of each layer in
                `Simulation.spikes`. The batch is then run at once, whatever the memory limit; where potentials are kept,
                step by step, which takes several times as long and gives the same spikes.

        Returns:
            A `Simulation`: readout after each step, steps to silence, spikes of each layer.

        Raises:
            ConfigError: `T < 1` or above 131,072, or None under a schedule that never sleeps; or nothing that is to be
                recorded is called so.
            InputError: as for a call.

        >>> import casc_core
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), casc_core.CQReLU(q=2), nn.Linear(1, 1))
        >>> _ = nn.init.constant_(model[0].weight, 0.75)
        >>> layer = casc_core.convert(model).simulate(torch.ones(1, 1), record=("spikes", "potentials")).spikes["1"]
        >>> layer.train.flatten().tolist(), layer.potentials.flatten().tolist()
        ([0, 1], [0.75, 0.5])
        """
        self.check_steps(T)
        if record:
            return self.simulate_recorded(inputs, named, T, Recorder.of(record))
        program, arguments = self._bound(inputs, named)
        parts = self._splitter(program).parts(arguments, self._spiking_run(T, None), self.memory_limit)
        simulations = (self._simulated(program, part, T, Recorder()) for part in parts)
        return undisturbed(
            lambda: in_structure(program, join_simulations(simulations, partial(parts.join, over_time=True)))
        )

    def check_steps(self, T: int | None) -> None:
        """Refuse a number of steps that cannot be simulated.

        Raises:
            ConfigError: `T < 1` or above 131,072, or None under a schedule that never sleeps.
        """
        self._spiking_run(T, None)

    def wake_steps(self, T: int | None) -> tuple[list[int], int]:
        """How many wake steps there have been by each step, and the warm-up, after which they are counted anew.

        The steps are `T`, or with None those until the last wake step.
        """
        run = self._spiking_run(T, None)
        awake = run.wake_weights(T)
        parts = awake[: run.warm_up], awake[run.warm_up :]
        return [count for part in parts for count in itertools.accumulate(part)], run.warm_up

    def simulate_recorded(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], steps: int | None, recorder: Recorder
    ) -> Simulation:
        """`simulate` of the whole batch at once; what `recorder` is set to keep is in it afterwards."""
        program, arguments = self._bound(inputs, named)
        return undisturbed(lambda: in_structure(program, self._simulated(program, arguments, steps, recorder)))

    def _simulated(self, program: Program, arguments: Inputs, steps: int | None, recorder: Recorder) -> Simulation:
        """A simulation whose outputs are a list, by number."""
        recorder.keep_activity = True
        run = self._spiking_run(steps, recorder)
        outputs = self._evaluated(run, program, arguments, partial(readout_over_time, run=run))
        return simulation_of(run, recorder, program, outputs)

    def parts(self, inputs: tuple[Any, ...], named: Mapping[str, Any], T: int | None) -> Parts:
        """The inputs, by name, in parts whose simulations for `T` steps stay under the memory limit each.

        The outputs of the parts, one behind another, are those of the batch.
        """
        program, arguments = self._bound(inputs, named)
        return self._splitter(program).parts(arguments, self._spiking_run(T, None), self.memory_limit, in_rows=True)

    def reference_counts(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        """What `reference` gives, and every neuron's level by layer, of the whole batch at once."""
        recorder = Recorder(keep_counts=True)
        run = LevelRun(self.settings.numerics, self.settings.levels, recorder)
        program, arguments = self._bound(inputs, named)
        outputs = undisturbed(lambda: self._evaluated(run, program, arguments, partial(final_readout, run=run)))
        return holding(program.structure, outputs), recorder.counts

    def readouts_of(self, returned: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        """By name, what neurons compute of what a run on these inputs returned."""
        return self._bound(inputs, named)[0].returned.readouts_in(returned)

    def operations(self) -> list[Op]:
        """The operations that its programs call, by number."""
        return [op for op in self.ops if isinstance(op, Op)]

    def require_unchanged(self) -> None:
        """Raise an error if anything has been edited since it was converted; each run looks too, less thoroughly.

        Raises:
            ConfigError: a weight or a setting of an operation is not what it was.
        """
        self._require_composition()
        for op in self.operations():
            op.require_unchanged(thorough=True)

    def _require_trained_levels(self, operations: Iterable[Op]) -> None:
        """Refuse neurons and schedules under which operations of a fixed number of levels would compute something else."""
        settings = self.settings
        fixed = next((op for op in operations if op.is_of_trained_levels), None)
        if fixed is None or _keeps_levels(settings.q, settings.neuron, settings.schedule):
            return
        raise ConfigError(
            f"{fixed.settings.get('name') or fixed.kind!r}, a rounded activation that is no clipped ReLU, or a product of "
            f"activations, is for the q={settings.q} levels that the network was trained with: it runs under CIF() or "
            f"IF(), and WakeSleep() of as many wake steps; got {settings.neuron} under {settings.schedule}"
        )

    def _components(self) -> list[Any]:
        return [self.settings, *self.ops, *(each for item in self.programs.items() for each in item)]

    def _require_composition(self) -> None:
        if not self._composition.is_of(self._components()):
            raise ConfigError(
                "an operation, a program or the settings of a spiking network have been replaced; " + CONVERT_AGAIN
            )

    def under(self, neuron: Neuron | None = None, schedule: Schedule | None = None) -> SpikingModel:
        """The same network, weights shared, simulated with another neuron or schedule (None: its own).

        >>> import casc_core
        >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
        >>> baseline = casc_core.convert(model).under(casc_core.IF(), casc_core.Continuous())
        >>> baseline.simulate(torch.randn(3, 4), T=8).logits.shape
        torch.Size([8, 3, 2])
        """
        if neuron is not None and not isinstance(neuron, Neuron):
            raise ConfigError(f"neuron must be CIF(), IF() or another Neuron, an instance; got {neuron!r}")
        neuron = self.settings.neuron if neuron is None else neuron
        schedule = self.settings.schedule if schedule is None else schedule
        settings = replace(self.settings, neuron=neuron, schedule=resolved_schedule(schedule, self.settings.q))
        other = SpikingModel(self.network._replace(settings=settings))
        other.origin = self.origin
        other.memory_limit = self.memory_limit
        return other

    def runs_under(self, neuron: Neuron, schedule: Schedule) -> bool:
        """Whether `under` takes these: networks with a threshold for each level, or products, need q wake steps and CIF or
        IF."""
        fixed = any(op.is_of_trained_levels for op in self.operations())
        return not fixed or _keeps_levels(self.settings.q, neuron, schedule)

    def with_layers(self, other_for: Callable[[Op], Op]) -> SpikingModel:
        """The same network, each population replaced by another; other operations are shared."""
        other = self.under()
        other._takes_further_ways = False
        other.ops = nn.ModuleList([other_for(op) if op.is_layer else op for op in self.operations()])
        other._composition = Composition(other._components())
        return other

    def evaluate(self, run: Run, inputs: tuple[Any, ...]) -> None:
        """A run of one's own over the whole batch."""
        program, arguments = self._bound(inputs, {})
        undisturbed(lambda: self._evaluated(run, program, arguments, lambda output, readout: None))

    def save(self, folder: str | Path) -> None:
        """Write the network to `folder` (safetensors and JSON), whole or not at all.

        A network that is there is replaced; what else is beside it, such as a README, stays.

        Raises:
            StorageError: the folder cannot be written, or holds something that is not a saved network.
        """
        self.require_unchanged()
        write(self.network, folder)

    def export(self, folder: str | Path, inputs: Any, T: int | None = None, hex: bool = False) -> None:
        """Write the network's integers to `folder`, and golden traces of some samples to test hardware against.

        `integers.json` (its schema: `casc_core/export/integers.schema.json`) says what each layer computes and in which
        order; `integers.safetensors` has weights, thresholds and whatever else is the same for all samples,
        `traces.safetensors` the inputs, first-layer drives, spikes, potentials and readouts of each sample at each step.
        Whole or not at all; an earlier export there is replaced. See docs/export.md.

        Args:
            inputs: samples, as for a call: a tensor, a tuple of tensors, or a dict by argument.
            T: steps to simulate; None: until the last sample is silent.
            hex: every tensor also as a file for Verilog's `$readmemh`.

        Raises:
            ConversionError: an operation has no integer form; ExactnessError: a number is no finite integer.
            ConfigError: the neuron is neither CIF nor IF; or the schedule never sleeps, and T is None; or the network is on
                another device than the CPU.
            InputError: samples that do not fit the network or each other.
            StorageError: the folder cannot be written, or holds something that is not an export.
        """
        self.require_unchanged()
        run, (program, arguments) = self._spiking_run(T, None), self._bound(*arguments_of(inputs))
        samples = one_by_one(arguments, self._splitter(program).followed(arguments, run))

        def simulate(sample: Mapping[str, Any], recorder: Recorder) -> Simulation:
            return self.simulate_recorded((), sample, T, recorder)

        write_integers(folder, self.network, program, samples, simulate, run.wake_weights(T), hex)

    def push_to_hub(
        self,
        name: str,
        results: str | Path | Mapping[str, Any] | None = None,
        *,
        revision: str | None = None,
        private: bool | None = None,
        message: str | None = None,
    ) -> str:
        """Save the network to a repository of the Hugging Face hub, with a model card; `casc_core.load(name)` reads it.

        Args:
            name: of the repository, `user/name`; made if it is not there. You must be logged in (`hf auth login`).
            results: the `results.json` of a recipe, whose figures the card shows; or what it says.
            revision: the branch that it goes to; None: the main one.
            private: whether a new repository is seen by you alone; None: as your account has it.
            message: of the commit.

        Returns:
            The address of the commit. A card that you have made your own stays as it is.

        Raises:
            ConfigError: no repository can be called so.
            StorageError: `results` cannot be read; or the hub refuses, or does not answer within two seconds.
        """
        self.require_unchanged()
        return push(self.network, name, results, revision, private, message)

    def export_onnx(self, file: str | Path, *inputs: Any, **named: Any) -> WrittenModel:
        """Write `reference` as an ONNX model, whose logits are the same bits.

        All sums are of whole numbers in float64, so onnxruntime gives them in whatever order it takes them. What
        `reference` refuses at a run (a length of 0, a token below 0, an input that is not finite), and real-valued inputs
        of 1,024 or more, make all logits NaN.

        Args:
            file: that is written, whole or not at all.
            inputs, named: an example of what the network is called with; no number of it is in the file. The batch, and
                where the network allows it the length of sequences, may be others than in the example; image sizes may
                not.

        Returns:
            Names and sizes of the model's inputs and outputs, with words for sizes that may vary.

        Raises:
            ConfigError: the package onnx is not installed (`pip install "casc[onnx]"`).
            ConversionError: an operation cannot be written; the message names it.
            ExactnessError: sums might round.
            StorageError: the file cannot be written.
        """
        self.require_unchanged()
        program, arguments = self._bound(inputs, named)
        run = LevelRun(self.settings.numerics, self.settings.levels)
        batch = self._splitter(program).followed(arguments, run).dims
        return write_onnx(file, self.network, program, arguments, batch)

    def export_nir(self, file: str | Path, *inputs: Any, **named: Any) -> WrittenNir:
        """Write the network as a NIR graph (neuroir.org), for other simulators and neuromorphic hardware.

        NIR says what neurons of `IF()` do under `Continuous()`, behind the current of the first layer. It has no soft
        reset, which readers must be set to, and no consistent neurons. Readers sum in float32: with `Exact(8)`, exactly.

        Args:
            file: that is written, whole or not at all.
            inputs, named: what the network is called with; shapes, and the currents that are returned, come from it.

        Returns:
            The current of the first layer for these inputs, which the graph is given at each step, and what its output is
            multiplied by.

        Raises:
            ConfigError: the package nir is not installed (`pip install "casc[nir]"`).
            ConversionError: NIR cannot say what the network does; the message names it, and why.
            StorageError: the file cannot be written.
        """
        self.require_unchanged()
        return write_nir(file, self.network, *self._bound(inputs, named))

    def __prepare_scriptable__(self) -> SpikingModel:
        raise captured("torch.jit.script")

    def _spiking_run(self, steps: int | None, recorder: Recorder | None, only_final: bool = False) -> SpikingRun:
        check_steps(steps)
        settings = self.settings
        return SpikingRun(settings.numerics, settings.neuron, settings.schedule, steps, recorder, only_final)

    def _returned(self, new_run: Callable[[], Run], inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        def one(arguments: Inputs) -> list[Any]:
            run = new_run()
            return self._evaluated(run, program, arguments, partial(final_readout, run=run))

        program, arguments = self._bound(inputs, named)
        parts = self._splitter(program).parts(arguments, new_run(), self.memory_limit)
        return holding(program.structure, undisturbed(lambda: parts.join(map(one, parts))))

    def _splitter(self, program: Program) -> Splitter:
        given = frozenset(program.inputs)
        if given not in self._splitters:
            self._splitters[given] = Splitter(program, self.operations())
        return self._splitters[given]

    def _evaluated(
        self, run: Run, program: Program, arguments: Inputs, read: Callable[..., Tensor | None]
    ) -> list[Any]:
        """The outputs of a run, of which `read(output=..., readout=...)` gives those that neurons compute."""
        # As much as a mask by pairs of long texts takes, or an enlarged image; far from what would exhaust a machine.
        run.room = max(LEAST_ROOM, self.memory_limit // 128) + 1024 * sum(each.numel() for each in arguments.values())
        run.device = self._device
        if run.recorder is not None:
            whole = self._splitter(program).followed(arguments, run)
            run.recorder.samples, run.recorder.whose = whole.recorded, whole.layers
        operations = self.operations()
        self._require_composition()
        for op in operations:
            op.require_unchanged()
        if run.device is not None and run.numerics.is_exact:
            require_exact_products(run.device)

        def checked(readout: Readout, output: Any) -> Tensor | None:
            check_readout(output, readout, run)
            return read(output=output, readout=readout)

        try:
            return program.run(operations, run, arguments, checked)
        except (CascError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arguments.items())
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"inputs of shape {shapes} do not go through the network: {why}") from error

    def _bound(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Program, Inputs]:
        """The program for this way of calling the model, and its inputs by name."""
        held = {} if self.origin is None else self.origin.held
        read = {name for program in self.programs.values() for name in program.inputs}
        arguments = bound_arguments(self.settings.arguments, inputs, named, held, read, self._device)
        program = self.program_for(frozenset(arguments), tuple(arguments))
        return program, Inputs(arguments, named.dims if isinstance(named, Inputs) else None)

    def program_for(self, given: frozenset[str], shown: tuple[str, ...] = ()) -> Program:
        """The program for a call that gives these arguments; where the ANN is at hand, it is lowered when first asked for.

        Raises:
            InputError: there is none. The message shows `shown`.
        """
        if given not in self.programs:
            why = ""
            if self.origin is not None and self._takes_further_ways and given >= set(self.origin.required):
                try:
                    self.origin.lower(self, given)
                    return self.programs[given]
                except ConversionError as error:
                    why = f". Called like this it cannot be converted: {error}"
            ways = " or ".join(f"({', '.join(program.inputs)})" for program in self.programs.values())
            got = f"({', '.join(shown or sorted(given))})" if given else "no input"
            raise InputError(f"the network takes {ways}; got {got}{why}")
        return self.programs[given]

    def extend(self, ops: list[Op], program: Program, layers: Iterable[str]) -> None:
        """Add the program for another way of calling the model, which also calls these further operations."""
        self._require_trained_levels(ops)
        for op in ops:
            op.to(self._device or "cpu").seal()
        self.ops.extend(ops)
        self.layers += tuple(name for name in layers if name not in self.layers)
        self.programs[frozenset(program.inputs)] = program
        self._composition = Composition(self._components())

    @property
    def _device(self) -> torch.device | None:
        """Where its tensors are, if it holds any."""
        return device_of(self.operations())

    def extra_repr(self) -> str:
        settings = self.settings
        return (
            f"{settings.neuron}, {settings.schedule}, {settings.numerics}, q={settings.q}, layers={list(self.layers)}, "
            f"kernels={instructions() or 'none'}"
        )


def _keeps_levels(q: int, neuron: Neuron, schedule: Schedule) -> bool:
    """Whether these compute with the q levels that a network was trained with, and take a threshold for each."""
    return schedule.resolved(q).levels == q and neuron.takes_levels
