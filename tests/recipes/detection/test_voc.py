"""Annotations laid out as PASCAL VOC: what is read of them, what is left out and said, and what is refused."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
from detection_recipes.annotations import LeftOut
from detection_recipes.data import load_detections
from detection_recipes.files import FolderFiles, TarFiles
from detection_recipes.voc import read
from voc_files import two_splits, write_voc, xml

from casc_core.errors import DataError


def test_boxes_classes_and_difficult_objects(tmp_path: Path) -> None:
    text = xml([("cat", (2, 3, 20, 25)), ("dog", ("10.5", 10, 30, 28))])
    write_voc(tmp_path, {"a": text, "b": xml([("dog", (1, 1, 9, 9))], difficult=1)}, {"train": ["a", "b  1"]})
    images, classes = read(FolderFiles(tmp_path), "", "train", None, LeftOut())
    assert classes == {"cat": 0, "dog": 1}
    first, second = images
    assert first.boxes.tolist() == [[2.0, 3.0, 20.0, 25.0], [10.5, 10.0, 30.0, 28.0]]
    assert first.labels.tolist() == [0, 1]
    assert first.size == first.open().size == (40, 30)
    assert not first.difficult.any()
    assert second.difficult.tolist() == [True]
    assert [len(part) for part in second.certain] == [0, 0]


def test_pixels_counted_from_one(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": xml([("cat", (1, 1, 40, 30))])}, {"train": ["a"]})
    left_out = LeftOut()
    images, _ = read(FolderFiles(tmp_path), "", "train", None, left_out, first_pixel=1)
    assert images[0].boxes.tolist() == [[0.0, 0.0, 40.0, 30.0]]
    assert not left_out.places


@pytest.mark.parametrize(
    ("box", "reason", "kept"),
    [
        ((5, 5, 5, 9), "degenerate", []),
        ((5, 9, 8, 5), "degenerate", []),
        ((41, 2, 50, 9), "outside of the image", []),
        ((-9, -9, 0, 9), "outside of the image", []),
        ((-3, 2, 50, 31), "cut at the border", [[0.0, 2.0, 40.0, 30.0]]),
    ],
)
def test_boxes_that_cannot_be_used_are_counted_and_said(
    box: tuple[int, ...], reason: str, kept: list[list[float]], tmp_path: Path
) -> None:
    two_splits(tmp_path, xml([("cat", (2, 3, 20, 25)), ("dog", box)]))
    data = load_detections(tmp_path)
    assert data.train[0].boxes.tolist()[1:] == kept
    assert len(data.notices) == 1
    assert f"1 box {reason} ({tmp_path}/Annotations/a.xml, object 2)" in data.notices[0]


def test_images_without_boxes_are_counted_and_kept(tmp_path: Path) -> None:
    some, none = xml([("cat", (2, 3, 20, 25))]), xml([])
    write_voc(tmp_path, {"a": some, "b": none, "c": some, "d": none}, {"train": ["a", "b"], "test": ["c", "d"]})
    data = load_detections(tmp_path)
    assert "2 (1 without boxes) training and 2 (1 without boxes) test images" in data.source
    assert data.train[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml([("cat", ("x", 1, 9, 9))]), "a.xml, object 1: bndbox/xmin must be a number; got 'x'"),
        (xml([("cat", ("nan", 1, 9, 9))]), "a.xml, object 1: bndbox/xmin must be a number of pixels; got 'nan'"),
        (xml([("cat", (1, 1, "inf", 9))]), "a.xml, object 1: bndbox/xmax must be a number of pixels; got 'inf'"),
        (xml([("cat", (1, 1, "", 9))]), "a.xml, object 1: bndbox/xmax is missing"),
        (xml([("cat", (1, 1, 9, 9)), ("", (1, 1, 9, 9))]), "a.xml, object 2: name is missing"),
        (xml([("cat", (1, 1, 9, 9))], size=(0, 0)), "a.xml: the image's size must be whole numbers of at least 1"),
        (xml([("cat", (1, 1, 9, 9))], size=("", 3)), "a.xml: size/width is missing"),
        ("<annotation><object></annotation>", "a.xml is not an annotation in XML"),
        ("", "a.xml is not an annotation in XML"),
        (
            xml([("cat", (1, 1, 9, 9))], before='<!DOCTYPE a [<!ENTITY b "c">]>'),
            "a.xml is not an annotation in XML (it declares a document type",
        ),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotation/>", "it declares a document type"),
        ("<annotation>" + " " * 4_000_000 + "</annotation>", "an annotation has at most 4,000,000"),
    ],
)
def test_malformed_annotations_are_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    two_splits(tmp_path, text)
    with pytest.raises(DataError, match=re.escape(message)):
        load_detections(tmp_path)


def test_a_class_of_the_test_images_alone_is_refused(tmp_path: Path) -> None:
    images = {"a": xml([("cat", (2, 3, 20, 25))]), "b": xml([("cat", (2, 3, 20, 25)), ("cow", (2, 3, 20, 25))])}
    write_voc(tmp_path, images, {"train": ["a"], "test": ["b"]})
    with pytest.raises(DataError, match=r"b\.xml, object 2: the class 'cow' is not one of cat;"):
        load_detections(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "c"], "train.txt: there is no image 'c' in"),
        (["a", "a"], "train.txt: 'a' stands there twice"),
        ([], "train.txt: there is no name in it"),
        (["../a"], "train.txt: '../a' is not the name of a file in its folder"),
    ],
)
def test_lists_that_lead_nowhere_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": xml([("cat", (2, 3, 20, 25))])}, {"train": names, "test": ["a"]})
    with pytest.raises(DataError, match=re.escape(message)):
        load_detections(tmp_path)


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    two_splits(tmp_path)
    (tmp_path / "Annotations" / "a.xml").unlink()
    with pytest.raises(DataError, match=r"cannot read .*Annotations/a\.xml: No such file"):
        load_detections(tmp_path)
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="there is no image 'a' in"):
        load_detections(tmp_path)


def test_a_damaged_image_and_one_of_another_size_are_refused_when_they_are_opened(tmp_path: Path) -> None:
    two_splits(tmp_path, xml([("cat", (2, 3, 20, 25)), ("dog", (1, 1, 9, 9))], size=(41, 30)))
    data = load_detections(tmp_path)
    with pytest.raises(DataError, match=r"a\.jpg: the image is 40x30, but its annotation is for 41x30"):
        data.train[0].open()
    (tmp_path / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.jpg: missing, damaged or not an image"):
        data.test[0].open()


def test_a_tar_holds_what_its_folder_holds(tmp_path: Path) -> None:
    two_splits(tmp_path / "VOC")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "VOC", "./VOC")
    folder, packed = load_detections(tmp_path / "VOC"), load_detections(tmp_path / "all.tar")
    assert folder.classes == packed.classes
    for one, other in zip(folder.train + folder.test, packed.train + packed.test, strict=True):
        assert one.boxes.tolist() == other.boxes.tolist()
        assert one.open().tobytes() == other.open().tobytes()
    files = TarFiles(tmp_path / "all.tar")
    assert files.folders() == ["", "VOC", "VOC/Annotations", "VOC/ImageSets", "VOC/ImageSets/Main", "VOC/JPEGImages"]
    with pytest.raises(DataError, match=r"all\.tar:VOC/none: there is no such file"):
        files.read("VOC/none")


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\x1f\x8b no tar")
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar"):
        load_detections(tmp_path / "data")
