import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_recipes.imagenet import HUB, HubStream, Views, load_imagenet
from image_recipes.views import random_box
from PIL import Image

from casc_core.errors import ConfigError, DataError
from casc_lab import hub

SMALL = Views(size=8, resize=10)
CLASSES = ("n01440764", "n01443537", "n02074367")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.delenv("CASC_DATA", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refused at once


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write(folder, each=4, evaluated="val", suffix="JPEG"):
    seed = 0
    for split in ("train", evaluated):
        for name in reversed(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                seed += 1
                noise(20 + seed % 5, 16 + seed % 3, seed).save(folder / split / name / f"{name}_{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "little")


def read(stream, **options):
    batches = list(stream.loader(4, **options))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def by_content(images, labels):
    return sorted((bytes(image.numpy().tobytes()), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("place", ["", "imagenet", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("evaluated", ["val", "validation"])
def test_a_folder(tmp_path, monkeypatch, place, evaluated):
    write(tmp_path / "data" / place, each=2, evaluated=evaluated)
    (tmp_path / "data" / place / "test").mkdir()  # ImageNet's, without labels
    monkeypatch.setenv("CASC_DATA", str(tmp_path / "data"))
    data = load_imagenet()
    assert data.classes == CLASSES
    assert data.source.endswith(": 6 training and 6 test images, seen at 224x224, 3 classes")
    images, labels = read(load_imagenet(views=SMALL).test)
    assert images.shape == (6, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_evaluation_reads_each_image_once_in_whatever_shares(folder):
    stream = load_imagenet(folder, SMALL).test
    whole, labels = read(stream)
    for ranks in (2, 3, 5):
        shares = [read(stream, rank=rank, ranks=ranks) for rank in range(ranks)]
        for rank, (images, of_share) in enumerate(shares):
            assert torch.equal(images, whole[rank::ranks])
            assert torch.equal(of_share, labels[rank::ranks])


def test_training_depends_on_seed_and_epoch_not_on_workers_or_ranks(folder):
    def views(seed=0, **options):
        return read(load_imagenet(folder, Views(8, 10, seed)).train, **options)

    first = views(epoch=0)
    assert sorted(first[1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert first[1].tolist() != sorted(first[1].tolist())
    for workers in (1, 2):
        again = views(epoch=0, workers=workers)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])
    shares = [views(epoch=0, rank=rank, ranks=2) for rank in range(2)]
    assert len(shares[0][1]) == len(shares[1][1]) == 4  # 6 of 12 in each, in whole batches of 4
    assert torch.equal(shares[1][0], first[0][1:8:2])
    assert not torch.equal(views(epoch=1)[0], first[0])
    assert not torch.equal(views(seed=1, epoch=0)[0], first[0])
    assert by_content(*views(epoch=1)) != by_content(*first)


def test_shares_are_equally_long_for_training(folder):
    stream = load_imagenet(folder, SMALL, limit_train=11).train
    assert len(stream) == 11
    assert [len(list(stream.loader(1, epoch=0, rank=rank, ranks=3))) for rank in range(3)] == [3, 3, 3]
    assert [len(read(stream, epoch=0, rank=rank, ranks=5)[1]) for rank in range(5)] == [2] * 5


def test_limits_take_the_classes_in_turn(folder):
    data = load_imagenet(folder, SMALL, limit_train=7, limit_test=3)
    assert read(data.test)[1].tolist() == [0, 1, 2]
    assert torch.equal(read(data.test)[0], read(load_imagenet(folder, SMALL).test)[0][[0, 4, 8]])
    assert data.source.startswith("folder little: 7 training and 3 test")


def test_a_damaged_image_is_named(tmp_path):
    write(tmp_path, each=1)
    file = tmp_path / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(DataError, match=rf"{CLASSES[1]}_0\.JPEG: missing, damaged or not an image"):
        read(load_imagenet(tmp_path, SMALL).test)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        load_imagenet(tmp_path / "absent")
    with pytest.raises(DataError, match="expected train/CLASS/IMAGE and val/CLASS/IMAGE in it"):
        load_imagenet(tmp_path)
    folder = write(tmp_path / "data", each=1)
    shutil.rmtree(folder / "train" / CLASSES[0])
    with pytest.raises(DataError, match=rf"2 classes and .*val has 3, which differ: '{CLASSES[0]}' is in val only"):
        load_imagenet(folder)
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    noise(9, 9).save(folder / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"one for each class, val/CLASS/IMAGE; images such as ILSVRC2012_val_00000001"):
        load_imagenet(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "got batch_size=0"),
        ({"ranks": 2, "rank": 2}, "rank below ranks; got .*ranks=2, .*rank=2"),
        ({"workers": -1}, "workers=-1"),
        ({"epoch": -1}, "epoch=-1"),
    ],
)
def test_a_bad_loader(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        load_imagenet(folder).train.loader(**{"batch_size": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a whole number of pixels from 1 on; got 0"),
        ({"size": 224, "resize": 200}, "resize must be at least size, 224; got 200"),
        ({"resize": 256.0}, r"resize must be .*; got 256\.0"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_views(options, message):
    with pytest.raises(ConfigError, match=message):
        Views(**options)


def test_a_bad_limit(folder):
    with pytest.raises(ConfigError, match="limit_test must be at least 1; got 0"):
        load_imagenet(folder, limit_test=0)


# --- views -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**31))
def test_a_random_box_is_within_the_image_and_of_an_allowed_shape(width, height, seed):
    left, top, right, bottom = random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, high = right - left, bottom - top
    if min(wide, high) > 20:
        assert 3 / 4 * 0.95 <= wide / high <= 4 / 3 * 1.05
        assert wide * high >= 0.07 * min(width * height, min(width, height) ** 2)


def test_random_boxes_are_spread_over_area_and_shape():
    generator = np.random.default_rng(0)
    boxes = np.array([random_box(500, 375, generator) for _ in range(4000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shares, ratios = wide * high / (500 * 375), np.log(wide / high)
    assert shares.min() < 0.09
    assert shares.max() > 0.95
    assert 0.35 < np.median(shares) < 0.5  # of 0.54, less the large ones that do not fit
    assert np.abs(ratios).max() <= np.log(4 / 3) + 0.02
    assert (boxes[:, :2].min(axis=0) == 0).all()


def test_long_images_fall_back_to_their_middle():
    assert random_box(1000, 10, np.random.default_rng(0)) == (493, 0, 506, 10)
    assert random_box(10, 1000, np.random.default_rng(0)) == (0, 493, 10, 506)


def test_the_middle():
    views = Views(size=8, resize=10)
    same = noise(10, 14)
    np.testing.assert_array_equal(views.central(same), np.asarray(same)[3:11, 1:9])
    wide = noise(31, 20)  # 10 high and 15 (of 15.5) wide, of which columns 4 to 12 (of 3.5, to even)
    expected = np.asarray(wide.resize((15, 10), Image.Resampling.BILINEAR))[1:9, 4:12]
    np.testing.assert_array_equal(views.central(wide), expected)
    grey = Image.new("RGB", (300, 200), (10, 20, 30))
    assert Views().central(grey).getcolors() == [(224 * 224, (10, 20, 30))]


def test_random_views_follow_their_key():
    views, image = Views(size=16, resize=16), noise(60, 50)
    one = np.asarray(views.random(image, 3, 7))
    assert one.shape == (16, 16, 3)
    np.testing.assert_array_equal(one, views.random(image, 3, 7))
    for key in ((3, 8), (4, 7)):
        assert (one != np.asarray(views.random(image, *key))).any()


def test_half_of_the_random_views_are_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (150, 1, 3)))
    views = Views(size=16, resize=16)
    mirrored = sum(
        view.getpixel((0, 8))[0] > view.getpixel((15, 8))[0] for view in (views.random(ramp, n) for n in range(400))
    )
    assert 160 < mirrored < 240


# --- the hub -----------------------------------------------------------------------------------------------------


def test_an_unreachable_hub():
    for data in (None, "hub"):
        with pytest.raises(
            DataError, match=rf"{HUB} is not in the local cache, and the hub does not answer; pass a f.*log in"
        ):
            load_imagenet(data)


class TestHub:
    """Streams made by `datasets` itself; only the network is left out."""

    @pytest.fixture
    def published(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        from datasets.splits import SplitDict, SplitInfo

        def stream(count=24, shards=4, damaged=None):
            import io

            rows = []
            for number in range(count):
                file = io.BytesIO()
                noise(20, 16, number).save(file, "PNG")
                content = b"no image" if number == damaged else file.getvalue()
                rows.append({"bytes": content, "path": f"{number}.png"})
            features = datasets.Features(
                {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
            )
            columns = {"image": rows, "label": [number % 3 for number in range(count)]}
            source = datasets.Dataset.from_dict(columns, features=features).to_iterable_dataset(num_shards=shards)
            splits = {name: SplitInfo(name, num_examples=count) for name in ("train", "validation")}
            source.info.splits = SplitDict(splits)
            return source

        def publish(**options):
            monkeypatch.setattr(hub, "hub_answers", lambda: True)
            asked = []

            def load(name, split, streaming):
                assert streaming
                asked.append((name, split))
                return stream(**options)

            monkeypatch.setattr(datasets, "load_dataset", load)
            return asked

        return publish

    def test_evaluation(self, published):
        asked = published()
        data = load_imagenet("hub", SMALL)
        assert asked == [(HUB, "train"), (HUB, "validation")]
        assert data.classes == ("a", "b", "c")
        assert data.source == f"hub data set {HUB}: 24 training and 24 test images, seen at 8x8, 3 classes"
        images, labels = read(data.test)
        assert labels.tolist() == [0, 1, 2] * 8
        np.testing.assert_array_equal(images[5].permute(1, 2, 0), SMALL.central(noise(20, 16, 5)))
        for options in ({"ranks": 2}, {"ranks": 3}, {"ranks": 2, "workers": 2}):
            shares = [read(data.test, rank=rank, **options) for rank in range(options["ranks"])]
            together = [torch.cat(parts) for parts in zip(*shares, strict=True)]
            assert by_content(*together) == by_content(images, labels)

    def test_training(self, published):
        published()
        stream = load_imagenet("hub", SMALL).train
        first = read(stream, epoch=0)
        assert len(first[1]) == 24
        assert torch.equal(read(stream, epoch=0)[0], first[0])
        assert by_content(*read(stream, epoch=0, workers=2)) == by_content(*first)
        assert by_content(*read(stream, epoch=1)) != by_content(*first)
        assert first[1].tolist() != [0, 1, 2] * 8

    def test_training_shares_are_equally_long(self, published):
        published(count=23, shards=3)
        stream = load_imagenet("hub", SMALL).train
        for ranks in (2, 3):
            counts = [
                sum(len(labels) for _, labels in stream.loader(1, epoch=0, rank=r, ranks=ranks)) for r in range(ranks)
            ]
            assert counts == [23 // ranks] * ranks

    def test_limits(self, published):
        published()
        data = load_imagenet("hub", SMALL, limit_test=5)
        assert len(data.test) == 5
        assert read(data.test)[1].tolist() == [0, 1, 2, 0, 1]

    def test_a_damaged_picture(self, published):
        published(damaged=7)
        with pytest.raises(DataError, match=rf"{HUB}, validation, 7\.png: missing, damaged or not an image"):
            read(load_imagenet("hub", SMALL).test)

    def test_no_counts(self, published):
        published()
        source = hub.stream(HUB, "train")
        source.info.splits = None
        with pytest.raises(DataError, match="it does not say how many images its split train has"):
            HubStream.of(source, "train", SMALL, None)
