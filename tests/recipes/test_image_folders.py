"""Folders of pictures by class."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from image_files import write_pictures
from image_recipes.images import load_images
from PIL import Image

from casc_core.errors import DataError

pytestmark = pytest.mark.usefixtures("no_network_and_no_cache")


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
