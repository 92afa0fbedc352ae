"""Training repeats to the bit, survives being killed, picks its epoch on validation texts, and names what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from casc_core.errors import ConfigError, InputError, StorageError
from casc_lab import progress
from casc_seq.classifier import ClassifierConfig, TextClassifier
from casc_seq.text.batches import bucketed_batches
from casc_seq.training import EpochResult, TrainingConfig, TrainingResult, evaluate, split_validation, train

CONFIG = TrainingConfig(epochs=2, batch_size=16, lr=0.01, validation=0.1, seed=3)

Data = tuple[list[list[int]], list[int]]


def toy(size: int = 160) -> Data:
    """Texts of two classes that differ in the order of two words."""
    draw = random.Random(0)
    texts, labels = [], []
    for _ in range(size):
        label = draw.randrange(2)
        text = [draw.randrange(4, 30) for _ in range(draw.randrange(2, 12))]
        place = draw.randrange(len(text))
        texts.append(text[:place] + ([2, 3] if label else [3, 2]) + text[place:])
        labels.append(label)
    return texts, labels


def model(seed: int = 0) -> TextClassifier:
    torch.manual_seed(seed)
    return TextClassifier(ClassifierConfig(vocabulary_size=30, classes=2, embedding_size=8, hidden_size=8))


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fit(config: TrainingConfig = CONFIG, **options: Any) -> tuple[dict[str, Tensor], TrainingResult]:
    network = model()
    result = train(network, *toy(), config, progress=False, **options)
    return weights(network), result


def test_it_learns_the_order_of_words() -> None:
    network = model()
    texts, labels = toy(400)
    result = train(
        network, texts, labels, dataclasses.replace(CONFIG, epochs=8, lr=0.02, word_dropout=0.0), progress=False
    )
    assert result.best.validation_accuracy > 90
    assert not network.training


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before() -> None:
    once, result = fit()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    network = model()
    torch.set_rng_state(before)
    again = train(network, *toy(), CONFIG, progress=False)
    assert same(once, weights(network))
    assert again.epochs == result.epochs
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(once, fit(dataclasses.replace(CONFIG, seed=4))[0])


# Run as a program of its own. It trains the toy problem in one child after another, each resuming what the one before
# left when it killed itself at a save of the checkpoint; the last one lives and writes the final weights.
PROGRAM = """
import importlib.util, os, signal, sys, safetensors.torch
import torch._dynamo  # the first step of an optimiser imports it, in every child
from pathlib import Path
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = sys.modules["here"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
import casc_seq.training as training

def train(folder, kill_at, moment):
    saves, original = 0, training.save_checkpoint
    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    def save(*args):
        nonlocal saves
        saves += 1
        if saves == kill_at and moment == "before":
            kill()
        if saves == kill_at and moment == "during":
            os.replace = kill
        original(*args)
        if saves == kill_at and moment == "after":
            kill()
    training.save_checkpoint = save
    weights, _ = here.fit(checkpoint=folder / "training.safetensors", save_steps=2)
    safetensors.torch.save_file(weights, folder / "final.safetensors")

for argument in sys.argv[3:]:
    kill_at, _, moment = argument.partition(":")
    child = os.fork()
    if child == 0:
        train(Path(sys.argv[2]), int(kill_at), moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    expected, _ = fit()
    # An epoch has 9 steps: saves 1-4 lie in the first, 5 ends it. Each child counts its own.
    moments = ["1:before", "2:during", "3:after", "2:before", "1:during", "0:never"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, __file__, str(tmp_path), *moments],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.split() == [str(-signal.SIGKILL)] * 5 + ["0"], run.stderr
    assert same(safetensors.torch.load_file(tmp_path / "final.safetensors"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.safetensors", "training.safetensors"]


class StandInKillError(Exception):
    """Stands for a kill, within the process."""


@pytest.mark.parametrize("stop", [1, 8, 9, 10, 18])
def test_a_training_stopped_after_any_step_ends_alike(stop: int, tmp_path: Path, monkeypatch: Any) -> None:
    expected, result = fit()
    path = tmp_path / "training.safetensors"
    calls = 0
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise StandInKillError
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        if stop < 18:
            with pytest.raises(StandInKillError):
                fit(checkpoint=path, save_steps=1)
        else:
            fit(checkpoint=path, save_steps=1)
    again, resumed = fit(checkpoint=path)
    assert same(again, expected)
    assert resumed.epochs == result.epochs
    assert resumed.best == result.best


def test_a_finished_training_is_not_repeated(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "training.safetensors"
    expected, result = fit(checkpoint=path)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("trained again"))
    again, repeated = fit(checkpoint=path)
    assert same(again, expected)
    assert repeated == result


def test_validation_picks_the_epoch(monkeypatch: Any) -> None:
    accuracies = iter([50.0, 80.0, 60.0, 80.0])
    seen: list[dict[str, Tensor]] = []

    def pretend(network: nn.Module, *_: Any) -> Any:
        seen.append(weights(network))
        return type("Evaluation", (), {"accuracy": next(accuracies), "loss": 1.0})

    monkeypatch.setattr("casc_seq.training.evaluate", pretend)
    found, result = fit(dataclasses.replace(CONFIG, epochs=4))
    assert result.best.epoch == 2
    assert [epoch.validation_accuracy for epoch in result.epochs] == [50.0, 80.0, 60.0, 80.0]
    assert same(found, seen[1])


def test_without_validation_the_last_epoch_stays(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    found, result = fit(dataclasses.replace(CONFIG, validation=0.0), checkpoint=path)
    assert result.best == result.epochs[-1]
    assert math.isnan(result.best.validation_accuracy)
    assert same(fit(dataclasses.replace(CONFIG, validation=0.0), checkpoint=path)[0], found)


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_the_split_is_stratified(labels: list[int], share: float, seed: int) -> None:
    training, aside = split_validation(labels, share, seed)
    assert sorted(training + aside) == list(range(len(labels)))
    assert (training, aside) == split_validation(labels, share, seed)
    for label in set(labels):
        members = labels.count(label)
        count = sum(labels[position] == label for position in aside)
        assert count <= members - 1
        assert abs(count - share * members) <= 1
        assert count >= 1 or share == 0 or members == 1


def test_evaluate_answers_in_the_order_of_the_data() -> None:
    texts, labels = toy(50)
    network = model().train()
    found = evaluate(network, bucketed_batches(texts, labels, 7))
    assert network.training
    network.eval()
    for text, logits in zip(texts, found.logits, strict=True):
        torch.testing.assert_close(logits, network(torch.tensor([text]))[0])
    right = sum(int(logits.argmax()) == label for logits, label in zip(found.logits, labels, strict=True))
    assert found.accuracy == pytest.approx(100 * right / 50)
    with pytest.raises(InputError, match="no texts"):
        evaluate(network, [])


def test_frozen_word_vectors_stay() -> None:
    network = model()
    network.embedding.weight.requires_grad_(False)
    before = network.embedding.weight.clone()
    train(network, *toy(), CONFIG, progress=False)
    assert torch.equal(network.embedding.weight, before)


def test_a_loss_that_is_no_number_stops_training() -> None:
    network = model()
    with torch.no_grad():
        network.fc.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"loss became nan in epoch 1, batch 1; lower lr \(now 0\.01\)"):
        train(network, *toy(), CONFIG, progress=False)


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "foreign", "text"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    fit(checkpoint=path)
    whole = path.read_bytes()
    foreign = safetensors.torch.save({"weight": torch.ones(2)})
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "header": b"\xff" * 40 + whole[40:],
            "foreign": foreign,
            "text": b"not a checkpoint",
        }[damage]
    )
    with pytest.raises(StorageError, match=r"training\.safetensors"):
        fit(checkpoint=path)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    fit(checkpoint=path)
    with pytest.raises(StorageError, match="other options, sizes or data"):
        fit(dataclasses.replace(CONFIG, epochs=3), checkpoint=path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*file"):
        fit(checkpoint=tmp_path / "file" / "training.safetensors")


def test_checkpoints_are_saved_by_time(tmp_path: Path, monkeypatch: Any) -> None:
    saves: list[float] = []
    monkeypatch.setattr("casc_seq.training.save_checkpoint", lambda *_: saves.append(time.monotonic()))
    fit(checkpoint=tmp_path / "training.safetensors", save_seconds=0.0)
    assert len(saves) == 18 + 2
    saves.clear()
    fit(checkpoint=tmp_path / "training.safetensors", save_seconds=1e9)
    assert len(saves) == 2


def test_progress_goes_to_stderr_and_can_be_off(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    train(model(), *toy(40), CONFIG, progress=True)
    shown = capsys.readouterr()
    assert "epoch 2/2: 3 of 3 batches" in shown.err
    assert not shown.out
    train(model(), *toy(40), CONFIG, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1; got 0"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"lr": 0.0}, r"lr must be positive and finite; got 0\.0"),
        ({"lr": float("nan")}, "lr .* got nan"),
        ({"clip": float("inf")}, "clip"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"word_dropout": 1.0}, "word_dropout"),
        ({"validation": -0.1}, "validation"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(CONFIG, **options)


def test_bad_data_is_named() -> None:
    with pytest.raises(InputError, match="no texts"):
        train(model(), [], [], progress=False)
    with pytest.raises(InputError, match="one label for each of 2 texts; got 1"):
        train(model(), [[2], [3]], [0], progress=False)


def test_configs_and_results_survive_json() -> None:
    assert TrainingConfig(**json.loads(json.dumps(dataclasses.asdict(CONFIG)))) == CONFIG
    result = EpochResult(1, 0.1, 50.0, 1 / 3, 70.0)
    assert EpochResult(**json.loads(json.dumps(dataclasses.asdict(result)))) == result
