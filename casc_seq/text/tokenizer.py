"""From raw text to word numbers: repair, word splitting, a vocabulary, and word vectors for it."""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor

from casc_core.errors import ConfigError, DataError, InputError, StorageError
from casc_core.storage.files import read_whole, write_whole

PAD = 0
"""Number of the padding that fills short texts of a batch; no word has it."""
UNKNOWN = 1
"""Number of every word outside the vocabulary, and of an empty text."""
SPECIAL_WORDS = ("<pad>", "<unk>")

_ENTITY = re.compile(r"&?(#(?:3[2-9]|[4-9]\d|\d{3,5})|\b(?:quot|amp|lt|gt|nbsp));")
_TAG = re.compile(r"</?(?:a|b|br|cite|em|font|i|img|nobr|p|strong|u)\b[^<>]*>", re.IGNORECASE)
_PLAIN = str.maketrans({"\\": " ", "‘": "'", "’": "'", "“": '"', "”": '"'})

# In order: abbreviations (u.s.), numbers (1,000.5), words, endings of contractions ('s, 't), any other single symbol.
_WORD = r"(?:\p{L}\.){2,}|\d+(?:[.,]\d+)*|\p{L}[\p{L}\p{M}]*|'(?:s|t|re|ve|ll|d|m)\b|[^\s\p{L}\d]"
_CHUNK = 4096
_FILE = "tokenizer.json"


def repair(text: str) -> str:
    r"""Undo what web scraping left in news text: broken HTML entities, HTML tags, backslashes for line breaks.

    >>> repair(r"Oil tops  #36;50\a barrel, &lt;b&gt;Marsh&lt;/b&gt;  amp; Co #39;s quot;worst quot; day")
    'Oil tops  $50 a barrel,  Marsh   & Co \'s "worst " day'
    """
    if ";" in text:
        text = _TAG.sub(" ", html.unescape(_ENTITY.sub(r"&\1;", text)))
    return text.translate(_PLAIN)


def as_strings(texts: Iterable[str | bytes]) -> Iterator[str]:
    """Each text as a string that can be written as UTF-8; what cannot be decoded becomes U+FFFD or a question mark.

    Raises:
        InputError: `texts` is one string instead of several, or holds something else than `str` and `bytes`.

    >>> list(as_strings([b"caf\\xe9", "tea"])) == ["caf\\ufffd", "tea"]
    True
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"expected several texts, got one; pass a list: [{texts[:40]!r}]")
    for position, text in enumerate(texts):
        if isinstance(text, bytes):
            yield text.decode("utf-8", "replace")
        elif isinstance(text, str):
            yield text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
        else:
            raise InputError(f"text {position} is a {type(text).__name__}, not a str or bytes: {text!r:.60}")


def check_count(name: str, value: int) -> int:
    """Return `value` if it is an integer from 1 to 2**31 - 1, else raise a `ConfigError` that calls it `name`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1; got {value!r}")
    if value >= 2**31:
        raise ConfigError(f"{name} must be at most {2**31 - 1:,}; got {value}")
    return value


class WordTokenizer:
    """Word-level tokens of news text and the vocabulary that numbers them; made by `train` or `load`.

    Text is repaired (`repair`), brought to NFKC and lower case, and split into words, numbers, abbreviations and single
    symbols. Words are numbered from 2 on, the most frequent first, ties in alphabetical order; `PAD` is 0 and `UNKNOWN`
    is 1.

    >>> tokenizer = WordTokenizer.train(["The U.S. won, 3-1.", "The cup is won"], min_count=1)
    >>> tokenizer.words(tokenizer.encode(["the U.S. lost the cup"])[0])
    ['the', 'u.s.', '<unk>', 'the', 'cup']
    >>> tokenizer.encode(["", "won!"])
    [[1], [3, 1]]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._words = sorted(vocabulary, key=vocabulary.__getitem__)

    @classmethod
    def train(cls, texts: Iterable[str | bytes], max_words: int = 50_000, min_count: int = 2) -> WordTokenizer:
        """Number the `max_words` most frequent words of `texts` that occur at least `min_count` times.

        Raises:
            ConfigError: `max_words` or `min_count` below 1.
            InputError: no word occurs that often, or `texts` is not an iterable of texts.
        """
        check_count("max_words", max_words)
        check_count("min_count", min_count)
        learner = _pipeline({})
        trainer = WordLevelTrainer(
            vocab_size=max_words + len(SPECIAL_WORDS),
            min_frequency=min_count,
            special_tokens=list(SPECIAL_WORDS),
            show_progress=False,
        )
        learner.train_from_iterator((repair(text) for text in as_strings(texts)), trainer)
        vocabulary = learner.get_vocab()
        if len(vocabulary) == len(SPECIAL_WORDS):
            raise InputError(f"no word of the texts occurs {min_count} times; pass more texts or a lower min_count")
        # A new pipeline, because the learner would read the literal text "<pad>" as padding.
        return cls(_pipeline(vocabulary))

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, `PAD` and `UNKNOWN` included: the rows an embedding needs."""
        return len(self._words)

    @property
    def vocabulary(self) -> list[str]:
        """The word of each number, from 0 on."""
        return list(self._words)

    def encode(self, texts: Iterable[str | bytes], max_len: int = 200) -> list[list[int]]:
        """Word numbers of each text, at most `max_len` of them and at least one: an empty text is `[UNKNOWN]`.

        Bytes are read as UTF-8, what is not valid as U+FFFD.

        Raises:
            ConfigError: `max_len` below 1.
            InputError: one string instead of several, or something that is not text.
        """
        check_count("max_len", max_len)
        encoded: list[list[int]] = []
        strings = as_strings(texts)
        # In chunks: an encoding holds far more than its numbers, too much to keep for a whole data set.
        while chunk := [repair(text) for text in itertools.islice(strings, _CHUNK)]:
            encoded += [tokens.ids[:max_len] or [UNKNOWN] for tokens in self._tokenizer.encode_batch_fast(chunk)]
        return encoded

    def words(self, ids: Iterable[int]) -> list[str]:
        """The words of these numbers.

        Raises:
            InputError: a number outside the vocabulary.
        """
        return words_of(self._words, ids)

    def vectors(self, path: str | Path, dim: int) -> Tensor:
        """Vectors of the vocabulary from a GloVe text file: `[vocabulary_size, dim]`; see `read_vectors`."""
        return read_vectors(path, self._words, dim)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` in `folder`, whole or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_whole(Path(folder) / _FILE, self._tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """The tokenizer saved in `folder`; it encodes as the saved one did.

        Raises:
            StorageError: no `tokenizer.json`, a damaged one, or one of another kind.
        """
        path = Path(folder) / _FILE
        text = read_whole(path)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise StorageError(f"{path} is damaged or not a tokenizer: {error}") from error
        numbers = tokenizer.get_vocab()
        complete = sorted(numbers.values()) == list(range(len(numbers)))
        known = [numbers.get(word) for word in SPECIAL_WORDS] == [PAD, UNKNOWN]
        if not (complete and known and isinstance(tokenizer.model, WordLevel)):
            raise StorageError(f"{path} holds another kind of tokenizer, not one saved by WordTokenizer")
        # Only its words are taken from the file: how a text becomes words is not the file's to say.
        return cls(_pipeline(numbers))


def _pipeline(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL_WORDS[UNKNOWN]))
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = Split(Regex(_WORD), behavior="removed", invert=True)
    return tokenizer


def words_of(vocabulary: Sequence[str], ids: Iterable[int]) -> list[str]:
    """The words that `ids` number in `vocabulary`; a number outside it is an `InputError`."""
    numbers = list(ids)
    for number in numbers:
        if not 0 <= number < len(vocabulary):
            raise InputError(f"no word has the number {number}; the vocabulary has 0..{len(vocabulary) - 1}")
    return [vocabulary[number] for number in numbers]


def read_vectors(path: str | Path, words: Sequence[str], dim: int) -> Tensor:
    """Vectors of `words` from a local GloVe text file: one line per word, the word and `dim` numbers, by spaces.

    Returns a float32 tensor `[len(words), dim]`; a word that the file lacks has a row of zeros. A word2vec header line
    (count and dimension) is passed over. Every line must have `dim` fields after its word; those of `words` are read.

    Raises:
        ConfigError: `dim` below 1.
        DataError: no such file, an empty one, or a line without exactly `dim` finite numbers; names file and line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tiny.txt"
    >>> _ = path.write_text("the 0.5 -1\\ncup 2 3\\n")
    >>> read_vectors(path, ["<pad>", "cup"], dim=2)
    tensor([[0., 0.],
            [2., 3.]])
    """
    check_count("dim", dim)
    rows = {word: row for row, word in enumerate(words)}
    vectors = torch.zeros(len(words), dim)
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                # Only plain spaces separate: some words of GloVe hold other white space.
                word, *fields = line.decode("utf-8").rstrip("\r\n ").split(" ")
                if number == 1 and len(fields) == 1 != dim and word.isdigit():
                    continue
                if len(fields) != dim:
                    raise ValueError(f"expected a word and {dim} numbers, got {len(fields)} fields after {word!r:.40}")
                if word in rows:
                    vectors[rows[word]] = torch.tensor([_finite(field) for field in fields])
    except OSError as error:
        raise DataError(f"cannot read word vectors from {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    if number == 0:
        raise DataError(f"{path} is empty; expected a word and its {dim} numbers on each line")
    return vectors


def _finite(field: str) -> float:
    value = float(field)
    if not math.isfinite(value):
        raise ValueError(f"{field!r} is not a finite number")
    return value
