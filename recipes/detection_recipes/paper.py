"""What the paper reports on detection: its Table 4, with the methods that it quotes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEPS = (8, 16, 32, 64)
METRICS = {"voc": "mAP@0.5", "coco": "mAP@0.5:0.95"}


@dataclass(frozen=True)
class Row:
    """One row of Table 4: a method, its network, the ANN's mean average precision and its own by time steps, in percent.

    >>> Row("ACP", "RetinaNet", 35.6, {32: 28.4, 64: 32.3}).cells()
    ['ACP, RetinaNet', '35.60', '-', '-', '28.40', '32.30']
    """

    method: str
    network: str
    ann: float
    over_time: Mapping[int, float]

    def cells(self) -> list[str]:
        """The row for a table; "-" where the paper has no figure."""
        figures = [f"{self.over_time[step]:.2f}" if step in self.over_time else "-" for step in STEPS]
        return [f"{self.method}, {self.network}", f"{self.ann:.2f}", *figures]


def _ours(q: int, ann: float, baseline: tuple[float, ...], ours: tuple[float, ...]) -> list[Row]:
    named = ((f"baseline (q={q})", baseline), (f"CASC (q={q})", ours))
    return [Row(name, "YOLO", ann, dict(zip(STEPS, figures, strict=True))) for name, figures in named]


TABLE_4: Mapping[str, tuple[Row, ...]] = {
    "voc": (
        Row("Spiking-YOLO", "Tiny-YOLO", 53.01, {64: 51.83}),
        Row("Two-Phase", "Tiny-YOLO", 53.01, {64: 46.66}),
        Row("SpikeCalibration", "YOLO", 67.48, {64: 63.43}),
        *_ours(4, 65.27, (9.24, 39.32, 49.10, 46.80), (63.15, 65.42, 65.42, 65.42)),
        *_ours(8, 72.92, (0.0, 16.75, 48.83, 62.44), (24.96, 73.03, 72.94, 72.94)),
        *_ours(16, 74.25, (0.0, 7.07, 41.29, 65.48), (19.94, 59.59, 74.29, 74.28)),
    ),
    "coco": (
        Row("ACP", "RetinaNet", 35.60, {32: 28.40, 64: 32.30}),
        Row("ACP", "Faster R-CNN", 37.00, {32: 31.00, 64: 34.20}),
        *_ours(4, 26.39, (1.13, 6.59, 13.82, 15.83), (26.14, 26.35, 26.35, 26.35)),
        *_ours(8, 29.24, (0.26, 6.41, 17.20, 23.09), (7.36, 29.21, 29.24, 29.24)),
    ),
}
"""By data set; in percent of the metric that `METRICS` names."""
