import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.errors import ConfigError, DataError, InputError, StorageError
from casc_seq.text.tokenizer import PAD, UNKNOWN, WordTokenizer, read_vectors, repair

TEXTS = ["The cup is won, the U.S. said.", "Shares of the club fell 3.5 percent", "the cup the shares"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.train(TEXTS, min_count=1)


@pytest.mark.parametrize(
    ("raw", "repaired"),
    [
        ("world #39;s can&#39;t", "world 's can't"),
        ("a  #36;10 and \\$5", "a  $10 and  $5"),
        ("&lt;b&gt;...&lt;/b&gt;", " ... "),
        ('Corp. &lt;A HREF="http://x.y/?a=1"&gt;ZLC.N&lt;/A&gt; up', "Corp.  ZLC.N  up"),
        ("lt;strong gt;", "<strong >".replace("<strong >", " ")),
        ("ticker &lt;KMRT.O&gt;", "ticker <KMRT.O>"),
        ("a second\\team", "a second team"),
        ("AT amp;T &amp; lamp; on", "AT &T & lamp; on"),
        (" #147;Hi #148;  #151; he", ' "Hi "  — he'),
        ("ranked #1; then", "ranked #1; then"),
        ("a < b; c > d", "a < b; c > d"),
    ],
)
def test_repair(raw, repaired):
    assert repair(raw) == repaired


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("U.S. and E.U. agreed.", ["u.s.", "and", "e.u.", "agreed", "."]),
        ("1,000.5 or 3-1", ["1,000.5", "or", "3", "-", "1"]),
        ("world #39;s can't", ["world", "'s", "can", "'t"]),
        ("CAFÉ ﬁne", ["café", "fine"]),
        ("a_b $5%", ["a", "_", "b", "$", "5", "%"]),
        ("\t\n  ", ["<unk>"]),
    ],
)
def test_words_are_split_and_normalised(text, words):
    trained = WordTokenizer.train([text, "x"], min_count=1)
    assert trained.words(trained.encode([text])[0]) == words


def test_numbers_go_by_frequency_then_alphabet(tokenizer):
    assert tokenizer.vocabulary[:5] == ["<pad>", "<unk>", "the", "cup", "shares"]
    assert tokenizer.vocabulary[5:] == sorted(tokenizer.vocabulary[5:])
    assert tokenizer.vocabulary_size == len(tokenizer.vocabulary)


def test_training_does_not_depend_on_hash_seeds_or_order(tokenizer):
    code = f"from casc_seq.text.tokenizer import *; print(WordTokenizer.train({TEXTS[::-1]!r}, min_count=1).vocabulary)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == str(tokenizer.vocabulary)


def test_max_words_and_min_count_bound_the_vocabulary():
    assert WordTokenizer.train(TEXTS, max_words=2, min_count=1).vocabulary == ["<pad>", "<unk>", "the", "cup"]
    assert WordTokenizer.train(TEXTS, min_count=2).vocabulary == ["<pad>", "<unk>", "the", "cup", "shares"]


def test_hostile_texts_encode(tokenizer):
    texts = ["", b"", b"\xff\xfe cup", "\ud800 cup", "the <pad> cup", "nul\0nul", "the " * 10_000]
    encoded = tokenizer.encode(texts)
    the, cup = 2, 3
    assert encoded[:2] == [[UNKNOWN], [UNKNOWN]]
    assert encoded[2][-1] == encoded[3][-1] == cup
    assert PAD not in encoded[4]
    assert encoded[6] == [the] * 200
    assert tokenizer.encode(["the cup the"], max_len=2) == [[the, cup]]
    assert tokenizer.encode(text for text in ["cup"]) == [[cup]]
    assert tokenizer.encode([]) == []


def test_many_texts_encode_as_one_by_one(tokenizer):
    texts = [TEXTS[number % 3] * (number % 4) for number in range(5000)]
    assert tokenizer.encode(texts)[4090:4105] == [tokenizer.encode([text])[0] for text in texts[4090:4105]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text() | st.binary(), max_size=5), st.integers(1, 8))
def test_every_text_has_one_to_max_len_known_numbers(tokenizer, texts, max_len):
    encoded = tokenizer.encode(texts, max_len)
    assert len(encoded) == len(texts)
    assert all(1 <= len(ids) <= max_len for ids in encoded)
    assert all(UNKNOWN <= number < tokenizer.vocabulary_size for ids in encoded for number in ids)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_save_and_load_round_trip(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("saved")
    trained = WordTokenizer.train([*texts, "cup"], min_count=1)
    trained.save(folder)
    loaded = WordTokenizer.load(folder)
    assert loaded.vocabulary == trained.vocabulary
    assert loaded.encode(texts) == trained.encode(texts)
    assert [file.name for file in folder.iterdir()] == ["tokenizer.json"]


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        WordTokenizer.train(["other words"], min_count=1).save(tmp_path)
    assert WordTokenizer.load(tmp_path).vocabulary == tokenizer.vocabulary
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_folder(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        tokenizer.save(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"\xff\xfe\xff", "cannot read"),
        (b'{"version": "1.0", ', "damaged"),
        (b"[]", "damaged"),
        (
            b'{"version":"1.0","added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}',
            "another kind",
        ),
        (
            b'{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"<pad>":0,"<unk>":1},"merges":[]}}',
            "another",
        ),
    ],
)
def test_loading_what_is_not_ours(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(StorageError, match=message):
        WordTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.encode("one text"), InputError, "pass a list"),
        (lambda t: t.encode(["a", None]), InputError, "text 1 is a NoneType"),
        (lambda t: t.encode(["a"], max_len=0), ConfigError, "max_len .* 0"),
        (lambda t: t.words([99]), InputError, "number 99"),
        (lambda t: t.words([-1]), InputError, "number -1"),
        (lambda t: t.train([]), InputError, "no word"),
        (lambda t: t.train(["a b c"]), InputError, "occurs 2 times"),
        (lambda t: t.train(["a"], max_words=0), ConfigError, "max_words"),
        (lambda t: t.train(["a"], min_count=True), ConfigError, "min_count"),
    ],
)
def test_bad_calls(tokenizer, call, error, message):
    with pytest.raises(error, match=message):
        call(tokenizer)


def test_vectors_of_the_vocabulary(tokenizer, tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("3 2\nthe 1 2\nunseen 9 9\ncup -0.5 1e-3 \n", encoding="utf-8")
    vectors = tokenizer.vectors(path, dim=2)
    assert vectors.shape == (tokenizer.vocabulary_size, 2)
    torch.testing.assert_close(vectors[2:4], torch.tensor([[1.0, 2.0], [-0.5, 1e-3]]))
    assert not vectors[:2].any()
    assert not vectors[4:].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2\ncup 1\n", r"vectors\.txt, line 2: expected a word and 2 numbers, got 1"),
        (b"the 1 2 3\n", r"vectors\.txt, line 1: .* got 3"),
        (b"unseen 1 2\n\nthe 1 2", r"vectors\.txt, line 2: .* got 0"),
        (b"the 1 x\n", r"vectors\.txt, line 1: .*'x'"),
        (b"the 1 nan\n", r"vectors\.txt, line 1: 'nan' is not a finite number"),
        (b"the 1 2\n\xff 1 2\n", r"vectors\.txt, line 2: .*decode"),
        (b"", "is empty"),
        (None, "cannot read word vectors"),
    ],
)
def test_bad_vector_files(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_vectors(path, ["the", "cup"], dim=2)


def test_vectors_of_no_dimension(tmp_path):
    with pytest.raises(ConfigError, match="dim"):
        read_vectors(tmp_path / "any.txt", ["the"], dim=0)
