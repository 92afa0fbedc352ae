"""A plausible comparison without a network: the dictionary a report is made from, in any size."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

_FOUR = (
    ("baseline", "baseline (IF, continuous input)", False, False),
    ("baseline+WSC", "IF, wake-sleep", False, True),
    ("baseline+CIF", "CIF, continuous input", True, False),
    ("baseline+CIF+WSC", "CASC (CIF + wake-sleep)", True, True),
)
_RIVALS = (
    ("percentile", "percentile thresholds", 0.9),
    ("OPI", "OPI (initial potential)", 0.35),
    ("QCFS", "QCFS (half step)", 0.3),
    ("SNM", "SNM (signed, with memory)", 0.2),
    ("burst", "burst spikes", 0.25),
    ("SRP", "SRP (two stages)", 0.15),
    ("ACP", "ACP, light", 0.4),
)


def comparison(
    layers: Sequence[str] = ("rnn.l0", "rnn.l0_reverse"),
    T: int = 32,
    q: int = 2,
    rivals: int = 7,
    positions: int = 24,
    labels: bool = True,
    exact: bool = True,
    samples: int = 7600,
) -> dict[str, Any]:
    """The dictionary that `casc_lab.compare.comparison.compare` returns, its figures made up, always the same.

    Args:
        layers: names.
        rivals: how many, beside the four of the paper's Table 6.
        positions: tokens; 0: no figures by position.
        labels: whether accuracy is known.
        exact: whether CASC is; if not, it never quite gets there.
    """
    chance = random.Random(len(layers) * 1000 + T)
    kinds = [(*four, 1.0, "Table 6") for four in _FOUR]
    kinds += [(name, label, False, False, factor, "rival") for name, label, factor in _RIVALS[:rivals]]
    methods = [
        _method(kind, layers, T, q, positions, labels, exact, samples, chance) for kind in kinds
    ]  # fmt: skip
    ours = methods[3]
    return {
        "format": "casc comparison 1",
        "title": f"AG News, RNN, q={q}" if positions else f"CIFAR-10, CNN, q={q}",
        "command": f"casc compare results/agnews_rnn --T {T}",
        "created": "2026-11-25 14:02 UTC",
        "network": {
            "class": "TextClassifier",
            "adapter": "rnn" if positions else "cnn",
            "q": q,
            "parameters": 4010000,
            "weights": "AsTrained()",
            "layers": list(layers),
        },
        "data": {"source": f"{samples:,} made-up samples", "samples": samples},
        "T": T,
        "columns": sorted({1, T, *(2**power for power in range(10) if 2**power <= T)}),
        "ann_accuracy": 91.36 if labels else None,
        "reference_accuracy": 91.37 if labels else None,
        "ann_error": None,
        "reference_error": None,
        "ann_predictions_moved": 1,
        "ann_max_logit_difference": 0.01,
        "against_ann": {
            "exact": True,
            "said": [
                "lowering: all 1,000 neurons are your network's in float64, the logits to within 6e-08",
                "float32 itself moved 0",
            ],
        },
        "ann": {"macs": 1.2e6, "energy_nj": 5520.0},
        "energy_table": {"name": "45 nm CMOS", "mac_pj": 4.6, "ac_pj": 0.9, "source": "Horowitz 2014"},
        "methods": methods,
        "equivalence": {
            "exact": exact,
            "samples": samples,
            "logits_equal": exact,
            "layers": [
                {
                    "name": layer["name"],
                    "neurons": round(layer["neurons"] * samples),
                    "differing": 0 if exact else 12,
                    "silent_p50": layer["silence"]["p50"],
                    "silent_max": layer["silence"]["max"],
                }
                for layer in ours["layers"]
            ],
        },
        "configuration": {"recipe": "agnews_rnn.py", "q": q, "seed": 0, "vectors": "corpus"},
        "environment": {"casc": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "kernels": "avx512"},
        "findings": [
            "Without either, 8.99% of the neurons of the first layer are off their level after 32 steps.",
            "With CIF and wake-sleep together, no neuron of any layer is off the ANN's level once silent.",
        ],
        "seconds": 120.0,
    }


def _method(
    kind: tuple[str, str, bool, bool, float, str],
    layers: Sequence[str],
    T: int,
    q: int,
    positions: int,
    labels: bool,
    exact: bool,
    samples: int,
    chance: random.Random,
) -> dict[str, Any]:
    name, label, takes_back, sleeps, factor, group = kind
    ours = takes_back and sleeps
    ends = [q + 1 + (2 * index) // 3 for index in range(len(layers))] if sleeps else []
    made = [
        _layer(layer, index, len(layers), ends, T, q, positions, takes_back, factor, ours and exact, chance)
        for index, layer in enumerate(layers)
    ]
    end = ends[-1] if sleeps else T
    done = ours and exact and end <= T
    error = [
        0.0 if done and t >= end else factor * (1.2 / min(t, end if sleeps else T) + (0.004 * t if not sleeps else 0.02))
        for t in range(1, T + 1)
    ]  # fmt: skip
    total: dict[str, list[float]] = {}
    for key in ("acs", "macs"):
        running = 0.0
        total[key] = [running := running + sum(layer[key][t] for layer in made) for t in range(T)]
    running = 0.0
    spikes = [
        running := running + sum((x["positive"][t] + x["negative"][t]) * x["neurons"] for x in made) for t in range(T)
    ]
    return {
        "name": name,
        "label": label,
        "ours": ours,
        "group": group,
        "config": f"{'CIF' if takes_back else 'IF'}() under {'WakeSleep' if sleeps else 'Continuous'}()",
        "equations": "v += I_t; s_t = 1 if v >= theta, else 0; v -= theta * s_t",
        "source": f"where {name} is from",
        "note": "thresholds are the trained ones" if group == "rival" else "",
        "promised": ours,
        "exact": done,
        "exact_at": end if done else None,
        "accuracy": [round(91.37 - min(66.0, 40 * value), 4) for value in error] if labels else None,
        "error": None,
        "mismatches": [round(samples * min(0.75, 0.4 * value)) for value in error],
        "mse": error,
        "spikes": spikes,
        **total,
        "energy_nj": [(4.6 * m + 0.9 * a) / 1e3 for m, a in zip(total["macs"], total["acs"], strict=True)],
        "silence": {"p50": end - 1, "p99": end, "max": end} if sleeps else None,
        "seconds": 3.2,
        "layers": made,
    }


def _layer(
    name: str,
    index: int,
    count: int,
    ends: Sequence[int],
    T: int,
    q: int,
    positions: int,
    takes_back: bool,
    factor: float,
    exact: bool,
    chance: random.Random,
) -> dict[str, Any]:
    sleeps = bool(ends)
    end = ends[index] if sleeps else T
    depth = (index + 1) / count
    steps = range(1, T + 1)
    settled = [exact and t >= end for t in steps]
    more = [
        0.0 if off else factor * depth * 0.2 / math.sqrt(min(t, end)) for t, off in zip(steps, settled, strict=True)
    ]
    fewer = [0.0 if off else factor * depth * 0.3 / min(t, end) for t, off in zip(steps, settled, strict=True)]
    fires = [t <= end and t > index // 2 for t in steps]
    waking = [not sleeps or t <= q for t in steps]
    neurons = 5120.0
    positive = [0.22 * (1.0 if wake else 0.4 ** (t - q)) * on for t, on, wake in zip(steps, fires, waking, strict=True)]
    negative = [0.03 * on * (0.7 ** max(0, t - q)) * takes_back for t, on in zip(steps, fires, strict=True)]
    macs = 1.1e6 / count
    by_token = None
    if positions:
        by_token = {
            "mismatch": [
                0.0 if exact else factor * (0.05 + 0.002 * i) + 0.01 * chance.random() for i in range(positions)
            ],
            "silent_at": [float(min(end, q + i / positions)) if sleeps else float(T) for i in range(positions)],
        }
    return {
        "name": name,
        "neurons": neurons,
        "more": more,
        "fewer": fewer,
        "relative_error": [m + f for m, f in zip(more, fewer, strict=True)],
        "positive": positive,
        "negative": negative,
        "acs": [macs * (p + n) for p, n in zip(positive, negative, strict=True)],
        "macs": [(0.2 * macs if index == 0 else 0.001 * macs) * wake for wake in waking],
        "ann_macs": macs,
        "silence": {"p50": max(1, end - 1), "p99": end, "max": end} if sleeps else None,
        "positions": by_token,
    }
