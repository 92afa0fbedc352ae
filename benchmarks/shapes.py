"""Small networks of common architectures in spikes, beside their float32 ANNs.

    python benchmarks/shapes.py [--width 32] [--images 8] [--side 32] [--q 8] [--repeats 5] [--threads 1]

Random weights, calibrated with a threshold for each channel, default numerics, until silent, CPU time; the ANN has its
batch norms folded, and channels last. They take turns within one process, and the fastest turn of each is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import torch
from architectures import ARCHITECTURES, settled
from torch import Tensor
from torch.fx.experimental.optimization import fuse

import casc_core
from casc_core.reporting.tables import markdown_table


def options() -> argparse.Namespace:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--width", type=int, default=32, help="channels of the stem (default: %(default)s)")
    line.add_argument("--images", type=int, default=8, help="(default: %(default)s)")
    line.add_argument("--side", type=int, default=32, help="pixels of an image's side (default: %(default)s)")
    line.add_argument("--q", type=int, default=8, help="levels (default: %(default)s)")
    line.add_argument("--repeats", type=int, default=5, help="turns of each (default: %(default)s)")
    line.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    return line.parse_args()


def fastest(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Milliseconds of CPU time of each, after one turn that makes what is kept."""
    best = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for place, call in enumerate(calls):
            started = time.process_time()
            call()
            if turn:
                best[place] = min(best[place], 1e3 * (time.process_time() - started))
    return best


@torch.no_grad()
def row(name: str, model: torch.nn.Module, x: Tensor, q: int, repeats: int) -> list[str]:
    """One architecture of the table."""
    snn = casc_core.convert(casc_core.calibrate(model, [x], q=q).model)
    exact = casc_core.verify(snn, x).exact
    laid_out, ann = x.to(memory_format=torch.channels_last), fuse(model).to(memory_format=torch.channels_last)
    taken, silent, reference = fastest([lambda: ann(laid_out), lambda: snn(x), lambda: snn.reference(x)], repeats)
    times = f"{silent / taken:.1f}", f"{reference / taken:.1f}"
    return [name, f"{taken:.2f}", *times, "yes" if exact else "no"]


def main() -> None:
    """Print a table in Markdown."""
    args = options()
    torch.set_num_threads(args.threads)
    x = torch.rand(args.images, 3, args.side, args.side, generator=torch.Generator().manual_seed(1))
    rows = [["network", "ANN (ms)", "until silent, x ANN", "reference, x ANN", "exact"]]
    for network in ARCHITECTURES:
        model = settled(network, args.width, x)
        rows.append(row(network.__name__, model, x, args.q, args.repeats))
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
