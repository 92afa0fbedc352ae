"""`casc classify`: one text through a converted network, its words, spikes and class probabilities step by step."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import casc_core
from casc_core.engine.recorder import Recorder
from casc_core.errors import InputError, StorageError
from casc_core.reporting.predictions import reading
from casc_core.storage.files import read_whole, require_writable, write_whole
from casc_core.storage.strict import of, parsed, strings
from casc_lab.cli import Command
from casc_lab.command import check_steps
from casc_lab.training.store import component, read_description
from casc_seq.experiment import TextPipeline, Tokenizer
from casc_seq.raster import raster_page
from casc_seq.text.tokenizer import UNKNOWN

FOLDERS = ("results/agnews_rnn", "results/demo")
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Reading:
    """A text as a network reads it.

    Attributes:
        words: what it reads, `known` or not.
        classes: their names.
        probabilities: `[T, classes]`, softmax of the readout after each step.
        spikes: by layer, `[T, words, neurons]` int8.
        silent_at: the last step at which anything spiked; None: the run was cut off before the network was silent.
        exact: whether the logits are the reference's, bit for bit.
    """

    text: str
    words: list[str]
    known: list[bool]
    classes: list[str]
    probabilities: Tensor
    spikes: dict[str, Tensor]
    silent_at: int | None
    exact: bool

    @property
    def when(self) -> str:
        """When it fell silent, if it did."""
        if self.silent_at is None:
            return f"cut off after step {len(self.probabilities)}, not yet silent"
        return f"silent after step {self.silent_at}"

    @property
    def answer(self) -> int:
        """The class with the largest probability at the end."""
        return int(reading(self.probabilities.shape).classes(self.probabilities)[-1])


def read_text(folder: Path, text: str, T: int | None = None) -> Reading:
    """One text through the network in a recipe's output folder.

    Raises:
        StorageError: the folder does not hold one. InputError: the text has no words.
    """
    snn, tokenizer, classes, max_len = _network(folder)
    tokens = tokenizer.encode([text], max_len)[0]
    if not text.strip() or not tokens:
        raise InputError(f"there is no word to read in {text!r}")
    inputs = torch.tensor([tokens]), torch.tensor([len(tokens)])
    recorder = Recorder(keep_trains=True)
    simulation = snn.simulate_recorded(inputs, {}, T, recorder)
    if simulation.logits.dim() != 3 or simulation.logits.shape[-1] != len(classes):
        raise StorageError(
            f"{folder}: its network gives {list(simulation.logits.shape[2:])} scores, its classifier has {len(classes)} "
            "classes: they are of two trainings; run the recipe again"
        )
    return Reading(
        text,
        tokenizer.words(tokens),
        [token != UNKNOWN for token in tokens],
        classes,
        simulation.logits[:, 0].double().softmax(-1),
        {name: _padded(train, simulation.T)[:, 0] for name, train in recorder.trains.items() if train.dim() == 4},
        None if T is not None and int(snn.simulate(*inputs).silent_at[0]) > T else int(simulation.silent_at[0]),
        torch.equal(simulation.logits[-1], snn.reference(*inputs)),
    )


def _padded(train: Tensor, steps: int) -> Tensor:
    return torch.cat([train, train.new_zeros(max(0, steps - len(train)), *train.shape[1:])])[:steps]


def _network(folder: Path) -> tuple[casc_core.SpikingModel, Tokenizer, list[str], int]:
    results = folder / "results.json"
    if not results.is_file():
        raise StorageError(
            f"{folder} is not the output folder of a text recipe: it holds no results.json; name one with --network"
        )
    try:
        facts = of(dict, parsed(read_whole(results), finite=False), "results")
        options = of(dict, facts["options"], "options")
        kind, max_len = of(str, options["tokenizer"], "tokenizer"), of(int, options["max_len"], "max_len")
        home = folder / component(facts["classifier"], results)
        classes = strings(read_description(home)["classes"], "classes")
    except StorageError:
        raise
    except (LookupError, ValueError) as error:
        raise StorageError(f"{results} is not that of a text recipe ({type(error).__name__}: {error})") from error
    tokenizer: Tokenizer = TextPipeline(kind).tokenizer_type().load(home / "tokenizer")
    return casc_core.load(folder / "network"), tokenizer, classes, max_len


def as_text(reading: Reading) -> str:
    """The reading for a terminal: a row for each word, a column for each step, the share of its neurons that spike."""
    steps = len(reading.probabilities)
    width = max(len(word) for word in reading.words)
    lines = [f"{reading.classes[reading.answer]} ({100 * float(reading.probabilities[-1].max()):.1f}%)"]
    end = "is the quantised ANN's, bit for bit" if reading.exact else "is not yet the quantised ANN's"
    lines.append(f"{reading.when}; the answer {end}")
    lines += ["", f"{'':{width}}  " + "  ".join(f"{name:{2 * steps + 1}}" for name in reading.spikes)]
    for place, word in enumerate(reading.words):
        rows = "  ".join(_row(train[:, place]) for train in reading.spikes.values())
        lines.append(f"{word:{width}}  {rows}" + ("" if reading.known[place] else "  (not in the vocabulary)"))
    lines.append(f"share of a word's neurons that spike at steps 1..{steps}: +1, then -1 (full bar: all)")
    columns = max(len(name) for name in reading.classes)
    lines += ["", f"{'probability (%)':{columns}}  " + " ".join(f"T={step + 1:<3}" for step in range(steps))]
    for index, name in enumerate(reading.classes):
        shares = " ".join(f"{100 * float(value):5.1f}" for value in reading.probabilities[:, index])
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


def as_json(reading: Reading) -> dict[str, Any]:
    """The reading as plain numbers."""
    return {
        "text": reading.text,
        "words": reading.words,
        "known": reading.known,
        "class": reading.classes[reading.answer],
        "classes": reading.classes,
        "probabilities": reading.probabilities.tolist(),
        "positive": {name: (train > 0).sum(-1).T.tolist() for name, train in reading.spikes.items()},
        "negative": {name: (train < 0).sum(-1).T.tolist() for name, train in reading.spikes.items()},
        "silent_at": reading.silent_at,
        "exact": reading.exact,
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
    reading = read_text(folder, args.text, args.T)
    if args.out is not None:
        write_whole(args.out, raster_page(reading))
    print(json.dumps(as_json(reading)) if args.json else as_text(reading))
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
