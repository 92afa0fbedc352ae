"""Two processes tell one another things, and train as one; one process needs none of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import Blobs, network, weights
from torch import nn

from casc_core.errors import ConfigError
from casc_lab import distributed
from casc_lab.distributed import Share, choose_device, launched, processes
from casc_lab.training.loop import train

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "--module", "two_processes", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=SUPPORT.parents[1],
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )
    assert done.returncode == 0, done.stderr
    assert "said by 0" in done.stderr
    assert "said by 1" not in done.stderr
    assert "Warning" not in done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_tell_one_another(two: list[dict[str, Any]]) -> None:
    assert [seen["share"] for seen in two] == [[0, 2, "cpu", True], [1, 2, "cpu", False]]
    for seen in two:
        assert seen["gather"] == [0, 2, 4, 1, 3]
        assert seen["gather where one has nothing"] == [1, 3]
        assert seen["gather of rows"] == [1, 3]
        assert seen["gather of nothing"] == []
        assert seen["gather of things"] == ["from 0", "from 1"]
        assert seen["total"] == [2.0, 1.0]
        assert seen["agreed"] == {"rank": 0}
        assert seen["error"] == "there is no such file"


def test_two_processes_train_as_one_does(two: list[dict[str, Any]]) -> None:
    assert two[0]["weights"] == two[1]["weights"]
    model = network(seed=0)
    result = train(model, Blobs(), progress=False)
    for ours, theirs in zip(weights(model), two[0]["weights"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for epoch, (loss, right, validation) in zip(result.epochs, two[0]["epochs"], strict=True):
        assert loss == pytest.approx(epoch.train_loss, rel=1e-4)
        assert right == pytest.approx(epoch.train_accuracy)
        assert validation == pytest.approx(epoch.validation_accuracy)


def test_two_processes_go_on_where_they_were(two: list[dict[str, Any]]) -> None:
    assert [seen["resumed"] for seen in two] == [True, True]
    assert two[0]["stopped"]


def test_one_process_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    with processes() as device:
        assert device == torch.device("cpu")
        assert distributed.share() == Share(0, 1)
        assert distributed.gather([]).tolist() == []
        assert distributed.total(torch.ones(2)).tolist() == [1.0, 1.0]
        distributed.barrier()
        model = nn.Linear(1, 1)
        assert distributed.parallel(model) is model
        with distributed.synchronised_batch_norm(model):
            pass


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0"}, "RANK is set but not WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start with torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE are set but not LOCAL_RANK"),
        (dict.fromkeys(distributed.VARIABLES, "x"), "expected numbers; got RANK='x'"),
        (dict.fromkeys(distributed.VARIABLES, "3"), "from 0 to 2; got 3"),
    ],
)
def test_a_half_set_environment_is_named(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words), processes():
        pass


@pytest.mark.parametrize(
    ("asked", "local", "words"),
    [
        ("gpu", None, "no device is called 'gpu'"),
        ("mps", None, "got 'mps'"),
        ("cuda", 0, "torch sees none"),
    ],
)
def test_a_device_that_is_not_there(asked: str, local: int | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=words):
        choose_device(asked, local)


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="no GPU number 2, only 2 on this machine"):
        choose_device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 1) == torch.device("cpu")


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 20])
def test_shares_are_everything_once(world: int, count: int) -> None:
    shares = [Share(rank, world) for rank in range(world)]
    assert sorted(item for share in shares for item in share.of(range(count))) == list(range(count))
    if count:
        parts = [share.of_batch(torch.arange(count)) for share in shares]
        assert sum(samples for _, samples in parts) == count
        assert all(len(index) == max(1, samples) for index, samples in parts)


def test_batch_norm_is_the_same_module_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4)))
    before = list(model.modules())
    state = {name: value.data_ptr() for name, value in model.state_dict().items()}
    monkeypatch.setattr(distributed, "share", lambda: Share(0, 2))
    monkeypatch.setattr(distributed, "device_of", lambda model: torch.device("cuda"))
    with distributed.synchronised_batch_norm(model):
        assert [type(module) for module in model.modules()].count(nn.SyncBatchNorm) == 2
        assert {name: value.data_ptr() for name, value in model.state_dict().items()} == state
        model.eval()
    assert list(model.modules()) == before
    assert not any(module.training for module in model.modules())
    with distributed.synchronised_batch_norm(model, wanted=False):
        assert list(model.modules()) == before
