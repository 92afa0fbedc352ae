"""What the paper reports on images: its Tables 1, 2, 3 and 5."""

from __future__ import annotations

from collections.abc import Mapping

from casc_lab.evaluation.results import Published, PublishedRow

STEPS = (4, 8, 16, 32, 64)

# By data set, model and q: the ANN's accuracy, then the baseline's and theirs at the last of STEPS.
_OVER_TIME: Mapping[tuple[str, str, int], tuple[str, float, tuple[float, ...], tuple[float, ...]]] = {
    ("cifar100", "vgg16", 8): (
        "Table 2", 75.85, (27.51, 66.03, 73.49, 75.19, 74.33), (45.74, 74.96, 75.85, 75.85, 75.85),
    ),
    ("cifar100", "vgg16", 16): (
        "Table 2", 77.58, (1.99, 48.07, 72.82, 77.00, 77.11), (1.00, 72.42, 77.73, 77.56, 77.56),
    ),
    ("cifar100", "resnet20", 8): (
        "Table 2", 77.75, (1.18, 23.67, 65.20, 73.91, 73.20), (8.44, 68.27, 77.76, 77.76, 77.76),
    ),
    ("cifar100", "resnet20", 16): (
        "Table 2", 78.30, (1.04, 2.93, 46.66, 73.12, 76.64), (0.97, 38.85, 76.22, 78.27, 78.27),
    ),
    ("imagenet", "vgg16", 8): ("Table 3", 73.31, (0.61, 4.91, 35.95, 58.33), (66.09, 73.29, 73.29, 73.29)),
    ("imagenet", "vgg16", 16): ("Table 3", 73.88, (0.10, 0.47, 2.44, 24.15), (47.66, 73.07, 73.93, 73.93)),
    ("imagenet", "resnet34", 8): ("Table 3", 71.08, (0.11, 0.16, 0.23, 0.50), (0.11, 12.11, 71.05, 70.94)),
    ("imagenet", "resnet34", 16): ("Table 3", 72.20, (0.11, 0.16, 0.81, 6.83), (0.22, 2.62, 71.41, 72.11)),
    ("imagenet", "regnet_x_8gf", 8): ("Table 5", 70.72, (1.86, 18.23, 36.74, 42.28), (16.33, 71.35, 70.72, 70.72)),
    ("imagenet", "regnet_x_8gf", 16): ("Table 5", 72.63, (1.52, 10.71, 45.28, 55.82), (5.13, 56.12, 72.63, 72.63)),
    ("imagenet", "resnext50_32x4d", 8): ("Table 5", 70.40, (6.99, 27.39, 53.20, 55.80), (21.70, 71.11, 70.64, 70.64)),
    ("imagenet", "resnext50_32x4d", 16): ("Table 5", 71.56, (2.28, 18.64, 56.74, 65.86), (7.29, 56.62, 71.44, 71.56)),
}  # fmt: skip

# By data set and model, then by q (None: plain ReLU): the ANN's accuracy, the SNN's best, and after how many steps.
_LEVELS: Mapping[tuple[str, str], Mapping[int | None, tuple[float, float, int]]] = {
    ("cifar10", "vgg16"): {
        None: (95.74, 95.55, 33), 64: (95.82, 95.84, 72), 32: (95.71, 95.78, 34), 16: (95.14, 95.18, 19),
        8: (94.62, 94.64, 9),
    },
    ("cifar100", "resnet20"): {
        None: (79.35, 77.35, 42), 64: (77.98, 78.40, 55), 32: (77.53, 77.76, 37), 16: (78.30, 78.30, 21),
        8: (77.75, 78.17, 12),
    },
    ("imagenet", "resnet34"): {
        None: (75.46, 59.80, 71), 64: (72.83, 72.89, 88), 32: (72.71, 72.89, 55), 16: (72.20, 72.16, 38),
        8: (71.08, 71.05, 24),
    },
}  # fmt: skip


def over_time(data: str, model: str, q: int | None) -> Published | None:
    """The paper's accuracies over T, if it has some for this data set ("cifar100", "imagenet"), model and q.

    >>> over_time("cifar100", "vgg16", 8).rows[1].over_time[16]
    75.85
    """
    if q is None or (data, model, q) not in _OVER_TIME:
        return None
    table, ann, baseline, ours = _OVER_TIME[data, model, q]
    rows = [
        PublishedRow(name, ann, dict(zip(STEPS[-len(row) :], row, strict=True)))
        for name, row in (("baseline", baseline), ("baseline+CIF+WSC", ours))
    ]
    return Published(f"{table}: {data}, {model}, q={q}", "accuracy (%)", rows)


def levels(data: str, model: str) -> Mapping[int | None, tuple[float, float, int]]:
    """Table 1 by q: accuracy of the ANN, best of the SNN, and its time step.

    >>> levels("cifar10", "vgg16")[8]
    (94.62, 94.64, 9)
    """
    return _LEVELS.get((data, model), {})
