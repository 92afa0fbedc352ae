"""Is a trained recurrent network kept? A classifier of torch's own cells, trained, converted without further training.

    python benchmarks/gated.py --cell gru --data FOLDER [--q 16,8,4] [--texts 16000] [--out FOLDER]
    python benchmarks/gated.py --cell gru --data markers --pooling last --q 32,16,8,4,2
    python benchmarks/gated.py --cell rnn --data markers --pooling last
    python benchmarks/gated.py --recipe results/agnews_rnn [--data FOLDER]

Trains `torch.nn.RNN`, `GRU` or `LSTM` on texts (or finds what it has trained before), and for each number of levels
converts the network as it is and verifies it on every test text: accuracy as trained, with rounded activations and in
spikes; counts and levels that differ; steps until the last text is silent, spikes, and energy and time beside torch's.
An RNN is only trained: its tanh becomes CQReLU, which has to be trained. With `--cost` nothing is verified: spikes, energy
and time alone, of the texts of one batch.

`--recipe FOLDER` measures what `recipes/agnews_rnn.py --cell gru` (or lstm) has left there, trained with levels and
verified by the recipe: its cost beside that of torch's own cell of the same size.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from verified import Case, by_levels, case_of, parser, run, write

import casc_core
from casc_core.storage.files import require_writable
from casc_lab.compare.recipe_folder import recipe_of
from casc_lab.distributed import ALL
from casc_lab.progress import Progress
from casc_seq.classifier import TextClassifier
from casc_seq.text.batches import Batch, bucketed_batches
from casc_seq.text.data import Examples, load_corpus
from casc_seq.text.tokenizer import WordTokenizer
from casc_seq.text.vectors import corpus_vectors
from casc_seq.training import TrainingConfig, train

NAME = "gated"
CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
BATCH = 256
# Of the word vectors that a training begins with.
SCALE = 0.3


class Reader(nn.Module):
    """Embedding, recurrent layers in one direction, the mean of a text's states or its last one, and a linear layer."""

    def __init__(self, cell: str, vocabulary: int, width: int, hidden: int, classes: int, pooling: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.rnn = CELLS[cell](width, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(hidden, classes)
        self.pooling = pooling

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(tokens))
        if self.pooling == "last":  # texts of one length
            pooled = states[:, -1]
        else:
            real = (torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)).unsqueeze(2)
            pooled = (states * real).sum(1) / lengths.unsqueeze(1)
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits


class TorchLayers(nn.Module):
    """torch's own layers, called as those of casc_seq are: what lies behind the end of a text is not read.

    Args:
        ours: the layers whose sizes and weights they have.
    """

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.directions = ours.directions
        self.rnn = CELLS[type(ours).__name__.lower()](
            ours.input_size, ours.hidden_size, ours.num_layers, batch_first=True, bidirectional=ours.bidirectional
        )
        self.rnn.load_state_dict(ours.state_dict())

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, final = self.rnn(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0], final


class Trained(NamedTuple):
    """A trained network and the test texts, in batches.

    Attributes:
        model: of torch's own cells. levels: the network with levels, if it was trained with them.
    """

    model: nn.Module
    batches: list[Batch]
    levels: TextClassifier | None = None

    def prepared(self, q: int) -> nn.Module:
        """The network with so many levels."""
        return casc_core.prepare(self.model, adapter="rnn", q=q).eval() if self.levels is None else self.levels


def options() -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__, "16,8,4", NAME)
    add = line.add_argument
    add("--cell", choices=tuple(CELLS), default="gru", help="(default: %(default)s)")
    add("--data", help="folder with train.csv[.gz] and test.csv[.gz], or 'markers'")
    add("--recipe", type=Path, help="measure the network in this output folder of recipes/agnews_rnn.py")
    add("--cost", action="store_true", help="spikes, energy and time alone: nothing is verified")
    add(
        "--pooling",
        choices=("mean", "last"),
        default="mean",
        help="last: of texts of one length (default: %(default)s)",
    )
    add("--texts", type=int, help="train on so many texts only, drawn by the seed")
    add("--limit", type=int, help="of so many test texts only")
    add("--epochs", type=int, default=6, help="(default: %(default)s)")
    add("--batch", type=int, default=64, help="of training (default: %(default)s)")
    add("--lr", type=float, default=3e-3, help="(default: %(default)s)")
    add("--word-dropout", type=float, default=0.3, help="(default: %(default)s)")
    add("--embedding", type=int, default=100, help="width of a word vector (default: %(default)s)")
    add("--hidden", type=int, default=64, help="units (default: %(default)s)")
    add("--max-len", type=int, default=60, help="words of a text that are read (default: %(default)s)")
    add("--max-words", type=int, default=20_000, help="size of the vocabulary (default: %(default)s)")
    add("--seed", type=int, default=0)
    args = line.parse_args()
    if args.data is None and args.recipe is None:
        line.error("one of the arguments --data and --recipe is required")
    return args


def trained(args: argparse.Namespace) -> Trained:
    """Train the network, or find it where the same command had left it."""
    corpus = load_corpus(args.data)
    texts = drawn(corpus.train, args.texts, args.seed)
    tokenizer = WordTokenizer.train(texts.texts, max_words=args.max_words)
    encoded = tokenizer.encode(texts.texts, args.max_len)
    test = drawn(corpus.test, args.limit, args.seed)
    torch.manual_seed(args.seed)
    size = tokenizer.vocabulary_size
    model = Reader(args.cell, size, args.embedding, args.hidden, len(corpus.classes), args.pooling)
    vectors = corpus_vectors(encoded, size, args.embedding)
    with torch.no_grad():
        model.embedding.weight.copy_(vectors * SCALE)
    config = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch, lr=args.lr, word_dropout=args.word_dropout, seed=args.seed
    )
    train(model, encoded, texts.labels, config, checkpoint=args.out / f"{args.cell}.training.safetensors")
    batches = bucketed_batches(tokenizer.encode(test.texts, args.max_len), test.labels, BATCH)
    return Trained(model.eval(), list(batches))


def of_recipe(args: argparse.Namespace) -> Trained:
    """The network that the recipe has left, with torch's own cells in its place, and the test texts.

    Raises:
        ConfigError: it has no gates.
    """
    experiment, _ = recipe_of(args.recipe, args.data)
    levels = experiment.network
    if not isinstance(levels, TextClassifier) or levels.config.model != "rnn" or levels.config.cell == "rnn":
        raise casc_core.ConfigError(f"{args.recipe} holds no GRU or LSTM: train one with --cell gru or --cell lstm")
    plain = copy.deepcopy(levels)
    plain._modules["rnn"] = TorchLayers(levels.rnn)
    batches = [Batch(*each.inputs, each.labels, each.index) for each in experiment.batches(ALL)]
    return Trained(plain.eval(), batches, levels.eval())


def drawn(examples: Examples, count: int | None, seed: int) -> Examples:
    """So many of the examples, in their order."""
    if count is None or count >= len(examples):
        return examples
    some = sorted(random.Random(seed).sample(range(len(examples)), count))
    return Examples([examples.texts[i] for i in some], [examples.labels[i] for i in some])


@torch.no_grad()
def correct(network: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> int:
    """How many texts of a batch are classified right."""
    return int((network(batch.tokens, batch.lengths).argmax(1) == batch.labels).sum())


def accuracy(network: Callable[[Tensor, Tensor], Tensor], batches: Sequence[Batch]) -> float:
    """In percent."""
    right = sum(correct(network, batch) for batch in batches)
    return 100.0 * right / sum(len(batch.labels) for batch in batches)


@torch.no_grad()
def seconds(network: Callable[[Tensor, Tensor], Tensor], batch: Batch, turns: int = 5) -> float:
    """CPU time of a batch, the fastest of some turns."""
    best = float("inf")
    for _ in range(turns):
        started = time.process_time()
        network(batch.tokens, batch.lengths)
        best = min(best, time.process_time() - started)
    return best


def verified(of: Trained, prepared: nn.Module, snn: casc_core.SpikingModel, q: int) -> dict[str, Any]:
    """One number of levels: verify every batch."""
    case, silent = Case(q), list[int]()
    with torch.no_grad(), Progress(len(of.batches), f"q={q}") as progress:
        for batch in of.batches:
            started = time.perf_counter()
            report = casc_core.verify(snn, batch.tokens, batch.lengths)
            right = [correct(network, batch) for network in (of.model, prepared, snn)]
            case = case.plus(case_of(report, q, right, time.perf_counter() - started))
            silent += report.silent_at.tolist()
            progress.advance()
    return {
        "exact": not case.inexact,
        "float": case.percent("trained"),
        "rounded": case.percent("calibrated"),
        "spiking": case.percent("spiking"),
        "texts": case.samples,
        "neurons": case.neurons,
        "differ": case.spikes,
        "faults": case.faults,
        "ties": case.ties,
        "silent_median": sorted(silent)[len(silent) // 2],
        "silent_last": case.steps,
    }


def cost(of: Trained, snn: casc_core.SpikingModel) -> dict[str, Any]:
    """Spikes of a text, energy and time, of the batch whose texts are neither the shortest nor the longest."""
    middle = of.batches[len(of.batches) // 2]
    analysis = casc_core.analyse(snn, [(middle.tokens, middle.lengths)])
    times = {name: seconds(run, middle) for name, run in (("casc", snn), ("torch", of.model))}
    return {
        "words": float(middle.lengths.double().mean()),
        "spikes": float(analysis.spikes.sum()),
        "energy_ratio": float(analysis.energy()[-1]) / analysis.ann_energy(),
        "time_ratio": times["casc"] / times["torch"],
    }


def row_of(of: Trained, q: int, costs_alone: bool) -> dict[str, Any]:
    """One number of levels: the network as it is, converted."""
    prepared = of.prepared(q)
    snn = casc_core.convert(prepared, adapter="rnn")
    found = {} if costs_alone else verified(of, prepared, snn, q)
    return {"q": q, **found, **cost(of, snn)}


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def main() -> bool:
    """Train, convert, verify, write gated.json and gated.md."""
    args = options()
    require_writable(args.out)
    of = trained(args) if args.recipe is None else of_recipe(args)
    if args.recipe is None and not args.cost:
        print(f"torch.nn.{CELLS[args.cell].__name__}: {accuracy(of.model, of.batches):.2f}% of the test texts")
    if args.recipe is None and args.cell == "rnn":
        return True
    levels = list(map(int, args.q.split(","))) if of.levels is None else [of.levels.config.q]
    costs_alone = args.cost or of.levels is not None
    rows: list[dict[str, Any]] = []
    chosen = {name: str(value) for name, value in vars(args).items() if name != "out"}
    for q in levels:
        rows.append(row_of(of, q, costs_alone))
        table = {name: [_shown(row[name]) for row in rows] for name in rows[0] if name != "q"}
        markdown = by_levels([row["q"] for row in rows], table)
        write(args.out, NAME, {"run": chosen, "rows": rows}, markdown)
    print(markdown)
    return all(row.get("exact", True) for row in rows)


if __name__ == "__main__":
    run(main)
