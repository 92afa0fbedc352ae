"""`casc classify`: one text through a converted network, its words, spikes and class probabilities step by step."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from casc_core.storage.files import require_writable, write_whole
from casc_lab.cli import Command
from casc_lab.command import check_steps
from casc_seq.classify.classified_text import ClassifiedText, classify_text
from casc_seq.classify.raster import raster_page

FOLDERS = ("results/agnews_rnn", "results/demo")
BARS = " ▁▂▃▄▅▆▇█"


def as_text(classified: ClassifiedText) -> str:
    """The text for a terminal: a row for each word, a column for each step, the share of its neurons that spike."""
    steps = len(classified.probabilities)
    width = max(len(word) for word in classified.words)
    lines = [f"{classified.classes[classified.answer]} ({100 * float(classified.probabilities[-1].max()):.1f}%)"]
    end = "is the quantised ANN's, bit for bit" if classified.exact else "is not yet the quantised ANN's"
    lines.append(f"{classified.when}; the answer {end}")
    lines += ["", f"{'':{width}}  " + "  ".join(f"{name:{2 * steps + 1}}" for name in classified.spikes)]
    for place, word in enumerate(classified.words):
        rows = "  ".join(_row(train[:, place]) for train in classified.spikes.values())
        lines.append(f"{word:{width}}  {rows}" + ("" if classified.known[place] else "  (not in the vocabulary)"))
    lines.append(f"share of a word's neurons that spike at steps 1..{steps}: +1, then -1 (full bar: all)")
    columns = max(len(name) for name in classified.classes)
    lines += ["", f"{'probability (%)':{columns}}  " + " ".join(f"T={step + 1:<3}" for step in range(steps))]
    for index, name in enumerate(classified.classes):
        shares = " ".join(f"{100 * float(value):5.1f}" for value in classified.probabilities[:, index])
        lines.append(f"{name:{max(columns, 15)}}  {shares}")
    return "\n".join(lines)


def _row(train: Tensor) -> str:
    return "|".join(
        "".join(_bar(float((train[step] == sign).double().mean())) for step in range(len(train))) for sign in (1, -1)
    )


def _bar(share: float) -> str:
    """A bar that shows a share; what is not zero is seen.

    >>> _bar(0.0), _bar(0.01), _bar(1.0)
    (' ', '▁', '█')
    """
    return BARS[min(len(BARS) - 1, -int(-share * (len(BARS) - 1) // 1))]


def as_json(classified: ClassifiedText) -> dict[str, Any]:
    """The text as plain numbers."""
    return {
        "text": classified.text,
        "words": classified.words,
        "known": classified.known,
        "class": classified.classes[classified.answer],
        "classes": classified.classes,
        "probabilities": classified.probabilities.tolist(),
        "positive": {name: (train > 0).sum(-1).T.tolist() for name, train in classified.spikes.items()},
        "negative": {name: (train < 0).sum(-1).T.tolist() for name, train in classified.spikes.items()},
        "silent_at": classified.silent_at,
        "exact": classified.exact,
    }


def _options(line: argparse.ArgumentParser) -> None:
    add = line.add_argument
    add("text", help="what to classify")
    add("--network", type=Path, help=f"output folder of a text recipe; unset: {' or '.join(FOLDERS)}")
    add("--T", type=int, help="steps to simulate; unset: until silent")
    add("--out", type=Path, help="write the raster of all neurons to this file, HTML")
    add("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    check_steps(args.T)
    folder = args.network or next((Path(name) for name in FOLDERS if Path(name).is_dir()), Path(FOLDERS[0]))
    if args.out is not None:
        require_writable(args.out.parent)
    classified = classify_text(folder, args.text, args.T)
    if args.out is not None:
        write_whole(args.out, raster_page(classified))
    print(json.dumps(as_json(classified)) if args.json else as_text(classified))
    if args.out is not None and not args.json:
        print(f"\nthe raster of all neurons is in {args.out}")
    return 0


command = Command(
    "classify a text in spikes, and show how",
    "Runs one text through a converted network and shows its words, their spikes over time, the class probabilities after "
    "each step, and when the network fell silent.",
    _options,
    _run,
)
