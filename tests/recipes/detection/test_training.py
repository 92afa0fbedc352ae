"""Training of the detector: it learns, repeats, goes on where it was, at any number of reading processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_recipes import training
from detection_recipes.batches import TrainingBatches, evaluation_batches, seen
from detection_recipes.network import Detector
from detection_recipes.shapes import drawn_shapes
from detection_recipes.training import TrainingConfig, train
from detection_recipes.views import Augmentation

import casc_core
from casc_core.errors import ConfigError, DataError
from casc_lab.distributed import Share

CONFIG = TrainingConfig(epochs=2, batch_size=4, optimizer="adamw", lr=5e-3, averaging=0.5, seed=3)
IMAGES = drawn_shapes(10, 4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks so small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(**changed: Any) -> TrainingBatches:
    return dataclasses.replace(TrainingBatches(IMAGES.train, (48, 32), Augmentation(mosaic=0.3), 0.5, 8), **changed)


def network(q: int | None = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    plain = Detector(3, 0.02, 8)
    return plain if q is None else casc_core.prepare(plain, adapter="cnn", q=q)


def weights(model: torch.nn.Module) -> list[float]:
    return [float(value) for each in model.state_dict().values() for value in each.flatten()]


def test_batches_repeat_and_go_on_anywhere() -> None:
    def of(**options: Any) -> list[Any]:
        images = batches(**{name: value for name, value in options.items() if name == "workers"})
        start, share = options.get("start", 0), options.get("share", Share())
        return [
            [part.samples, part.batch[0].tolist(), part.batch[1].boxes.tolist(), part.batch[1].image.tolist()]
            for part in images.batches(options.get("epoch", 1), 3, 4, start, share)
        ]

    whole = of()
    assert len(whole) == 2
    assert of() == whole
    assert of(start=1) == whole[1:]
    assert of(epoch=2) != whole
    assert of(workers=1) == whole
    first, second = of(share=Share(0, 2)), of(share=Share(1, 2))
    assert [one[0] + other[0] for one, other in zip(first, second, strict=True)] == [4, 4]
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one[1] == whole[number][1][0::2]
        assert other[1] == whole[number][1][1::2]


def test_sizes_are_whole_cells_and_all_objects_are_within() -> None:
    sizes = set()
    for epoch in range(8):
        for part in batches().batches(epoch, 0, 2, 0, Share()):
            pixels, objects = part.batch
            high, wide = pixels.shape[2:]
            sizes.add((wide, high))
            assert (high % 8, wide % 8) == (0, 0)
            assert (objects.boxes[:, :2] >= 0).all()
            assert (objects.boxes[:, 2:] <= torch.tensor([wide, high])).all()
            assert (objects.image < 2).all()
    assert len(sizes) > 3
    assert max(sizes) == (48, 32)


def test_evaluation_gives_each_image_once_letterboxed() -> None:
    two = [list(evaluation_batches(IMAGES.test, (64, 48), batch_size=3)(Share(rank, 2))) for rank in (0, 1)]
    assert [[batch.index.tolist() for batch in part] for part in two] == [[[0, 1, 2]], [[3]]]
    assert torch.equal(two[1][0].inputs[0], seen(IMAGES.test[3:], (64, 48)))
    assert two[0][0].inputs[0].shape == (3, 3, 48, 64)


def test_it_learns() -> None:
    model = network(q=None)
    images = batches(augmentation=None, smallest=1.0)
    result = train(model, images, 8, dataclasses.replace(CONFIG, epochs=12, lr=0.01), progress=False)
    assert result.epochs[-1].train_loss < 0.85 * result.epochs[0].train_loss
    assert result.best == result.epochs[-1]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_training_ends_alike(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network()
    train(whole, batches(), 8, CONFIG, progress=False)
    before, steps = training._DetectionTask.before_step, iter(range(99))

    def stopping(self: Any, *arguments: Any) -> None:
        if next(steps) == stop:
            raise InterruptedError
        before(self, *arguments)

    monkeypatch.setattr(training._DetectionTask, "before_step", stopping)
    with pytest.raises(InterruptedError):
        train(network(), batches(), 8, CONFIG, progress=False, checkpoint=tmp_path / "state", save_steps=1)
    monkeypatch.undo()
    other = network()
    train(other, batches(), 8, CONFIG, progress=False, checkpoint=tmp_path / "state")
    assert weights(other) == weights(whole)


def test_what_it_is_trained_on_names_its_state() -> None:
    assert batches().digest == batches().digest
    others = [
        batches(images=IMAGES.train[:9]), batches(size=(32, 32)), batches(augmentation=None), batches(smallest=1.0),
    ]  # fmt: skip
    assert len({batches().digest, *(each.digest for each in others)}) == 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "epochs must be an integer of at least 1; got 0"),
        ("optimizer", "adam", "optimizer must be one of 'adamw', 'sgd'; got 'adam'"),
        ("averaging", 1.0, r"averaging must be in \[0, 1\); got 1.0"),
        ("averaging", 0.0, "averaging must be positive and finite; got 0.0"),
        ("lr", 0.0, "lr must be positive and finite; got 0.0"),
    ],
)
def test_options_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **{name: value})


def test_an_image_that_is_damaged_stops_it(tmp_path: Path) -> None:
    class Damaged:
        def open(self) -> Any:
            raise DataError("a.jpg: missing, damaged or not an image")

    images = [dataclasses.replace(IMAGES.train[0], picture=Damaged())]
    with pytest.raises(DataError, match=r"a\.jpg: missing, damaged"):
        train(network(), batches(images=images), 8, CONFIG, progress=False)
