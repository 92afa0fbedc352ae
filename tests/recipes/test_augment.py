import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_recipes import auto_augment as auto_module
from image_recipes.augment import Augmentation, mean_colour, normalise
from image_recipes.auto_augment import POLICY, apply, auto_augment
from PIL import Image, ImageEnhance, ImageOps

from casc_core.errors import ConfigError, DataError

NOTHING = Augmentation(crop_padding=0, flip=False)
EVERYTHING = Augmentation(crop_padding=4, flip=True, cutout=16, auto_augment=True)
FILL = (128, 127, 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=8, height=32, width=32, seed=0, low=0, high=256):
    return torch.randint(low, high, (count, 3, height, width), generator=seeded(seed), dtype=torch.uint8)


shapes = st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20))


@given(shapes, st.integers(0, 6), st.booleans(), st.integers(0, 30), st.booleans(), st.integers(0, 2**31))
def test_shape_type_and_input_are_kept_and_the_seed_decides(shape, padding, flip, cutout, auto, seed):
    augmentation = Augmentation(padding, flip, cutout, auto)
    batch = noise(*shape, seed=seed)
    before = batch.clone()
    augmented = augmentation(batch, seeded(seed))
    assert augmented.dtype == torch.uint8
    assert augmented.shape == batch.shape
    assert torch.equal(batch, before)
    assert torch.equal(augmented, augmentation(batch, seeded(seed)))


def test_another_seed_gives_another_batch():
    assert not torch.equal(EVERYTHING(noise(), seeded(1)), EVERYTHING(noise(), seeded(2)))


@given(st.integers(0, 2**31))
def test_doing_nothing_is_the_identity(seed):
    batch = noise(seed=seed)
    assert torch.equal(NOTHING(batch, seeded(seed)), batch)


@given(st.integers(0, 2**31))
def test_flipping_twice_is_the_identity(seed):
    flip, batch = Augmentation(crop_padding=0, flip=True), noise(16, seed=seed)
    once = flip(batch, seeded(seed))
    assert torch.equal(flip(once, seeded(seed)), batch)
    mirrored = [bool(torch.equal(one, original.flip(-1))) for one, original in zip(once, batch, strict=True)]
    kept = [bool(torch.equal(one, original)) for one, original in zip(once, batch, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))


@given(st.integers(1, 6), st.integers(3, 12), st.integers(3, 12), st.integers(0, 2**31))
def test_a_crop_is_a_window_of_the_padded_image(padding, height, width, seed):
    batch = noise(3, height, width, seed=seed)
    cropped = Augmentation(padding, flip=False, fill=FILL)(batch, seeded(seed))
    for one, original in zip(cropped, batch, strict=True):
        padded = np.stack(
            [np.pad(channel, padding, constant_values=value) for channel, value in zip(original, FILL, strict=True)]
        )
        windows = (
            padded[:, y : y + height, x : x + width] for y in range(2 * padding + 1) for x in range(2 * padding + 1)
        )
        assert any(np.array_equal(one, window) for window in windows)


def test_every_crop_occurs_about_equally_often():
    batch = torch.zeros(8100, 3, 9, 9, dtype=torch.uint8)
    batch[:, :, 4, 4] = 255
    places = Augmentation(4, flip=False)(batch, seeded())[:, 0].flatten(1).argmax(1)
    counts = places.bincount(minlength=81)
    assert counts.min() > 60
    assert counts.max() < 140


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_cutout_paints_one_square(side, height, width, seed):
    batch = torch.full((6, 3, height, width), 9, dtype=torch.uint8)
    holes = Augmentation(0, flip=False, cutout=side)(batch, seeded(seed)) == 0
    for hole in holes:
        assert 1 <= hole[0].sum() <= side * side
        rows, columns = hole[0].any(1).nonzero().flatten(), hole[0].any(0).nonzero().flatten()
        assert len(rows) <= side
        assert len(columns) <= side
        assert hole[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert hole.sum() == 3 * len(rows) * len(columns)


def test_cutout_in_the_middle_is_whole_and_has_its_colour():
    batch = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    painted = Augmentation(0, flip=False, cutout=16, fill=FILL)(batch, seeded())
    areas = (painted[:, 0] == 128).sum((1, 2))
    assert areas.max() == 256
    assert areas.min() >= 64
    assert painted.amax((0, 2, 3)).tolist() == list(FILL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding must be a whole number of pixels from 0 on; got -1"),
        ({"crop_padding": True}, "crop_padding must be .*; got True"),
        ({"cutout": 1.5}, r"cutout must be .*; got 1\.5"),
        ({"flip": 1}, "flip must be True or False; got 1"),
        ({"auto_augment": "cifar10"}, "auto_augment must be True or False; got 'cifar10'"),
        ({"fill": (0, 0)}, r"fill must be three whole numbers 0\.\.255; got \(0, 0\)"),
        ({"fill": (0, 0, 256)}, "fill must be"),
        ({"fill": 7}, "fill must be .*; got 7"),
    ],
)
def test_a_bad_configuration(options, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)],
)
def test_a_bad_batch(batch):
    with pytest.raises(DataError, match=r"expected a batch of images, uint8 \[B, 3, H, W\]; got"):
        EVERYTHING(batch, seeded())
    with pytest.raises(DataError, match=r"expected a batch of images, uint8 \[B, 3, H, W\]"):
        normalise(batch, (0, 0, 0), (1, 1, 1))


def test_the_configuration_can_be_written_down():
    assert Augmentation(**asdict(EVERYTHING)) == EVERYTHING


def test_normalise():
    batch, mean, std = noise(), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    result = normalise(batch, mean, std)
    assert result.dtype == torch.float32
    expected = (batch.numpy() / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(result, expected, atol=1e-6)
    of_mean = torch.tensor(mean_colour(mean), dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(of_mean, mean, std).abs().max() < 0.01
    with pytest.raises(ConfigError, match="must be above 0"):
        normalise(batch, mean, (0.2, 0.0, 0.2))
    with pytest.raises(DataError, match="as many deviations"):
        normalise(batch, mean, (0.2, 0.2))


# --- AutoAugment -------------------------------------------------------------------------------------------------


def by_pillow(name, picture, magnitude):
    """The operation as Pillow does it, with a magnitude of -1..1."""
    width, height = picture.size
    factor = 1 + 0.9 * magnitude

    def moved(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=FILL)

    operations = {
        "shear_x": lambda: moved(1, 0.3 * magnitude, 0, 0, 1, 0),
        "shear_y": lambda: moved(1, 0, 0, 0.3 * magnitude, 1, 0),
        "translate_x": lambda: moved(1, 0, int(150 / 331 * width * magnitude), 0, 1, 0),
        "translate_y": lambda: moved(1, 0, 0, 0, 1, int(150 / 331 * height * magnitude)),
        "rotate": lambda: picture.rotate(30 * magnitude, Image.Resampling.NEAREST, fillcolor=FILL),
        "color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(4 * abs(magnitude))),
        "solarize": lambda: ImageOps.solarize(picture, 256 * (1 - abs(magnitude))),
        "invert": lambda: ImageOps.invert(picture),
    }
    return operations[name]()


OPERATIONS = sorted({name for pair in POLICY for name, _, _ in pair} | {"shear_x"})
PICTURES = {
    "noise": noise(1, 32, 32),
    "dim": noise(1, 32, 32, low=90, high=140),
    "wide": noise(1, 17, 29, seed=3),
    "tiny": noise(1, 2, 3),
    "large": noise(1, 60, 64, seed=4),
    "ramp": torch.arange(1024).view(1, 1, 32, 32).expand(1, 3, 32, 32).div(4).byte(),
    "two values": noise(1, 32, 32, low=7, high=9),
    "flat": torch.full((1, 3, 32, 32), 77, dtype=torch.uint8),
    "dark": (noise(1, 32, 32) > 250).byte() * 255,
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows_bit_for_bit(name, picture):
    image = PICTURES[picture]
    pillow = Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0)))
    magnitudes = [sign * level / 9 for level in range(10) for sign in (1, -1)]
    ours = apply(name, image.expand(len(magnitudes), -1, -1, -1), magnitudes, FILL)
    for magnitude, one in zip(magnitudes, ours, strict=True):
        expected = np.asarray(by_pillow(name, pillow, magnitude))
        np.testing.assert_array_equal(one.permute(1, 2, 0), expected, err_msg=f"magnitude {magnitude}")


def test_the_policy():
    assert len(POLICY) == 25
    for pair in POLICY:
        for name, probability, level in pair:
            assert name in auto_module._OPERATIONS or name in auto_module._MATRICES
            assert 0 <= probability <= 1
            assert 0 <= level <= 9
    # What the paper's table says of a few, and how often an image is changed at all.
    assert POLICY[1] == (("rotate", 0.7, 2), ("translate_x", 0.3, 9))
    assert POLICY[24] == (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0))


def test_each_image_follows_a_policy_of_its_own(monkeypatch):
    applied = []

    def record(name, images, magnitudes, fill):
        applied.extend((name, round(abs(magnitude) * 9), magnitude < 0) for magnitude in magnitudes)
        return images

    monkeypatch.setattr(auto_module, "apply", record)
    count = 20_000
    batch = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    auto_augment(batch, seeded())
    kinds = {(name, level) for name, level, _ in applied}
    expected = {(name, level): 0.0 for pair in POLICY for name, _, level in pair}
    for pair in POLICY:
        for name, probability, level in pair:
            expected[name, level] += probability / 25
    assert kinds == {kind for kind, share in expected.items() if share}
    for kind, share in expected.items():
        seen = [negative for name, level, negative in applied if (name, level) == kind]
        deviation = math.sqrt(max(share, 1e-9) / count)
        assert abs(len(seen) / count - share) < 5 * deviation, kind
        if seen and kind[1]:
            assert abs(sum(seen) / len(seen) - 0.5) < 2.5 / math.sqrt(len(seen)), kind


def test_the_second_operation_sees_what_the_first_one_made(monkeypatch):
    monkeypatch.setattr(auto_module, "POLICY", ((("invert", 1.0, 0), ("solarize", 1.0, 9)),))
    batch = noise()
    assert torch.equal(auto_augment(batch, seeded()), batch)  # solarising at level 9 inverts, too


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_a_gpu():
    batch = noise(64)
    assert torch.equal(EVERYTHING(batch.cuda(), seeded()).cpu(), EVERYTHING(batch, seeded()))
