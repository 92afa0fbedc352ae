"""An evaluation as a picture: the score, and what differs from the quantised ANN, over time."""

from __future__ import annotations

from casc_lab.evaluation.methods import SILENT, Evaluation
from casc_lab.pictures import doubling_axis, line_style, new_figure, png


def evaluation_picture(evaluation: Evaluation, title: str) -> bytes:
    """The first figure of each score, and how many answers differ from the quantised ANN's, over time as a PNG."""
    figure, metric = new_figure(10.0, 4.2, dpi=130), evaluation.metric
    left, right = figure.subplots(1, 2)
    steps = [int(key) for key in evaluation.ours.scores if key != SILENT]
    ann = evaluation.ann.figures[0]
    left.axhline(ann, color="0.45", linestyle=":", label=f"ANN {ann:.2f}")
    for index, (name, method) in enumerate(evaluation.methods.items()):
        style = line_style(index) | {"markersize": 5.0, "linewidth": 1.8, "label": name}
        scores = [score for step in steps if (score := method.scores[str(step)]) is not None]
        left.plot(steps, [score.figures[0] for score in scores], **style)
        right.plot(steps, [score.differences for score in scores], **style)
    left.set_ylabel(metric.names[0])
    right.set_ylabel(f"{metric.differing} from the ANN's\n({len(evaluation.silent_at):,} samples)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        doubling_axis(axes, steps)
        axes.set_xlabel("time steps T")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return png(figure)
