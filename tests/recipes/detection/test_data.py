"""Which annotated images are taken: as published, from a folder, its splits, and drawn shapes."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from detection_recipes.annotations import Detections
from detection_recipes.data import load_detections
from detection_recipes.files import FolderFiles, JoinedFiles
from detection_recipes.shapes import drawn_shapes
from voc_files import coco_description, two_splits, write_coco, write_voc, xml

from casc_core.errors import ConfigError, DataError

BOX = xml([("cat", (1, 1, 20, 25))])


def pascal_voc(folder: Path) -> Path:
    """Both years as published, one image in each split."""
    lists = {"trainval": ["a"], "train": ["a"], "test": ["b"]}
    write_voc(folder / "VOC2007", {"a": BOX, "b": BOX}, lists)
    write_voc(folder / "VOC2012", {"c": BOX, "d": BOX}, {"trainval": ["c", "d"], "train": ["c"], "val": ["d"]})
    return folder


def check_pascal_voc(data: Detections) -> None:
    assert data.source == "PASCAL VOC 2007 and 2012: 3 training and 1 test images, 20 classes"
    assert [image.name[-5:] for image in data.train + data.test] == ["a.jpg", "c.jpg", "d.jpg", "b.jpg"]
    assert data.train[0].labels.tolist() == [7]
    assert data.train[0].boxes.tolist() == [[0.0, 0.0, 20.0, 25.0]]
    assert data.train[2].open().size == (40, 30)
    assert data.name == "voc"


@pytest.mark.parametrize("place", ["", "VOCdevkit", "voc/VOCdevkit"])
def test_voc_as_published_trains_on_both_years(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASC_DATA", str(tmp_path))
    with pytest.raises(DataError, match="it holds no VOC2007 and VOC2012"):
        load_detections("voc")
    pascal_voc(tmp_path / place)
    check_pascal_voc(load_detections("voc"))
    check_pascal_voc(load_detections(tmp_path / place))


def test_voc_in_its_tars_is_what_its_folders_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tar for 2012; two for 2007, each with a list, an image and its annotation."""
    pascal_voc(tmp_path / "VOCdevkit")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc").mkdir()
    with tarfile.open("voc/VOCtrainval_11-May-2012.tar", "w") as tar:
        tar.add("VOCdevkit/VOC2012")
    for name, image, lists in (("trainval", "a", ["trainval", "train"]), ("test", "b", ["test"])):
        with tarfile.open(f"voc/VOC{name}_06-Nov-2007.tar", "w") as tar:
            for each in lists:
                tar.add(f"VOCdevkit/VOC2007/ImageSets/Main/{each}.txt")
            tar.add(f"VOCdevkit/VOC2007/Annotations/{image}.xml")
            tar.add(f"VOCdevkit/VOC2007/JPEGImages/{image}.jpg")
    check_pascal_voc(load_detections(tmp_path / "voc"))
    shutil.copy("voc/VOCtest_06-Nov-2007.tar", "left.tar")  # beside what it was unpacked to
    check_pascal_voc(load_detections(tmp_path))
    shutil.rmtree("VOCdevkit")
    monkeypatch.setenv("CASC_DATA", str(tmp_path))
    check_pascal_voc(load_detections("voc"))


def test_files_of_several_places(tmp_path: Path) -> None:
    for part in ("one", "other"):
        (tmp_path / part / "sub").mkdir(parents=True)
        (tmp_path / part / "sub" / f"{part}.txt").write_text(part)
    joined = JoinedFiles([FolderFiles(tmp_path / "one"), FolderFiles(tmp_path / "other")], "both")
    assert joined.folders() == ["", "sub"]
    assert joined.names("sub") == {"one.txt", "other.txt"}
    assert joined.read("sub/other.txt") == b"other"
    assert joined.at("sub/other.txt") == str(tmp_path / "other/sub/other.txt")
    with pytest.raises(DataError, match=r"cannot read both:sub/none: there is no such file"):
        joined.read("sub/none")


def test_one_year_of_voc(tmp_path: Path) -> None:
    pascal_voc(tmp_path)
    data = load_detections(tmp_path / "VOC2012")
    assert data.source == "PASCAL VOC 2012: 1 training and 1 test images, 20 classes"
    assert [image.name[-5:] for image in data.train + data.test] == ["c.jpg", "d.jpg"]  # `val` is part of `trainval`
    unknown = xml([("unicorn", (1, 1, 9, 9))])
    write_voc(tmp_path / "other/VOC2007", {"a": unknown, "b": BOX}, {"trainval": ["a"], "test": ["b"]})
    with pytest.raises(DataError, match=r"a\.xml, object 1: the class 'unicorn' is not one of aeroplane"):
        load_detections(tmp_path / "other/VOC2007")


def test_images_of_both_splits_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": BOX, "b": BOX}, {"train": ["a", "b"], "test": ["b"]})
    with pytest.raises(DataError, match=r"1 of 1 test images are trained on too, such as .*b\.jpg; name splits"):
        load_detections(tmp_path)


def test_coco_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASC_DATA", str(tmp_path))
    with pytest.raises(DataError, match="it holds no annotations/"):
        load_detections("coco")
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "coco", coco_description())
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        (tmp_path / "coco/instances_all.json").rename(tmp_path / f"coco/annotations/instances_{split}.json")
        (tmp_path / "coco/images").rename(tmp_path / f"coco/{split}")
    data = load_detections("coco")
    assert data.source == "COCO: 2 training and 2 test images, 2 classes"
    assert "train2017" in data.train[0].name
    assert "val2017" in data.test[0].name
    assert data.name == "coco"
    (tmp_path / "coco/images").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / "coco" / split).rename(tmp_path / "coco/images" / split)
    assert "images/train2017" in load_detections("coco").train[0].name
    assert "images/val2017" in load_detections(tmp_path / "coco").test[0].name


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_published_data_is_looked_for_where_casc_data_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASC_DATA", raising=False)
    with pytest.raises(DataError, match="CASC_DATA names, which is not set"):
        load_detections(name)


def test_splits_are_chosen(tmp_path: Path) -> None:
    lists = {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["c"], "cat_train": ["a"]}
    write_voc(tmp_path, {"a": BOX, "b": BOX, "c": BOX}, lists)
    assert len(load_detections(tmp_path).train) == 2
    data = load_detections(tmp_path, train_split="train", test_split="val")
    assert [len(data.train), len(data.test)] == [1, 1]
    assert data.test[0].name.endswith("b.jpg")
    with pytest.raises(DataError, match="there is no split 'none'; there are test, train, trainval, val"):
        load_detections(tmp_path, train_split="none")


def test_one_split_is_divided(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(10)]
    write_voc(tmp_path, dict.fromkeys(names, BOX), {"train": names})
    data = load_detections(tmp_path)
    assert [image.name[-6:-4] for image in data.test] == ["04", "09"]
    assert len(data.train) == 8
    assert "train divided" in data.source
    assert len(load_detections(tmp_path, limit_train=3, limit_test=1).train) == 3


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"data": "no/such/place"}, DataError, "no/such/place: there is no such folder or file"),
        ({"limit_train": 0}, ConfigError, "limit_train must be at least 1; got 0"),
        ({"limit_test": -1}, ConfigError, "limit_test must be at least 1; got -1"),
    ],
)
def test_what_cannot_be_loaded(options: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        load_detections(**options)  # type: ignore[arg-type]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected it laid out as VOC"):
        load_detections(tmp_path)
    two_splits(tmp_path / "one")
    two_splits(tmp_path / "other")
    with pytest.raises(DataError, match=r"several places are \(one, other\)"):
        load_detections(tmp_path)
    (tmp_path / "none").mkdir()
    write_voc(tmp_path / "none/x", {"a": xml([])}, {"train": ["a"]})
    with pytest.raises(DataError, match="there is no box on any training image"):
        load_detections(tmp_path / "none")


def test_shapes_lie_within_their_boxes_and_do_not_touch() -> None:
    data = drawn_shapes(20, 5)
    assert {int(label) for image in data.train for label in image.labels} == {0, 1, 2}
    for image in data.train + data.test:
        bright = np.asarray(image.open()).min(axis=2) >= 140
        inside = np.zeros_like(bright)
        for left, top, right, bottom in image.boxes.int().tolist():
            assert not inside[top:bottom, left:right].any()
            inside[top:bottom, left:right] = True
            rows, columns = np.nonzero(bright[top:bottom, left:right])
            assert (rows.min(), columns.min()) == (0, 0)
            assert (rows.max(), columns.max()) == (bottom - top - 1, right - left - 1)
        assert not (bright & ~inside).any()
