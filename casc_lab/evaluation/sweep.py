"""The quantisation levels compared: the paper's Table 1, level by level, resumable."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casc_core.errors import StorageError
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import read_whole, write_whole
from casc_core.storage.json_files import write_json
from casc_core.storage.strict import of, parsed
from casc_lab import distributed
from casc_lab.distributed import say
from casc_lab.evaluation.methods import Evaluation
from casc_lab.evaluation.report import Experiment, report
from casc_lab.seeds import digest

Levels = int | None


@dataclass(frozen=True)
class LevelsRow:
    """One number of levels.

    Attributes:
        q: levels; None for plain ReLU.
        ann: the first figure of the ANN's score, percent.
        best: the largest of CIF with WakeSleep after any step at which there is a score, percent.
        best_at: first step at which it is reached.
        silent: that once silent, percent.
        silent_at: steps until the last sample is silent.
        exact_at: first step from which on the logits of every sample are the quantised ANN's, bit for bit.
    """

    q: Levels
    ann: float
    best: float
    best_at: int
    silent: float
    silent_at: int
    exact_at: int | None


def levels_row(q: Levels, evaluation: Evaluation) -> LevelsRow:
    """What a sweep shows of an evaluation."""
    figures = {step: score.figures[0] for step, score in evaluation.ours.scores_by_step.items()}
    best = max(figures, key=lambda step: figures[step])  # the first of equals
    silent_at = int(evaluation.silent_at.max())
    return LevelsRow(
        q, evaluation.ann.figures[0], figures[best], best, evaluation.end.figures[0], silent_at, evaluation.exact_at
    )


def sweep(
    levels: Sequence[Levels],
    run: Callable[[Levels], Evaluation],
    folder: Path,
    key: Callable[[Levels], str],
    published: Mapping[Levels, tuple[float, float, int]] | None = None,
    title: str = "",
    again: bool = False,
) -> list[LevelsRow]:
    """Run an experiment for each number of levels; those done before, by their key, are not repeated.

    `sweep.json` and `sweep.md` are written to `folder` after each of them, and the table is printed at the end.

    Args:
        levels: in the order of the table.
        run: runs the experiment.
        folder: output folder.
        key: fingerprint of everything that the results for this many levels depend on.
        published: the paper's figure of the ANN, the best of the SNN and its time step, by levels.
        title: of the table.
        again: repeat those done before, too.

    Raises:
        StorageError: the folder cannot be written, or `sweep.json` is damaged.
    """
    file = folder / "sweep.json"
    done = distributed.from_main(lambda: _read(file))
    rows: dict[str, LevelsRow] = {}
    for q in levels:
        name = key(q)
        if name in done and not again:
            say(f"q={_name(q)}: found")
            rows[name] = LevelsRow(**done[name])
        else:
            rows[name] = levels_row(q, run(q))
        if distributed.is_main():
            kept = done | {name: dataclasses.asdict(result) for name, result in rows.items()}
            shown = [dataclasses.asdict(result) for result in rows.values()]
            write_whole(folder / "sweep.md", f"# {title}\n\n{levels_table(list(rows.values()), published)}\n")
            write_json(file, {"title": title, "rows": shown, "kept": kept})
    if distributed.is_main():
        print(f"\n{levels_table(list(rows.values()), published)}\n\nsweep.json and sweep.md are in {folder}")
    return list(rows.values())


def report_levels(
    args: argparse.Namespace,
    experiment: Callable[[Levels, Path, dict[str, float]], Experiment],
    seconds: Mapping[str, float],
    source: str,
    content: Callable[[], str],
    published: Mapping[Levels, tuple[float, float, int]] | None = None,
    title: str = "",
) -> None:
    """Report an experiment as a command line asks for it: for `args.q` levels, or with `--sweep` for each number of them.

    Args:
        experiment: for a number of levels, in a folder; it adds the time of its phases.
        seconds: time of the phases so far.
        source: what the data is. content: gives a digest of it, on which the results of a sweep depend.
        published, title: as `sweep` takes them; `title` is of the network.
    """

    def run(q: Levels, folder: Path) -> Evaluation:
        spent = dict(seconds)
        made = experiment(q, folder, spent)
        return report(made, folder, args.T, args.weight_bits, {**vars(args), "q": q, "sweep": None}, spent)

    if args.sweep is None:
        run(args.q, args.out)
        return
    irrelevant = ("out", "q", "sweep", "quiet", "threads", "device", "retrain")
    chosen = {name: str(value) for name, value in vars(args).items() if name not in irrelevant}
    data = content()
    sweep(
        args.sweep,
        lambda q: run(q, args.out / f"q{q or 'none'}"),
        args.out,
        key=lambda q: digest(q, chosen, source, data),
        published=published,
        title=f"{source.split(':')[0]}, {title}: levels compared",
        again=args.retrain,
    )


def levels_table(rows: Sequence[LevelsRow], published: Mapping[Levels, tuple[float, float, int]] | None = None) -> str:
    """The rows in Markdown, the paper's own figures beside ours and named so.

    >>> print(levels_table([LevelsRow(8, 94.5, 94.6, 9, 94.5, 20, 18)], {8: (94.62, 94.64, 9)}))
    | q |   ANN | SNN best | first at T | silent | silent at T | exact from T | paper: ANN | paper: SNN best | paper: T |
    |---|------:|---------:|-----------:|-------:|------------:|-------------:|-----------:|----------------:|---------:|
    | 8 | 94.50 |    94.60 |          9 |  94.50 |          20 |           18 |      94.62 |           94.64 |        9 |
    """
    header = ["q", "ANN", "SNN best", "first at T", "silent", "silent at T", "exact from T"]
    header += ["paper: ANN", "paper: SNN best", "paper: T"] if published else []
    lines = [header]
    for one in rows:
        exact = "never" if one.exact_at is None else str(one.exact_at)
        line = [_name(one.q), f"{one.ann:.2f}", f"{one.best:.2f}", str(one.best_at), f"{one.silent:.2f}"]
        line += [str(one.silent_at), exact]
        if published:
            ann, best, step = published.get(one.q, (math.nan, math.nan, None))
            line += ["-", "-", "-"] if step is None else [f"{ann:.2f}", f"{best:.2f}", str(step)]
        lines.append(line)
    return markdown_table(lines)


def _name(q: Levels) -> str:
    return "none" if q is None else str(q)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier sweep, by key."""
    if not file.exists():
        return {}
    try:
        kept: dict[str, dict[str, Any]] = of(dict, parsed(read_whole(file), finite=False), "a sweep")["kept"]
        for values in kept.values():
            levels_table([LevelsRow(**values)])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise StorageError(f"{file} is not a sweep ({error}); move it elsewhere") from error
    return kept
