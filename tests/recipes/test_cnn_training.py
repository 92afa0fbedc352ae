"""Training of image classifiers: it learns, repeats, goes on where it was with augmentation, and names bad options."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from image_recipes import paper
from image_recipes.augment import Augmentation
from image_recipes.image_set import ImageSet
from image_recipes.memory import MemoryImages
from image_recipes.training import TrainingConfig, train
from torch import Tensor, nn

import casc_core
from casc_core.errors import ConfigError

CONFIG = TrainingConfig(epochs=3, batch_size=8, lr=0.02, seed=2)
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def images() -> MemoryImages:
    """Bright above, or bright below."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    pixels = torch.randint(0, 120, (40, 3, 8, 8), generator=draw, dtype=torch.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * int(label) : 4 * int(label) + 4] += 100
    return MemoryImages(ImageSet(pixels, labels), Augmentation(crop_padding=1))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.AvgPool2d(4), nn.Flatten()]
    return casc_core.prepare(nn.Sequential(*body, nn.Linear(16, 2)), adapter="cnn", q=4)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fit(config: TrainingConfig = CONFIG, **options: Any) -> dict[str, Tensor]:
    model = network()
    train(model, images(), MEAN, STD, config, progress=False, **options)
    return weights(model)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_learns_and_repeats(optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, epochs=8, lr=None)
    model = network()
    result = train(model, images(), MEAN, STD, config, progress=False)
    assert result.epochs[-1].train_accuracy > 90
    assert same(weights(model), fit(config))
    assert not same(weights(model), fit(dataclasses.replace(config, seed=3)))


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_it_goes_on_where_it_was(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > stop:
            raise InterruptedError
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(InterruptedError):
            fit(checkpoint=tmp_path / "state", save_steps=1)
    assert same(fit(checkpoint=tmp_path / "state"), fit())


def test_the_loss_of_weights_too_large_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the loss became nan in epoch 1, batch \d; lower lr \(now 1e\+30\) or clip"):
        fit(dataclasses.replace(CONFIG, lr=1e30))


def test_only_weights_of_two_dimensions_decay() -> None:
    after = {decay: fit(dataclasses.replace(CONFIG, epochs=1, lr=1e-3, weight_decay=decay)) for decay in (0.0, 100.0)}
    assert after[100.0]["0.weight"].norm() < 0.9 * after[0.0]["0.weight"].norm()
    assert torch.allclose(after[100.0]["1.weight"], after[0.0]["1.weight"], atol=5e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1; got 0"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"optimizer": "adam"}, "optimizer must be one of 'adamw', 'sgd'; got 'adam'"),
        ({"lr": 0.0}, r"lr must be positive and finite; got 0\.0"),
        ({"lr": float("inf")}, "lr .* got inf"),
        ({"clip": -1.0}, "clip"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"warm_up": 1.0}, "warm_up"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(CONFIG, **options)


def test_configs_survive_json() -> None:
    assert TrainingConfig(**json.loads(json.dumps(dataclasses.asdict(CONFIG)))) == CONFIG


def test_the_paper_s_figures() -> None:
    found = paper.over_time("imagenet", "resnet34", 8)
    assert found is not None
    assert {row.method: row.over_time for row in found.rows} == {
        "baseline": {8: 0.11, 16: 0.16, 32: 0.23, 64: 0.50},
        "baseline+CIF+WSC": {8: 0.11, 16: 12.11, 32: 71.05, 64: 70.94},
    }
    assert [row.ann for row in found.rows] == [71.08, 71.08]
    assert paper.over_time("cifar10", "vgg16", 8) is None
    assert paper.over_time("cifar100", "vgg16", None) is None
    assert list(paper.levels("imagenet", "resnet34")) == [None, 64, 32, 16, 8]
    assert paper.levels("cifar10", "resnet20") == {}
