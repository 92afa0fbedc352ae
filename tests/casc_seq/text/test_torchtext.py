import json
import random
import runpy
import ssl
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.errors import ConfigError, DataError, InputError, StorageError
from casc_seq.text import torchtext as torchtext_pipeline
from casc_seq.text.tokenizer import PAD, UNKNOWN
from casc_seq.text.torchtext import TorchtextTokenizer
from casc_seq.text.torchtext_batches import bucket_iterator_batches

TEXTS = ["The cup is won, they said!", "Shares fell; the club (in debt) said", "the cup the shares"]


def test_torchtext_missing_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtext", None)
    for call in (lambda: TorchtextTokenizer.train(TEXTS), lambda: bucket_iterator_batches([[1]], [0], 1)):
        with pytest.raises(ConfigError, match=r"pip install 'casc\[torchtext\]'"):
            call()


def test_importing_the_module_does_not_import_torchtext(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtext", None)
    assert "TorchtextTokenizer" in runpy.run_path(torchtext_pipeline.__file__)


def test_another_torchtext_is_refused(monkeypatch):
    class Later:
        __version__ = "0.18.0"
        data = object()

    monkeypatch.setitem(sys.modules, "torchtext", Later())
    with pytest.raises(ConfigError, match=r"0\.18\.0"):
        torchtext_pipeline.import_torchtext()


class TestWithTorchtext:
    @pytest.fixture(autouse=True)
    def _torchtext(self):
        pytest.importorskip("torchtext", reason="torchtext 0.6 is an optional extra")

    @pytest.fixture
    def tokenizer(self):
        return TorchtextTokenizer.train(TEXTS, min_count=1)

    def test_vocabulary_is_that_of_torchtext_with_padding_first(self, tokenizer):
        assert tokenizer.vocabulary[:6] == ["<pad>", "<unk>", "the", "cup", "said", "shares"]
        assert TorchtextTokenizer.train(TEXTS, max_words=1).vocabulary == ["<pad>", "<unk>", "the"]
        assert tokenizer.vocabulary_size == len(tokenizer.vocabulary)

    def test_encoding(self, tokenizer):
        the, cup = 2, 3
        assert tokenizer.encode(["The CUP", "", b"\xff", "the new cup", "the <pad>"]) == [
            [the, cup],
            [UNKNOWN],
            [UNKNOWN],
            [the, UNKNOWN, cup],
            [the, UNKNOWN],
        ]
        assert tokenizer.encode(["the " * 500])[0] == [the] * 200
        assert tokenizer.words(tokenizer.encode(["won!"])[0]) == ["won", "!"]

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.text(), max_size=4))
    def test_save_and_load_round_trip(self, tmp_path_factory, texts):
        folder = tmp_path_factory.mktemp("saved")
        tokenizer = TorchtextTokenizer.train([*TEXTS, *texts], min_count=1)
        tokenizer.save(folder)
        loaded = TorchtextTokenizer.load(folder)
        assert loaded.vocabulary == tokenizer.vocabulary
        assert loaded.encode([*texts, "never seen"]) == tokenizer.encode([*texts, "never seen"])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "cannot read"),
            ("{", "damaged"),
            ("[]", "not saved by"),
            ('{"format": "other", "words": []}', "not saved by"),
            (json.dumps({"format": "casc torchtext vocabulary 1", "words": ["<unk>", "<pad>"]}), "damaged"),
            (json.dumps({"format": "casc torchtext vocabulary 1", "words": ["<pad>", "<unk>", "a", "a"]}), "repeat"),
        ],
    )
    def test_loading_what_is_not_ours(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "torchtext.json").write_text(content)
        with pytest.raises(StorageError, match=message):
            TorchtextTokenizer.load(tmp_path)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda t: t.encode("one text"), InputError, "pass a list"),
            (lambda t: t.encode(["a"], max_len=0), ConfigError, "max_len"),
            (lambda t: t.words([99]), InputError, "number 99"),
            (lambda t: t.train(["a b"]), InputError, "occurs 2 times"),
            (lambda t: t.train(["a"], max_words=0), ConfigError, "max_words"),
        ],
    )
    def test_bad_calls(self, tokenizer, call, error, message):
        with pytest.raises(error, match=message):
            call(tokenizer)

    def test_vectors_are_those_of_torchtext(self, tokenizer, tmp_path, monkeypatch):
        import torchtext

        path = tmp_path / "glove.txt"
        path.write_text("the 1 2 3\ncup -0.5 1e-3 7\nunseen 9 9 9\n")
        # torchtext replaces this for the whole process; put back after the test
        monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_default_https_context)
        expected = torchtext.vocab.Vectors("glove.txt", cache=str(tmp_path)).get_vecs_by_tokens(tokenizer.vocabulary)
        assert torch.equal(tokenizer.vectors(path, dim=3), expected)

    def test_a_wrong_line_of_vectors(self, tokenizer, tmp_path):
        path = tmp_path / "glove.txt"
        path.write_text("the 1 2 3\ncup 1 2\n")
        with pytest.raises(DataError, match=r"glove\.txt, line 2"):
            tokenizer.vectors(path, dim=3)

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), min_size=1, max_size=30),
        st.integers(1, 7),
        st.none() | st.integers(0, 3),
    )
    def test_batches_partition_the_data(self, encoded, batch_size, seed):
        labels = list(range(len(encoded)))
        batches = bucket_iterator_batches(encoded, labels, batch_size, seed)
        made = list(batches)
        assert len(made) == len(batches)
        assert sorted(index for batch in made for index in batch.index.tolist()) == labels
        for batch in made:
            assert torch.equal(batch.labels, batch.index)
            assert batch.lengths.tolist() == sorted(batch.lengths.tolist(), reverse=True)
            for row, length, index in zip(
                batch.tokens.tolist(), batch.lengths.tolist(), batch.index.tolist(), strict=True
            ):
                assert row == encoded[index] + [PAD] * (len(row) - length)

    def test_a_seed_decides_the_order_and_leaves_random_alone(self):
        encoded = [[1] * (1 + number % 7) for number in range(100)]
        state = random.getstate()
        orders = [
            [batch.index.tolist() for batch in bucket_iterator_batches(encoded, [0] * 100, 8, seed)]
            for seed in (1, 1, 2)
        ]
        assert orders[0] == orders[1] != orders[2]
        assert random.getstate() == state

    def test_bad_batches(self):
        with pytest.raises(InputError, match="no texts"):
            bucket_iterator_batches([], [], 4)
