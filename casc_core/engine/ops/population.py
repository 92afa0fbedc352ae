"""The operations that spike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.guards.seals import Composition
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.neuron_loop import Threshold
from casc_core.engine.ops.affine import by_channel
from casc_core.engine.ops.declared import EXPONENT, NAME, Numbers, Positive, Whole, settings, tensors
from casc_core.engine.ops.op import Op, entries
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.input_product import InputProduct
from casc_core.engine.products.level_population import LevelPopulation, are_levels, level_population
from casc_core.engine.products.spiking_population import SpikingPopulation, are_spikes
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.recording.work import Work
from casc_core.engine.run import LARGEST_TOTAL, Run
from casc_core.engine.signal import Signal, along, inverse, memory_order, without_repeats
from casc_core.errors import CascError
from casc_core.neuron import LevelThresholds
from casc_core.numerics import binade, largest

# So many kinds of runs find a population as it was prepared.
_KEPT = 8


class Received(NamedTuple):
    """What a population receives, and compares it with.

    Attributes:
        signal: its drive is on the grid of the potential.
        threshold: for the signal's numbers.
        potential: before the first step; None: zero.
        most: within how much the drive has been held; None: there is none, or it is as it is.
    """

    signal: Signal
    threshold: Threshold
    potential: Tensor | None
    most: float | None


class _Prepared(NamedTuple):
    """A population behind convolutions as a run met it last, and what has been prepared of it for the kernel.

    Attributes:
        key, given: all that it depends on but for the spikes, or levels, that arrive.
    """

    key: tuple[object, ...]
    given: Composition
    population: LevelPopulation | SpikingPopulation | kernels.Driven


class Fire(Op):
    """A population of spiking neurons, one for each element of its input.

    `charge` is what their potential begins with, `bias` is received besides at each wake step; both broadcast against the
    population, in the unit of the threshold. `thresholds` `[channels]` are those of each channel (dimension 1), where they
    differ; then a charge is `[channels]` too.
    """

    SETTINGS = settings(name=NAME, threshold=Positive(), exponent=EXPONENT)
    TENSORS = tensors(
        charge=Numbers(optional=True),
        bias=Numbers(optional=True),
        thresholds=Numbers((("channels",),), "exponent", optional=True),
    )
    is_layer = True
    charge: Tensor | None
    bias: Tensor | None
    thresholds: Tensor | None

    @cached_property
    def steps(self) -> dict[int, int]:
        """Steps that the last runs took, by where they were cut."""
        return {}

    @cached_property
    def prepared(self) -> dict[object, _Prepared]:
        """By what runs make of the neurons: a few of them."""
        return {}

    def check(self) -> None:
        self.require(self.thresholds is None or bool((self.thresholds > 0).all()), "'thresholds' must be above 0")

    def forward(self, run: Run, signal: Signal) -> Signal:
        spikes = self._spikes(run, signal)
        return Signal(spikes, None, None, self.spike_bound(run), potential=run.taken_potential())

    def spike_bound(self, run: Run) -> float:
        """The largest count, for each that a neuron may have by the wake steps."""
        return 1.0

    @property
    def levels(self) -> int | None:
        """How many there are; None: as many as wake steps."""
        return None

    def scaled_threshold(self, signal: Signal) -> Threshold:
        """The threshold for the signal's numbers, which its divisor has not divided."""
        threshold: float | Tensor = self.settings["threshold"]
        if self.thresholds is not None:
            threshold = by_channel(self.thresholds, signal.shape)
        scaled = threshold if signal.divisor is None else threshold * signal.divisor
        return float(scaled) if isinstance(scaled, Tensor) and scaled.dim() == 0 else scaled

    def work(self, result: Provenance, signal: Provenance) -> Work:
        # Where there is a drive, a bias of its own is part of it.
        biases = float(signal.shape.numel()) if self.bias is not None and not signal.is_driven else 0.0
        return signal.one_to_one() + Work(awake=biases)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        own, thresholds, charge = [self.bias], self.thresholds, self.charge
        if thresholds is not None:
            own.append(by_channel(thresholds, signal.shape))
            charge = by_channel(charge, signal.shape) if charge is not None and charge.dim() == 1 else charge
        shape, samples = follower.together(signal, *(each for each in (*own, charge) if each is not None))
        if shape != signal.shape:
            raise follower.unprovable("has neurons of other shapes")
        steps = (signal.train or Train()).steps
        return follower.signal(shape, samples, follower.run.longest(steps, self.levels))

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        currents, spikes = signals[0], signals[-1]
        drives = 24 * currents.like.numel() if currents.is_driven else 0
        held = None if currents.train is None else currents.train.held
        # Room for spikes is made in pieces, and they are counted.
        if held is not None and follower.compiled and self.levels is None:  # the kernel reads spikes, closely packed
            return held + 2 * entries(spikes) + drives
        return (8 if held is None else 24) * entries(currents) + 2 * entries(spikes) + drives

    def received(self, run: Run, signal: Signal) -> Received:
        """What the neurons receive and compare it with, as they do in this run."""
        exponent = self.settings["exponent"]
        if self.bias is not None:
            bias, drive = signal.constant(self.bias), signal.drive
            signal = replace(signal, lazy_drive=bias if drive is None else drive + bias)
        drive = signal.drive_on_grid(run.numerics, exponent)
        scaled = self.scaled_threshold(signal)
        potential = self._initial_potential(run, signal, scaled)
        most = None
        if drive is not None:
            reach = self._reach_of_step(run, signal, scaled)
            most = run.most_held(reach, _reach(potential), exponent)
            drive = run.held(drive, reach, _reach(potential), exponent)
        return Received(replace(signal, lazy_drive=drive), scaled, potential, most)

    def _reach_of_step(self, run: Run, signal: Signal, threshold: Threshold) -> float:
        """The largest current of a step, and threshold: what is held is beyond it, and not on it."""
        return signal.bound + _threshold_reach(run, threshold) + math.ldexp(1.0, self.settings["exponent"])

    def _initial_potential(self, run: Run, signal: Signal, threshold: Threshold) -> Tensor | None:
        """The potential before the first step, which broadcasts against the population; None: zero."""
        charge, exponent = self.charge, self.settings["exponent"]
        if charge is not None and self.thresholds is not None and charge.dim() == 1:
            charge = by_channel(charge, signal.shape)
        if charge is not None:
            charge = run.numerics.snap(charge if signal.divisor is None else charge * signal.divisor, exponent)
        return run.initial_potential(charge, threshold, exponent, signal.device)

    def _spikes(self, run: Run, signal: Signal) -> Tensor:
        spikes = self._of_inputs(run, signal)
        if spikes is not None:
            return spikes
        currents = self._readable(run, signal)
        key = None if currents is None else self._key(run, signal, currents)
        population = None if key is None else self._kept(run, key)
        if currents is not None and population is not None:
            spikes = self._read(currents, population)
            if spikes is not None:
                return spikes
        received = self.received(run, signal)
        if currents is not None:
            population = self._prepared(run, received, currents)
            spikes = None if population is None else self._read(currents, population)
            if population is not None and key is not None:
                self._keep(run, key, population)
        if spikes is not None:
            return spikes
        return self._fired(run, received.signal, received.threshold, received.potential)

    def _readable(self, run: Run, signal: Signal) -> DeferredSum | None:
        """The currents where a compiled kernel may take them from the convolutions' own inputs; None: it may not."""
        currents, neuron = signal.lazy_train, run.kernel_neuron
        if neuron is None or not isinstance(currents, DeferredSum) or not run.numerics.is_exact:
            return None
        if neuron.in_levels:
            return currents if signal.divisor is None and are_levels(currents) else None
        return currents if are_spikes(currents, self.settings["exponent"]) else None

    def _key(self, run: Run, signal: Signal, currents: DeferredSum) -> tuple[object, ...] | None:
        """All that the population depends on but for what arrives; None: more than that."""
        drive = signal.lazy_drive
        own = b"" if drive is None else _by_channel(drive) if isinstance(drive, Tensor) else None
        if own is None or signal.divisor is not None:
            return None
        return own, currents.filters, currents.bounds, currents.dims, run.neurons

    def _prepared(
        self, run: Run, received: Received, currents: DeferredSum
    ) -> LevelPopulation | SpikingPopulation | None:
        """The population for a compiled kernel; None: none can take it."""
        signal, threshold, potential, _ = received
        thresholds = None if isinstance(threshold, LevelThresholds) else along(threshold, signal.shape, 1)
        neuron, exponent = run.kernel_neuron, self.settings["exponent"]
        if thresholds is None or neuron is None:
            return None
        reach, fits = self._reach_in_int32(run, signal, threshold, potential)
        if not neuron.in_levels:
            units = None if fits else binade(reach) - kernels.SUM_BITS
            drive, begins = (currents.aligned(values) for values in (signal.drive, potential))
            return SpikingPopulation(exponent, thresholds, neuron, drive, begins, units)
        begin = torch.zeros((), dtype=torch.float64)
        for each, times in ((signal.drive, neuron.total), (potential, 1)):
            begin = begin if each is None else begin + without_repeats(each) * times
        return level_population(currents, exponent, thresholds, begin, neuron.total)

    def _read(
        self, currents: DeferredSum, population: LevelPopulation | SpikingPopulation | kernels.Driven
    ) -> Tensor | None:
        """Levels or spikes, by a compiled kernel; None: it cannot."""
        if isinstance(population, LevelPopulation):
            return population.levels(currents)
        assert isinstance(population, SpikingPopulation)
        spikes = population.spikes(currents, self.steps.get(population.neuron.most, 0))
        return None if spikes is None else self._noted(population.neuron, spikes)

    def _of_inputs(self, run: Run, signal: Signal) -> Tensor | None:
        """Spikes of a population that a product of real-valued input alone drives; None: they are not taken with it."""
        product, neuron = signal.lazy_drive, run.kernel_neuron
        if not isinstance(product, InputProduct) or signal.steps or signal.divisor is not None or neuron is None:
            return None
        key, parts = (*product.key, signal.bound, run.neurons), (product.weights, product.bias)
        population = self._kept(run, key, *parts)
        if population is None:
            population = self._driven(run, signal, product, neuron)
            if population is None:
                return None
            self._keep(run, key, population, *parts)
        assert isinstance(population, kernels.Driven)
        exponent, potential = self.settings["exponent"], population.potential
        reach = float(population.thresholds.max()) + largest(potential)
        try:
            dtype = run.potential_dtype(0.0, population.most, reach, exponent, self.settings["name"])
        except CascError:  # the drive may be smaller than that
            return None

        def fire(drive: Tensor, threshold: Tensor, potential: Tensor) -> Tensor:
            return run.fire(drive.new_zeros((0, *drive.shape), dtype=torch.int8), drive, threshold, dtype, potential)

        spikes = product.spikes(population, signal.shape, self.steps.get(neuron.most, 0), fire)
        return None if spikes is None else self._noted(neuron, spikes)

    def _driven(self, run: Run, signal: Signal, product: InputProduct, neuron: KernelNeuron) -> kernels.Driven | None:
        """The population that a product of real-valued input drives, for the kernel; None: none takes it."""
        threshold, exponent = self.scaled_threshold(signal), self.settings["exponent"]
        if self.bias is not None or isinstance(threshold, LevelThresholds):
            return None
        potential = self._initial_potential(run, signal, threshold)
        held = run.most_held(self._reach_of_step(run, signal, threshold), _reach(potential), exponent)
        begins = 0.0 if potential is None else potential
        return product.population(signal.shape, exponent, threshold, begins, math.inf if held is None else held, neuron)

    def _kept(
        self, run: Run, key: tuple[object, ...], *parts: object
    ) -> LevelPopulation | SpikingPopulation | kernels.Driven | None:
        """What has been prepared for an equal key and the very same parts; None: nothing."""
        kept = self.prepared.get(run.kernel_neuron)
        fits = kept is not None and kept.key == key and kept.given.is_of((self.charge, self.bias, *parts))
        return kept.population if kept is not None and fits else None

    def _keep(
        self,
        run: Run,
        key: tuple[object, ...],
        population: LevelPopulation | SpikingPopulation | kernels.Driven,
        *parts: object,
    ) -> None:
        """Keeps what has been prepared."""
        if len(self.prepared) >= _KEPT:
            self.prepared.clear()
        self.prepared[run.kernel_neuron] = _Prepared(key, Composition((self.charge, self.bias, *parts)), population)

    def _noted(self, neuron: KernelNeuron, spikes: Tensor) -> Tensor:
        """Spikes, the steps that they took noted: one long run is forgotten little by little."""
        self.steps[neuron.most] = max(len(spikes), self.steps.get(neuron.most, 0) - 1)
        return spikes

    def _reach_in_int32(
        self, run: Run, signal: Signal, threshold: Threshold, potential: Tensor | None
    ) -> tuple[float, bool]:
        """How large a sum may be, and whether int32 holds it.

        Raises:
            CascError: not even float64 does.
        """
        most, exponent = _threshold_reach(run, threshold), self.settings["exponent"]
        reach = (run.total + 1) * (signal.bound + signal.drive_reach + most + _reach(potential))
        fits = kernels.fits_int32(reach, exponent)
        if not fits:
            own = most + _reach(potential)
            run.potential_dtype(signal.bound, signal.drive_reach, own, exponent, self.settings["name"])
        return reach, fits

    def _fired(self, run: Run, signal: Signal, threshold: Threshold, potential: Tensor | None) -> Tensor:
        exponent, train, drive = self.settings["exponent"], signal.train, signal.drive
        reach = _threshold_reach(run, threshold) + _reach(potential)
        dtype = run.potential_dtype(signal.bound, signal.drive_reach, reach, exponent, self.settings["name"])
        threshold = _placed(threshold, lambda x: x.to(dtype))
        if isinstance(threshold, LevelThresholds):
            threshold = replace(threshold, values=threshold.values.to(dtype))
        # Neuron by neuron in the order in which they lie in memory.
        like = train if len(train) or drive is None else drive.unsqueeze(0)
        order = memory_order(like)
        if order is None or order[0] != 0 or run.potentials is not None:
            return run.fire(train, drive, threshold, dtype, potential)
        inner = tuple(dim - 1 for dim in order[1:])
        drive = None if drive is None else drive.permute(inner)
        threshold = _placed(threshold, lambda x: x.expand(signal.shape).permute(inner))
        if potential is not None:
            potential = potential.expand(signal.shape).permute(inner)
        return run.fire(train.permute(order), drive, threshold, dtype, potential).permute(inverse(order))


class FireByLevel(Fire):
    """A population with a threshold for each level of its count, as a sigmoid or a tanh that is rounded has it.

    `by_level` are those of the levels from `lowest + 1` on, in the unit of the potential. It is for as many wake steps as
    there are levels that the network was trained with.
    """

    SETTINGS = settings(name=NAME, lowest=Whole(-LARGEST_TOTAL, 0), exponent=EXPONENT)
    TENSORS = tensors(
        charge=Numbers(optional=True), bias=Numbers(optional=True), by_level=Numbers((("levels",),), "exponent")
    )
    is_of_trained_levels = True
    thresholds = None
    by_level: Tensor

    def check(self) -> None:
        self.require(0 <= self.highest <= LARGEST_TOTAL, f"the levels must hold 0; the highest is {self.highest}")
        self.require(bool((self.by_level.diff() >= 0).all()), "'by_level' must not descend")

    @property
    def highest(self) -> int:
        """The largest count."""
        return int(self.settings["lowest"]) + len(self.by_level)

    def spike_bound(self, run: Run) -> float:
        return max(1.0, max(-int(self.settings["lowest"]), self.highest) / run.total)

    @property
    def levels(self) -> int:
        return len(self.by_level)

    def scaled_threshold(self, signal: Signal) -> LevelThresholds:
        scale = 1.0 if signal.divisor is None else signal.divisor
        return LevelThresholds(self.by_level, self.settings["lowest"], scale)


def _placed(threshold: Threshold, function: Callable[[Tensor], Tensor]) -> Threshold:
    """A threshold, what is one for each neuron put through a function that only moves or casts."""
    if isinstance(threshold, LevelThresholds):
        scale = threshold.scale
        return replace(threshold, scale=function(scale) if isinstance(scale, Tensor) else scale)
    return function(threshold) if isinstance(threshold, Tensor) else threshold


def _by_channel(drive: Tensor) -> bytes | None:
    """The numbers of a drive that differs along the channels alone; None: elsewhere as well."""
    shape, strides = drive.shape, drive.stride()
    if len(shape) < 2 or any(strides[dim] and shape[dim] > 1 for dim in range(len(shape)) if dim != 1):
        return None
    numbers: bytes = drive.as_strided(shape[1:2], strides[1:2]).numpy().tobytes()
    return numbers


def _threshold_reach(run: Run, threshold: Threshold) -> float:
    """What thresholds add to the reach of a potential, for each spike that a neuron may have fired."""
    if isinstance(threshold, float):
        return threshold
    if isinstance(threshold, Tensor):
        return float(threshold.max())
    scale = float(torch.as_tensor(threshold.scale).max())
    reach = 2 * largest(threshold.values) * scale  # a potential is a sum less one of them
    return reach / (run.total + 1)


def _reach(potential: Tensor | None) -> float:
    return 0.0 if potential is None else float(potential.abs().max())
