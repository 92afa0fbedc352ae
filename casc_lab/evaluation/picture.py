"""An evaluation as a picture: accuracy, and predictions that differ, over time."""

from __future__ import annotations

from casc_core.rivals.methods import OURS
from casc_lab.evaluation.methods import Evaluation
from casc_lab.pictures import doubling_axis, line_style, new_figure, png


def accuracy_picture(evaluation: Evaluation, title: str) -> bytes:
    """Accuracy, and predictions that differ from the quantised ANN's, over time as a PNG."""
    figure = new_figure(10.0, 4.2, dpi=130)
    left, right = figure.subplots(1, 2)
    steps = [int(key) for key in evaluation.methods[OURS].accuracy if key != "silent"]
    left.axhline(evaluation.ann_accuracy, color="0.45", linestyle=":", label=f"ANN {evaluation.ann_accuracy:.2f}%")
    for index, (name, method) in enumerate(evaluation.methods.items()):
        style = line_style(index) | {"markersize": 5.0, "linewidth": 1.8, "label": name}
        left.plot(steps, [method.accuracy[str(step)] or 0.0 for step in steps], **style)
        right.plot(steps, [method.mismatches[str(step)] or 0 for step in steps], **style)
    left.set_ylabel("test accuracy (%)")
    right.set_ylabel(f"predictions that differ from the ANN's, of {len(evaluation.silent_at):,}")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        doubling_axis(axes, steps)
        axes.set_xlabel("time steps T")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return png(figure)
