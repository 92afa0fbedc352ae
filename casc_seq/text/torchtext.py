"""The tokenizer of torchtext 0.6 (Field, Vocab), as the paper used it; extra `casc[torchtext]`.

An alternative to `WordTokenizer` with the same interface. torchtext is imported when first used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from casc_core.errors import ConfigError, InputError, StorageError
from casc_core.storage.files import read_whole, write_whole
from casc_core.storage.strict import parsed
from casc_seq.text.tokenizer import SPECIAL_WORDS, UNKNOWN, as_strings, check_count, read_vectors, words_of

_FILE = "torchtext.json"
_FORMAT = "casc torchtext vocabulary 1"


def import_torchtext() -> Any:
    """The module `torchtext`, version 0.6.

    Raises:
        ConfigError: it is not installed, or is a version without Field and BucketIterator.
    """
    try:
        import torchtext
    except (ImportError, OSError) as error:  # OSError: a later version whose binary does not fit this torch
        raise ConfigError(f"torchtext 0.6 cannot be imported ({error}); pip install 'casc[torchtext]'") from error
    if not hasattr(torchtext.data, "BucketIterator"):
        raise ConfigError(f"torchtext {torchtext.__version__} has no BucketIterator; pip install 'casc[torchtext]'")
    return torchtext


class TorchtextTokenizer:
    """Tokens of a torchtext `Field` (its "basic_english" splitting, lower case) numbered by a torchtext `Vocab`.

    Same interface as `WordTokenizer`; `PAD` is 0, `UNKNOWN` is 1, words follow, the most frequent first,
    ties in alphabetical order.

    Examples:
        tokenizer = TorchtextTokenizer.train(["The cup is won!", "the cup"], min_count=2)
        tokenizer.words(tokenizer.encode(["The cup, again"])[0])    # ['the', 'cup', '<unk>', '<unk>']
    """

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab
        self._field = _text_field()

    @classmethod
    def train(cls, texts: Iterable[str | bytes], max_words: int = 50_000, min_count: int = 2) -> TorchtextTokenizer:
        """Number the `max_words` most frequent words of `texts` that occur at least `min_count` times.

        Raises:
            ConfigError: `max_words` or `min_count` below 1, or no torchtext 0.6.
            InputError: no word occurs that often, or `texts` is not an iterable of texts.
        """
        check_count("max_words", max_words)
        check_count("min_count", min_count)
        field = _text_field()
        field.build_vocab((field.preprocess(text) for text in as_strings(texts)), min_freq=1)
        # Numbered anew, because a Field numbers <unk> before <pad>.
        vocab = import_torchtext().vocab.Vocab(
            field.vocab.freqs, max_size=max_words, min_freq=min_count, specials=list(SPECIAL_WORDS)
        )
        if len(vocab) == len(SPECIAL_WORDS):
            raise InputError(f"no word of the texts occurs {min_count} times; pass more texts or a lower min_count")
        return cls(vocab)

    @property
    def vocabulary_size(self) -> int:
        """How many numbers there are, `PAD` and `UNKNOWN` included: the rows an embedding needs."""
        return len(self._vocab)

    @property
    def vocabulary(self) -> list[str]:
        """The word of each number, from 0 on."""
        return list(self._vocab.itos)

    def encode(self, texts: Iterable[str | bytes], max_len: int = 200) -> list[list[int]]:
        """Word numbers of each text, at most `max_len` of them and at least one: an empty text is `[UNKNOWN]`.

        Raises:
            ConfigError: `max_len` below 1.
            InputError: one string instead of several, or something that is not text.
        """
        check_count("max_len", max_len)
        number = self._vocab.stoi.get
        # `or`: the literal word "<pad>" in a text is unknown, not padding.
        return [
            [number(word, UNKNOWN) or UNKNOWN for word in self._field.preprocess(text)[:max_len]] or [UNKNOWN]
            for text in as_strings(texts)
        ]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The words of these numbers.

        Raises:
            InputError: a number outside the vocabulary.
        """
        return words_of(self._vocab.itos, ids)

    def vectors(self, path: str | Path, dim: int) -> Tensor:
        """Vectors of the vocabulary from a local GloVe text file, `[vocabulary_size, dim]`; see `read_vectors`.

        The same values as `torchtext.vocab.Vectors`, which is not used because it turns off the checking of TLS
        certificates for the whole process, passes over lines it cannot read, and trusts a pickled cache.
        """
        return read_vectors(path, self._vocab.itos, dim)

    def save(self, folder: str | Path) -> None:
        """Write `torchtext.json` in `folder`, whole or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_whole(Path(folder) / _FILE, json.dumps({"format": _FORMAT, "words": self.vocabulary}, indent=0))

    @classmethod
    def load(cls, folder: str | Path) -> TorchtextTokenizer:
        """The tokenizer saved in `folder`; it encodes as the saved one did.

        Raises:
            ConfigError: no torchtext 0.6.
            StorageError: no `torchtext.json`, a damaged one, or one of another kind.
        """
        path = Path(folder) / _FILE
        try:
            saved = parsed(read_whole(path))
        except ValueError as error:
            raise StorageError(f"{path} is damaged: {error}") from error
        words = saved.get("words") if isinstance(saved, dict) and saved.get("format") == _FORMAT else None
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise StorageError(f"{path} was not saved by TorchtextTokenizer")
        if tuple(words[:2]) != SPECIAL_WORDS or len(set(words)) < len(words):
            raise StorageError(f"{path} is damaged: its words repeat, or do not begin with {SPECIAL_WORDS}")
        return cls(import_torchtext().vocab.Vocab(Counter(), specials=words))


def _text_field() -> Any:
    return import_torchtext().data.Field(lower=True, tokenize="basic_english")
