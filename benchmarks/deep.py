"""What the benchmark times of deep convolutional networks: ResNet20, VGG16 and the detector, calibrated to levels.

Thresholds are chosen for each channel by what the network does on images, as a user's are: equal ones make other kernels
take part. And a roofline of ResNet20: what each layer adds, beside what the processor can do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from convolution import behind_convolutions, density
from images import Images, channels_last, folded
from measure import Entry, Row, compare, require
from networks import Scale
from speed import ANN, QUANTISED, activity, as_json, conversions, outputs, require_exact, spiking_entries
from torch import Tensor, nn

import casc_core
from casc_core.engine.ops.population import Fire
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.products.geometry import convolve
from casc_core.engine.products.term import Term
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal

Section = dict[str, Any]
# Samples, channels and side of the convolution that tells what the processor can do.
PEAK_SHAPE = 2, 256, 28


@torch.no_grad()
def deep(images: Images, scale: Scale) -> Section:
    """Each network until silent, as trained and on a 16-bit grid, beside its float32 ANN with ReLU."""
    batch, scenes = images.batch(scale.image_batch), images.scenes(scale.detector_batch)
    some = images.training_batches(scale.calibration_images)
    cases: list[tuple[str, nn.Module, Tensor, list[Tensor]]] = []
    with torch.enable_grad():
        cases.append((f"ResNet20, {shape(batch)}", images.resnet20, batch, some))
        cases.append((f"VGG16, {shape(batch)}", images.vgg16, batch, some))
        cases.append((f"detector, {shape(scenes)}", images.detector, scenes, [images.scenes(8)]))
    rows: list[Row] = []
    facts, roofs = [], []
    for name, model, x, seen in cases:
        calibrated = casc_core.calibrate(model, seen, adapter="cnn", q=scale.image_q, steps=("thresholds",)).model
        snns = conversions(calibrated, "cnn")
        for snn in snns.values():
            require_exact(snn, (x,), ())
        facts.append(activity(name, snns[""], (x,)))
        entries = [ann_entry(ANN, model, x), ann_entry(QUANTISED, calibrated, x), *spiking_entries(snns, (x,), ())]
        rows += compare(name, entries, scale.threads, scale.repeats)
        if model is images.resnet20:
            roofs = [{"numerics": numerics, "layers": roofline(snn, x, scale)} for numerics, snn in snns.items()]
    return {
        "data": images.data.source,
        "q": scale.image_q,
        "networks": facts,
        "rows": as_json(rows),
        "multiply_adds_per_second": multiply_adds_per_second(),
        "rooflines": roofs,
    }


def shape(x: Tensor) -> str:
    """`32 images of 32x32`."""
    return f"{len(x)} images of {x.shape[2]}x{x.shape[3]}"


def ann_entry(name: str, model: nn.Module, x: Tensor) -> Entry:
    """A network as it is run anywhere: folded, channels last; checked against the network itself."""
    fast, x = folded(model), channels_last(x)
    for mine, expected in zip(outputs(fast(x)), outputs(model(x)), strict=True):
        # Rounding moves a level here and there, where there are levels.
        require(float((mine - expected).norm() / expected.norm()) < 0.1, f"{name}: the folded network is another one")
    return Entry(name, partial(fast, x))


# --- the roofline ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Work:
    """What a layer of neurons behind convolutions has to do until it is silent.

    Attributes:
        synapses: of all its neurons; the ANN makes one multiply-add of each.
        additions: weights added, one for each event at each synapse.
        densities: share of its input that is not zero, at each step.
        bytes_in, bytes_out: of its trains.
    """

    synapses: int
    additions: int
    densities: tuple[float, ...]
    bytes_in: int
    bytes_out: int

    @classmethod
    def of(cls, terms: Iterable[Term], spikes: Tensor) -> Work:
        """Counted, not estimated: every event reaches the outputs whose window it lies in."""
        terms = tuple(terms)
        largest = max(terms, key=lambda term: term.filter.weight.numel())
        return cls(
            sum(reached(term, torch.ones_like(term.train[:1])) for term in terms),
            sum(reached(term, term.train) for term in terms),
            tuple(density(step) for step in largest.train),
            sum(term.train.nbytes for term in terms),
            spikes.nbytes,
        )


def reached(term: Term, train: Tensor) -> int:
    """How many outputs the entries that are not zero go to, each entry counted once for each of its outputs."""
    geometry = dataclasses.replace(term.filter.geometry, groups=1)
    events = train.count_nonzero(dim=2).sum(0).double().unsqueeze(1)
    positions = convolve(events, torch.ones(1, 1, *geometry.kernel, dtype=torch.float64), geometry).sum()
    return int(positions) * len(term.filter.weight) // term.filter.geometry.groups


def roofline(snn: casc_core.SpikingModel, x: Tensor, scale: Scale) -> list[Section]:
    """Of each layer behind convolutions: its work, and its time beside that of the same convolution in float32."""
    layers = []
    for op, run, signal in behind_convolutions(partial(snn, x)):
        lazy = signal.lazy_train
        assert isinstance(lazy, DeferredSum)
        fire = partial(fired, op, run, signal)
        work = Work.of(lazy.terms, fire())
        seconds = fastest(fire, scale.repeats)
        in_floats = sum(
            fastest(in_float32(term), scale.repeats) for term in lazy.terms if len(term.filter.weight[0]) > 1
        )
        layers.append(
            {"layer": op.settings["name"], "spikes_s": seconds, "float32_s": in_floats} | dataclasses.asdict(work)
        )
    return layers


def fired(op: Fire, run: Run, signal: Signal) -> Tensor:
    """The spikes of a layer, its currents summed anew."""
    assert isinstance(signal.lazy_train, DeferredSum)
    result: Signal = op(run, dataclasses.replace(signal, lazy_train=dataclasses.replace(signal.lazy_train)))
    return result.train


def in_float32(term: Term) -> Callable[[], Tensor]:
    """The same convolution of a batch of real numbers, and its ReLU."""
    geometry, x = term.filter.geometry, channels_last(term.train[0].float())
    weight = channels_last(term.filter.weight.float())
    top, _, left, _ = geometry.padding
    return lambda: F.conv2d(
        x, weight, None, geometry.stride, (top, left), geometry.dilation, geometry.groups
    ).relu_()  # fmt: skip


def multiply_adds_per_second() -> float:
    """What the processor does of them in float32 on one thread, at best: a large convolution, channels last."""
    batch, channels, side = PEAK_SHAPE
    x = channels_last(torch.ones(batch, channels, side + 2, side + 2))
    weight = channels_last(torch.ones(channels, channels, 3, 3))
    return batch * side**2 * 9 * channels**2 / fastest(partial(F.conv2d, x, weight), 5)


def fastest(call: Callable[[], object], turns: int) -> float:
    """CPU seconds of the fastest call, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call()
        taken = []
        for _ in range(turns):
            started = time.process_time()
            call()
            taken.append(time.process_time() - started)
        return max(min(taken), 1e-9)
    finally:
        torch.set_num_threads(before)
