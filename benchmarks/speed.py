"""What the benchmark times within one process: recurrent and feed-forward networks, and how time grows with size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import peers
import torch
from images import with_relu
from measure import Entry, Row, compare, require
from networks import Classifiers, PlainLoop, Scale, TorchRNN, random_classifier, random_mlp, random_texts, trained_mlp
from torch import Tensor, nn

import casc_core
from casc_core import SpikingModel
from casc_seq.classifier import TextClassifier

# The first entry of every comparison: the fastest float32 network that one would write.
ANN, QUANTISED, EVALUATED = "ANN (float32)", "ANN with q levels", "the network in eval"
SILENT, REFERENCE, SIMULATE = "snn(...), until silent", "snn.reference(...)", "snn.simulate"
AS_TRAINED = "the ANN as trained"
NUMERICS: dict[str, casc_core.Numerics] = {"": casc_core.AsTrained(), ", 16 bits": casc_core.Exact(16)}
"""Of the conversions that are timed side by side; by what it adds to a name."""
Section = dict[str, Any]


def recurrent(classifiers: Classifiers, scale: Scale) -> Section:
    """Trained text classifiers on test texts of full length and of their own lengths."""
    rows: list[Row] = []
    facts = []
    for q, further in ((2, {", 8 bits": casc_core.Exact(8)}), (8, {})):
        model = classifiers.trained(q).model
        full, natural = classifiers.full(scale.batch), classifiers.natural(scale.batch)
        snns = conversions(model, "rnn", NUMERICS | further)
        for name, snn in snns.items():
            for texts in (full, natural):
                require_exact(snn, texts, scale.steps)
            fact = activity(f"q={q}{name}", snn, full) | {"accuracy": classifiers.accuracy(model)}
            # The reference's is the spiking network's: that their answers are the same is checked above.
            fact["spiking_accuracy"] = classifiers.accuracy(snn.reference)
            facts.append(fact | {"training_seconds": classifiers.trained(q).training["seconds"]})
        torch_rnns = {kind: TorchRNN(model.config, kind).eval() for kind in ("tanh", "relu")}
        loop, evaluated = plain_loop(model, full), Entry(EVALUATED, partial(model, *full))
        entries = [loop, evaluated, *spiking_entries(snns, full, scale.steps), *rnn_entries(torch_rnns, full)]
        rows += compare(f"q={q}, every text {scale.length} tokens", entries, scale.threads, scale.repeats)
        entries = [Entry(ANN, partial(model, *natural)), *spiking_entries(snns, natural, scale.steps[:1])]
        entries += rnn_entries(torch_rnns, natural)
        mean = float(natural[1].double().mean())
        rows += compare(f"q={q}, lengths as they are ({mean:.0f} on average)", entries, scale.threads, scale.repeats)
    return {
        "data": classifiers.corpus.source,
        "training_texts": len(classifiers.corpus.train),
        "networks": facts,
        "rows": as_json(rows),
    }


def conversions(
    model: nn.Module, adapter: str, numerics: Mapping[str, casc_core.Numerics] = NUMERICS
) -> dict[str, SpikingModel]:
    """A network in spikes, with each of the numerics."""
    return {name: casc_core.convert(model, adapter=adapter, numerics=each) for name, each in numerics.items()}


def spiking_entries(
    snns: Mapping[str, SpikingModel], inputs: tuple[Tensor, ...], steps: tuple[int, ...]
) -> list[Entry]:
    """Each conversion until silent, and its reference; the first of them simulated as well."""
    first = next(iter(snns.values()))
    to_silence = {name: snn.simulate(*inputs).T for name, snn in snns.items()}
    entries = [Entry(f"{SILENT}{name}", partial(snn, *inputs), to_silence[name]) for name, snn in snns.items()]
    entries += [Entry(f"{REFERENCE}{name}", partial(snn.reference, *inputs)) for name, snn in snns.items()]
    entries += [Entry(fixed(T), partial(first.simulate, *inputs, T=T), T) for T in steps]
    return [*entries, Entry(f"{SIMULATE}(T=None)", partial(first.simulate, *inputs), entries[0].steps)]


@torch.no_grad()
def plain_loop(model: TextClassifier, texts: tuple[Tensor, ...]) -> Entry:
    """Texts of full length through a plain loop of matrix products."""
    loop = PlainLoop(model.eval())
    require(torch.allclose(loop(*texts), model(*texts), atol=1e-4), "the plain loop is not the same network")
    return Entry(ANN, partial(loop, *texts))


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
        snns = conversions(network, "rnn")
        for snn in snns.values():
            require_exact(snn, (inputs,), (scale.peer_steps,))
        facts.append(activity(f"{weights} weights", snns[""], (inputs,)) | {"accuracy": percent})
        entries = [Entry(ANN, partial(with_relu(network), inputs)), Entry(QUANTISED, partial(network, inputs))]
        entries += spiking_entries(snns, (inputs,), (scale.peer_steps,))
        entries += peer_entries(network, snns[""], inputs, scale.peer_steps)
        rows += compare(f"{weights} weights", entries, scale.threads, scale.repeats)
    shape = f"{scale.mlp_layers} layers of {scale.mlp_width}, q={scale.mlp_q}, batch {scale.batch}"
    return {"shape": shape, "peer_steps": scale.peer_steps, "networks": facts, "rows": as_json(rows)}


@torch.no_grad()
def peer_entries(model: nn.Sequential, snn: SpikingModel, x: Tensor, steps: int) -> list[Entry]:
    """Ours under the peers' own method (IF neurons, input at every step), then the peers."""
    same = snn.under(casc_core.IF(), casc_core.Continuous())
    ours = same.simulate(x, T=steps).logits[-1]
    entries = [Entry(f"snn.under(IF, Continuous), T={steps}", lambda: same.simulate(x, T=steps), steps)]
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
    model, texts = random_classifier(scale, base["q"], base["hidden"]), random_texts(base["batch"], base["length"])
    steps = scale.growth["T"]
    snn = casc_core.convert(model, adapter="rnn")
    require_exact(snn, texts, steps)
    entries = [plain_loop(model, texts), *spiking_entries({"": snn}, texts, steps)]
    rows = compare("T", entries, scale.threads, repeats)
    axes = {"T": [point(T, rows, fixed(T)) for T in steps] + [point("until silent", rows, SILENT)]}
    for axis, values in scale.growth.items():
        for value in values if axis != "T" else ():
            size = base | {axis: value}
            model = random_classifier(scale, size["q"], size["hidden"])
            texts = random_texts(size["batch"], size["length"])
            snn = casc_core.convert(model, adapter="rnn")
            require_exact(snn, texts, ())
            entries = [plain_loop(model, texts), Entry(SILENT, partial(snn, *texts))]
            rows = compare(f"{axis}={value}", entries, scale.threads, repeats)
            axes.setdefault(axis, []).append(point(value, rows, SILENT))
    return {"base": base, "axes": axes}


def point(value: int | str, rows: list[Row], entry: str) -> Section:
    """One point of a curve: the rows of `entry`, and those of the ANN beside it."""
    chosen = {name: as_json([row for row in rows if row.entry == name]) for name in (entry, ANN)}
    return {"value": value, "rows": chosen[entry], "ann": chosen[ANN]}


def require_exact(snn: SpikingModel, inputs: tuple[Tensor, ...], steps: tuple[int, ...]) -> None:
    """The outputs that will be timed are right: bit for bit the reference's, and at each T those of the whole run."""
    expected, silent = outputs(snn.reference(*inputs)), outputs(snn.simulate(*inputs).logits)
    for each, answer, over_time in zip(expected, outputs(snn(*inputs)), silent, strict=True):
        require(torch.equal(answer, each), "snn(...) differs from snn.reference(...)")
        require(torch.equal(over_time[-1], each), "simulate(T=None) differs from snn.reference(...)")
    for T in steps:
        for each, over_time, logits in zip(expected, silent, outputs(snn.simulate(*inputs, T=T).logits), strict=True):
            known = min(T, len(over_time))
            same = len(logits) == T and torch.equal(logits[:known], over_time[:known])
            later = torch.equal(logits[known:], each.expand(T - known, *each.shape))
            require(same and later, f"simulate(T={T}) differs from the run until silent")


def outputs(returned: Any) -> list[Tensor]:
    """What a network returns, each tensor of it."""
    return [returned] if isinstance(returned, Tensor) else list(returned)


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
