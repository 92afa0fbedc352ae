"""What `verify` finds over a whole test set, batch by batch: figures that add up, and a command that reports mistakes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import machine

import casc_core
from casc_core.evidence.equivalence import EquivalenceReport
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import write_whole
from casc_core.storage.json_files import write_json


@dataclass(frozen=True)
class Case:
    """One number of levels, on the samples so far.

    Attributes:
        neurons: compared, over all samples. spikes: counts that are not the reference's level.
        faults: levels of the reference, and logits, that are neither the network's in float64 nor a tie; ties.
        logits, predictions: samples whose logits, or class, differ from the network's in float64.
        float32_neurons, float32_logits, float32_predictions: that float32 itself changes.
        trained, calibrated, spiking: samples that are right, by the network as trained, the quantised one, in spikes.
        inexact: batches that are not exact.
        steps: until the last sample is silent.
        memory: of the process so far, in GiB.
    """

    q: int
    samples: int = 0
    neurons: int = 0
    spikes: int = 0
    faults: int = 0
    ties: int = 0
    logits: int = 0
    predictions: int = 0
    float32_neurons: int = 0
    float32_logits: int = 0
    float32_predictions: int = 0
    trained: int = 0
    calibrated: int = 0
    spiking: int = 0
    inexact: int = 0
    seconds: float = 0.0
    steps: int = 0
    memory: float = 0.0

    def plus(self, other: Case) -> Case:
        """With those of further samples."""
        largest = {name: max(getattr(self, name), getattr(other, name)) for name in ("q", "steps", "memory")}
        names = [field.name for field in dataclasses.fields(self) if field.name not in largest]
        return Case(**largest, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def percent(self, name: str) -> float:
        """Of the samples, how many are right: by "trained", "calibrated" or "spiking"."""
        right: int = getattr(self, name)
        return 100.0 * right / self.samples


def case_of(report: EquivalenceReport, q: int, right: Sequence[int], seconds: float) -> Case:
    """The figures of a report; `right`: samples that are, by the network as trained, the quantised one, in spikes."""
    lowering, ours, float32 = report.lowering, report.grid, report.float32
    assert lowering is not None
    assert ours is not None
    assert float32 is not None
    return Case(
        q, len(report.silent_at), sum(layer.neurons for layer in report.layers.values()),
        sum(layer.mismatches for layer in report.layers.values()), sum(layer.wrong for layer in lowering.layers.values()),
        lowering.ties, ours.logits, ours.predictions or 0, sum(float32.layers.values()), float32.logits,
        float32.predictions or 0, *right, int(not report.exact), round(seconds, 1), int(report.silent_at.max()),
        round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )  # fmt: skip


def found(file: Path, run: dict[str, str]) -> dict[int, Case]:
    """What an earlier run with the same options has left, by levels."""
    if not file.is_file():
        return {}
    left = json.loads(file.read_text(encoding="utf-8"))
    if left["run"] != run:
        return {}
    # Runs that were begun before there were samples other than images call them so.
    cases = [{"samples" if name == "images" else name: value for name, value in each.items()} for each in left["cases"]]
    return {case["q"]: Case(**case) for case in cases}


def write(folder: Path, name: str, facts: dict[str, Any], table: str) -> None:
    """Write `NAME.json`, with the machine, and `NAME.md`."""
    write_json(folder / f"{name}.json", {"machine": machine(), **facts})
    write_whole(folder / f"{name}.md", table)


def by_levels(levels: Sequence[int], rows: dict[str, list[str]]) -> str:
    """A table in Markdown, one column for each number of levels."""
    header = ["levels q", *map(str, levels)]
    return markdown_table([header, *([name, *cells] for name, cells in rows.items())]) + "\n"


def parser(description: str | None, q: str, name: str) -> argparse.ArgumentParser:
    """A command line with `--q` and `--out`."""
    line = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--q", default=q, help="numbers of levels (default: %(default)s)")
    out = Path("results") / name
    line.add_argument("--out", type=Path, default=out, help="output folder (default: %(default)s)")
    return line


def run(main: Callable[[], bool]) -> None:
    """Run it, and exit by what it says: whether all was exact, or a mistake."""
    try:
        if not main():
            sys.exit("NOT EXACT")
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
