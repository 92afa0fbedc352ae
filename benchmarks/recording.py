"""What it costs to look: a plain run, one that counts spikes and operations, and one compared with the ANN layer by layer.

    python benchmarks/recording.py [--repeats N] [--threads N]

Networks with random weights, a recurrent one of AG News shape and a residual convolutional one; all take turns within one
process. Prints a Markdown table of CPU time, relative to the plain run, which records nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from measure import Entry, compare

import casc_core
from casc_core.reporting.tables import markdown_table
from casc_seq.classifier import ClassifierConfig, TextClassifier

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from image_recipes.models import build


def cases() -> dict[str, tuple[casc_core.SpikingModel, tuple[torch.Tensor, ...]]]:
    """Networks and a batch for each."""
    torch.manual_seed(0)
    text = TextClassifier(ClassifierConfig(20_000, 4, embedding_size=300, hidden_size=300)).eval()
    tokens, lengths = torch.randint(2, 20_000, (256, 40)), torch.randint(20, 41, (256,))
    image = casc_core.prepare(build("resnet20", 10, "small", "max", width=16), adapter="cnn", q=8).eval()
    return {
        "text": (casc_core.convert(text), (tokens, lengths)),
        "images": (casc_core.convert(image), (torch.randn(16, 3, 32, 32),)),
    }


def main() -> None:
    """Time, and print the table."""
    line = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    line.add_argument("--repeats", type=int, default=7)
    line.add_argument("--threads", type=int, default=1)
    args = line.parse_args()
    rows = [["until silent", "CPU time, ms", "x plain run"]]
    for name, (snn, inputs) in cases().items():
        entries = [
            Entry(f"{name}: snn(...), nothing recorded", lambda snn=snn, x=inputs: snn(*x)),
            Entry(f"{name}: snn.simulate(...)", lambda snn=snn, x=inputs: snn.simulate(*x)),
            Entry(f"{name}: analyse(snn, ...)", lambda snn=snn, x=inputs: casc_core.analyse(snn, [x])),
            Entry(f"{name}: snn.reference(...)", lambda snn=snn, x=inputs: snn.reference(*x)),
        ]
        for row in compare(name, entries, [args.threads], args.repeats):
            rows.append([row.entry, f"{row.cpu_ms:.0f}", f"{row.cpu_ratio:.2f}"])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
