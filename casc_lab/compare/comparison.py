"""Every method on one trained network, over time: all figures of a report as one dictionary, which JSON can hold."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.conversion.batches import answered, each, parted
from casc_core.engine.kernels import instructions
from casc_core.errors import ConfigError
from casc_core.evidence.analysis import Analysis, LayerAnalysis, analyse
from casc_core.evidence.energy import EnergyTable
from casc_core.evidence.faults import LoweringReport, joined, lowered_in_float64, lowering_report
from casc_core.reporting.predictions import differing, labels_of, reading
from casc_core.rivals.methods import FOUR, OURS, Method, methods_for
from casc_core.spiking_model import SpikingModel
from casc_lab.compare.findings import findings
from casc_lab.evaluation.accuracy import powers_of_two
from casc_lab.evaluation.results import steps_to_silence

FORMAT = "casc comparison 1"
# What lies behind so many positions, few texts reach; it is left out.
_MOST_POSITIONS = 200


@dataclass(frozen=True)
class Subject:
    """A trained network, converted, and the data on which methods are compared.

    Attributes:
        snn: the conversion; `snn.ann` is what was converted.
        trained: the network as trained, where that is not `snn.ann` but has been calibrated to become it.
        batches: gives the test set anew at each call: tuples of inputs, and labels if there are any.
        calibration: likewise some training data, without labels; None: there is none.
        title, source: what the network, and the data, are.
        configuration: anything that tells how the network came about.
        calibration_said: what the calibration says of itself, if there was one.
    """

    snn: SpikingModel
    trained: nn.Module | None
    batches: Callable[[], Iterable[tuple[Tensor, ...]]]
    calibration: Callable[[], Iterable[tuple[Tensor, ...]]] | None
    title: str
    source: str
    configuration: Mapping[str, Any]
    calibration_said: str | None = None


def compare(
    subject: Subject,
    T: int,
    methods: Mapping[str, Method] | None = None,
    table: EnergyTable | None = None,
    command: str = "",
    announce: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Run the methods on one network and data set.

    Args:
        subject: the network and the data.
        T: steps of the comparison. Networks that sleep are run until silent, and may be silent later.
        methods: by name; None: all that apply (`casc_core.methods.methods_for`). `OURS` must be among them.
        table: energy of operations.
        command: what reproduces this.
        announce: told what is about to run.

    Raises:
        ConfigError: no such number of steps, or `OURS` is not among the methods. InputError: batches that the network does
            not take, or none.

    Returns:
        The figures, all for one sample on average where not said otherwise: lists of numbers by step have length T.

    >>> import casc_core
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> data = [(torch.randn(16, 4), torch.randint(2, (16,)))]
    >>> subject = Subject(casc_core.convert(model), None, lambda: data, None, "a perceptron", "noise", {})
    >>> result = compare(subject, T=4)
    >>> [method["name"] for method in result["methods"]][:4], result["methods"][3]["exact"]
    (['baseline', 'baseline+WSC', 'baseline+CIF', 'baseline+CIF+WSC'], True)
    """
    started = time.perf_counter()
    table, snn = table or EnergyTable(), subject.snn
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ConfigError(f"T, the number of time steps, must be an integer of at least 1; got {T!r}")
    methods = methods_for(snn, T, subject.trained is None) if methods is None else methods
    if OURS not in methods:
        raise ConfigError(f"{OURS!r} must be among the methods that are compared; got {', '.join(methods) or 'none'}")
    announce("ANN")
    trained = _against_trained(subject, T)
    done: list[dict[str, Any]] = []
    analyses: dict[str, Analysis] = {}
    for name, method in methods.items():
        announce(name)
        begun = time.perf_counter()
        network = method.network(snn, subject.calibration() if subject.calibration else subject.batches())
        network.memory_limit = snn.memory_limit
        sleeps = network.settings.schedule.last_wake is not None
        analyses[name] = analyse(
            network, subject.batches(), T=None if sleeps else T, against=snn, own_levels=method.own_levels
        )
        if method.reads_data and subject.calibration is None:
            about = "no calibration data was given, so it looked at the test data"
            method = replace(method, note=f"{method.note}; {about}" if method.note else about)
        row = _method(name, method, analyses[name], T, table, sleeps)
        done.append(row | {"seconds": round(time.perf_counter() - begun, 2)})
    ours = analyses[OURS]
    energy = ours.ann_energy(table)
    return {
        "format": FORMAT,
        "title": subject.title,
        "command": command,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "network": {
            "class": type(snn.ann).__name__,
            "adapter": snn.settings.adapter,
            "q": snn.settings.q,
            "parameters": 0 if snn.ann is None else sum(p.numel() for p in snn.ann.parameters()),
            "weights": str(snn.settings.numerics),
            "layers": list(snn.layers),
        },
        "data": {"source": subject.source, "samples": ours.samples},
        "T": T,
        "columns": powers_of_two(T),
        **trained,
        "ann": {"macs": ours.ann_multiply_accumulates, "energy_nj": energy / 1e3},
        "energy_table": {"name": table.name, "mac_pj": table.mac, "ac_pj": table.ac, "source": table.source},
        "methods": done,
        "equivalence": _equivalence(ours, trained["lowering"]),
        "configuration": dict(subject.configuration),
        "environment": environment(),
        "findings": findings({name: analyses[name] for name in FOUR if name in analyses}, T, table),
        "seconds": round(time.perf_counter() - started, 2),
    }


@torch.no_grad()
def _against_trained(subject: Subject, T: int) -> dict[str, Any]:
    """The chain of networks: as trained, calibrated if it had to be, on the grid; how well each meets the labels, what each
    step moved, and whether the lowering is at fault in that."""
    snn = subject.snn
    takes = len(snn.settings.arguments)
    networks: list[Callable[..., Tensor]] = [net for net in (subject.trained, snn.ann) if net is not None]
    networks.append(snn.reference)
    score, moved, largest = [0.0] * len(networks), [0] * len(networks), [0.0] * len(networks)
    samples, labelled, numbers = 0, True, False
    lowerings: list[LoweringReport] = []
    for batch in each(subject.batches(), "compare on"):
        inputs, given = parted(batch, takes)
        logits = [answered(network, inputs).cpu() for network in networks]
        samples += len(logits[-1])
        if snn.ann is not None:
            for part in snn.parts(inputs, {}, None if snn.settings.schedule.last_wake else T):
                lowerings.append(lowering_report(snn, lowered_in_float64(snn, (), part), (), part))
        labels = labels_of(given)
        labelled = labelled and labels is not None
        for index, own in enumerate(logits):
            if labels is not None:
                how = reading(own.shape, labels)
                numbers = how.numbers
                met = how.score(how.classes(own), how.checked(labels.cpu(), own.shape))
                score[index] += float(met) * len(own)
            if index:
                moved[index] += int(differing(own, logits[index - 1]).sum())
                largest[index] = max(largest[index], float((own - logits[index - 1]).abs().max()))
    known = labelled and samples > 0
    percent = [round(100.0 * one / samples, 4) if known and not numbers else None for one in score]
    error = [float(f"{one / samples:.7g}") if known and numbers else None for one in score]
    calibrated = None
    if subject.trained is not None and snn.ann is not None:
        calibrated = {"trained_accuracy": percent[0], "trained_error": error[0]}
        calibrated |= {"predictions_moved": moved[1], "max_logit_difference": largest[1]}
    return {
        "ann_accuracy": percent[-2] if len(percent) > 1 else percent[-1],
        "reference_accuracy": percent[-1],
        "ann_error": error[-2] if len(error) > 1 else error[-1],
        "reference_error": error[-1],
        "ann_predictions_moved": moved[-1],
        "ann_max_logit_difference": largest[-1],
        "calibrated": calibrated,
        "lowering": _lowering(lowerings),
    }


def _lowering(reports: Sequence[LoweringReport]) -> dict[str, Any] | None:
    """What was found of the lowering, if the network that was converted is at hand."""
    if not reports:
        return None
    report = joined(reports)
    return {"exact": report.exact, "said": str(report)}


def _method(name: str, method: Method, analysis: Analysis, T: int, table: EnergyTable, sleeps: bool) -> dict[str, Any]:
    accuracy = analysis.accuracy
    exact_at = int(analysis.exact_at.max()) if bool((analysis.exact_at > 0).all()) else None
    return {
        "name": name,
        "label": method.label or name,
        "ours": name == OURS,
        "group": "Table 6" if name in FOUR else "rival",
        "config": method.config,
        "equations": method.equations,
        "source": method.source,
        "note": method.note,
        "exact": analysis.exact and not method.own_levels,
        "exact_at": exact_at,
        "accuracy": None if accuracy is None else _listed(_held(accuracy, T), 4),
        "error": None if analysis.error is None else _listed(_held(analysis.error, T)),
        "mismatches": [int(count) for count in _held(analysis.mismatches, T)],
        "mse": _listed(_held(analysis.mse, T)),
        "spikes": _listed(_ended(analysis.spikes, T).cumsum(0)),
        "macs": _listed(_ended(analysis.multiply_accumulates, T).cumsum(0)),
        "acs": _listed(_ended(analysis.accumulates, T).cumsum(0)),
        "energy_nj": _listed(_held(analysis.energy(table), T) / 1e3),
        "silence": _silence(analysis.silent_at) if sleeps else None,
        "layers": [_layer(layer, own, T, sleeps) for layer, own in analysis.layers.items()],
    }


def _layer(name: str, layer: LayerAnalysis, T: int, sleeps: bool) -> dict[str, Any]:
    positions = None
    if layer.positions is not None:
        positions = {
            "mismatch": _listed(layer.positions.mismatch[:_MOST_POSITIONS]),
            "silent_at": _listed(layer.positions.silent_at[:_MOST_POSITIONS]),
        }
    return {
        "name": name,
        "neurons": layer.neurons,
        "more": _listed(_held(layer.more, T)),
        "fewer": _listed(_held(layer.fewer, T)),
        "relative_error": _listed(_held(layer.relative_error, T)),
        "positive": _listed(_ended(layer.positive, T)),
        "negative": _listed(_ended(layer.negative, T)),
        "acs": _listed(_ended(layer.accumulates, T)),
        "macs": _listed(_ended(layer.multiply_accumulates, T)),
        "ann_macs": layer.ann_multiply_accumulates,
        "silence": _silence(layer.silent_at) if sleeps else None,
        "positions": positions,
    }


def _equivalence(ours: Analysis, lowering: Mapping[str, Any] | None) -> dict[str, Any]:
    layers = []
    for name, layer in ours.layers.items():
        differing = round(float(layer.more[-1] + layer.fewer[-1]) * layer.neurons * ours.samples)
        silence = _silence(layer.silent_at)
        layers.append(
            {
                "name": name,
                "neurons": round(layer.neurons * ours.samples),
                "differing": differing,
                "silent_p50": silence["p50"],
                "silent_max": silence["max"],
            }
        )
    return {
        "exact": ours.exact and (lowering is None or lowering["exact"]),
        "samples": ours.samples,
        "logits_equal": bool((ours.exact_at > 0).all()),
        "layers": layers,
    }


def environment() -> dict[str, str]:
    """What it ran on."""
    return {
        "casc": version("casc"),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
        "kernels": instructions() or "none",
    }


def _silence(silent_at: Tensor) -> dict[str, int]:
    steps = steps_to_silence(silent_at)
    return {key: int(steps[key]) for key in ("p50", "p99", "max")}


def _held(series: Tensor, T: int) -> Tensor:
    """The first T steps; what has ended stays as it was."""
    return torch.cat([series[:T], series[-1:].expand(max(0, T - len(series)))])


def _ended(series: Tensor, T: int) -> Tensor:
    """The first T steps; what has ended is zero."""
    return torch.cat([series[:T], series.new_zeros(max(0, T - len(series)))])


def _listed(series: Tensor | Sequence[float], digits: int = 6) -> list[float]:
    """As JSON, with as many significant digits as a picture or a table needs."""
    values = series.tolist() if isinstance(series, Tensor) else series
    return [float(f"{value:.{digits + 1}g}") for value in values]
