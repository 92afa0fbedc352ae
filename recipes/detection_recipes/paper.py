"""What the paper reports on detection: its Table 4, with the methods that it quotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from casc_lab.evaluation.results import Published, PublishedRow

STEPS = (8, 16, 32, 64)


def _ours(q: int, ann: float, baseline: tuple[float, ...], ours: tuple[float, ...]) -> list[PublishedRow]:
    named = ((f"baseline (q={q}), YOLO", baseline), (f"CASC (q={q}), YOLO", ours))
    return [PublishedRow(name, ann, dict(zip(STEPS, figures, strict=True))) for name, figures in named]


_OWN: Mapping[str, Mapping[int, Sequence[PublishedRow]]] = {
    "voc": {
        4: _ours(4, 65.27, (9.24, 39.32, 49.10, 46.80), (63.15, 65.42, 65.42, 65.42)),
        8: _ours(8, 72.92, (0.0, 16.75, 48.83, 62.44), (24.96, 73.03, 72.94, 72.94)),
        16: _ours(16, 74.25, (0.0, 7.07, 41.29, 65.48), (19.94, 59.59, 74.29, 74.28)),
    },
    "coco": {
        4: _ours(4, 26.39, (1.13, 6.59, 13.82, 15.83), (26.14, 26.35, 26.35, 26.35)),
        8: _ours(8, 29.24, (0.26, 6.41, 17.20, 23.09), (7.36, 29.21, 29.24, 29.24)),
    },
}
"""By data set and q: the baseline, then theirs."""
_QUOTED: Mapping[str, Sequence[PublishedRow]] = {
    "voc": (
        PublishedRow("Spiking-YOLO, Tiny-YOLO", 53.01, {64: 51.83}),
        PublishedRow("Two-Phase, Tiny-YOLO", 53.01, {64: 46.66}),
        PublishedRow("SpikeCalibration, YOLO", 67.48, {64: 63.43}),
    ),
    "coco": (
        PublishedRow("ACP, RetinaNet", 35.60, {32: 28.40, 64: 32.30}),
        PublishedRow("ACP, Faster R-CNN", 37.00, {32: 31.00, 64: 34.20}),
    ),
}
_METRICS = {"voc": "mAP@0.5 (%)", "coco": "mAP@0.5:0.95 (%)"}


def over_time(data: str | None) -> Published | None:
    """Table 4 on this data set ("voc", "coco"); None for others.

    >>> print(over_time("coco").table().splitlines()[2])
    | ACP, RetinaNet       | 35.60 |     - |     - | 28.40 | 32.30 |
    """
    if data is None or data not in _OWN:
        return None
    rows = [*_QUOTED[data], *(row for both in _OWN[data].values() for row in both)]
    return Published(f"Table 4, {'PASCAL VOC' if data == 'voc' else 'MS COCO'}", _METRICS[data], rows)


def levels(data: str | None) -> Mapping[int | None, tuple[float, float, int]]:
    """By q: what the ANN has on this data set, the best of their spiking network in Table 4, and its time step.

    >>> levels("voc")[8], levels("shapes")
    ((72.92, 73.03, 16), {})
    """
    found: dict[int | None, tuple[float, float, int]] = {}
    for q, (_, theirs) in _OWN.get(data or "", {}).items():
        best = max(theirs.over_time, key=lambda step: theirs.over_time[step])
        found[q] = theirs.ann, theirs.over_time[best], best
    return found
