"""From a trained detector to its results: convert, run the four methods over the test set, write everything down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from casc_core.conversion.convert import convert
from casc_core.errors import NotExactError
from casc_core.numerics import of_bits
from casc_core.reporting.series import powers_of_two, steps_to_silence
from casc_core.reporting.tables import markdown_table
from casc_core.rivals.methods import OURS
from casc_core.storage.files import write_whole
from casc_core.storage.json_files import write_json
from casc_lab import distributed
from casc_lab.distributed import say
from casc_lab.evaluation.report import Experiment, facts, phase
from casc_lab.pictures import doubling_axis, line_style, new_figure
from casc_lab.pictures import png as figure_png
from detection_recipes import paper
from detection_recipes.detections import Detected
from detection_recipes.drawing import grid, png, with_boxes
from detection_recipes.evaluation import SILENT, Evaluation, MethodResult, TestImages, evaluate
from detection_recipes.metrics import PAIR, SAME, SHOWN, Precision

_IMAGES, _COLUMNS, _WIDTH = 4, 6, 240  # of the picture of detections


def report(
    experiment: Experiment,
    test: TestImages,
    name: str,
    folder: Path,
    T: int,
    weight_bits: int | None,
    options: Mapping[str, Any],
    seconds: dict[str, float],
) -> Evaluation:
    """Convert and evaluate; the main process writes results.json, table.md, two pictures and network/, and prints.

    Args:
        experiment: the detector.
        test: its test set.
        name: of the data, "voc" or "coco" or another; finds the paper's figures.
        folder: output folder.
        T: largest number of time steps in the table.
        weight_bits: of the converted network; None: the network as trained.
        options: of the command line; anything.
        seconds: time of the phases so far; those of this function are added.

    Raises:
        ConversionError: the network cannot be converted. StorageError: the folder cannot be written.
        NotExactError: the spiking network is not the network that was converted; everything has been written by then.
    """
    with phase("convert", seconds):
        snn = convert(experiment.network, adapter=experiment.adapter, numerics=of_bits(weight_bits))
    with phase("evaluate", seconds):
        evaluation = evaluate(experiment.network, snn, test, powers_of_two(T), announce=lambda what: say(f"  {what}"))
    seconds |= {method: round(result.seconds, 2) for method, result in evaluation.methods.items()}
    if distributed.is_main():
        snn.save(folder / "network")
        text = "\n\n".join([*tables(evaluation, name), exactness_lines(evaluation)])
        write_whole(folder / "table.md", f"# {experiment.title}\n\n{text}\n")
        write_whole(folder / "precision.png", precision_picture(evaluation, experiment.title))
        write_whole(folder / "detections.png", detections_picture(evaluation, test))
        extra = {"classes": list(test.classes)} | facts(experiment, T, options, seconds)
        write_json(folder / "results.json", as_json(evaluation) | extra)
        print(
            f"\n{text}\n\nresults.json, table.md, precision.png, detections.png and the spiking network are in {folder}"
        )
    distributed.barrier()
    if not evaluation.exact:
        raise NotExactError(
            f"NOT EXACT: see {folder / 'table.md'}, and report it: the spiking network is not your network"
        )
    return evaluation


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, as JSON."""

    def each(get: Callable[[MethodResult], Mapping[str, Any]]) -> dict[str, Any]:
        return {name: _plain(get(method)) for name, method in evaluation.methods.items()}

    beside = evaluation.against_ann
    return {
        "ann_precision": dataclasses.asdict(evaluation.ann),
        "reference_precision": dataclasses.asdict(evaluation.reference),
        "precision": each(lambda method: method.precision),
        "differing": each(lambda method: method.differing),
        "images_differing": each(lambda method: method.images_differing),
        "energy_nj": each(lambda method: method.energy),
        "ann_energy_nj": evaluation.ann_energy,
        "ann_differing": dataclasses.asdict(evaluation.ann_differing),
        "exact": evaluation.exact,
        "exact_at": evaluation.exact_at,
        "against_ann": None
        if beside is None
        else {name: dataclasses.asdict(getattr(beside, name)) for name in ("lowering", "grid", "float32")},
        "steps_to_silence": steps_to_silence(evaluation.silent_at),
    }


def _plain(by_key: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        for key, value in by_key.items()
    }


def tables(evaluation: Evaluation, name: str = "") -> list[str]:
    """Precision, differing detections and energy over time, in Markdown, and the paper's Table 4 if the data is its own."""
    of_paper = paper.METRICS.get(name, "")
    shown = [_precision_table(evaluation, "mAP@0.5", lambda value: value.at_50)]
    if name == "voc":
        shown.append(_precision_table(evaluation, "mAP@0.5, 11 points", lambda value: value.at_50_11))
    shown.append(_precision_table(evaluation, "mAP@0.5:0.95", lambda value: value.at_50_95))
    shown.append(
        _table(
            "detections that differ", evaluation,
            lambda method, key: "never" if (value := method.differing[key]) is None else f"{value.total:,}",
        )
    )  # fmt: skip
    shown.append(
        _table(
            "energy (nJ an image)", evaluation,
            lambda method, key: "-" if (value := method.energy[key]) is None else f"{value:,.4g}",
            [f"{evaluation.ann_energy:,.4g}"],
        )
    )  # fmt: skip
    if of_paper:
        header = ["", "ANN", *(f"T={step}" for step in paper.STEPS)]
        rows = [header, *(row.cells() for row in paper.TABLE_4[name])]
        shown.append(f"The paper's own figures, Table 4, {of_paper} in percent:\n\n{markdown_table(rows)}")
    return shown


def _precision_table(evaluation: Evaluation, what: str, of: Callable[[Precision], float]) -> str:
    def cell(method: MethodResult, key: str) -> str:
        value = method.precision[key]
        return "never" if value is None else f"{of(value):.2f}"

    return _table(f"{what} (%)", evaluation, cell, [f"{of(evaluation.ann):.2f}"])


def _table(
    corner: str, evaluation: Evaluation, cell: Callable[[MethodResult, str], str], ann: list[str] | None = None
) -> str:
    keys = list(evaluation.methods[OURS].precision)
    rows = [[corner, *(key if key == SILENT else f"T={key}" for key in keys)]]
    rows += [[name, *(cell(method, key) for key in keys)] for name, method in evaluation.methods.items()]
    rows += [["ANN", *ann * len(keys)]] if ann else []
    return markdown_table(rows)


def exactness_lines(evaluation: Evaluation) -> str:
    """What the tables do not show: exactness and steps to silence, in a few lines."""
    silence, ours = steps_to_silence(evaluation.silent_at), evaluation.methods[OURS]
    differing = ours.differing[SILENT]
    assert differing is not None  # it sleeps
    images = len(evaluation.silent_at)
    return "\n".join(
        [
            f"CIF+WSC until silent against its reference: {differing.total:,} detections on "
            f"{ours.images_differing[SILENT]:,} of {images:,} images differ",
            *([] if evaluation.against_ann is None else [str(evaluation.against_ann)]),
            f"the reference against the ANN as trained, in its own types: {evaluation.ann_differing.total:,} detections "
            "differ",
            f"a detection differs if there is none of its class that overlaps it by {PAIR:g}, or if an edge of that is "
            f"more than {SAME:g} pixel off; those of a score of {SHOWN:g} or more are compared",
            f"steps to silence: mean {silence['mean']:.2f}, median {silence['p50']:.0f}, 99th percentile "
            f"{silence['p99']:.0f}, largest {silence['max']:.0f}",
            "never exact" if evaluation.exact_at is None else f"exact for every image from T={evaluation.exact_at} on",
        ]
    )


def precision_picture(evaluation: Evaluation, title: str) -> bytes:
    """Mean average precision, and detections that differ from the quantised ANN's, over time as a PNG."""
    figure = new_figure(10.0, 4.2, dpi=130)
    left, right = figure.subplots(1, 2)
    steps = [int(key) for key in evaluation.methods[OURS].precision if key != SILENT]
    left.axhline(evaluation.ann.at_50, color="0.45", linestyle=":", label=f"ANN {evaluation.ann.at_50:.2f}%")
    for index, (name, method) in enumerate(evaluation.methods.items()):
        style = line_style(index) | {"markersize": 5.0, "linewidth": 1.8, "label": name}
        values = [method.precision[str(step)] for step in steps]
        left.plot(steps, [0.0 if value is None else value.at_50 for value in values], **style)
        counts = [method.differing[str(step)] for step in steps]
        right.plot(steps, [0 if value is None else value.total for value in counts], **style)
    left.set_ylabel("mAP@0.5 (%)")
    right.set_ylabel("detections that differ from the ANN's")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        doubling_axis(axes, steps)
        axes.set_xlabel("time steps T")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure_png(figure)


def detections_picture(evaluation: Evaluation, test: TestImages) -> bytes:
    """How detections appear on a few test images: after some steps, once silent, the ANN's, and what is annotated."""
    ours = evaluation.methods[OURS]
    keys = [*[key for key in ours.found if key != SILENT][-_COLUMNS:], SILENT]
    rows = []
    for number in _with_objects(test):
        image = test.images[number].open()

        def shown(found: Detected, image: Any = image) -> Any:
            return with_boxes(image, found, test.classes, _WIDTH)

        row = [(f"T={key}" if key != SILENT else SILENT, shown(ours.found[key][number])) for key in keys]
        row.append(("ANN", shown(evaluation.ann_found[number])))
        boxes, labels = test.images[number].certain
        row.append(("annotation", shown(Detected(boxes, boxes.new_ones(len(boxes)), labels))))
        rows.append(row)
    return png(grid(rows))


def _with_objects(test: TestImages) -> list[int]:
    """Numbers of the first images that hold objects."""
    return [number for number, image in enumerate(test.images) if len(image.certain[0])][:_IMAGES]
