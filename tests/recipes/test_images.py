import gzip
import io
import os
import pickle
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from cnn import images as images_module
from cnn.image_set import ImageSet
from cnn.images import load_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from casc_core.errors import ConfigError, DataError
from casc_core.experiment import hub

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(autouse=True)
def _no_network_and_no_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CASC_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refused at once


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def batch(count, seed=0):
    return {"batch_label": "a batch", "labels": [n % 10 for n in range(count)], "data": rows(count, seed)}


def write_cifar10(folder, count=10, protocol=2, **changed):
    """The published layout; `changed` replaces the content of files, bytes as they are."""
    home = folder / "cifar-10-batches-py"
    home.mkdir(parents=True, exist_ok=True)
    files = {f"data_batch_{n}": batch(count, n) for n in range(1, 6)}
    files |= {"test_batch": batch(count, 6), "batches.meta": {"label_names": CIFAR10, "num_vis": 3072}} | changed
    for name, content in files.items():
        if content is not None:
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
            (home / name).write_bytes(data)
    return folder


def write_cifar100(folder, count=100):
    home = folder / "cifar-100-python"
    home.mkdir(parents=True)
    names = [f"kind {n}" for n in range(100)]
    content = {"data": rows(count), "fine_labels": list(range(100)), "coarse_labels": [0] * 100}
    for name, value in {"train": content, "test": content, "meta": {"fine_label_names": names}}.items():
        (home / name).write_bytes(pickle.dumps(value, protocol=2))
    return folder


def write_npz(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rows(4).reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.array([0, 99, 5, 5])
    arrays = {
        "x_train": pixels,
        "y_train": labels,
        "coarse_train": labels,
        "x_test": pixels,
        "y_test": labels,
    } | changed
    np.savez(folder / "cifar100.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder


def write_pictures(folder, test="test", classes=("cat", "dog"), size=(5, 4), mode="RGB", suffix="png", each=2):
    generator = np.random.default_rng(1)
    for split in ("train", test):
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / split / name / f"{number}.{suffix}")
    return folder


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10_as_published(tmp_path, place, protocol):
    data = load_images(write_cifar10(tmp_path / "data", protocol=protocol) / place)
    expected = np.concatenate([rows(10, n) for n in range(1, 6)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.train.labels.tolist() == [*range(10)] * 5
    np.testing.assert_array_equal(data.test.images, rows(10, 6).reshape(-1, 3, 32, 32))
    assert data.classes == tuple(CIFAR10)
    assert data.source == "CIFAR-10: 50 training and 10 test images of 32x32, 10 classes"
    assert data.notice is None
    scaled = expected.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(data.mean, scaled.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std(axis=1), rtol=1e-12)


def pickled_by_python_2(count):
    """A batch, byte for byte as Python 2 wrote the published ones: texts and array data as its 8-bit strings."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    data = rows(count).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01K"
        + bytes([count]) + b"M\x00\x0c\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([n % 10]) for n in range(count)) + b"e"
    return b"\x80\x02}(" + text(b"labels") + labels + text(b"data") + array + b"u."


def test_the_pickles_of_python_2(tmp_path):
    folder = write_cifar10(tmp_path, test_batch=pickled_by_python_2(7))
    np.testing.assert_array_equal(load_images(folder).test.images, rows(7).reshape(-1, 3, 32, 32))


def test_cifar100_as_published(tmp_path):
    data = load_images(write_cifar100(tmp_path), "cifar100")
    assert data.train.labels.tolist() == list(range(100))
    assert data.classes[7] == "kind 7"
    assert data.source.startswith("CIFAR-100: 100 training and 100 test")


@pytest.mark.parametrize("inside", [False, True])
def test_the_archive_is_read_in_memory(tmp_path, inside):
    write_cifar10(tmp_path / "files")
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "files" / "cifar-10-batches-py", "cifar-10-batches-py")
    assert len(load_images(tmp_path / "data" if inside else archive).train) == 50
    assert os.listdir(tmp_path / "data") == ["cifar-10-python.tar.gz"]
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: damaged or truncated archive"):
        load_images(archive)
    archive.write_bytes(gzip.compress(b"no tar" * 999))
    with pytest.raises(DataError, match="damaged or truncated archive"):
        load_images(archive)


def test_an_archive_of_something_else(tmp_path):
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other/file"), io.BytesIO())
    with pytest.raises(
        DataError, match=r"some\.tar\.gz: it holds no cifar-10-batches-py/batches\.meta; is it the arch"
    ):
        load_images(tmp_path / "some.tar.gz")


def test_npz(tmp_path):
    data = load_images(write_npz(tmp_path), "cifar100")
    np.testing.assert_array_equal(data.test.images, rows(4).reshape(-1, 3, 32, 32))
    assert [data.classes[label] for label in data.train.labels] == ["apple", "worm", "bed", "bed"]
    assert len(set(data.classes)) == 100
    assert data.classes == tuple(sorted(data.classes))
    assert len(load_images(tmp_path / "cifar100.npz", "cifar100").test) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, r"cifar100\.npz: it holds no y_test; it has x_train, "),
        ({"x_test": np.zeros((4, 28, 28), np.uint8)}, r"x_test: expected images, .*got uint8 \(4, 28, 28\)"),
        ({"x_test": np.zeros((4, 32, 32, 3))}, r"x_test: expected images, .*got float64"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, "x_test: it holds no image"),
        ({"y_test": np.array([0, 1, 2])}, "y_test: 4 images, but 3 labels"),
        ({"y_test": np.array([0, 1, 2, 100])}, r"y_test, image 3: label 100 is out of range; labels are 0\.\.99"),
        ({"y_test": np.array([0.0, 1, 2, 3])}, "y_test: expected a list of labels"),
        ({"y_test": np.array([0, "a", 2, 3], object)}, "damaged, truncated or not plain arrays"),
    ],
)
def test_a_bad_npz(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        load_images(write_npz(tmp_path, **changed), "cifar100")


def test_a_truncated_npz(tmp_path):
    file = write_npz(tmp_path) / "cifar100.npz"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cifar100\.npz: damaged"):
        load_images(tmp_path, "cifar100")
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match=r"cifar100\.npz: damaged"):
        load_images(tmp_path, "cifar100")


# --- pickles -----------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, what, *arguments):
        self.call = what, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        (Malicious(os.system, "touch HERE"), r"\w+\.system"),
        (Malicious(eval, "open('HERE', 'w')"), r"(__builtin__|builtins)\.eval"),
        (Malicious(open, "HERE", "w"), r"\w+\.open"),
        (Malicious(os.mkdir, "HERE"), r"\w+\.mkdir"),
        (Malicious(getattr, [], "append"), r"(__builtin__|builtins)\.getattr"),
    ],
    ids=["os.system", "eval", "open", "os.mkdir", "getattr"],
)
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch, what, named, protocol):
    folder = write_cifar10(tmp_path / "data", data_batch_3={"data": what, "labels": []}, protocol=protocol)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError, match=rf"data_batch_3: it asks for {named}, which .* nothing was run"):
        load_images(folder)
    assert not os.listdir(tmp_path / "empty")


def pickled_array(array):
    return pickle.dumps({"data": array, "labels": [0]}, protocol=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled_array(np.array([print], object)), "asks for an array of 'O8'"),
        (pickled_array(np.zeros(3)), "asks for an array of 'f8'"),
        (pickled_array(np.zeros(2, [("a", "u1")])), "asks for an array of"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "asks for the encoding 'rot13'"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "damaged or truncated pickle"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n.", "asks for numpy.matrix"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.tofile.x\x93.", "asks for numpy.ndarray.tofile.x"),
        (b"cos\nsystem\n.", "asks for os.system"),
        (b"", "damaged or truncated pickle"),
        (pickle.dumps(batch(3))[:900], "damaged or truncated pickle"),
        (b"no pickle", "damaged or truncated pickle"),
        (pickle.dumps([1, 2]), r"expected a dictionary; got \[1, 2\]"),
        (pickle.dumps({b"data": 1}), "expected a dictionary"),
        (pickle.dumps({"data": 1}), "expected the keys 'data' and 'labels'; it has"),
        (pickle.dumps({"data": 1, "labels": []}), "expected images, .*; got a int"),
        (pickle.dumps(batch(3) | {"labels": [0, 1]}, 2), "3 images, but 2 labels"),
        (pickle.dumps(batch(3) | {"labels": [0, 1, 10]}, 2), r"image 2: label 10 is out of range; labels are 0\.\.9"),
        (pickle.dumps(batch(3) | {"labels": [0, 1, -1]}, 2), "image 2: label -1 is out of range"),
        (pickle.dumps(batch(3) | {"labels": [0, 1, "2"]}, 2), "expected a list of labels"),
        (pickle.dumps({"data": rows(3)[:, :5], "labels": [0]}, 2), r"expected images, .*; got uint8 \(3, 5\)"),
    ],
)
def test_a_bad_pickle_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"cifar-10-batches-py/test_batch.*{message}"):
        load_images(write_cifar10(tmp_path, test_batch=content))


def test_reading_leaves_numpys_own_types_alone(tmp_path):
    state = b"(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    dtype = b"\x80\x02cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R" + state + b"b."
    with pytest.raises(DataError, match="expected a dictionary"):
        load_images(write_cifar10(tmp_path, test_batch=dtype))
    assert np.dtype("u1") == np.uint8
    assert pickle.loads(pickle.dumps(np.zeros(2, np.uint8))).dtype == np.uint8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_batch_3": None}, r"cannot read .*data_batch_3: No such file"),
        ({"batches.meta": None}, r"cannot read .*batches\.meta: No such file"),
        (
            {"batches.meta": {"label_names": CIFAR10[:9]}},
            r"batches\.meta: expected a list of 10 class names under 'label",
        ),
        ({"batches.meta": {}}, r"batches\.meta: .*; got None"),
    ],
)
def test_cifar_files_missing_or_wrong(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        load_images(write_cifar10(tmp_path, **changed))


# --- folders of images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["test", "val", "valid"])
@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("L", "png"), ("P", "PNG"), ("RGBA", "png"), ("L", "jpg")]
)
def test_image_folders(tmp_path, test, mode, suffix):
    folder = write_pictures(tmp_path / "pets", test, mode=mode, suffix=suffix)
    data = load_images(str(folder))
    assert data.train.images.shape == (4, 3, 4, 5)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.classes == ("cat", "dog")
    assert data.source == "folder pets: 4 training and 4 test images of 5x4, 2 classes"
    with Image.open(folder / "train" / "dog" / f"0.{suffix}") as image:
        np.testing.assert_array_equal(data.train.images[2].permute(1, 2, 0), np.asarray(image.convert("RGB")))
    assert load_images(folder, size=6).test.images.shape == (4, 3, 6, 6)


def test_image_folders_of_different_sizes(tmp_path):
    folder = write_pictures(tmp_path)
    Image.new("RGB", (9, 3)).save(folder / "train" / "dog" / "5.png")
    with pytest.raises(DataError, match=r"dog/5\.png is 9x3, but .*cat/0\.png is 5x4; pass size="):
        load_images(folder)
    assert load_images(folder, size=8).train.images.shape == (5, 3, 8, 8)
    (folder / "train" / "dog" / "5.png").unlink()
    for file in folder.glob("test/*/*.png"):
        Image.new("RGB", (9, 3)).save(file)
    with pytest.raises(DataError, match="training images are 5x4, test images 9x3; pass size="):
        load_images(folder)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "cut"])
def test_a_damaged_image_is_named(tmp_path, content):
    file = write_pictures(tmp_path, size=(40, 40)) / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:1500] if content == "cut" else content)
    with pytest.raises(DataError, match=r"dog/1\.png: missing, damaged or not an image"):
        load_images(tmp_path)


def test_image_folders_that_cannot_be_used(tmp_path):
    folder = write_pictures(tmp_path / "a")
    shutil.rmtree(folder / "test" / "dog")
    with pytest.raises(DataError, match=r"train has 2 classes and .*test has 1, which differ: 'dog' is in train only"):
        load_images(folder)
    (folder / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"test/dog: it holds no image"):
        load_images(folder)
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    with pytest.raises(DataError, match=r"test: it has no subfolder; expected one for each class"):
        load_images(folder)
    Image.new("RGB", (2, 2)).save(folder / "test" / "lonely.png")
    with pytest.raises(DataError, match=r"images such as lonely\.png lie in it directly"):
        load_images(folder)
    with pytest.raises(DataError, match="there must be two or more"):
        load_images(write_pictures(tmp_path / "b", classes=["cat"]))


# --- which source ------------------------------------------------------------------------------------------------


def test_a_folder_without_a_known_layout_says_what_is_expected(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar10_images.xz").write_bytes(b"packed")
    for folder in (tmp_path, tmp_path / "cifar10"):
        with pytest.raises(
            DataError, match=r"no images in a known layout; expected cifar-10-batches-py/ \(or cifar-10-"
        ):
            load_images(folder)
    with pytest.raises(DataError, match=r"expected cifar-100-python/ .* or cifar100\.npz"):
        load_images(tmp_path, "cifar100")
    with pytest.raises(DataError, match="it holds CIFAR-100, not CIFAR-10; ask for 'cifar100'"):
        load_images(write_npz(tmp_path / "other"))
    with pytest.raises(DataError, match="there is no such folder"):
        load_images(tmp_path / "absent")
    with pytest.raises(DataError, match="there is no such folder"):
        load_images("./absent")


@pytest.mark.parametrize("place", ["", "cifar10"])
def test_the_environment_variable_names_the_folder_or_its_parent(tmp_path, monkeypatch, place):
    write_cifar10(tmp_path / place)
    write_cifar100(tmp_path / "cifar100")
    monkeypatch.setenv("CASC_DATA", str(tmp_path))
    assert load_images().source.startswith("CIFAR-10:")
    assert load_images(name="cifar100").source.startswith("CIFAR-100:")
    monkeypatch.setenv("CASC_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"CASC_DATA names .*absent: there is no such folder"):
        load_images()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar"}, "unknown data set 'cifar'; choose one of cifar10, cifar100"),
        ({"size": 0}, "size must be at least 1; got 0"),
        ({"limit_train": 0}, "limit_train must be at least 1; got 0"),
        ({"limit_test": -1}, "limit_test must be at least 1; got -1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        load_images("digits", **options)


def test_digits():
    data = load_images("digits")
    assert data.train.images.shape == (1437, 3, 16, 16)
    assert data.test.images.shape == (360, 3, 16, 16)
    counts = torch.stack([part.labels.bincount() for part in (data.train, data.test)])
    assert counts.sum(dim=0).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert counts[1].min() >= 35
    assert data.notice is None
    assert torch.equal(load_images("digits").train.images, data.train.images)
    assert data.mean[0] == data.mean[1] == data.mean[2]
    original = load_images("digits", size=8).train.images
    assert original.max() == 255
    assert set(original.unique().tolist()) <= set(np.rint(np.arange(17) * 255 / 16).astype(int).tolist())


def test_without_any_data_the_digits_come_with_a_notice(monkeypatch):
    data = load_images(name="cifar100")
    assert data.source.startswith("scikit-learn digits")
    assert "hub data set uoft-cs/cifar100 is not in the local cache, and the hub does not answer" in data.notice
    assert (
        "which are not CIFAR-100. For real images set CASC_DATA, or pass a folder with cifar-100-python" in data.notice
    )
    with pytest.raises(DataError, match="no folder 'someone/pets', and hub data set someone/pets is not in the local"):
        load_images("someone/pets")


def test_scikit_learn_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'casc\[digits\]'"):
        load_images("digits")


class TestHub:
    """Data sets made by `datasets` itself; only the network is left out."""

    @pytest.fixture
    def published(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def publish(label="label", image="img", labels=(1, 0, 1), test_split="test", names=("cat", "dog"), size=(4, 4)):
            features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
            pixels = rows(3)[:, : 3 * size[0] * size[1]].reshape(3, size[1], size[0], 3)
            columns = {image: [Image.fromarray(one) for one in pixels], label: list(labels)}
            whole = datasets.Dataset.from_dict(columns, features=features)
            splits = datasets.DatasetDict({"train": whole, test_split: whole})
            asked = []
            monkeypatch.setattr(hub, "hub_answers", lambda: True)
            monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or splits)
            return pixels, asked

        return publish

    @pytest.mark.parametrize(("name", "label"), [("cifar10", "label"), ("cifar100", "fine_label")])
    def test_cifar(self, published, name, label):
        pixels, asked = published(label)
        data = load_images(name=name)
        np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1), pixels)
        assert data.train.labels.tolist() == [1, 0, 1]
        assert data.classes == ("cat", "dog")
        assert data.source == f"hub data set uoft-cs/{name}: 3 training and 3 test images of 4x4, 2 classes"
        load_images(name)
        load_images(f"uoft-cs/{name}")
        assert asked == [f"uoft-cs/{name}"] * 3

    def test_any_other(self, published):
        published("species", "photo", test_split="validation", size=(6, 4))
        data = load_images("someone/pets", size=8)
        assert data.train.images.shape == (3, 3, 8, 8)
        assert "(validation split as test)" in data.source

    def test_that_cannot_be_used(self, published, monkeypatch):
        published(test_split="heldout")
        with pytest.raises(DataError, match="expected the splits train and test; it has train, heldout"):
            load_images("someone/pets")
        published(labels=(0, 1, -1))
        with pytest.raises(DataError, match="train row 2: unknown label -1"):
            load_images("someone/pets")
        import datasets

        texts = datasets.DatasetDict(dict.fromkeys(("train", "test"), datasets.Dataset.from_dict({"text": ["a"]})))
        monkeypatch.setattr(datasets, "load_dataset", lambda name: texts)
        with pytest.raises(DataError, match="it has no column of images; its columns are text"):
            load_images("someone/pets")

    def test_a_damaged_picture(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        columns = {"img": [{"bytes": b"no image", "path": None}], "label": [0]}
        whole = datasets.Dataset.from_dict(columns, features=features)
        monkeypatch.setattr(hub, "hub_answers", lambda: True)
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=whole, test=whole))
        with pytest.raises(DataError, match="someone/pets, train: an image is damaged"):
            load_images("someone/pets")


# --- sets of images ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 45))
def test_limits_are_balanced_and_take_the_first(labels, limit):
    marks = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    whole = ImageSet(marks, torch.tensor(labels))
    few = whole.balanced(limit)
    assert len(few) == min(limit, len(labels))
    chosen = few.images[:, 0, 0, 0].tolist()
    assert chosen == sorted(chosen)
    counts, sizes = few.labels.bincount(minlength=5), whole.labels.bincount(minlength=5)
    assert all(count == size or count >= counts.max() - 1 for count, size in zip(counts, sizes, strict=True))
    for label in range(5):  # of each class, its first
        of_class = [place for place, one in enumerate(labels) if one == label]
        assert [place for place in chosen if labels[place] == label] == of_class[: counts[label]]
    assert torch.equal(whole.balanced(limit).images, few.images)


def test_limits(tmp_path):
    data = load_images(write_cifar10(tmp_path), limit_train=20, limit_test=5)
    assert data.train.labels.bincount().tolist() == [2] * 10
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.source == "CIFAR-10: 20 of 50 training and 5 of 10 test images of 32x32, 10 classes"
    assert len(load_images(tmp_path, limit_train=1000).train) == 50


def test_resizing(tmp_path):
    data = load_images(write_cifar10(tmp_path), size=16)
    assert data.train.images.shape == (50, 3, 16, 16)
    flat = ImageSet(torch.full((2, 3, 4, 6), 77, dtype=torch.uint8), torch.tensor([0, 1]))
    assert flat.resized(9).images.unique().tolist() == [77]
    assert flat.resized(None) is flat


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), "uint8.*got torch.float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), r"got torch.uint8 \[2, 1, 4, 4\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0]), r"labels must be int64 \[2\]; got .*\[1\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0.0, 1.0]), "labels must be int64"),
    ],
)
def test_what_a_set_of_images_is(images, labels, message):
    with pytest.raises(DataError, match=message):
        ImageSet(images, labels)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CASC_DATA"), reason="CASC_DATA names no folder of real data")
def test_real_cifar10(monkeypatch):
    monkeypatch.undo()  # the environment variable back
    try:
        data = load_images()
    except DataError as error:
        pytest.skip(str(error))
    assert data.source == "CIFAR-10: 50,000 training and 10,000 test images of 32x32, 10 classes"
    assert data.classes == tuple(CIFAR10)
    assert data.train.labels.bincount().tolist() == [5_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    assert [round(value, 4) for value in data.mean] == [0.4914, 0.4822, 0.4465]
    assert [round(value, 4) for value in data.std] == [0.2470, 0.2435, 0.2616]
    assert images_module.HUB["cifar10"] == "uoft-cs/cifar10"
