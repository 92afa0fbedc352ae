"""How well networks meet the labels: accuracy where these are classes, the mean squared error where they are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Comparison = Mapping[str, Any]
"""What `casc_lab.compare.comparison.compare` returns."""


@dataclass(frozen=True)
class Measure:
    """How well networks meet the labels.

    Attributes:
        key: of the figures of a method, and behind "ann_" and "reference_" of the networks that know no time.
        name, unit: as tables say it. caption: of a table over time.
        digits: how a figure is written.
    """

    key: str
    name: str
    unit: str
    caption: str
    digits: str

    def cell(self, method: Mapping[str, Any], step: int) -> str:
        """The figure of a method at a step, from 0."""
        return self.shown(method[self.key][step])

    def shown(self, value: float) -> str:
        """A figure as it is written."""
        return f"{value:{self.digits}}"


_MEASURES = (
    Measure("accuracy", "accuracy", "%", "Accuracy in percent after T steps, on the same trained network.", ".2f"),
    Measure(
        "error", "mean squared error", "MSE", "Mean squared error against the labels after T steps, on the same trained "
        "network.", ".4g",
    ),
)  # fmt: skip


def by_output(comparison: Comparison) -> list[tuple[str, Comparison]]:
    """Of a network with several outputs, the comparison of each as if it were the only one, by name; else the comparison
    itself, named ""."""
    names = comparison.get("outputs") or {}
    return [
        (
            name,
            {
                **comparison,
                **own,
                "methods": [{**method, **method["outputs"][name]} for method in comparison["methods"]],
            },
        )
        for name, own in names.items()
    ] or [("", comparison)]


def of_output(name: str) -> str:
    """Which output a title is about.

    >>> "Accuracy" + of_output("classes"), "Accuracy" + of_output("")
    ("Accuracy of 'classes'", 'Accuracy')
    """
    return f" of {name!r}" if name else ""


def measure(comparison: Comparison) -> Measure | None:
    """Accuracy where labels are classes, an error where they are numbers; None without labels."""
    found = next((one for one in _MEASURES if comparison[f"ann_{one.key}"] is not None), None)
    own = comparison.get("error_name")
    if found is None or found.key != "error" or own in (None, found.name):
        return found
    return replace(
        found, name=own, unit=own, caption=f"{own} against the labels after T steps, on the same trained network."
    )


def answers(comparison: Comparison) -> str:
    """What of a sample is compared with the quantised ANN's: its outputs where these are numbers, else its predictions."""
    return "predictions" if comparison.get("predicts", comparison["ann_error"] is None) else "outputs"


def scores_of_anns(comparison: Comparison) -> dict[str, float]:
    """How well the network as trained meets the labels, calibrated if it was, and the reference; nothing without labels."""
    kind = measure(comparison)
    if kind is None:
        return {}
    calibrated = comparison.get("calibrated")
    first = {} if calibrated is None else {"network as trained": calibrated[f"trained_{kind.key}"]}
    ann = "ANN as trained" if calibrated is None else "ANN, calibrated"
    return first | {ann: comparison[f"ann_{kind.key}"], "reference": comparison[f"reference_{kind.key}"]}


def constant_rows(comparison: Comparison) -> dict[str, str]:
    """How well networks that know no time meet the labels."""
    kind = measure(comparison)
    return {} if kind is None else {name: kind.shown(value) for name, value in scores_of_anns(comparison).items()}
