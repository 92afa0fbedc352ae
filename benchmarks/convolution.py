"""What the benchmark times of convolutional networks: beside the peers, with the error of each, and layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import peers
import torch
from images import Images, channels_last, folded, with_relu
from measure import Entry, Row, compare, require
from networks import Scale
from speed import (
    ANN,
    AS_TRAINED,
    QUANTISED,
    REFERENCE,
    SILENT,
    activity,
    as_json,
    conversions,
    fixed,
    peer_entry,
    require_alike,
    require_exact,
    spiking_entries,
)
from torch import Tensor, nn

import casc_core
from casc_core import SpikingModel
from casc_core.engine import kernels
from casc_core.engine.ops.population import Fire
from casc_core.engine.products.deferred_sum import DeferredSum
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal
from casc_core.reporting.predictions import differing
from casc_lab.evaluation.accuracy import accuracy

Section = dict[str, Any]
UNFOLDED = "ANN with q levels, batch norm not folded"
FLOAT, NO_KERNELS = "snn(...), float convolutions", "snn(...), no compiled kernels"


@torch.no_grad()
def convolutional(images: Images, scale: Scale) -> Section:
    """A trained network of three convolutions beside the peers: time, and what each gets wrong."""
    with torch.enable_grad():
        model, training = images.small
    ann, x = folded(model), images.batch(scale.image_batch)
    assert isinstance(ann, nn.Sequential)
    require(torch.allclose(ann(x), model(x), atol=1e-3), "the folded network is not the same network")
    snns = conversions(model, "cnn")
    for each in snns.values():
        require_exact(each, (x,), scale.image_steps)
    snn = snns[""]
    test = images.batch(len(images.data.test))
    percent = accuracy(torch.cat([ann(part) for part in test.split(256)]), images.labels(len(test)))
    same = snn.under(casc_core.IF(), casc_core.Continuous())
    found = peers.found(ann)
    entries = [
        Entry(ANN, partial(with_relu(ann), channels_last(x))),
        Entry(QUANTISED, partial(ann, channels_last(x))),
        Entry(UNFOLDED, partial(model, x)),
        *spiking_entries(snns, (x,), scale.image_steps),
        *(Entry(baseline(T), partial(same.simulate, x, T=T), T) for T in scale.image_steps),
    ]
    for T in scale.image_steps:
        expected = integrate_and_fire(ann, x, T)
        for name, peer in found.items():
            if not isinstance(peer, str):
                require_alike(name, peer.simulate(x, T), expected)
            entries.append(peer_entry(name, peer, x, T))
    rows = compare("trained", entries, scale.threads, scale.repeats)
    errors = mistakes(images, model, ann, snn, same, found, scale)
    shape = f"convolutions of {', '.join(map(str, scale.channels))} channels, 3x3, a 2x2 max-pool before the last"
    return {
        "data": images.data.source,
        "shape": f"{shape}; q={scale.image_q}, {scale.image_batch} images of {scale.image_size}x{scale.image_size}",
        "training_seconds": training["seconds"],
        "peer_steps": scale.image_steps[len(scale.image_steps) // 2],
        "networks": [activity("trained", snn, (x,)) | {"accuracy": percent}],
        "rows": as_json(rows),
        "errors": errors,
        "ways": ways(snn, same, x, scale),
    }


def baseline(T: int) -> str:
    """Name of ours under the peers' own method."""
    return f"snn.under(IF, Continuous), T={T}"


def integrate_and_fire(model: nn.Sequential, x: Tensor, steps: int) -> Tensor:
    """The peers' method spelt out: the mean readout of IF neurons with soft reset, the input coming at every step."""
    first, rest = peers.parts(model)
    current = first(x)
    potential: dict[int, Tensor] = {}
    total = torch.zeros(())
    for _ in range(steps):
        y = current
        for place, module in enumerate(rest):
            if isinstance(module, casc_core.CQReLU):
                charged = potential.get(place, torch.zeros(())) + y
                y = (charged >= 1).float()
                potential[place] = charged - y
            else:
                y = module(y)
        total = total + y
    return total / steps


# --- errors ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Mistakes:
    """How far an entry is from the network it was made from, over some images."""

    entry: str
    steps: int | None
    against: str
    images: int = 0
    neurons: int = 0
    counts_that_differ: int = 0
    predictions_that_differ: int = 0
    off: float = 0.0
    size: float = 0.0

    def add(self, logits: Tensor, levels: Tensor, expected: Tensor, expected_levels: Tensor) -> None:
        """Some images more: logits, and the levels of the last layer of neurons."""
        self.images += len(logits)
        self.neurons += levels.numel()
        self.counts_that_differ += int((levels != expected_levels).sum())
        self.predictions_that_differ += int(differing(logits, expected).sum())
        self.off += float((logits - expected).abs().sum(dtype=torch.float64))
        self.size += float(expected.abs().sum(dtype=torch.float64))

    def as_json(self) -> Section:
        """With its shares in percent."""
        return dataclasses.asdict(self) | {
            "logits_percent": 100 * self.off / self.size,
            "counts_percent": 100 * self.counts_that_differ / self.neurons,
        }


def mistakes(
    images: Images,
    model: nn.Sequential,
    ann: nn.Sequential,
    snn: SpikingModel,
    same: SpikingModel,
    found: dict[str, peers.Peer | str],
    scale: Scale,
) -> list[Section]:
    """Each entry beside the network as trained, and ours beside its reference as well, where it must be right."""
    q = scale.image_q
    tables: dict[tuple[str, str], Mistakes] = {}

    def compared(
        entry: str, steps: int | None, against: str, got: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]
    ) -> None:
        tables.setdefault((entry, against), Mistakes(entry, steps, against)).add(*got, *true)

    for start in range(0, scale.compared_images, scale.image_batch):
        x = images.batch(scale.image_batch, start)
        expected, reference = in_levels(model, x, q), reference_of(snn, x)
        compared(QUANTISED, None, AS_TRAINED, in_levels(ann, x, q), expected)
        compared(REFERENCE, None, AS_TRAINED, reference, expected)
        for T in (None, *scale.image_steps):
            entry, got = SILENT if T is None else fixed(T), counted(snn, x, T)
            compared(entry, T, AS_TRAINED, got, expected)
            compared(entry, T, REFERENCE, got, reference)
        for T in scale.image_steps:
            logits, counts = counted(same, x, T)
            compared(baseline(T), T, AS_TRAINED, (logits, to_levels(counts, T, q)), expected)
            for name, peer in found.items():
                if not isinstance(peer, str) and "multi" not in name:  # the two modes compute the same
                    logits, counts = peer.with_counts(x, T)
                    compared(f"{name}, T={T}", T, AS_TRAINED, (logits, to_levels(counts, T, q)), expected)
    silent = tables[SILENT, REFERENCE]
    require(silent.counts_that_differ == 0 and silent.off == 0, "snn(...) differs from snn.reference(...)")
    return [table.as_json() for table in tables.values()]


def in_levels(model: nn.Sequential, x: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Logits of a network, and the levels of its last activation."""
    last = [module for module in model if isinstance(module, casc_core.CQReLU)][-1]
    levels: list[Tensor] = []
    hook = last.register_forward_hook(lambda _, __, output: levels.append((output * q).round().int()))
    try:
        logits = model(x)
    finally:
        hook.remove()
    return logits, levels[0]


def counted(snn: SpikingModel, x: Tensor, T: int | None) -> tuple[Tensor, Tensor]:
    """Readout after `T` steps, and the spike counts of the last layer."""
    recorder = Recorder(keep_counts=True)
    simulation = snn.simulate_recorded((x,), {}, T, recorder)
    counts = recorder.counts
    return simulation.logits[-1], counts[snn.layers[-1]].int()


def reference_of(snn: SpikingModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the reference."""
    logits, counts = snn.reference_counts((x,), {})
    return logits, counts[snn.layers[-1]].int()


def to_levels(counts: Tensor, T: int, q: int) -> Tensor:
    """The nearest level to the rate that `counts` spikes in `T` steps are."""
    return (counts * q / T).round().int()


# --- integers and floats -----------------------------------------------------------------------------------------


def ways(snn: SpikingModel, same: SpikingModel, x: Tensor, scale: Scale) -> Section:
    """The integer path, which adds the weights behind spikes, beside float convolutions; and how often each is taken.

    Each layer of neurons behind a convolution is timed on the spikes that reach it, in time and in levels; then the
    whole network.
    """
    runs: dict[str, Callable[[], object]] = {
        "snn(...)": partial(snn, x),
        "snn.reference(...)": partial(snn.reference, x),
        fixed(scale.image_steps[0]): partial(snn.simulate, x, T=scale.image_steps[0]),
        baseline(scale.image_steps[0]): partial(same.simulate, x, T=scale.image_steps[0]),
    }
    used = {name: populations(run) for name, run in runs.items()}
    require(torch.equal(under(float_convolutions, runs["snn(...)"]), snn(x)), f"{FLOAT} differs")
    rows: list[Row] = []
    for kind in ("snn(...)", "snn.reference(...)"):
        for op, run, signal in behind_convolutions(runs[kind]):
            train = signal.lazy_train.terms[0].train if isinstance(signal.lazy_train, DeferredSum) else signal.train
            case = f"{kind}, layer {op.settings['name']}: {len(train)} steps, {density(train):.0%} not zero"
            rows += compare(case, layer_entries(op, run, signal), scale.threads, scale.repeats)
    network = [Entry(SILENT, runs["snn(...)"])]
    network += [Entry(name, partial(under, choice, runs["snn(...)"])) for name, choice in CHOICES.items()]
    rows += compare("the whole network, until silent", network, scale.threads, min(3, scale.repeats))
    return {"used": used, "rows": as_json(rows)}


@contextmanager
def float_convolutions() -> Iterator[None]:
    """Currents in float32 or float64, patch by patch; the rest compiled as usual."""
    with patch.object(Fire, "_readable", lambda *_: None):
        yield


def no_kernels() -> AbstractContextManager[None]:
    """Torch alone."""
    return kernels.using(None)


Choice = Callable[[], AbstractContextManager[None]]
CHOICES: dict[str, Choice] = {FLOAT: float_convolutions, NO_KERNELS: no_kernels}


def under(choice: Choice, call: Callable[[], Any]) -> Any:
    """What `call` gives while `choice` holds."""
    with choice():
        return call()


def layer_entries(op: Fire, run: Run, signal: Signal) -> list[Entry]:
    """One layer by the integer path and by the others; every call computes its currents anew."""

    def fire() -> Tensor:
        train = signal.lazy_train
        fresh = dataclasses.replace(train) if isinstance(train, DeferredSum) else train
        fired: Signal = op(run, dataclasses.replace(signal, lazy_train=fresh))
        return fired.train

    expected = fire()
    for name, choice in CHOICES.items():
        require(torch.equal(under(choice, fire), expected), f"{op.settings['name']}: {name} differs")
    names = ("integer path", "float convolutions, compiled neurons", "no compiled kernels")
    calls: list[Callable[[], object]] = [fire, *(partial(under, choice, fire) for choice in CHOICES.values())]
    return [Entry(name, call) for name, call in zip(names, calls, strict=True)]


def behind_convolutions(call: Callable[[], object]) -> list[tuple[Fire, Run, Signal]]:
    """The populations that `call` runs behind convolutions, each with what it was given."""
    seen: list[tuple[Fire, Run, Signal]] = []
    forward = Fire.forward

    def kept(op: Fire, run: Run, signal: Signal) -> Signal:
        if isinstance(signal.lazy_train, DeferredSum):
            seen.append((op, run, signal))
        return forward(op, run, signal)

    with patch.object(Fire, "forward", kept):
        call()
    return seen


def populations(call: Callable[[], object]) -> dict[str, int]:
    """How many of the populations behind convolutions that `call` runs take which path."""
    asked = taken = 0
    readable, read = Fire._readable, Fire._read

    def noted(self: Fire, run: Run, signal: Signal) -> DeferredSum | None:
        nonlocal asked
        asked += isinstance(signal.lazy_train, DeferredSum)
        return readable(self, run, signal)

    def counted(self: Fire, *arguments: Any) -> Tensor | None:
        nonlocal taken
        fired = read(self, *arguments)
        taken += fired is not None
        return fired

    with patch.object(Fire, "_readable", noted), patch.object(Fire, "_read", counted):
        call()
    return {"integer": taken, "float": asked - taken}


def density(train: Tensor) -> float:
    """Share of the entries of a train that are not zero."""
    return float(train.count_nonzero()) / max(1, train.numel())
