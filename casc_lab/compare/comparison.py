"""Every method on one trained network, over time: all figures of a report as one dictionary, which JSON can hold."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from casc_core.engine.kernels import instructions
from casc_core.errors import CascError, ConfigError
from casc_core.evidence.analyse import analyse
from casc_core.evidence.analysis import Analysis
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.series import powers_of_two
from casc_core.rivals.methods import FOUR, OURS, Method, methods_for, why_not
from casc_lab.compare.ann_figures import ann_figures
from casc_lab.compare.depths import layer_depths
from casc_lab.compare.findings import findings
from casc_lab.compare.method_figures import method_figures, silence_steps
from casc_lab.compare.network_and_data import NetworkAndData

FORMAT = "casc comparison 1"


def compare(
    compared: NetworkAndData,
    T: int,
    methods: Mapping[str, Method] | None = None,
    table: EnergyTable | None = None,
    command: str = "",
    announce: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Run the methods on one network and data set.

    Args:
        compared: the network and the data.
        T: steps of the comparison. Networks that sleep are run until silent, and may be silent later.
        methods: by name; None: all (`casc_core.methods.methods_for`). `OURS` must be among them. Those under which the
            network cannot be run are left out, and the figures say why.
        table: energy of operations.
        command: what reproduces this.
        announce: called with the name of what is about to run.

    Raises:
        ConfigError: no such number of steps, or `OURS` is not among the methods. InputError: batches that the network does
            not take, or none.

    Returns:
        The figures, all for one sample on average where not said otherwise: lists of numbers by step have length T.

    >>> import casc_core
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), casc_core.CQReLU(q=2), nn.Linear(8, 2))
    >>> data = [(torch.randn(16, 4), torch.randint(2, (16,)))]
    >>> perceptron = NetworkAndData(casc_core.convert(model), None, lambda: data, None, "a perceptron", "noise", {})
    >>> result = compare(perceptron, T=4)
    >>> [method["name"] for method in result["methods"]][:4], result["methods"][3]["exact"]
    (['baseline', 'baseline+WSC', 'baseline+CIF', 'baseline+CIF+WSC'], True)
    """
    started = time.perf_counter()
    table, snn = table or EnergyTable(), compared.snn
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ConfigError(f"T, the number of time steps, must be an integer of at least 1; got {T!r}")
    methods = methods_for(snn, T, compared.trained is None) if methods is None else methods
    if OURS not in methods:
        raise ConfigError(f"{OURS!r} must be among the methods that are compared; got {', '.join(methods) or 'none'}")
    announce("ANN")
    trained = ann_figures(compared, T)
    done: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    analyses: dict[str, Analysis] = {}
    for name, method in methods.items():
        announce(name)
        try:
            analysis, row = _run(compared, name, method, T, table)
        except CascError as error:
            if name == OURS:
                raise
            left_out.append({"name": name, "label": method.label or name, "why": str(error)})
            continue
        analyses[name] = analysis
        done.append(row)
    ours = analyses[OURS]
    energy = ours.ann_energy(table)
    return {
        "format": FORMAT,
        "title": compared.title,
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
        "data": {"source": compared.source, "samples": ours.samples},
        "T": T,
        "columns": powers_of_two(T),
        **trained,
        "ann": {"macs": ours.ann_multiply_accumulates, "energy_nj": energy / 1e3},
        "energy_table": {"name": table.name, "mac_pj": table.mac, "ac_pj": table.ac, "source": table.source},
        "methods": done,
        "left_out": left_out,
        "equivalence": _equivalence(ours, trained["against_ann"]),
        "configuration": dict(compared.configuration),
        "environment": environment(),
        "findings": findings({name: analyses[name] for name in FOUR if name in analyses}, layer_depths(snn), table),
        "seconds": round(time.perf_counter() - started, 2),
    }


def _run(
    compared: NetworkAndData, name: str, method: Method, T: int, table: EnergyTable
) -> tuple[Analysis, dict[str, Any]]:
    """One method, and its figures.

    Raises:
        CascError: the network cannot be run under it.
    """
    snn, begun = compared.snn, time.perf_counter()
    why = why_not(snn, method)
    if why is not None:
        raise ConfigError(why)
    network = method.network(snn, compared.calibration() if compared.calibration else compared.batches())
    network.memory_limit = snn.memory_limit
    sleeps = network.settings.schedule.last_wake is not None
    analysis = analyse(
        network,
        compared.batches(),
        T=None if sleeps else T,
        against=snn,
        own_levels=method.own_levels,
        measures=compared.measures,
    )
    if method.reads_data and compared.calibration is None:
        about = "no calibration data was given, so it looked at the test data"
        method = replace(method, note=f"{method.note}; {about}" if method.note else about)
    row = method_figures(name, method, analysis, T, table, sleeps)
    return analysis, row | {"seconds": round(time.perf_counter() - begun, 2)}


def _equivalence(ours: Analysis, against_ann: Mapping[str, Any] | None) -> dict[str, Any]:
    layers = []
    for name, layer in ours.layers.items():
        differing = round(float(layer.more[-1] + layer.fewer[-1]) * layer.neurons * ours.samples)
        silence = silence_steps(layer.silent_at)
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
        "exact": ours.exact and (against_ann is None or against_ann["exact"]),
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
