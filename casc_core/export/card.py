"""The model card of a network on the Hugging Face hub: what it is, how it is run, and what it has been measured to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casc_core.engine.network import Network
from casc_core.errors import StorageError
from casc_core.reporting.tables import markdown_table

OURS = "<!-- Written by casc, and anew whenever the network is pushed. Remove this line to keep a text of your own. -->"
_REFERENCE, _METHOD = "reference_", "baseline+CIF+WSC"
_TAGS = ("spiking-neural-network", "neuromorphic", "snn", "casc")


def model_card(network: Network, name: str, results: Mapping[str, Any] | None) -> str:
    """The card of a network in a repository of this name, in Markdown with its metadata in front.

    Args:
        results: what the `results.json` of an experiment says; None: nothing is known.

    Raises:
        StorageError: that is no such thing.
    """
    try:
        figures = None if results is None else _Figures.of(results)
        metadata, measured = _metadata(name, figures), [] if figures is None else [str(figures)]
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise StorageError(f"these results are not those of results.json: {type(error).__name__}: {error}") from error
    settings = network.settings
    facts = markdown_table(
        [
            ["", "value"],
            ["levels q", str(settings.q)],
            ["neuron", str(settings.neuron)],
            ["schedule", str(settings.schedule)],
            ["arithmetic", str(settings.numerics)],
            ["spiking layers", str(len(network.layers))],
            ["inputs", ", ".join(settings.arguments)],
        ]
    )
    inputs = ", ".join(next(iter(network.programs.values())).inputs)
    parts = [
        f"---\n{metadata}---\n{OURS}",
        f"# {name.partition('/')[2]}",
        "A spiking network, converted from a trained PyTorch network by casc: run until silent, its answer is that of the "
        "quantised network, bit for bit.",
        "```python\nimport casc_core\n\n"
        f'snn = casc_core.load("{name}")\nlogits = snn({inputs})  # in spikes, until silent\n```',
        facts,
        *measured,
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, figures: _Figures | None) -> str:
    """What the hub reads, as YAML: strings and numbers as JSON has them, which YAML has alike."""
    lines = ["library_name: casc", "tags:", *(f"- {tag}" for tag in _TAGS)]
    if figures is not None:
        lines += [
            "model-index:",
            f"- name: {json.dumps(name.partition('/')[2])}",
            "  results:",
            "  - task:",
            "      type: other",
            "    dataset:",
            f"      name: {json.dumps(figures.data)}",
            "      type: other",
            "    metrics:",
        ]
        for said, value in (
            (f"{figures.metric}, in spikes", figures.in_spikes),
            (f"{figures.metric}, ANN", figures.ann),
        ):
            lines += [
                f"    - type: {json.dumps(figures.key)}",
                f"      name: {json.dumps(said)}",
                f"      value: {value}",
            ]
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class _Figures:
    """What `results.json` says of an experiment.

    Attributes:
        key, metric: what is measured, in the file and in words.
        data, samples: on what, and how many.
        ann: that of the network that was converted.
        over_time: by method and time step; None where there is none.
        prediction_mismatches: predictions that differ from the quantised network's, once silent.
        mean_silence, last_silence: steps until nothing spikes any more.
    """

    key: str
    metric: str
    data: str
    samples: int
    ann: float
    over_time: Mapping[str, Mapping[str, float | None]]
    prediction_mismatches: int
    mean_silence: float
    last_silence: float

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> _Figures:
        """Those of a file."""
        key = next(name.removeprefix(_REFERENCE) for name in results if name.startswith(_REFERENCE))
        ann, silence = results[f"ann_{key}"], results["steps_to_silence"]
        # A measure of several parts is told by its first.
        part = next(iter(ann)) if isinstance(ann, Mapping) else None

        def figure(value: Any) -> float | None:
            return None if value is None else float(value if part is None else value[part])

        over_time = {
            str(method): {str(step): figure(value) for step, value in by_step.items()}
            for method, by_step in results[key].items()
        }
        return cls(
            key, key if part is None else f"{key} ({part})", str(results["data"]), int(results["test_examples"]),
            figure(ann) or 0.0, over_time, int(results["prediction_mismatches"]), float(silence["mean"]),
            float(silence["max"]),
        )  # fmt: skip

    @property
    def in_spikes(self) -> float:
        """What the spiking network comes to."""
        *_, last = [value for value in self.over_time[_METHOD].values() if value is not None]
        return last

    def __str__(self) -> str:
        columns = list(next(iter(self.over_time.values())))
        header = [self.metric, *(step if step == "silent" else f"T={step}" for step in columns)]
        rows = [
            [method, *("-" if value is None else f"{value:.2f}" for value in by_step.values())]
            for method, by_step in self.over_time.items()
        ]
        rows.append(["ANN", *[f"{self.ann:.2f}"] * len(columns)])
        return (
            f"## Results\n\n{self.data}; {self.samples:,} test samples.\n\n{markdown_table([header, *rows])}\n\n"
            f"Run until silent, {self.prediction_mismatches:,} predictions differ from those of the quantised network. "
            f"Steps to silence: mean {self.mean_silence:.2f}, largest {self.last_silence:.0f}."
        )
