import csv
import gzip
import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.errors import DataError
from casc_lab import hub
from casc_seq.text.data import load_corpus

GOOD = "1,a b,c\n2,d\n"


@pytest.fixture(autouse=True)
def _no_network_and_no_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CASC_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refused at once


def write(folder, train=GOOD, test=GOOD, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"train.csv": train, "test.csv": test, **files}.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder(tmp_path):
    corpus = load_corpus(write(tmp_path / "news", **{"classes.txt": "World\nSports\nEmpty\n"}))
    assert corpus.train.texts == ["a b c", "d"]
    assert corpus.train.labels == [0, 1]
    assert len(corpus.test) == 2
    assert corpus.classes == ("World", "Sports", "Empty")
    assert corpus.source == "folder news: 2 training and 2 test texts, 3 classes"
    assert corpus.notice is None


def test_class_names_given_or_made_up(tmp_path):
    folder = str(write(tmp_path / "news"))
    assert load_corpus(folder).classes == ("class 1", "class 2")
    assert load_corpus(folder, classes=["x", "y"]).classes == ("x", "y")


def test_gzip_quotes_line_breaks_byte_order_mark_and_foreign_bytes(tmp_path):
    train = gzip.compress(b'\xef\xbb\xbf"1","say ""hi"", then\r\nleave"\r\n2,caf\xe9\r\n')
    folder = write(tmp_path / "news", train=None, **{"train.csv.gz": train})
    assert load_corpus(folder).train.texts == ['say "hi", then\r\nleave', "caf�"]


@pytest.mark.parametrize("place", ["", "ag_news"])
def test_environment_variable_names_the_folder_or_its_parent(tmp_path, monkeypatch, place):
    write(tmp_path / "data" / place)
    monkeypatch.setenv("CASC_DATA", str(tmp_path / "data"))
    assert len(load_corpus().train) == 2


def test_a_wrong_environment_variable_is_no_reason_to_take_other_data(tmp_path, monkeypatch):
    monkeypatch.setenv("CASC_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"CASC_DATA names .*absent: there is no such folder"):
        load_corpus()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("1,a\n2\n", r"train\.csv, line 2: expected a label and a text"),
        ("1,a\n\n2,b\n", r"train\.csv, line 2: expected a label and a text; got \[\]"),
        ("label,text\n1,a\n", r"train\.csv, line 1: .*'label' \(remove a header line\)"),
        ("1,a\n0,b\n", r"train\.csv, line 2: label 0 is out of range"),
        ("1,a\n-1,b\n", r"train\.csv, line 2: expected a label"),
        ("1,a\n1.0,b\n", r"train\.csv, line 2: expected a label"),
        ("1,a\n9,b\n", r"train\.csv, line 2: label 9, but no text has label 2"),
        ('1,"a\nb\nc"\n2,x\nz,b\n', r"train\.csv, line 5: expected a label"),
        ('1,a\n2,"open\n1,b\n', r"train\.csv, line 2: malformed CSV .*is a quote not closed"),
        ('1,a\n2,"b"c\n', r"train\.csv, line 2: malformed CSV"),
        ("", r"train\.csv is empty"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, train, message):
    with pytest.raises(DataError, match=message):
        load_corpus(write(tmp_path / "news", train=train))


def test_a_single_class(tmp_path):
    with pytest.raises(DataError, match="there must be two or more"):
        load_corpus(write(tmp_path / "news", train="1,a\n", test="1,b\n"))


def test_a_label_of_the_test_set_out_of_range(tmp_path):
    with pytest.raises(DataError, match=r"test\.csv, line 2: label 3 is out of range; labels are 1\.\.2"):
        load_corpus(write(tmp_path / "news", test="1,a\n3,b\n"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": None}, "holds no train.csv"),
        ({"test.csv": None}, "holds no test.csv"),
        ({"classes.txt": "World\nWorld\n"}, "classes.txt: expected two or more different"),
        ({"classes.txt": "World\n\n"}, "classes.txt: expected two or more different"),
        ({"train.csv": None, "train.csv.gz": b"1,a\n"}, r"train\.csv\.gz, after line 0: damaged"),
    ],
)
def test_files_missing_or_wrong(tmp_path, files, message):
    files = {"train": files.pop("train.csv", GOOD), "test": files.pop("test.csv", GOOD), **files}
    with pytest.raises(DataError, match=message):
        load_corpus(write(tmp_path / "news", **files))


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_gzip(tmp_path, kept):
    whole = gzip.compress("".join(f"{1 + n % 2},text {n * n}\n" for n in range(3000)).encode())
    folder = write(tmp_path / "news", train=None, **{"train.csv.gz": whole[: int(kept * len(whole))]})
    with pytest.raises(DataError, match=r"train\.csv\.gz, after line \d+: damaged or truncated gzip"):
        load_corpus(folder)


@pytest.mark.parametrize("damage", [12, 40, -6])
def test_a_damaged_gzip(tmp_path, damage):
    whole = bytearray(gzip.compress(GOOD.encode() * 100))
    whole[damage] ^= 0xFF
    with pytest.raises(DataError, match=r"train\.csv\.gz, (after )?line \d"):
        load_corpus(write(tmp_path / "news", train=None, **{"train.csv.gz": bytes(whole)}))


def test_absent_folder_and_bad_names(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        load_corpus(tmp_path / "absent")
    with pytest.raises(DataError, match="there is no such folder"):
        load_corpus("./absent")
    with pytest.raises(DataError, match="two or more different class names"):
        load_corpus("sample", classes="four")
    with pytest.raises(DataError, match="a name for each"):
        load_corpus("sample", classes=["one", "two"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.lists(
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=3
            ),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_the_csv_writer_writes_is_read_back(tmp_path_factory, rows):
    folder = write(tmp_path_factory.mktemp("news"))
    with open(folder / "train.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([label, *texts] for label, texts in rows)
    train = load_corpus(folder, classes=["a", "b", "c"]).train
    assert train.labels == [label - 1 for label, _ in rows]
    assert train.texts == [" ".join(texts) for _, texts in rows]


def test_the_sample():
    corpus = load_corpus("sample")
    assert not set(corpus.train.texts) & set(corpus.test.texts)
    assert corpus.notice is None
    assert corpus.source.startswith("embedded sample: 6,000 training")


def test_without_any_data_the_sample_comes_with_a_notice(monkeypatch):
    corpus = load_corpus()
    assert corpus.train == load_corpus("sample").train
    assert "does not answer; using the embedded sample" in corpus.notice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("asked the network though told to be offline"))
    assert "HF_HUB_OFFLINE is set" in load_corpus().notice


def test_a_named_data_set_out_of_reach():
    with pytest.raises(DataError, match="no folder 'someone/news', and hub data set someone/news is not in the local"):
        load_corpus("someone/news")


class TestHub:
    """Data sets made by `datasets` itself; only the network is left out."""

    @pytest.fixture
    def published(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def publish(train, test=None, features=None, test_split="test"):
            def make(columns):
                return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)

            splits = datasets.DatasetDict({"train": make(train), test_split: make(test or train)})
            monkeypatch.setattr(hub, "hub_answers", lambda: True)
            monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)

        return publish

    def test_class_labels(self, published):
        import datasets

        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["World", "Sports"])}
        published({"text": ["a", "b"], "label": [1, 0]}, features=features)
        corpus = load_corpus("fancyzhx/ag_news")
        assert (corpus.train.texts, corpus.train.labels) == (["a", "b"], [1, 0])
        assert corpus.classes == ("World", "Sports")
        assert corpus.source == "hub data set fancyzhx/ag_news: 2 training and 2 test texts, 2 classes"
        assert load_corpus() == corpus
        assert load_corpus("fancyzhx/ag_news", classes=["x", "y"]).classes == ("x", "y")

    def test_title_and_content_join_and_numbers_or_words_are_classes(self, published):
        published(
            {"id": ["7", "8"], "category": ["b", "a"], "content": ["x", None], "title": ["t", "u"]},
            test_split="validation",
        )
        corpus = load_corpus("someone/pages")
        assert (corpus.train.texts, corpus.train.labels, corpus.classes) == (["t x", "u "], [1, 0], ("a", "b"))
        assert "validation split as test" in corpus.source
        published({"label": [10, 2], "tweet": ["x", "y"]})
        assert load_corpus("tweets").classes == ("2", "10")

    def test_columns_can_be_named(self, published):
        published({"headline": ["a", "b"], "body": ["c", "d"], "kind": ["x", "y"], "label": [0, 1]})
        corpus = load_corpus("someone/pages", text_column="body", label_column="kind")
        assert (corpus.train.texts, corpus.classes) == (["c", "d"], ("x", "y"))

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({"headline": ["a"], "body": ["b"], "label": [0]}, {}, "headline, body, label; pass text_column"),
            ({"text": ["a"], "score": [0.5]}, {}, "text, score; pass label_column"),
            ({"text": ["a"], "label": [0]}, {"text_column": "body"}, "no column 'body'; it has text, label"),
            ({"text": ["a", "b"], "label": [0, None]}, {}, "column 'label' has missing"),
            ({"text": ["a"], "label": [[0, 1]]}, {}, "column 'label' has missing, mixed or several"),
        ],
    )
    def test_columns_that_cannot_be_used(self, published, columns, options, message):
        published(columns)
        with pytest.raises(DataError, match=message):
            load_corpus("someone/pages", **options)

    def test_labels_and_splits_that_cannot_be_used(self, published):
        published({"text": ["a", "b"], "label": [0, 1]}, test={"text": ["c"], "label": [-1]})
        with pytest.raises(DataError, match="test row 0: unknown label -1"):
            load_corpus("someone/pages")
        published({"text": ["a", "b"], "label": [0, 1]}, test_split="heldout")
        with pytest.raises(DataError, match="it has train, heldout"):
            load_corpus("someone/pages")

    def test_a_data_set_that_fails_to_load(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def fail(name):
            raise RuntimeError("gated")

        monkeypatch.setattr(hub, "hub_answers", lambda: True)
        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(DataError, match="cannot be loaded: gated"):
            load_corpus("someone/pages")
        assert "cannot be loaded: gated; using the embedded sample" in load_corpus().notice

    def test_a_cached_data_set_needs_no_network(self, monkeypatch, tmp_path):
        datasets = pytest.importorskip("datasets")
        write(tmp_path / "src", train="text,label\na,0\nb,1\n", test="text,label\nc,1\n")
        cache = tmp_path / "cache"
        files = {split: str(tmp_path / "src" / f"{split}.csv") for split in ("train", "test")}
        builder = datasets.load_dataset_builder("csv", data_files=files, cache_dir=str(tmp_path / "built"))
        built = cache / "someone___pages" / "default" / "0.0.0" / "abc"
        builder.download_and_prepare(str(built))
        for file in built.glob("csv-*.arrow"):
            file.rename(built / file.name.replace("csv", "pages"))
        monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
        assert load_corpus("someone/pages").test.texts == ["c"]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CASC_DATA"), reason="CASC_DATA names no folder of real data")
def test_real_ag_news(monkeypatch):
    monkeypatch.undo()  # the environment variable back
    corpus = load_corpus()
    assert corpus.classes == ("World", "Sports", "Business", "Sci/Tech")
    assert Counter(corpus.train.labels) == {0: 19_827, 1: 20_033, 2: 19_886, 3: 20_450}
    assert Counter(corpus.test.labels) == dict.fromkeys(range(4), 1_900)
    assert not set(corpus.train.texts) & set(corpus.test.texts)


def test_the_marker_task_needs_memory():
    corpus = load_corpus("markers")
    assert (len(corpus.train), len(corpus.test), corpus.classes) == (4000, 1000, ("red last", "blue last"))
    assert corpus.source.startswith("the marker task: 4,000 training and 1,000 test texts")
    for text, label in zip(corpus.test.texts, corpus.test.labels, strict=True):
        words = text.split()
        red, blue = words.index("red"), words.index("blue")
        assert (red > blue) == (corpus.classes[label] == "red last")
        assert len(words) - 1 - max(red, blue) >= 25
