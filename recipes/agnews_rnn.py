"""AG News, recurrent: train a CQReLU text classifier, convert it, and compare four ways to simulate it (Table 6).

    python recipes/agnews_rnn.py --q 2 --T 8

It trains the classifier (or finds the one trained before with the same options on the same texts), converts it, runs the
whole test set in spikes with the four methods, and writes results.json, table.md, accuracy.png and the spiking network to
the output folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

import casc_core
from casc_core.experiment.evaluation import evaluate, powers_of_two
from casc_core.experiment.results import findings, mismatch_table, table, write_results
from casc_core.files import require_writable
from casc_seq.classifier import POOLINGS, ClassifierConfig
from casc_seq.data import load_corpus
from casc_seq.experiment import TextPipeline, evaluation_batches, train_or_find
from casc_seq.training import SMALL_CORPUS, TrainingConfig, recommended


def options() -> argparse.Namespace:
    """The command line."""
    sizes, training, text = ClassifierConfig(2, 2), TrainingConfig(), TextPipeline()
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--q", type=int, default=sizes.q, help="levels of the CQReLU activation")
    add("--T", type=int, default=8, help="largest number of time steps in the table")
    add("--data", help="folder with train.csv[.gz] and test.csv[.gz], hub data set, or 'sample'; unset: see the README")
    add("--out", type=Path, default=Path("results/agnews_rnn"), help="output folder")
    small, large = recommended(0), recommended(SMALL_CORPUS)
    for name, kind in (("epochs", int), ("batch_size", int), ("word_dropout", float)):
        by_size = f"{getattr(large, name)}, or {getattr(small, name)} for a corpus below {SMALL_CORPUS:,} texts"
        add(f"--{name.replace('_', '-')}", type=kind, help=f"default: {by_size}")
    add("--lr", type=float, default=training.lr)
    add("--embedding", type=int, default=sizes.embedding_size, help="width of a word vector")
    add("--hidden", type=int, default=sizes.hidden_size, help="units of the recurrent layer, each direction")
    add("--layers", type=int, default=sizes.num_layers, help="recurrent layers")
    add("--bidirectional", action=argparse.BooleanOptionalAction, default=sizes.bidirectional)
    add("--pooling", choices=POOLINGS, default=sizes.pooling)
    add("--batch-norm", action=argparse.BooleanOptionalAction, default=sizes.batch_norm, help="of the pooled vector")
    add("--dropout", type=float, default=sizes.dropout)
    add("--max-len", type=int, default=text.max_len, help="words of a text that are read")
    add("--max-words", type=int, default=text.max_words, help="size of the vocabulary")
    add("--tokenizer", choices=("words", "torchtext"), default=text.tokenizer)
    add("--vectors", default=text.vectors, help="what word vectors start from: corpus, random, or a GloVe file")
    add(
        "--weight-bits",
        type=int,
        default=casc_core.Exact().weight_bits,
        help="bits of a converted weight; 8 is cheapest",
    )
    add("--seed", type=int, default=training.seed)
    add("--threads", type=int, help="CPU threads")
    add("--device", default="cpu")
    add("--retrain", action="store_true", help="train anew even if the model is there")
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> None:
    """Train or find, convert, simulate, report."""
    args = options()
    if args.T < 1:
        raise casc_core.ConfigError(f"--T must be at least 1; got {args.T}")
    if args.threads:
        torch.set_num_threads(args.threads)
    casc_core.Exact(args.weight_bits)
    require_writable(args.out)
    seconds: dict[str, float] = {}

    with phase("data", seconds):
        corpus = load_corpus(args.data)
        say(corpus.notice or "", corpus.source)
    pipeline = TextPipeline(args.tokenizer, max_words=args.max_words, max_len=args.max_len, vectors=args.vectors)
    sizes = {
        "embedding_size": args.embedding, "hidden_size": args.hidden, "num_layers": args.layers,
        "bidirectional": args.bidirectional, "pooling": args.pooling, "batch_norm": args.batch_norm,
        "q": args.q, "dropout": args.dropout,
    }  # fmt: skip
    given = {
        name: value for name in ("epochs", "batch_size", "word_dropout") if (value := getattr(args, name)) is not None
    }
    training = replace(recommended(len(corpus.train)), lr=args.lr, seed=args.seed, **given)
    with phase("train", seconds):
        trained = train_or_find(
            corpus, args.out, pipeline, sizes, training,
            device=args.device, retrain=args.retrain, progress=not args.quiet,
        )  # fmt: skip
    facts = trained.training
    say(
        f"classifier {'found' if trained.found else 'trained'}: {facts['parameters']:,} parameters, epoch "
        f"{facts['best_epoch']} of {training.epochs} picked at {facts['validation_accuracy']:.2f}% of the validation "
        f"texts, {facts['seconds']:.0f} s of training"
    )

    with phase("convert", seconds):
        snn = casc_core.convert(trained.model, adapter="rnn", numerics=casc_core.Exact(args.weight_bits))
    with phase("evaluate", seconds):
        batches = evaluation_batches(corpus, trained, pipeline, args.device, progress=not args.quiet)
        evaluation = evaluate(
            trained.model, snn, batches, powers_of_two(args.T), announce=lambda name: say(f"  {name}")
        )
    seconds |= {method: round(result.seconds, 2) for method, result in evaluation.methods.items()}

    extra = {
        "train_examples": len(corpus.train), "test_examples": len(corpus.test), "data": corpus.source, "q": args.q,
        "T": args.T, "classifier": trained.folder, "training": facts, "seconds": seconds,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
    }  # fmt: skip
    title = f"{corpus.source.split(':')[0]}, RNN, q={args.q}"
    write_results(args.out, evaluation, extra, title)
    snn.save(args.out / "network")
    print(f"\n{table(evaluation)}\n\n{mismatch_table(evaluation)}\n\n{findings(evaluation)}\n")
    print(f"results.json, table.md, accuracy.png and the spiking network are in {args.out}")


@contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time a phase."""
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def say(*lines: str) -> None:
    """Tell the user, on stderr, so that stdout holds the results alone."""
    for line in filter(None, lines):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except casc_core.CascError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to go on where it was")
