"""How long one training step of `casc_seq.RNN`, `GRU` and `LSTM` takes beside torch's of the same sizes, on the CPU.

    python benchmarks/training_speed.py [--json FILE] [--repeats N] [--cells rnn,gru,lstm] [--q Q]

A step is forward and backward over a whole batch, with gradients for the input and every parameter. The two networks
take turns within one process, so that a busy machine slows both; the fastest of several turns is kept, in wall time and
in CPU time. Prints a Markdown table; a ratio of 1.25 or less is the target.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from casc_core.reporting.tables import markdown_table
from casc_core.storage.json_files import write_json
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM
from casc_seq.layers.rnn import RNN

CELLS: dict[str, tuple[Any, Any]] = {"rnn": (RNN, nn.RNN), "gru": (GRU, nn.GRU), "lstm": (LSTM, nn.LSTM)}


class Case(NamedTuple):
    """Sizes of one comparison; the second is the paper's setting for AG News."""

    batch: int
    length: int
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False

    def __str__(self) -> str:
        words = [f"{self.batch} x {self.length} tokens, {self.input_size} -> {self.hidden_size}"]
        words += [f"{self.num_layers} layers"] if self.num_layers > 1 else []
        words += ["both directions"] if self.bidirectional else []
        return ", ".join(words)


CASES = (
    Case(64, 40, 300, 300),
    Case(256, 40, 300, 300),
    Case(128, 40, 128, 128, bidirectional=True),
    Case(64, 40, 300, 300, num_layers=2),
    Case(64, 200, 300, 300),
)


def step_of(network: nn.Module, case: Case) -> Callable[[], None]:
    """A function that runs one forward and backward of `network` on a fixed batch."""
    torch.manual_seed(0)
    x = torch.randn(case.batch, case.length, case.input_size, requires_grad=True)
    width = case.hidden_size * (1 + case.bidirectional)
    upstream = torch.randn(case.batch, case.length, width)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        x.grad = None
        network(x)[0].backward(upstream)

    return step


def fastest(steps: list[Callable[[], None]], repeats: int) -> list[tuple[float, float]]:
    """`(wall seconds, CPU seconds)` of the fastest of `repeats` turns of each step, the steps taking turns."""
    for step in steps:
        step()
    best = [(float("inf"), float("inf"))] * len(steps)
    for _ in range(repeats):
        for index, step in enumerate(steps):
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            taken = (time.perf_counter() - wall, time.process_time() - cpu)
            best[index] = (min(best[index][0], taken[0]), min(best[index][1], taken[1]))
    return best


def measure(cell: str, case: Case, q: int, threads: int, repeats: int) -> dict[str, object]:
    """One row of the table: milliseconds of both networks and their ratios."""
    torch.set_num_threads(threads)
    sizes: dict[str, Any] = {
        "input_size": case.input_size,
        "hidden_size": case.hidden_size,
        "num_layers": case.num_layers,
        "bidirectional": case.bidirectional,
        "batch_first": True,
    }
    own, torchs = CELLS[cell]
    ours, theirs = own(**sizes, q=q), torchs(**sizes)
    (wall, cpu), (peer_wall, peer_cpu) = fastest([step_of(ours, case), step_of(theirs, case)], repeats)
    return {
        "cell": cell,
        "case": str(case),
        "threads": threads,
        "casc_wall_ms": 1000 * wall,
        "torch_wall_ms": 1000 * peer_wall,
        "wall_ratio": wall / peer_wall,
        "casc_cpu_ms": 1000 * cpu,
        "torch_cpu_ms": 1000 * peer_cpu,
        "cpu_ratio": cpu / peer_cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15, help="turns of each network per row (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--cells", default="rnn,gru,lstm", help="which of them (default: %(default)s)")
    parser.add_argument("--q", type=int, default=2, help="levels (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args()
    rows = []
    for threads in options.threads:
        for cell, case in itertools.product(options.cells.split(","), CASES):
            rows.append(measure(cell, case, options.q, threads, options.repeats))
            print(f"  {cell}, {case}, {threads} threads", file=sys.stderr, flush=True)
    header = [
        "cell",
        "batch x length, sizes",
        "threads",
        "casc_seq (ms)",
        "torch.nn (ms)",
        "wall ratio",
        "CPU-time ratio",
    ]
    body = [
        [
            str(row["cell"]).upper(), str(row["case"]), str(row["threads"]),
            f"{row['casc_wall_ms']:.1f}", f"{row['torch_wall_ms']:.1f}",
            f"{row['wall_ratio']:.2f}", f"{row['cpu_ratio']:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    print(markdown_table([header, *body]))
    if options.json:
        write_json(options.json, {"torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
