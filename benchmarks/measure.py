"""Timing side by side: functions take turns within one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from casc_core.engine import kernels

# Shorter turns are filled up with repeated calls: the clocks and the scheduler are too coarse for them.
SHORTEST_TURN = 0.005
# After so many seconds no further turns begin: where others keep a core busy, two threads wait for each other.
LONGEST_COMPARISON = 90.0
LEAST_TURNS = 2


class WrongAnswerError(Exception):
    """What was about to be timed does not compute what it should; its speed would mean nothing."""


def require(condition: bool, what: str) -> None:
    """Stop with `what` unless `condition` holds."""
    if not condition:
        raise WrongAnswerError(what)


@dataclass(frozen=True)
class Entry:
    """Something to time.

    Attributes:
        name: what the table calls it.
        call: one run; None if it cannot be run here, `note` then says why.
        steps: the time steps it simulates; None for what does not know time.
    """

    name: str
    call: Callable[[], object] | None
    steps: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One entry, timed: seconds of one call in each turn, and the fastest turn relative to the first entry's."""

    case: str
    entry: str
    threads: int
    steps: int | None = None
    note: str = ""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    wall_ratio: float | None = None
    cpu_ratio: float | None = None

    @property
    def wall_ms(self) -> float:
        """Fastest turn, wall time in milliseconds."""
        return 1000 * min(self.wall_s)

    @property
    def cpu_ms(self) -> float:
        """Fastest turn, CPU time of all threads in milliseconds."""
        return 1000 * min(self.cpu_s)


def compare(case: str, entries: Sequence[Entry], threads: Iterable[int], repeats: int) -> list[Row]:
    """Time `entries` in turns with each number of threads; ratios are those to the first of them."""
    rows = []
    before = torch.get_num_threads()
    try:
        for count in threads:
            print(f"  {case}, {count} thread{'s' * (count > 1)}", file=sys.stderr, flush=True)
            torch.set_num_threads(count)
            rows += _compared(case, entries, count, repeats)
    finally:
        torch.set_num_threads(before)
    return rows


@torch.no_grad()
def _compared(case: str, entries: Sequence[Entry], threads: int, repeats: int) -> list[Row]:
    calls = {entry.name: _calls_in_a_turn(entry.call) for entry in entries if entry.call is not None}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for turn in range(repeats):
        if turn >= LEAST_TURNS and time.perf_counter() - begun > LONGEST_COMPARISON:
            break
        for entry in entries:
            if entry.call is None:
                continue
            count = calls[entry.name]
            started, cpu_started = time.perf_counter(), time.process_time()
            for _ in range(count):
                entry.call()
            wall[entry.name].append((time.perf_counter() - started) / count)
            cpu[entry.name].append((time.process_time() - cpu_started) / count)
    first = entries[0].name
    return [
        Row(
            case, entry.name, threads, entry.steps, entry.note, wall[entry.name], cpu[entry.name],
            min(wall[entry.name]) / min(wall[first]), min(cpu[entry.name]) / min(cpu[first]),
        )
        if entry.call is not None
        else Row(case, entry.name, threads, entry.steps, entry.note)
        for entry in entries
    ]  # fmt: skip


def _calls_in_a_turn(call: Callable[[], object]) -> int:
    for _ in range(2):  # not counted; the first call fills caches and builds what is built once
        started = time.perf_counter()
        call()
        taken = time.perf_counter() - started
        if taken > 10 * SHORTEST_TURN:
            break
    return max(1, math.ceil(SHORTEST_TURN / max(taken, 1e-6)))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels.instructions() or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        # Above the number of threads in use, others were busy too.
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
