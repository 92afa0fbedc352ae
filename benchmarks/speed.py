"""What the benchmark times within one process: recurrent and feed-forward networks, and how time grows with size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import peers
import torch
from measure import Entry, Row, compare, require
from networks import Classifiers, PlainLoop, Scale, TorchRNN, random_classifier, random_mlp, random_texts, trained_mlp
from torch import Tensor, nn

import casc_core
from casc_core import SpikingModel
from casc_core.engine import kernels
from casc_seq.classifier import TextClassifier

EVALUATED = "the network in eval"
ANN, SILENT, REFERENCE = "ANN (float32 CQReLU)", "snn(...), until silent", "snn.reference(...)"
SIMULATE, AS_TRAINED = "snn.simulate", "the ANN as trained"
Section = dict[str, Any]


def recurrent(classifiers: Classifiers, scale: Scale) -> Section:
    """Trained text classifiers on test texts of full length and of their own lengths."""
    rows: list[Row] = []
    facts = []
    for q, numerics in ((2, None), (2, casc_core.Exact(weight_bits=8)), (8, None)):
        model = classifiers.trained(q).model
        snn = casc_core.convert(model, adapter="rnn", numerics=numerics or casc_core.Exact())
        full, natural = classifiers.full(scale.batch), classifiers.natural(scale.batch)
        for texts in (full, natural):
            require_exact(snn, texts, scale.steps)
        name = f"q={q}, {numerics.weight_bits if numerics else 16}-bit weights"
        fact = activity(name, snn, full) | {"accuracy": classifiers.accuracy(model)}
        # The reference's is the spiking network's: that their answers are the same is checked above.
        fact["spiking_accuracy"] = classifiers.accuracy(snn.reference)
        facts.append(fact | {"training_seconds": classifiers.trained(q).training["seconds"]})
        torch_rnns = {kind: TorchRNN(model.config, kind).eval() for kind in ("tanh", "relu")}
        entries = beside_loop(snn, full, spiking_entries(snn, full, scale.steps)) + rnn_entries(torch_rnns, full)
        rows += compare(f"{name}, every text {scale.length} tokens", entries, scale.threads, scale.repeats)
        entries = spiking_entries(snn, natural, scale.steps[:1]) + rnn_entries(torch_rnns, natural)
        mean = float(natural[1].double().mean())
        rows += compare(f"{name}, lengths as they are ({mean:.0f} on average)", entries, scale.threads, scale.repeats)
    return {
        "data": classifiers.corpus.source,
        "training_texts": len(classifiers.corpus.train),
        "networks": facts,
        "rows": as_json(rows),
    }


def spiking_entries(snn: SpikingModel, inputs: tuple[Tensor, ...], steps: tuple[int, ...]) -> list[Entry]:
    """The ANN, and every way to run its conversion."""
    ann = snn.ann
    assert ann is not None
    steps_to_silence = snn.simulate(*inputs).T
    entries = [
        Entry(ANN, lambda: ann(*inputs)),
        Entry(SILENT, lambda: snn(*inputs), steps_to_silence),
        Entry(REFERENCE, lambda: snn.reference(*inputs)),
    ]
    entries += [Entry(fixed(T), partial(snn.simulate, *inputs, T=T), T) for T in steps]
    entries.append(Entry(f"{SIMULATE}(T=None)", lambda: snn.simulate(*inputs), steps_to_silence))
    return entries


def beside_loop(snn: SpikingModel, texts: tuple[Tensor, ...], entries: list[Entry]) -> list[Entry]:
    """The entries of texts of full length beside a plain loop, and runs by other instructions than the usual ones."""
    ann = snn.ann
    assert isinstance(ann, TextClassifier)
    loop = PlainLoop(ann.eval())
    with torch.no_grad():
        require(torch.allclose(loop(*texts), ann(*texts), atol=1e-4), "the plain loop is not the same network")
    evaluated, *others = entries
    own = [Entry(ANN, partial(loop, *texts)), dataclasses.replace(evaluated, name=EVALUATED), *others]
    return own + [
        Entry(f"{SILENT}, by {each}", partial(under, each, partial(snn, *texts)), others[0].steps)
        for each in kernels.all_instructions()
        if each not in (None, "plain", kernels.instructions())
    ]


def under(instructions: str, call: Callable[[], object]) -> object:
    """A call whose kernels use these instructions."""
    with kernels.using(instructions):
        return call()


def fixed(T: int) -> str:
    """Name of a simulation of `T` steps."""
    return f"{SIMULATE}(T={T})"


def rnn_entries(networks: dict[str, TorchRNN], texts: tuple[Tensor, ...]) -> list[Entry]:
    """The yardstick from outside: the classifier with `torch.nn.RNN`."""
    return [Entry(f"torch.nn.RNN, {kind}", partial(rnn, *texts)) for kind, rnn in networks.items()]


def feed_forward(scale: Scale) -> Section:
    """A multilayer perceptron, random and trained, beside the peers."""
    rows: list[Row] = []
    facts = []
    model, x = random_mlp(scale)
    trained, new, accuracy = trained_mlp(scale)
    for weights, network, inputs, percent in (("random", model, x, None), ("trained", trained, new, accuracy)):
        snn = casc_core.convert(network, adapter="rnn")
        require_exact(snn, (inputs,), (scale.peer_steps,))
        facts.append(activity(f"{weights} weights", snn, (inputs,)) | {"accuracy": percent})
        entries = spiking_entries(snn, (inputs,), (scale.peer_steps,)) + peer_entries(snn, inputs, scale.peer_steps)
        rows += compare(f"{weights} weights", entries, scale.threads, scale.repeats)
    shape = f"{scale.mlp_layers} layers of {scale.mlp_width}, q={scale.mlp_q}, batch {scale.batch}"
    return {"shape": shape, "peer_steps": scale.peer_steps, "networks": facts, "rows": as_json(rows)}


@torch.no_grad()
def peer_entries(snn: SpikingModel, x: Tensor, steps: int) -> list[Entry]:
    """Ours under the peers' own method (IF neurons, input at every step), then the peers."""
    model = snn.ann
    assert isinstance(model, nn.Sequential)
    settings: dict[str, Any] = {"neuron": casc_core.IF(), "schedule": casc_core.Continuous()}
    same = snn.under(**settings)
    entries = [Entry(f"snn.under(IF, Continuous), T={steps}", lambda: same.simulate(x, T=steps), steps)]
    # Not on the 16-bit grid, as the peers are not.
    ours = casc_core.convert(model, adapter="rnn", numerics="as trained", **settings).simulate(x, T=steps).logits[-1]
    for name, peer in peers.found(model).items():
        entries.append(peer_entry(name, peer, x, steps))
        if not isinstance(peer, str):
            require_alike(name, peer.simulate(x, steps), ours)
    return entries


def peer_entry(name: str, peer: peers.Peer | str, x: Tensor, steps: int) -> Entry:
    """A peer's simulation of `steps` steps; what it says instead, if it is not there."""
    call = None if isinstance(peer, str) else partial(peer.simulate, x, steps)
    return Entry(f"{name}, T={steps}", call, steps, peer if isinstance(peer, str) else "")


def growth(scale: Scale) -> Section:
    """Time until silent relative to the ANN of the same size, as one size after the other grows."""
    base = {"q": 2, "hidden": scale.hidden, "length": scale.length, "batch": scale.growth_batch}
    repeats = max(2, scale.repeats // 2)
    snn, texts = random_classifier(scale, base["q"], base["hidden"]), random_texts(base["batch"], base["length"])
    steps = scale.growth["T"]
    require_exact(snn, texts, steps)
    rows = compare("T", beside_loop(snn, texts, spiking_entries(snn, texts, steps)), scale.threads, repeats)
    axes = {"T": [point(T, rows, fixed(T)) for T in steps] + [point("until silent", rows, SILENT)]}
    for axis, values in scale.growth.items():
        for value in values if axis != "T" else ():
            size = base | {axis: value}
            snn = random_classifier(scale, size["q"], size["hidden"])
            texts = random_texts(size["batch"], size["length"])
            require_exact(snn, texts, ())
            entries = beside_loop(snn, texts, spiking_entries(snn, texts, ())[:2])
            rows = compare(f"{axis}={value}", entries, scale.threads, repeats)
            axes.setdefault(axis, []).append(point(value, rows, SILENT))
    return {"base": base, "axes": axes}


def point(value: int | str, rows: list[Row], entry: str) -> Section:
    """One point of a curve: the rows of `entry`, and those of the ANN beside it."""
    chosen = {name: as_json([row for row in rows if row.entry == name]) for name in (entry, ANN)}
    return {"value": value, "rows": chosen[entry], "ann": chosen[ANN]}


def require_exact(snn: SpikingModel, inputs: tuple[Tensor, ...], steps: tuple[int, ...]) -> None:
    """The outputs that will be timed are right: bit for bit the reference's, and at each T those of the whole run."""
    expected, silent = snn.reference(*inputs), snn.simulate(*inputs)
    require(torch.equal(snn(*inputs), expected), "snn(...) differs from snn.reference(...)")
    require(torch.equal(silent.logits[-1], expected), "simulate(T=None) differs from snn.reference(...)")
    for T in steps:
        logits, known = snn.simulate(*inputs, T=T).logits, min(T, silent.T)
        same = len(logits) == T and torch.equal(logits[:known], silent.logits[:known])
        later = torch.equal(logits[known:], expected.expand(T - known, *expected.shape))
        require(same and later, f"simulate(T={T}) differs from the run until silent")


def require_alike(name: str, logits: Tensor, expected: Tensor) -> None:
    """A peer computes what plain IF neurons do, but for neurons on the edge: its sums round in another order."""
    error = relative_error(logits, expected)
    require(error < 0.02, f"{name} is not the same network: its logits differ by {100 * error:.1f}% on average")


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Mean magnitude of the difference over mean magnitude of what is expected."""
    return float((logits - expected).abs().mean() / expected.abs().mean())


def activity(name: str, snn: SpikingModel, inputs: tuple[Tensor, ...]) -> Section:
    """How densely a network spikes on a batch, and when it falls silent."""
    simulation = snn.simulate(*inputs)
    layers = simulation.spikes.values()
    spikes = sum(int(layer.positive.sum() + layer.negative.sum()) for layer in layers)
    silent = simulation.silent_at.double()
    return {
        "network": name,
        "spikes_per_neuron": spikes / sum(layer.neurons for layer in layers),
        "negative_share": sum(int(layer.negative.sum()) for layer in layers) / max(1, spikes),
        "silent_at_median": float(silent.median()),
        "silent_at_max": float(silent.max()),
    }


def as_json(rows: list[Row]) -> list[Section]:
    """Rows with every turn of theirs, and the fastest in milliseconds."""
    fastest = [{"wall_ms": row.wall_ms, "cpu_ms": row.cpu_ms} if row.wall_s else {} for row in rows]
    return [dataclasses.asdict(row) | best for row, best in zip(rows, fastest, strict=True)]
