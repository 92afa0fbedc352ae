"""AG News: train a text classifier, recurrent or convolutional, convert it, and compare ways to simulate it (Table 6).

    python recipes/agnews_rnn.py --q 2 --T 8
    python recipes/agnews_rnn.py --cell gru --q 8
    python recipes/agnews_rnn.py --model textcnn --q 4

It trains the classifier (or finds the one trained before with the same options on the same texts), converts it, runs the
whole test set in spikes with each method of Table 6 that the network can be run by, and writes results.json, table.md,
accuracy.png and the spiking network to the output folder.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import torch

from casc_lab import command
from casc_lab.distributed import is_main, say
from casc_lab.evaluation.report import Experiment, phase, report
from casc_lab.evaluation.results import Published, PublishedRow
from casc_lab.training.checks import check_fits
from casc_lab.training.store import describe
from casc_seq.classifier import CELLS, MODELS, POOLINGS, ClassifierConfig, TextClassifier
from casc_seq.experiment import TextPipeline, calibration_batches, evaluation_batches, train_or_find
from casc_seq.text.data import load_corpus
from casc_seq.training import SMALL_CORPUS, TrainingConfig, recommended

DATA = "folder with train.csv[.gz] and test.csv[.gz], hub data set, 'sample' or 'markers'; unset: docs/experiments.md"
AG_NEWS_TEST = 7_600
TABLE_6 = Published(
    "Table 6, AG News, 300 tanh units in one direction turned into CQReLU, q=2",
    "accuracy (%)",
    [
        PublishedRow("baseline", 87.70, {2: 80.51, 4: 82.96, 8: 75.36, 16: 61.72}),
        PublishedRow("baseline+WSC", 87.70, {2: 80.51, 4: 87.12, 8: 87.12, 16: 87.12}),
        PublishedRow("baseline+CIF", 87.70, {2: 80.36, 4: 83.01, 8: 75.13, 16: 61.50}),
        PublishedRow("baseline+CIF+WSC", 87.70, {2: 80.35, 4: 87.67, 8: 87.70, 16: 87.70}),
    ],
)


def options() -> argparse.ArgumentParser:
    """The command line."""
    sizes, training, text = ClassifierConfig(2, 2), TrainingConfig(), TextPipeline()
    parser = command.parser(__doc__.split("\n\n")[0])
    command.add_options(parser, q=sizes.q, T=8, data=DATA, out="results/agnews_rnn", seed=training.seed)
    add = parser.add_argument
    small, large = recommended(0), recommended(SMALL_CORPUS)
    for name, kind in (("epochs", int), ("batch_size", int), ("word_dropout", float)):
        by_size = f"{getattr(large, name)}, or {getattr(small, name)} for a corpus below {SMALL_CORPUS:,} texts"
        add(f"--{name.replace('_', '-')}", type=kind, help=f"default: {by_size}")
    add("--lr", type=float, default=training.lr)
    add("--embedding", type=int, default=sizes.embedding_size, help="width of a word vector")
    add("--model", choices=MODELS, default=sizes.model, help="recurrent layers, or convolutions (TextCNN)")
    add("--cell", choices=CELLS, default=sizes.cell, help="of the recurrent layers")
    add(
        "--hidden",
        type=int,
        default=sizes.hidden_size,
        help="units of a recurrent layer, each direction; filters of each width",
    )
    add("--layers", type=int, default=sizes.num_layers, help="recurrent layers")
    add("--bidirectional", action=argparse.BooleanOptionalAction, default=sizes.bidirectional)
    add("--pooling", choices=POOLINGS, default=sizes.pooling)
    add("--batch-norm", action=argparse.BooleanOptionalAction, default=sizes.batch_norm, help="of the pooled vector")
    add("--dropout", type=float, default=sizes.dropout)
    add("--max-len", type=int, default=text.max_len, help="words of a text that are read")
    add("--max-words", type=int, default=text.max_words, help="size of the vocabulary")
    add("--tokenizer", choices=("words", "torchtext"), default=text.tokenizer)
    add("--vectors", default=text.vectors, help="what word vectors start from: corpus, random, or a GloVe file")
    return parser


def _checked(args: argparse.Namespace) -> tuple[TextPipeline, dict[str, Any], dict[str, Any]]:
    """How texts become batches, the sizes of the network, and what is said of its training; before any text is read.

    Raises:
        ConfigError: an option out of its range, or a network that this machine cannot hold.
    """
    pipeline = TextPipeline(args.tokenizer, max_words=args.max_words, max_len=args.max_len, vectors=args.vectors)
    sizes = {
        "embedding_size": args.embedding, "hidden_size": args.hidden, "num_layers": args.layers,
        "bidirectional": args.bidirectional, "pooling": args.pooling, "batch_norm": args.batch_norm,
        "q": args.q, "dropout": args.dropout,
    }  # fmt: skip
    # Trainings are found by their sizes, and had no others before.
    sizes |= {name: getattr(args, name) for name in ("model", "cell") if getattr(args, name) != "rnn"}
    smallest = ClassifierConfig(vocabulary_size=2, classes=2, **sizes)
    check_fits(lambda: TextClassifier(smallest), "choose smaller --embedding, --hidden or --layers")
    by_size = {name: getattr(args, name) for name in ("epochs", "batch_size", "word_dropout")}
    training = {"lr": args.lr, "seed": args.seed} | {
        name: value for name, value in by_size.items() if value is not None
    }
    TrainingConfig(**training)
    return pipeline, sizes, training


def experiment(
    args: argparse.Namespace, device: torch.device, seconds: dict[str, float], find_only: bool = False
) -> Experiment:
    """The trained classifier and its test set; with `find_only`, one that had been trained before."""
    progress = is_main() and not args.quiet
    pipeline, sizes, given = _checked(args)
    with phase("data", seconds):
        corpus = load_corpus(args.data)
        say(corpus.notice or "", corpus.source)
    training = replace(recommended(len(corpus.train)), **given)
    with phase("train", seconds):
        trained = train_or_find(
            corpus, args.out, pipeline, sizes, training,
            device=device, retrain=args.retrain, find_only=find_only, progress=progress,
        )  # fmt: skip
    say(describe(trained.found, trained.training))
    return Experiment(
        network=trained.model,
        adapter="rnn",
        batches=evaluation_batches(corpus, trained, pipeline, device, progress),
        title=f"{corpus.source.split(':')[0]}, {_name(args)}, q={args.q}",
        data=corpus.source,
        train_examples=len(corpus.train),
        test_examples=len(corpus.test),
        q=args.q,
        classifier=trained.folder,
        training=trained.training,
        published=TABLE_6 if args.q == 2 and len(corpus.test) == AG_NEWS_TEST and _name(args) == "RNN" else None,
        calibration=lambda: calibration_batches(corpus, trained, pipeline, device),
        recipe="agnews_rnn",
    )


def _name(args: argparse.Namespace) -> str:
    """What the network is called in titles."""
    return "TextCNN" if args.model == "textcnn" else str(args.cell).upper()


def main(args: argparse.Namespace, device: torch.device) -> None:
    """Train or find, convert, simulate, report."""
    seconds: dict[str, float] = {}
    report(experiment(args, device, seconds), args.out, args.T, args.weight_bits, vars(args), seconds)


if __name__ == "__main__":
    command.run(options(), main)
