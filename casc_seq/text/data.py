"""Labelled texts: from a folder of CSV files, from the Hugging Face hub, or written by a generator."""

from __future__ import annotations

import csv
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casc_core.errors import DataError
from casc_lab import hub
from casc_seq.text import markers, sample

AG_NEWS = "fancyzhx/ag_news"
SAMPLE_TRAIN, SAMPLE_TEST = 6_000, 1_200
MARKERS_TRAIN, MARKERS_TEST = 4_000, 1_000

_LABEL_COLUMNS = ("label", "labels", "category", "class", "target", "topic", "coarse_label")
_TEXT_COLUMNS = ("title", "text", "sentence", "content", "description", "review")


@dataclass(frozen=True)
class Examples:
    """Texts and their labels, numbers of classes counted from 0."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Corpus:
    """A data set for text classification.

    Attributes:
        train, test: the two splits as published.
        classes: names of the classes; a label is a position here.
        source: one line on what this is, without paths of this machine.
        notice: what the user should be told about the choice of the data, or None.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    source: str
    notice: str | None = None


def load_corpus(
    data: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Corpus:
    """Load a labelled corpus.

    Args:
        data: a folder, the name of a hub data set, "sample", or "markers" (which of two markers came last: a task of
            memory, `casc_seq.text.markers`); None chooses (see below).
            A folder holds `train.csv` and `test.csv`, each plain or as `.csv.gz`, or has them in its subfolder
            `ag_news`: rows without header, the label counted from 1, then the text in one or more columns (title,
            description), which are joined by a space. `classes.txt`, one name a line, is optional.
        classes: names of the classes, instead of those of `classes.txt` or of the hub.
        text_column, label_column: columns of a hub data set; found by their names and types if None.

    With `data=None`: the folder that the environment variable CASC_DATA names; else AG News from the local cache of
    `datasets` or from the hub, if that answers at once; else the embedded sample, with a `notice` that says so.

    Raises:
        DataError: a missing, truncated or empty file, a malformed row, a label out of range (file and line are named),
            an unreachable hub data set, or one whose columns cannot be told apart.

    >>> corpus = load_corpus("sample")
    >>> len(corpus.train), len(corpus.test), corpus.classes
    (6000, 1200, ('World', 'Sports', 'Business', 'Sci/Tech'))
    """
    names = None if classes is None else _check_names(classes, "classes")
    if data is None:
        if folder := os.environ.get("CASC_DATA"):
            return _from_folder(Path(folder), names, "the environment variable CASC_DATA names ")
        try:
            return _from_hub(AG_NEWS, names, text_column, label_column)
        except hub.UnreachableError as error:
            return _sample(
                names,
                f"{error}; using the embedded sample, which is not AG News. For real text set CASC_DATA, or pass a "
                "folder with train.csv and test.csv",
            )
    if data == "sample":
        return _sample(names)
    if data == "markers":
        return _markers(names)
    if isinstance(data, Path) or Path(data).is_dir() or not hub.NAME.fullmatch(data):
        return _from_folder(Path(data), names)
    try:
        return _from_hub(data, names, text_column, label_column)
    except hub.UnreachableError as error:
        raise DataError(f"there is no folder {data!r}, and {error}; pass a folder, or 'sample'") from error


def _sample(names: tuple[str, ...] | None, notice: str | None = None) -> Corpus:
    texts, labels = sample.generate(SAMPLE_TRAIN + SAMPLE_TEST)
    train = Examples(texts[:SAMPLE_TRAIN], labels[:SAMPLE_TRAIN])
    test = Examples(texts[SAMPLE_TRAIN:], labels[SAMPLE_TRAIN:])
    return _corpus(train, test, names or sample.CLASSES, "embedded sample", notice)


def _markers(names: tuple[str, ...] | None) -> Corpus:
    texts, labels = markers.generate(MARKERS_TRAIN + MARKERS_TEST)
    train = Examples(texts[:MARKERS_TRAIN], labels[:MARKERS_TRAIN])
    test = Examples(texts[MARKERS_TRAIN:], labels[MARKERS_TRAIN:])
    return _corpus(train, test, names or markers.CLASSES, "the marker task")


def _corpus(train: Examples, test: Examples, classes: tuple[str, ...], what: str, notice: str | None = None) -> Corpus:
    if len(classes) < 2 or max(max(train.labels), max(test.labels)) >= len(classes):
        raise DataError(
            f"{what} has labels of {max(*train.labels, *test.labels) + 1} classes, but there are names for "
            f"{len(classes)}: {classes}; there must be two or more, and a name for each"
        )
    counts = f"{len(train):,} training and {len(test):,} test texts, {len(classes)} classes"
    return Corpus(train, test, classes, f"{what}: {counts}", notice)


def _check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    if isinstance(names, str) or len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise DataError(f"{where}: expected two or more different class names; got {names!r}")
    return tuple(names)


# --- a folder of CSV files ---------------------------------------------------------------------------------------


def _from_folder(folder: Path, names: tuple[str, ...] | None, origin: str = "") -> Corpus:
    train_file = _find(folder, "train", origin)
    test_file = _find(train_file.parent, "test", origin)
    names_file = train_file.parent / "classes.txt"
    if names is None and names_file.exists():
        names = _check_names([line.strip() for line in _lines(names_file)], str(names_file))
    train, lines = _read(train_file, len(names) if names else None)
    if names is None:
        names = tuple(f"class {number}" for number in range(1, max(train.labels) + 2))
        if unused := set(range(len(names))) - set(train.labels):
            # With nothing to say how many classes there are, a gap means that the largest label is a slip.
            line = lines[train.labels.index(len(names) - 1)]
            raise DataError(
                f"{train_file}, line {line}: label {len(names)}, but no text has label {min(unused) + 1}; correct it, "
                f"or name all classes in {names_file.name}"
            )
    test, _ = _read(test_file, len(names))
    return _corpus(train, test, names, f"folder {train_file.parent.resolve().name}")


def _find(folder: Path, split: str, origin: str) -> Path:
    candidates = [place / f"{split}.csv{end}" for place in (folder, folder / "ag_news") for end in ("", ".gz")]
    for file in candidates:
        if file.is_file():
            return file
    if not folder.is_dir():
        raise DataError(f"{origin}{folder}: there is no such folder")
    raise DataError(f"{origin}{folder}: it holds no {split}.csv and no {split}.csv.gz")


def _lines(file: Path) -> Iterator[str]:
    """Lines of a text file, gunzipped if its name ends so; what is not UTF-8 is replaced, as in scraped text."""
    line = 0
    try:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
            for content in text:
                line += 1
                yield str(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}, after line {line}: damaged or truncated gzip ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def _read(file: Path, classes: int | None) -> tuple[Examples, list[int]]:
    """The examples of a CSV file, and the line each begins at."""
    texts: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    # Strict, because a lenient reader takes everything after an unclosed quote for one text.
    rows = csv.reader(_lines(file), strict=True)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{file}, line {line}: malformed CSV ({error}); is a quote not closed?") from error
        if row is None:
            break
        if len(row) < 2:
            raise DataError(f"{file}, line {line}: expected a label and a text; got {row!r:.80}")
        labels.append(_label(row[0], classes, f"{file}, line {line}"))
        texts.append(" ".join(row[1:]))
        lines.append(line)
    if not texts:
        raise DataError(f"{file} is empty; expected rows of label,text or label,title,description")
    return Examples(texts, labels), lines


def _label(word: str, classes: int | None, where: str) -> int:
    """Label from 0 on, of a word that counts from 1."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", word):
        raise DataError(f"{where}: expected a label, a whole number from 1 on; got {word!r:.40} (remove a header line)")
    label = int(word)
    if label < 1 or (classes is not None and label > classes):
        raise DataError(f"{where}: label {label} is out of range; labels are 1..{classes or '(number of classes)'}")
    return label - 1


# --- the hub -----------------------------------------------------------------------------------------------------


def _from_hub(name: str, names: tuple[str, ...] | None, text_column: str | None, label_column: str | None) -> Corpus:
    splits = hub.load(name)
    if "train" not in splits or not {"test", "validation"} & set(splits):
        raise DataError(f"hub data set {name}: expected the splits train and test; it has {', '.join(splits)}")
    evaluated = "test" if "test" in splits else "validation"
    texts, label = _columns(name, splits["train"].features, text_column, label_column)
    known = getattr(splits["train"].features[label], "names", None)
    try:
        values = list(range(len(known))) if known else sorted(set(splits["train"][label]))
    except TypeError as error:
        raise DataError(f"hub data set {name}: column {label!r} has missing, mixed or several labels a row") from error
    numbers = {value: number for number, value in enumerate(values)}

    def examples(split: str) -> Examples:
        labels = []
        for row, value in enumerate(splits[split][label]):
            if value not in numbers:
                raise DataError(f"hub data set {name}, {split} row {row}: unknown label {value!r}")
            labels.append(numbers[value])
        columns = [splits[split][column] for column in texts]
        if not labels:
            raise DataError(f"hub data set {name}: the split {split} is empty")
        return Examples([" ".join(part or "" for part in parts) for parts in zip(*columns, strict=True)], labels)

    classes = names or tuple(known or (str(value) for value in values))
    note = "" if evaluated == "test" else " (validation split as test)"
    return _corpus(examples("train"), examples(evaluated), classes, f"hub data set {name}{note}")


def _columns(name: str, features: Any, text_column: str | None, label_column: str | None) -> tuple[list[str], str]:
    """The text columns of a hub data set, in order, and its label column."""
    columns = ", ".join(features)
    for column in (text_column, label_column):
        if column is not None and column not in features:
            raise DataError(f"hub data set {name} has no column {column!r}; it has {columns}")
    labels = [column for column in _LABEL_COLUMNS if column in features]
    labels += [column for column in features if hasattr(features[column], "names") and column not in labels]
    label = label_column or next(iter(labels), None)
    strings = [
        column
        for column in features
        if column != label and getattr(features[column], "dtype", None) in ("string", "large_string")
    ]
    texts = [text_column] if text_column else [column for column in _TEXT_COLUMNS if column in strings]
    if not texts and len(strings) == 1:
        texts = strings
    if label is None or not texts:
        missing = "label_column" if label is None else "text_column"
        raise DataError(f"cannot tell the columns of hub data set {name} apart: {columns}; pass {missing}=...")
    return texts, label
