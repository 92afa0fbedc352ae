"""What a token costs in spikes: `casc_seq.RNN`, `GRU` and `LSTM` of one size beside each other, by set of instructions.

    python benchmarks/cells.py [--texts 32] [--length 40] [--hidden 300] [--q 8] [--repeats 9] [--threads 1]

Untrained networks, default numerics, until silent, CPU time. They take turns within one process, and the fastest turn of
each is kept. A GRU has three times, an LSTM four times as many weights as an RNN of as many units: the last column divides
by that too.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import torch
from torch import Tensor, nn

import casc_core
from casc_core.engine import kernels
from casc_core.reporting.tables import markdown_table
from casc_seq import GRU, LSTM, RNN

CELLS: dict[str, Any] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
WORDS, CLASSES = 2_000, 4


class Reader(nn.Module):
    """Embedding, one recurrent layer, the mean of its states, and a linear layer."""

    def __init__(self, cell: str, hidden: int, q: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, hidden)
        self.rnn = CELLS[cell](hidden, hidden, batch_first=True, q=q)
        self.fc = nn.Linear(hidden, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(tokens))
        logits: Tensor = self.fc(states.mean(1))
        return logits


def options() -> argparse.Namespace:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    line.add_argument("--texts", type=int, default=32, help="(default: %(default)s)")
    line.add_argument("--length", type=int, default=40, help="tokens of a text (default: %(default)s)")
    line.add_argument("--hidden", type=int, default=300, help="units, and width of a word (default: %(default)s)")
    line.add_argument("--q", type=int, default=8, help="levels (default: %(default)s)")
    line.add_argument("--repeats", type=int, default=9, help="turns of each (default: %(default)s)")
    line.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    return line.parse_args()


def converted(cell: str, hidden: int, q: int) -> casc_core.SpikingModel:
    """An untrained network in spikes."""
    torch.manual_seed(0)
    return casc_core.convert(Reader(cell, hidden, q).eval(), adapter="rnn")


@torch.no_grad()
def measured(args: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Microseconds of a token, by instructions and cell."""
    networks = {cell: converted(cell, args.hidden, args.q) for cell in CELLS}
    tokens = torch.randint(0, WORDS, (args.texts, args.length), generator=torch.Generator().manual_seed(1))
    best: dict[tuple[str, str], float] = {}
    for turn in range(args.repeats + 1):
        for instructions in (each for each in kernels.all_instructions() if each not in (None, "plain")):
            for cell, snn in networks.items():
                with kernels.using(instructions):
                    started = time.process_time()
                    snn(tokens)
                    taken = 1e6 * (time.process_time() - started) / tokens.numel()
                if turn:  # the first one makes what is kept
                    best[str(instructions), cell] = min(taken, best.get((str(instructions), cell), taken))
    return best


def main() -> None:
    """Print a table in Markdown."""
    args = options()
    torch.set_num_threads(args.threads)
    best = measured(args)
    rows = [["instructions", "cell", "us / token", "x RNN", "x RNN, per weight"]]
    for (instructions, cell), taken in best.items():
        times = taken / best[instructions, "rnn"]
        rows.append([instructions, cell.upper(), f"{taken:.1f}", f"{times:.1f}", f"{times / CELLS[cell].GATES:.1f}"])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
