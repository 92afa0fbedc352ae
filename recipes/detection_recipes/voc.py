"""Annotated images laid out as PASCAL VOC: lists of names, one XML file for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from casc_core.errors import DataError
from detection_recipes.annotations import AnnotatedImage, FilePicture, LeftOut, Objects
from detection_recipes.files import Files, file_name

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC."""
LISTS, ANNOTATIONS, IMAGES = "ImageSets/Main", "Annotations", "JPEGImages"
MOST_BYTES = 4_000_000
"""Of an annotation; those of VOC have some thousand."""
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")


def places(files: Files) -> list[str]:
    """The folders that are laid out so."""
    found = files.folders()
    return [folder for folder in found if all(_under(folder, name) in found for name in (LISTS, ANNOTATIONS, IMAGES))]


def splits(files: Files, folder: str) -> list[str]:
    """Names of the splits of a folder that is laid out so: the lists that are not of one class."""
    names = sorted(name for name in files.names(_under(folder, LISTS)) if name.endswith(".txt"))
    return [name.removesuffix(".txt") for name in names if "_" not in name]


def read(
    files: Files, folder: str, split: str, classes: Mapping[str, int] | None, left_out: LeftOut, first_pixel: int = 0
) -> tuple[list[AnnotatedImage], dict[str, int]]:
    """The images of a split, and its classes.

    Args:
        files, folder: where.
        split: name of its list.
        classes: numbers by name; None: those that occur, in the order of their names.
        left_out: counts what cannot be used.
        first_pixel: the number of the pixel at the left and at the top; VOC counts from 1.

    Raises:
        DataError: a file that is missing or malformed, a class that is not among `classes`.
    """
    where = _under(folder, f"{LISTS}/{split}.txt")
    names = _names(files, where)
    pictures = _pictures(files, _under(folder, IMAGES))
    roots = {}
    for name in names:
        if name not in pictures:
            raise DataError(f"{files.at(where)}: there is no image {name!r} in {files.at(_under(folder, IMAGES))}")
        path = _under(folder, f"{ANNOTATIONS}/{name}.xml")
        roots[path] = _parsed(files.read(path), files.at(path))
    if classes is None:
        classes = _numbered(_class_of(each, where) for where, each in _objects(files, roots))
    images = []
    for name, (path, root) in zip(names, roots.items(), strict=True):
        objects = Objects(_size(root, files.at(path)), left_out)
        for place, element in _objects(files, {path: root}):
            label = _class_of(element, place)
            if label not in classes:
                raise DataError(
                    f"{place}: the class {label!r:.80} is not one of {', '.join(classes)}; mend it, or train on it too"
                )
            objects.add(_box(element, place, first_pixel), classes[label], place, difficult=_flag(element, place))
        image = f"{_under(folder, IMAGES)}/{pictures[name]}"
        images.append(objects.image(files.at(image), FilePicture(files, image)))
    return images, dict(classes)


class VocFolder:
    """A folder that is laid out so, its classes those that occur in the split that is read first.

    Args:
        files, folder: where.
        what: what it is called.
    """

    name = ""

    def __init__(self, files: Files, folder: str, what: str) -> None:
        self.files, self.folder, self.what = files, folder, what
        self.splits = splits(files, folder)
        self._numbers: dict[str, int] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._numbers or ())

    def read(self, split: str, left_out: LeftOut) -> list[AnnotatedImage]:
        images, self._numbers = read(self.files, self.folder, split, self._numbers, left_out)
        return images


class PascalVoc:
    """PASCAL VOC itself: some of its years, each in a folder; pixels are counted from 1.

    A split to train on is that of all years, one called `test` that of the first year which has it.

    Args:
        files: where.
        years: the folders, by "VOC2007" and the like.
    """

    name, classes = "voc", CLASSES

    def __init__(self, files: Files, years: Mapping[str, str]) -> None:
        self.files, self.folders = files, dict(sorted(years.items()))
        self.what = f"PASCAL VOC {' and '.join(year.removeprefix('VOC') for year in self.folders)}"
        self._splits = {folder: splits(files, folder) for folder in self.folders.values()}
        self.splits = sorted({split for names in self._splits.values() for split in names})

    def read(self, split: str, left_out: LeftOut) -> list[AnnotatedImage]:
        folders = [folder for folder, names in self._splits.items() if split in names]
        numbers = {name: number for number, name in enumerate(CLASSES)}
        wanted = folders[:1] if split == "test" else folders
        return [image for folder in wanted for image in read(self.files, folder, split, numbers, left_out, 1)[0]]


def _under(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set(names)))}


def _names(files: Files, where: str) -> list[str]:
    """The names in a list; a second column, where there is one, says whether a class is there."""
    try:
        lines = files.read(where).decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{files.at(where)} is not a list of names ({error})") from error
    names = [file_name(line.split()[0], files.at(where)) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{files.at(where)}: there is no name in it")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{files.at(where)}: {twice[0]!r:.80} stands there twice")
    return names


def _pictures(files: Files, folder: str) -> dict[str, str]:
    """File names of images, by their name without the extension."""
    names = sorted(name for name in files.names(folder) if name.lower().endswith(_EXTENSIONS))
    return {name.rpartition(".")[0]: name for name in names}


class _Plain(TreeBuilder):
    """Refuses a document type, with which an XML file can name other files, or entities that grow without end."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which no annotation needs")


def _parsed(content: bytes, where: str) -> Element:
    if len(content) > MOST_BYTES:
        raise DataError(f"{where} has {len(content):,} bytes; an annotation has at most {MOST_BYTES:,}")
    parser = XMLParser(target=_Plain())
    try:
        parser.feed(content)
        root: Element = parser.close()
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{where} is not an annotation in XML ({error})") from error
    return root


def _objects(files: Files, roots: Mapping[str, Element]) -> Iterable[tuple[str, Element]]:
    """The objects of annotations, each with what a message calls it."""
    for path, root in roots.items():
        for number, element in enumerate(root.findall("object"), 1):
            yield f"{files.at(path)}, object {number}", element


def _size(root: Element, where: str) -> tuple[int, int]:
    wide, high = (_number(root, f"size/{name}", where) for name in ("width", "height"))
    if not (wide >= 1 and high >= 1 and wide == int(wide) and high == int(high)):
        raise DataError(f"{where}: the image's size must be whole numbers of at least 1; got {wide:g}x{high:g}")
    return int(wide), int(high)


def _box(element: Element, where: str, first_pixel: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = (_number(element, f"bndbox/{name}", where) for name in ("xmin", "ymin", "xmax", "ymax"))
    return left - first_pixel, top - first_pixel, right, bottom


def _flag(element: Element, where: str) -> bool:
    return element.find("difficult") is not None and bool(_number(element, "difficult", where))


def _class_of(element: Element, where: str) -> str:
    return _text(element, "name", where)


def _number(element: Element, path: str, where: str) -> float:
    text = _text(element, path, where)
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {path} must be a number; got {text!r:.40}") from error
    if not abs(value) < 1e9:  # nan too
        raise DataError(f"{where}: {path} must be a number of pixels; got {text!r:.40}")
    return value


def _text(element: Element, path: str, where: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DataError(f"{where}: {path} is missing")
    return text
