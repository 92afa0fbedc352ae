"""Snapped linear maps and factors."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.engine.batching.places import Samples
from casc_core.engine.batching.samples import Abstract, Follower, Train
from casc_core.engine.ops.declared import (
    EXPONENT,
    GRIDS,
    NAME,
    Flag,
    Numbers,
    OneOf,
    OrNone,
    Otherwise,
    Positive,
    settings,
    tensors,
)
from casc_core.engine.ops.op import Op, entries, room_for_drive
from casc_core.engine.products.deferred_sum import DeferredSum, deferred, filtered
from casc_core.engine.products.exact_sums import exact_product, exact_sum, largest_row, weight_limbs
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.grid_product import GridProduct, Grids
from casc_core.engine.products.input_product import InputProduct, InputWeights, LinearSums, Sums, product_on_grid
from casc_core.engine.products.spike_product import Product
from casc_core.engine.products.total_product import TotalProduct
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.recording.provenance import Connection, Provenance
from casc_core.engine.recording.spike_counts import by_step
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.signal import LazyTrain, Signal, broadcast
from casc_core.errors import InputError
from casc_core.numerics import FLOAT64_UNITS, AsTrained


def affine_tensors(*shape: str) -> dict[str, Numbers]:
    """Those of a map whose weights have this shape, outputs first."""
    return {
        "weight": Numbers((shape,), optional=True),
        "fine": Numbers((shape,), "fine_exponent", optional=True),
        "bias": Numbers((shape[:1],), "drive_exponent", optional=True),
    }


class AffineMap(Op, abstract=True):
    """A snapped linear map, with a bias at each wake step.

    The spikes go through `weight`, on the grid that the neurons' potential will be on; real-valued input through `fine`,
    the same weights on a finer grid. Where the arithmetic rounds what is computed of inputs, the current is rounded once.

    What reads numbers that are on a fine grid already `rounds`: its product is taken of their totals, with weights on no
    grid that matters, and rounded to the grid `2**exponent`. Where only neurons read it, it is `held` within so much for
    each step: beyond that they spike as often as they can, or never.
    """

    SETTINGS = settings(
        name=NAME,
        exponent=EXPONENT,
        input_exponent=EXPONENT,
        fine_exponent=EXPONENT,
        drive_exponent=EXPONENT,
        train_exponent=OrNone(EXPONENT),
        rounds=Otherwise(Flag(), False),
        held=Otherwise(OrNone(Positive()), None),
    )
    connection = Connection.SYNAPSES
    weight: Tensor | None
    fine: Tensor | None
    bias: Tensor | None

    @cached_property
    def reach(self) -> float:
        """The largest current that inputs of 1 cause."""
        return 0.0 if self.weight is None else largest_row(self.weight)

    def check(self) -> None:
        self.require(self.weight is not None or self.fine is not None, "one of 'weight' and 'fine' must be there")

    @cached_property
    def kernel(self) -> torch.Size:
        """The shape of its weights, outputs first."""
        return next(weight.shape for weight in (self.weight, self.fine) if weight is not None)

    @property
    def outputs(self) -> int:
        """How many features or channels it gives."""
        return self.kernel[0]

    def grid(self, name: str) -> int | None:
        if name != "weight":
            return super().grid(name)
        arriving = self.settings["train_exponent"]
        on_none = arriving is None or self.settings["rounds"]
        return None if on_none else int(self.settings["exponent"] - arriving)

    def drive(
        self, run: Run, signal: Signal, sums: Callable[[Tensor, Tensor], Tensor], shape: torch.Size, features: int
    ) -> Tensor | InputProduct | None:
        """The drive of the result: that of the signal times the fine weights, rounded once, and the bias.

        Args:
            sums: `(x, weight)` to their product; where it is `Sums`, and nothing rounds it sooner, it waits for its reader.
            shape: of the result.
            features: the dimension of the result that the bias belongs to, from the end.
        """
        drive, bias = signal.drive, self.bias
        if drive is not None:
            fine = self.fine
            assert fine is not None
            numerics, name, product = run.numerics, self.settings["name"], self.settings["drive_exponent"]
            inputs, weights = self.settings["input_exponent"], self.settings["fine_exponent"]
            if numerics.is_exact and isinstance(sums, Sums) and signal.divisor is None:
                if isinstance(numerics, AsTrained):
                    return InputProduct(drive, self.input_weights(), sums, bias, shape)
                grids = Grids(inputs, weights, product)
                return GridProduct(drive, self.weights_on_grid(), sums, bias, shape, grids, numerics, name)
            drive = numerics.drive(exact_product(numerics, drive, fine, inputs, weights, name, sums), product)
        if bias is not None:
            bias = bias.reshape(-1, *[1] * (-1 - features))
            bias = bias if signal.divisor is None else bias * signal.divisor
            drive = bias if drive is None else drive + bias
        return None if drive is None else drive.expand(shape)

    def of_totals(
        self, run: Run, signal: Signal, sums: Callable[[Tensor, Tensor], Tensor], shape: torch.Size
    ) -> tuple[TotalProduct, float]:
        """The train of the result where its product is taken of totals, and its bound.

        Args:
            sums: as for `drive`. shape: of the result.
        """
        weight, exponent, held = self.weight, self.settings["exponent"], self.settings["held"]
        assert weight is not None
        unit, bound = math.ldexp(1.0, exponent), signal.bound * self.reach
        most = None if held is None else math.ceil(held * (run.total + 2) / unit) * unit
        run.sum_dtype(run.total, signal.bound, 0.0, self.settings["train_exponent"], self.settings["name"])

        def product(totals: Tensor) -> Tensor:
            rows = totals if len(shape) == 1 else totals.flatten(0, 1)
            weights = self.kept(weight, "split", lambda: InputWeights.of(weight))
            rounded = product_on_grid(run.numerics, rows, weights, sums, exponent, most)
            return rounded.reshape(len(totals), *shape)

        bound += unit
        return TotalProduct(signal, product, shape), bound if most is None else min(bound, most / run.total)

    @cached_property
    def kept(self) -> WeightCache:
        """What is made of the weights that spikes meet."""
        return WeightCache()

    def input_weights(self) -> InputWeights:
        """What is made of the fine weights, kept."""
        fine = self.fine
        assert fine is not None
        return self.inputs_cache(fine, "split", lambda: InputWeights.of(fine))

    def weights_on_grid(self) -> InputWeights:
        """The same where they meet inputs on a grid."""
        fine = self.fine
        assert fine is not None
        return self.inputs_cache(fine, "on grid", lambda: InputWeights.on_grid(fine))

    @cached_property
    def inputs_cache(self) -> WeightCache:
        """What is made of the weights that real-valued input meets."""
        return WeightCache()

    def room_for_drive(self, follower: Follower, read: Abstract, given: Abstract) -> int:
        """Bytes that `drive` takes beside what it reads and gives."""
        if not read.is_driven:
            return 0
        with_bias = 8 * given.like.numel()
        return room_for_drive(follower, read, given, self.kernel[0] / self.kernel[1]) + with_bias

    def room_for_totals(self, read: Abstract, given: Abstract) -> int:
        """Bytes that products of totals take: the totals, and what is summed, rounded and subtracted of them."""
        return 8 * (2 * entries(read) + 4 * entries(given)) if self.settings["rounds"] else 0

    def later(self, follower: Follower, signals: list[Abstract]) -> int:
        read = signals[0]
        waits = read.is_driven and follower.run.numerics.is_exact
        return read.nbytes + self.working(follower, signals) if waits else 0

    @property
    @abstractmethod
    def input_dim(self) -> int:
        """The dimension of its input that it sums over everywhere, counted from the end."""

    @abstractmethod
    def fan_out(self, shape: torch.Size) -> Tensor:
        """How many outputs each input of this shape reaches, float64: one number, or one for each spatial position."""

    def work(self, result: Provenance, signal: Provenance) -> Work:
        fan_out = self.fan_out(signal.shape)
        dense = signal.shape.numel() / fan_out.numel() * float(fan_out.sum())
        awake = (dense if signal.is_driven else 0.0) + (0.0 if self.bias is None else float(result.shape.numel()))
        if self.weight is None:
            return Work(awake=awake, dense=dense)
        fan_out = fan_out.to(signal.signal.device)
        if signal.is_current:
            return Work(multiplies=by_step(signal.currents_over(self.input_dim) * fan_out), awake=awake, dense=dense)
        if fan_out.dim() == 0:
            spikes = signal.spikes_by_step() * float(fan_out)
        else:
            arriving = signal.spikes_over(self.input_dim)
            few = arriving.dtype == torch.int32 and signal.peak * signal.shape.numel() < 2**31
            others = tuple(range(1, arriving.dim() - fan_out.dim()))
            by_position = arriving.sum(others, dtype=torch.int32 if few else torch.float64)  # the first is faster
            spikes = by_step(by_position * fan_out)
        return Work(accumulates=spikes, awake=awake, dense=dense)


class Linear(AffineMap):
    """A snapped linear map of the last dimension."""

    TENSORS = affine_tensors("outputs", "inputs")

    @cached_property
    def product(self) -> Product:
        """Its products, and what they keep of the weights."""
        return Product()

    def forward(self, run: Run, signal: Signal) -> Signal:
        width = self.kernel[1]
        if not signal.shape or signal.shape[-1] != width:
            raise InputError(
                f"{self.settings['name']}: expected an input whose last dimension is {width}; got {list(signal.shape)}"
            )
        signal = signal.with_uniform_divisor((-1,))
        shape = torch.Size([*signal.shape[:-1], self.outputs])
        drive = self.drive(run, signal, LinearSums(), shape, -1)
        if self.weight is None:
            train, bound = torch.zeros((0, *shape), dtype=torch.int8, device=signal.device), 0.0
        else:
            bound = signal.bound * self.reach
            if self.settings["rounds"]:
                totals, bound = self.of_totals(run, signal, LinearSums(), shape)
                return Signal(totals, drive, signal.divisor, bound)
            if self._waits_for_totals(run, bound):
                return Signal(self._total_product(run, signal, shape, bound), drive, signal.divisor, bound)
            if self._is_deferred(run, signal):
                currents = filtered(self._filter(self.weight), run.numerics, run.peak, signal, 0)
                return Signal(currents, drive, signal.divisor, bound)
            dtype = run.numerics.dtype(bound * run.peak, self.settings["exponent"], self.settings["name"])
            train = self.product(signal.train, self.weight, self.settings["exponent"], signal.bound * run.peak, dtype)
        return Signal(train, drive, signal.divisor, bound)

    def _waits_for_totals(self, run: Run, bound: float) -> bool:
        """Whether float64 is too narrow for its sums, as it is at a readout whose weights are not rounded."""
        if not isinstance(run.numerics, AsTrained):
            return False
        return not math.ldexp(bound * max(run.total, run.peak), -self.settings["exponent"]) < FLOAT64_UNITS

    def _total_product(self, run: Run, signal: Signal, shape: torch.Size, bound: float) -> TotalProduct:
        weight, name = self.weight, self.settings["name"]
        assert weight is not None
        run.sum_dtype(run.total, signal.bound, 0.0, self.settings["train_exponent"], name)

        def product(totals: Tensor) -> Tensor:
            return exact_sum(totals, self.kept(weight, "limbs", lambda: weight_limbs(weight)), F.linear)

        def refuse() -> torch.dtype:
            return run.numerics.dtype(bound * run.peak, self.settings["exponent"], name)

        return TotalProduct(signal, product, shape, refuse)

    def _is_deferred(self, run: Run, signal: Signal) -> bool:
        """Whether the population behind it is to take the currents from the spikes, as that behind a convolution does."""
        if not self._defers(run, signal.shape, signal.steps) or not signal.shape.numel():
            return False
        lazy = signal.lazy_train
        return (isinstance(lazy, DeferredSum) and lazy.factors is not None) or signal.train.dtype == torch.int8

    @staticmethod
    def _defers(run: Run, shape: torch.Size, steps: int) -> bool:
        """Whether it would, were its train one of spikes."""
        return run.numerics.is_exact and len(shape) == 2 and steps > 0

    def _filter(self, weight: Tensor) -> Filter:
        """Its weights as those of a convolution of single entries."""
        return self.kept(
            weight,
            "filter",
            lambda: Filter(
                self.settings["name"], weight[:, :, None, None], self.settings["exponent"], Geometry((1, 1)), self.reach,
                WeightCache(),
            ),
        )  # fmt: skip

    input_dim = -1

    def fan_out(self, shape: torch.Size) -> Tensor:
        return torch.tensor(float(self.outputs), dtype=torch.float64)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train, samples = signal.train or Train(), follower.apart(signal, [-1])
        steps = 0 if self.weight is None else train.steps
        spikes = train.unit == 1 and not self.settings["rounds"]
        held = signal.nbytes if spikes and self._defers(follower.run, signal.shape, steps) else None
        return follower.signal([*signal.shape[:-1], self.outputs], samples, steps, 8, self.fine is not None, held)

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        read, given = signals[0], signals[-1]
        room = self.room_for_drive(follower, read, given) + self.room_for_totals(read, given)
        return 8 * sum(entries(each) for each in signals) + room


AXIS = OrNone(OneOf((1,)))
ALIGNED = Numbers()
"""Numbers that lie along an axis, as `aligned` has it."""


def check_aligned(op: Op) -> None:
    """Refuse numbers that do not lie as the operation's axis says, or that do not broadcast with each other."""
    shapes = [tensor.shape for tensor in op.tensors().values()]
    if op.settings["axis"] is None:
        columns = itertools.zip_longest(*map(reversed, shapes), fillvalue=1)
        op.require(all(len({*sizes, 1}) <= 2 for sizes in columns), "its tensors must broadcast with each other")
    else:
        fits = all(len(shape) <= 1 for shape in shapes) and len({*shapes, torch.Size([])}) <= 2
        op.require(fits, "its tensors must be one number, or one for each channel")


class RequireFeatures(Op):
    """Passes on a signal `[batch, features]`; its channels have been folded into the linear map that follows."""

    SETTINGS = settings(name=NAME)
    connection = Connection.KEEPS

    def forward(self, run: Run, signal: Signal) -> Signal:
        if len(signal.shape) != 2:
            raise InputError(
                f"{self.settings['name']}: batch normalisation before it was folded for an input [batch, features], "
                f"since it has as many channels as there are features; got {list(signal.shape)}. For such inputs write "
                "x = x.reshape(x.shape) between the two"
            )
        return signal

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        return signal


class Shift(Op):
    """The drive normalised: `factor * drive + offset`; the train as it is. `axis` as for `aligned`."""

    connection = Connection.KEEPS
    SETTINGS = settings(drive_exponent=EXPONENT, axis=AXIS)
    TENSORS = tensors(factor=ALIGNED, offset=replace(ALIGNED, grid="drive_exponent"))
    factor: Tensor
    offset: Tensor

    def check(self) -> None:
        check_aligned(self)

    def forward(self, run: Run, signal: Signal) -> Signal:
        signal, (factor, offset) = aligned(signal, self.settings["axis"], self.factor, self.offset)
        drive = signal.drive
        shifted = signal.constant(offset)
        if drive is not None:
            shifted = shifted + run.numerics.drive(drive * factor, self.settings["drive_exponent"])
        return replace(signal, lazy_drive=shifted)

    def work(self, result: Provenance, signal: Provenance) -> Work:
        return Work(awake=float(result.shape.numel()))

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train = signal.train or Train()
        shape, samples = _aligned_samples(follower, signal, self.settings["axis"], self.factor, self.offset)
        return follower.signal(shape, samples, train.steps, train.unit, real=True)


class Scale(Op):
    """Multiplication by snapped numbers, and a shift while awake. `axis` as for `aligned`.

    The train is multiplied by `factor`; real-valued input by `fine`, the same on a finer grid. With `grids`, the product
    with the train is taken of totals, and rounded to one.
    """

    SETTINGS = settings(drive_exponent=EXPONENT, axis=AXIS, grids=GRIDS)
    TENSORS = tensors(factor=ALIGNED, fine=ALIGNED, shift=replace(ALIGNED, grid="drive_exponent", optional=True))
    factor: Tensor
    fine: Tensor
    shift: Tensor | None

    @cached_property
    def largest(self) -> float:
        return float(self.factor.abs().max())

    @cached_property
    def leaves_trains(self) -> bool:
        """Whether all factors are 1."""
        return bool((self.factor == 1.0).all())

    def check(self) -> None:
        check_aligned(self)

    def forward(self, run: Run, signal: Signal) -> Signal:
        signal, (factor, fine, *shift) = self._aligned(signal)
        grids, bound = self.settings["grids"], signal.bound * self.largest
        train: Tensor | LazyTrain
        if grids is not None:
            arriving, exponent = grids
            run.sum_dtype(run.total, signal.bound, 0.0, arriving, "a factor")
            train = TotalProduct(signal, lambda totals: run.numerics.snap(totals * factor, exponent), signal.shape)
            bound += math.ldexp(1.0, exponent)
        else:
            train = self._product(run, signal, factor)
        drive = signal.drive
        if drive is not None:  # rounded once; every step, and the reference, use this one number
            drive = run.numerics.drive(drive * fine, self.settings["drive_exponent"])
        for each in shift:
            constant = signal.constant(each)
            drive = constant if drive is None else drive + constant
        return replace(signal, lazy_train=train, lazy_drive=drive, bound=bound)

    def _aligned(self, signal: Signal) -> tuple[Signal, tuple[Tensor, ...]]:
        """A signal and the numbers that it meets; those of channels are the same tensors again and again."""
        given = [value for value in (self.factor, self.fine, self.shift) if value is not None]
        axis, shape = self.settings["axis"], signal.shape
        if axis is None:
            return aligned(signal, None, *given)
        return signal, self.by_channel(given[0], (len(shape), *shape[1:2]), lambda: aligned(signal, axis, *given)[1])

    @cached_property
    def by_channel(self) -> WeightCache:
        """The numbers of channels, shaped to meet signals."""
        return WeightCache()

    def _product(self, run: Run, signal: Signal, factor: Tensor) -> Tensor | LazyTrain:
        """The train times the factor; of spikes, it is computed where it is read."""
        if self.leaves_trains:
            return signal.lazy_train
        own = deferred(run.numerics, run.peak, signal.lazy_train, signal.bound)
        product = None if own is None else own.times(factor, self.kept)
        return signal.train.double() * factor if product is None else product

    @cached_property
    def kept(self) -> WeightCache:
        """What is made of the factor that signals meet."""
        return WeightCache()

    def provenance(self, run: Run, result: Signal, signal: Provenance) -> Provenance:
        _, (factor,) = aligned(result, self.settings["axis"], self.factor)
        return signal.scaled(result, factor)

    def work(self, result: Provenance, signal: Provenance) -> Work:
        return Work(awake=float(result.shape.numel()) if result.is_driven else 0.0)

    def follow(self, follower: Follower, signal: Abstract) -> Abstract:
        train = signal.train or Train()
        shape, samples = _aligned_samples(follower, signal, self.settings["axis"], self.factor, self.fine, self.shift)
        return follower.signal(shape, samples, train.steps, 8, train.real or self.shift is not None)


def _shape_with(shape: torch.Size, values: Sequence[Tensor]) -> torch.Size:
    """The shape in which a tensor of this one meets numbers that broadcast against it."""
    try:
        return broadcast(shape, *(value.shape for value in values))
    except (RuntimeError, InputError) as error:
        shapes = " and ".join(dict.fromkeys(str(list(value.shape)) for value in values if value.dim()))
        raise InputError(
            f"constants of shape {shapes} meet a tensor of shape {list(shape)}, and they do not broadcast"
        ) from error


def _aligned_samples(
    follower: Follower, signal: Abstract, axis: int | None, *values: Tensor | None
) -> tuple[torch.Size, Samples]:
    """Shape and samples of a signal that meets numbers, shaped as by `aligned`."""
    given = [each for each in values if each is not None]
    if axis is None:
        _shape_with(signal.shape, given)
    return follower.together(signal, *(given if axis is None else (by_channel(each, signal.shape) for each in given)))


def aligned(signal: Signal, axis: int | None, *values: Tensor) -> tuple[Signal, tuple[Tensor, ...]]:
    """Numbers shaped to meet a signal, and the signal in the shape that comes of it.

    `axis` 1: they are `[channels]` of dimension 1, whatever follows; None: they broadcast as torch's tensors do.
    """
    if axis is not None:
        return signal, tuple(by_channel(value, signal.shape) for value in values)
    shape = _shape_with(signal.shape, values)
    if shape != signal.shape:
        signal = signal.map(lambda x: x.expand(shape))
    return signal, values


def by_channel(value: Tensor, shape: torch.Size) -> Tensor:
    """A number, or one for each channel, shaped to be multiplied with a tensor of this shape."""
    if value.dim() == 0:
        return value
    if len(shape) < 2 or shape[1] != len(value):
        raise InputError(
            f"what normalises {len(value)} channels got an input {list(shape)}; dimension 1 counts channels"
        )
    return value.reshape([-1] + [1] * (len(shape) - 2))
