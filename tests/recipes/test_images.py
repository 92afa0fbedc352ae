"""Which source is taken, the hub, and what a set of images is."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import rows, write_cifar10, write_cifar100, write_npz
from image_recipes.image_set import ImageSet
from image_recipes.images import load_images
from PIL import Image

from casc_core.errors import ConfigError, DataError
from casc_lab import hub

pytestmark = pytest.mark.usefixtures("no_network_and_no_cache")


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
