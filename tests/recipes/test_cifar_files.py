"""CIFAR as published, and as npz: read as data alone, damaged files named."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from image_files import CIFAR10, batch, rows, write_cifar10, write_cifar100, write_npz
from image_recipes import images as images_module
from image_recipes.images import load_images

from casc_core.errors import DataError

pytestmark = pytest.mark.usefixtures("no_network_and_no_cache")


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
