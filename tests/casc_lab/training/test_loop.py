"""The training loop: resumable to the bit with any optimiser, in mixed precision, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import POINTS, Blobs, network, weights

from casc_core.errors import ConfigError, StorageError
from casc_lab.training.classification import learning_rate_share
from casc_lab.training.loop import train

# An epoch has 8 batches.
STOPS = [1, 7, 8, 9, 23]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_training_ends_alike(optimiser: str, stop: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "batch_norm": False}
    whole = network(**options)
    expected = train(whole, Blobs(optimiser=optimiser), progress=False)
    path, model = tmp_path / "state", network(**options)
    with pytest.raises(InterruptedError):
        train(model, Blobs(optimiser=optimiser, stop_at=stop), progress=False, checkpoint=path, save_steps=1)
    other = network(seed=9, **options)  # what it starts from no longer matters
    result = train(other, Blobs(optimiser=optimiser), progress=False, checkpoint=path)
    assert weights(other) == weights(whole)
    assert (result.epochs, result.best) == (expected.epochs, expected.best)


def test_it_learns_and_keeps_its_best_epoch() -> None:
    model = network()
    result = train(model, Blobs(epochs=6), progress=False)
    assert result.best.validation_accuracy > 85
    assert result.best.validation_accuracy == max(epoch.validation_accuracy for epoch in result.epochs)
    assert not model.training
    found = Blobs().validate(model)
    assert found is not None
    assert found.accuracy == pytest.approx(result.best.validation_accuracy)


@pytest.mark.parametrize("stop", [7, 9])
def test_the_average_of_the_weights_is_kept_and_outlives_a_stop(stop: int, tmp_path: Path) -> None:
    steps: list[list[list[float]]] = []

    class Watched(Blobs):
        def loss(self, network: Any, batch: Any) -> Any:
            steps.append(weights(network))  # before the step
            return super().loss(network, batch)

    whole = network()
    train(whole, Watched(epochs=2, validates=False), progress=False)
    plain = [*steps, weights(whole)]
    average, left = plain[0], 0.4
    for number, values in enumerate(plain[1:], 1):
        share = min(left, number / (number + 10))
        average = [
            [share * old + (1 - share) * new for old, new in zip(*each, strict=True)]
            for each in zip(average, values, strict=True)
        ]
    averaged = network()
    train(averaged, Blobs(epochs=2, validates=False), progress=False, averaging=left)
    for found, expected in zip(weights(averaged), average, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)

    path, stopped = tmp_path / "state", network()
    with pytest.raises(InterruptedError):
        train(stopped, Blobs(epochs=2, validates=False, stop_at=stop), progress=False, checkpoint=path, save_steps=1,
              averaging=left)  # fmt: skip
    other = network(seed=9)
    train(other, Blobs(epochs=2, validates=False), progress=False, checkpoint=path, averaging=left)
    assert weights(other) == weights(averaged)


@pytest.mark.parametrize("averaging", [0.0, 1.0, float("nan")])
def test_an_average_needs_a_share(averaging: float) -> None:
    with pytest.raises(ConfigError, match=r"averaging must lie in \(0, 1\)"):
        train(network(), Blobs(), progress=False, averaging=averaging)


def test_without_validation_the_last_epoch_stays() -> None:
    result = train(network(), Blobs(validates=False), progress=False)
    assert result.best == result.epochs[-1]
    assert math.isnan(result.best.validation_accuracy)


def test_losses_and_accuracies_are_those_of_all_samples() -> None:
    seen: list[tuple[float, int, int]] = []

    class Watched(Blobs):
        def loss(self, network: Any, batch: Any) -> Any:
            loss, right = super().loss(network, batch)
            seen.append((loss.item(), int(right), len(batch[1])))
            return loss, right

    epoch = train(network(), Watched(epochs=1), progress=False).epochs[0]
    assert sum(count for _, _, count in seen) == POINTS
    assert epoch.train_loss == pytest.approx(sum(loss * count for loss, _, count in seen) / POINTS)
    assert epoch.train_accuracy == pytest.approx(100 * sum(right for _, right, _ in seen) / POINTS)


def test_bfloat16_is_mixed_precision_and_only_where_asked_on_a_cpu() -> None:
    kinds: dict[str, set[torch.dtype]] = {}

    class Watched(Blobs):
        def loss(self, network: Any, batch: Any) -> Any:
            kinds[precision].add(network(batch[0]).dtype)
            return super().loss(network, batch)

    models = {}
    for precision in ("auto", "float32", "bfloat16"):
        kinds[precision] = set()
        models[precision] = network()
        train(models[precision], Watched(), progress=False, precision=precision)
    assert kinds == {"auto": {torch.float32}, "float32": {torch.float32}, "bfloat16": {torch.bfloat16}}
    assert weights(models["auto"]) == weights(models["float32"]) != weights(models["bfloat16"])
    assert all(parameter.dtype == torch.float32 for parameter in models["bfloat16"].parameters())
    with pytest.raises(ConfigError, match="precision must be one of 'auto', 'float32', 'bfloat16'; got 'half'"):
        train(network(), Blobs(), progress=False, precision="half")


def test_a_loss_that_is_no_number_says_where_and_what_to_do() -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(ConfigError, match="the loss became nan in epoch 1, batch 1; lower lr"):
        train(model, Blobs(), progress=False)


def test_another_training_s_state_is_refused(tmp_path: Path) -> None:
    train(network(), Blobs(), progress=False, checkpoint=tmp_path / "state")
    with pytest.raises(StorageError, match="other options, sizes or data"):
        train(network(), Blobs(epochs=4), progress=False, checkpoint=tmp_path / "state")


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5])
def test_the_learning_rate_rises_then_falls(shape: str, warm_up: float) -> None:
    shares = [learning_rate_share(step, 100, warm_up, shape) for step in range(100)]
    top = shares.index(max(shares))
    assert max(shares) == 1.0
    assert abs(top - max(0, 100 * warm_up - 1)) <= 1
    assert all(0 < share <= 1 for share in shares)
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[-1] < 0.03
